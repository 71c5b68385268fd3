r"""Prepares a target data set from its publisher's files. Nothing is downloaded.

    vissl-clusterfit prepare cars --archives archives/cars --output data
    vissl-clusterfit prepare icons --archives /usr/share/icons --output data
    vissl-clusterfit prepare kinetics400 --train train.csv --test validate.csv --videos FOLDER --output OUT
    vissl-clusterfit prepare sports1m --train train_partition.txt --test test_partition.txt --labels labels.txt \
        --videos FOLDER --output OUT
    vissl-clusterfit prepare something_v1 --train something-something-v1-train.csv \
        --test something-something-v1-validation.csv --labels something-something-v1-labels.csv \
        --videos 20bn-something-something-v1 --output OUT
    vissl-clusterfit prepare hashtags --train LIST --labels VOCABULARY --videos FOLDER --output OUT

Pictures: from the archives in --archives, as their publisher ships them, the data set is unpacked into
OUTPUT/DATA_SET, with the lists of images and labels that the configs clusterfit/transfer/DATA_SET_… read.
docs/datasets.md says which files are needed, and where icon themes come from. Started again, it resumes.

Videos: OUTPUT gets train.txt and test.txt (path, tab, numbers of classes), classes.txt, and what was not found in
train-missing.txt and test-missing.txt, for DATA_SOURCES: [video_filelist]. No video is copied or decoded.

Exit code 0, or 2 if the files are not what they should be.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vissl_clusterfit.commands.parsing import say_end
from vissl_clusterfit.errors import ConfigError, problem

ICONS = "icons"
# What each set of videos needs beside --train, --videos and --output.
VIDEOS = {
    "kinetics400": ("test",),
    "sports1m": ("test", "labels"),
    "something_v1": ("test", "labels"),
    "hashtags": ("labels",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of the command."""
    from vissl_clusterfit.datasets.catalogue import RECIPES

    names = [*sorted(RECIPES), ICONS, *VIDEOS]
    parser.add_argument("data_set", metavar="DATA_SET", choices=names, help=f"one of {', '.join(names)}")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="pictures: of all prepared data sets")
    pictures = parser.add_argument_group("pictures")
    pictures.add_argument("--archives", type=Path, metavar="DIR", help="with the publisher's files")
    pictures.add_argument(
        "--subset",
        action="store_true",
        help="the archives are a part of what is published: check no counts and no sums",
    )
    videos = parser.add_argument_group("videos")
    videos.add_argument("--train", type=Path, metavar="FILE", help="the publisher's list of training videos")
    videos.add_argument("--test", type=Path, metavar="FILE", help="that of videos to test on")
    videos.add_argument("--labels", type=Path, metavar="FILE", help="the names of the classes, or the vocabulary")
    videos.add_argument("--videos", type=Path, metavar="DIR", help="the folder below which the videos lie")


def run(options: argparse.Namespace) -> int:
    """Prepares the data set."""
    if options.data_set in VIDEOS:
        _require(options, "train", "videos", *VIDEOS[options.data_set])
        return _prepare_videos(options)
    _require(options, "archives")
    if options.data_set == ICONS:
        return _prepare_icons(options.archives, options.output / ICONS)
    from vissl_clusterfit.datasets.catalogue import RECIPES
    from vissl_clusterfit.datasets.preparation import prepare

    recipe = RECIPES[options.data_set]
    manifest = prepare(options.data_set, recipe, options.archives, options.output, subset=options.subset)
    counts = ", ".join(f"{split} {count}" for split, count in manifest["num_images"].items())
    done = f"{options.output / options.data_set}: {manifest['num_classes']} classes; images: {counts}"
    say_end(done, then=["list", "configs", f"transfer/{options.data_set}"])
    return 0


def _prepare_icons(themes: Path, folder: Path) -> int:
    from vissl_clusterfit.datasets.icons import prepare_icons

    manifest = prepare_icons(themes, folder)
    counts = ", ".join(f"{split} {count}" for split, count in manifest["num_images"].items())
    parts = " and ".join(f"{len(manifest['inputs'][part])} {part}s" for part in ("context", "theme"))
    say_end(f"{folder}: {parts}; images: {counts}", then=["list", "configs", "study/targets"])
    return 0


def _require(options: argparse.Namespace, *names: str) -> None:
    missing = [f"--{name}" for name in names if getattr(options, name) is None]
    if missing:
        allowed = ", ".join(f"--{name}" for name in (*names, "output"))
        raise ConfigError(problem(f"prepare {options.data_set}", found=f"no {', '.join(missing)}", allowed=allowed))


def _prepare_videos(options: argparse.Namespace) -> int:
    from vissl_clusterfit.datasets import video_lists

    train, test, labels, videos = options.train, options.test, options.labels, options.videos
    if options.data_set == "kinetics400":
        lists = video_lists.kinetics(train, test, videos)
    elif options.data_set == "sports1m":
        lists = video_lists.sports1m(train, test, labels, videos)
    elif options.data_set == "something_v1":
        lists = video_lists.something_something_v1(train, test, labels, videos)
    else:
        lists = video_lists.hashtags(train, labels, videos)
    video_lists.write_lists(lists, options.output)
    made = [
        f"{options.output / split}.txt: {len(found.entries)} videos; {len(found.missing)} are missing"
        for split, found in lists.splits.items()
    ]
    made.append(f"{options.output / 'classes.txt'}: {len(lists.classes)} classes")
    say_end("\n".join(made), then=["list", "configs", f"video/{options.data_set}"])
    return 0
