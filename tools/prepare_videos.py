"""Lists of the videos that are there, from the lists that publishers ship, for ``DATA_SOURCES: [video_filelist]``.

    python tools/prepare_videos.py kinetics400 --train train.csv --test validate.csv --videos FOLDER --output OUT
    python tools/prepare_videos.py sports1m --train train_partition.txt --test test_partition.txt --labels labels.txt \
        --videos FOLDER --output OUT
    python tools/prepare_videos.py something_v1 --train something-something-v1-train.csv \
        --test something-something-v1-validation.csv --labels something-something-v1-labels.csv \
        --videos 20bn-something-something-v1 --output OUT
    python tools/prepare_videos.py hashtags --train LIST --labels VOCABULARY --videos FOLDER --output OUT

OUT gets ``train.txt`` and ``test.txt`` (path, tab, numbers of classes), ``classes.txt``, and what was not found in
``train-missing.txt`` and ``test-missing.txt``. Nothing is downloaded, copied or decoded. The formats of the publishers:
``vissl_clusterfit/datasets/video_lists.py``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vissl_clusterfit.datasets.video_lists import (
    PublishedLists,
    hashtags,
    kinetics,
    something_something_v1,
    sports1m,
    write_lists,
)
from vissl_clusterfit.errors import ClusterFitError

# What each needs beside --train, --videos and --output.
NEEDED = {
    "kinetics400": ("test",),
    "sports1m": ("test", "labels"),
    "something_v1": ("test", "labels"),
    "hashtags": ("labels",),
}


def main() -> int:
    """Writes the lists and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=NEEDED)
    parser.add_argument("--train", type=Path, required=True, help="the publisher's list of training videos")
    parser.add_argument("--test", type=Path, help="that of videos to test on")
    parser.add_argument("--labels", type=Path, help="the names of the classes; for hashtags, the vocabulary")
    parser.add_argument("--videos", type=Path, required=True, help="the folder below which the videos lie")
    parser.add_argument("--output", type=Path, required=True, help="the folder for the lists")
    arguments = parser.parse_args()
    for name in NEEDED[arguments.dataset]:
        if getattr(arguments, name) is None:
            parser.error(f"{arguments.dataset} needs --{name}")
    try:
        lists = _read(arguments)
        write_lists(lists, arguments.output)
    except ClusterFitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for split, found in lists.splits.items():
        print(f"{arguments.output / split}.txt: {len(found.entries)} videos; {len(found.missing)} are missing")
    print(f"{arguments.output / 'classes.txt'}: {len(lists.classes)} classes")
    return 0


def _read(arguments: argparse.Namespace) -> PublishedLists:
    train, test, labels, videos = arguments.train, arguments.test, arguments.labels, arguments.videos
    if arguments.dataset == "kinetics400":
        return kinetics(train, test, videos)
    if arguments.dataset == "sports1m":
        return sports1m(train, test, labels, videos)
    if arguments.dataset == "something_v1":
        return something_something_v1(train, test, labels, videos)
    return hashtags(train, labels, videos)


if __name__ == "__main__":
    sys.exit(main())
