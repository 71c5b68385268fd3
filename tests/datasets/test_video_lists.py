"""The lists of publishers, in the formats that they ship, to lists of the files that are there."""

import subprocess
import sys
from pathlib import Path

import pytest
from repository import ROOT

from vissl_clusterfit.datasets.video_lists import hashtags, kinetics, something_something_v1, sports1m
from vissl_clusterfit.errors import DataError

TOOL = ROOT / "tools/prepare_videos.py"


def touch(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def write(file: Path, *lines: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return file


@pytest.fixture
def kinetics_files(tmp_path) -> dict[str, Path]:
    """A train list as DeepMind publishes it, a validation list as CVDF does; one video in a class folder."""
    touch(
        tmp_path / "videos/zumba/-0WZKTu0xtk_000002_000012.mp4",
        tmp_path / "videos/train/abc_def-123_000100_000110.webm",
        tmp_path / "videos/val/xyzXYZ00000_000000_000010.mp4",
    )
    return {
        "train": write(
            tmp_path / "train.csv",
            "label,youtube_id,time_start,time_end,split",
            "zumba,-0WZKTu0xtk,2,12,train",
            '"massaging person\'s head",abc_def-123,100,110,train',
            "zumba,gone0000000,5,15,train",
        ),
        "test": write(
            tmp_path / "validate.csv",
            "label,youtube_id,time_start,time_end,split,is_cc",
            "massaging person's head,xyzXYZ00000,0.0,10.0,val,0",
        ),
        "videos": tmp_path / "videos",
    }


def test_kinetics(kinetics_files, tmp_path):
    lists = kinetics(**kinetics_files)
    assert lists.classes == ["massaging person's head", "zumba"]
    assert lists.splits["train"].entries == [
        (tmp_path / "videos/zumba/-0WZKTu0xtk_000002_000012.mp4", (1,)),
        (tmp_path / "videos/train/abc_def-123_000100_000110.webm", (0,)),
    ]
    assert lists.splits["train"].missing == ["gone0000000_000005_000015"]
    assert lists.splits["test"].entries == [(tmp_path / "videos/val/xyzXYZ00000_000000_000010.mp4", (0,))]


@pytest.fixture
def sports_files(tmp_path) -> dict[str, Path]:
    touch(
        tmp_path / "videos/aaaaaaaaaaa.mp4",
        tmp_path / "videos/deep/b-b_bbbbbbb.mkv",
        tmp_path / "videos/ccccccccccc.mp4",
    )
    address = "https://www.youtube.com/watch?v="
    return {
        "train": write(tmp_path / "train_partition.txt", f"{address}aaaaaaaaaaa 0,2", f"{address}b-b_bbbbbbb 1"),
        "test": write(tmp_path / "test_partition.txt", f"{address}ccccccccccc 1", f"{address}zzzzzzzzzzz 0"),
        "labels": write(tmp_path / "labels.txt", "tower running", "cross country running", "half marathon"),
        "videos": tmp_path / "videos",
    }


def test_sports1m(sports_files, tmp_path):
    lists = sports1m(**sports_files)
    assert lists.classes == ["tower running", "cross country running", "half marathon"]
    assert lists.splits["train"].entries == [
        (tmp_path / "videos/aaaaaaaaaaa.mp4", (0, 2)),
        (tmp_path / "videos/deep/b-b_bbbbbbb.mkv", (1,)),
    ]
    assert lists.splits["test"].missing == ["zzzzzzzzzzz"]


@pytest.fixture
def something_files(tmp_path) -> dict[str, Path]:
    touch(
        *(tmp_path / f"20bn-something-something-v1/{number}/0000{frame}.jpg" for number in (7, 8) for frame in (1, 2))
    )
    (tmp_path / "20bn-something-something-v1/9").mkdir()
    names = ["Holding something", "Pushing something from left to right"]
    return {
        "train": write(tmp_path / "train.csv", f"7;{names[1]}", f"9;{names[0]}"),
        "test": write(tmp_path / "validation.csv", f"8;{names[1]}"),
        "labels": write(tmp_path / "labels.csv", *names),
        "frames": tmp_path / "20bn-something-something-v1",
    }


def test_something_something_v1_is_folders_of_frames_and_an_empty_one_is_missing(something_files):
    lists = something_something_v1(**something_files)
    assert lists.classes == ["Holding something", "Pushing something from left to right"]
    assert lists.splits["train"].entries == [(something_files["frames"] / "7", (1,))]
    assert lists.splits["train"].missing == ["9"]


@pytest.fixture
def hashtag_files(tmp_path) -> dict[str, Path]:
    touch(*(tmp_path / "videos" / name for name in ("a b.mp4", "c.mp4", "d.mp4")))
    return {
        "train": write(
            tmp_path / "tags.txt",
            "a b.mp4\t#Surfing #sunset #Dancing",
            "c.mp4\tdance",
            "d.mp4\t#sunset",
            "gone.mp4\t#dance",
        ),
        "vocabulary": write(tmp_path / "verbs.txt", "#dance #dancing #danced", "#surf #surfing"),
        "videos": tmp_path / "videos",
    }


def test_hashtags_that_mean_the_same_are_one_class_and_others_none(hashtag_files, tmp_path):
    lists = hashtags(**hashtag_files)
    assert lists.classes == ["dance", "surf"]
    [found] = lists.splits.values()
    assert found.entries == [(tmp_path / "videos/a b.mp4", (0, 1)), (tmp_path / "videos/c.mp4", (0,))]
    assert found.missing == ["d.mp4 (no hashtag of the vocabulary)", "gone.mp4"]


def run(dataset: str, output: Path, **files: Path) -> subprocess.CompletedProcess:
    options = [text for name, file in files.items() for text in (f"--{name}", str(file))]
    return subprocess.run([sys.executable, TOOL, dataset, *options, "--output", output], capture_output=True, text=True)


def test_the_tool_writes_the_lists(kinetics_files, tmp_path):
    done = run("kinetics400", tmp_path / "lists", **kinetics_files)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "lists/train.txt").read_text() == (
        f"{tmp_path}/videos/zumba/-0WZKTu0xtk_000002_000012.mp4\t1\n{tmp_path}/videos/train/abc_def-123_000100_000110.webm\t0\n"
    )
    assert (tmp_path / "lists/classes.txt").read_text() == "massaging person's head\nzumba\n"
    assert (tmp_path / "lists/train-missing.txt").read_text() == "gone0000000_000005_000015\n"
    assert "train.txt: 2 videos; 1 are missing" in done.stdout


def test_the_tool_needs_the_names_of_the_classes(sports_files, tmp_path):
    del sports_files["labels"]
    done = run("sports1m", tmp_path / "lists", **sports_files)
    assert done.returncode == 2
    assert "prepare sports1m: found no --labels; allowed: --train, --videos, --test, --labels" in done.stderr


def test_a_list_without_any_of_its_videos_is_refused_and_nothing_written(kinetics_files, tmp_path):
    kinetics_files["videos"] = tmp_path / "videos/zumba"
    done = run("kinetics400", tmp_path / "lists", **kinetics_files)
    assert done.returncode == 2
    assert "none of the 1 videos of the test list is below" in done.stderr
    assert not (tmp_path / "lists").exists()


@pytest.mark.parametrize(
    "line, told",
    [
        ("https://www.youtube.com/watch?v=aaaaaaaaaaa 3", "numbers of the 3 classes"),
        ("https://www.youtube.com/watch?v=aaaaaaaaaaa", "numbers of the 3 classes"),
        ("https://www.youtube.com/ 1", "an address with v=<id>"),
    ],
)
def test_a_line_of_another_format_is_told(line, told, sports_files):
    write(sports_files["train"], line)
    with pytest.raises(DataError, match=f"train_partition.txt: found .*{told}"):
        sports1m(**sports_files)


def test_a_class_that_is_none_is_told(something_files):
    write(something_files["train"], "7;Throwing something")
    with pytest.raises(
        DataError, match=r"train\.csv: found '7;Throwing something'; allowed: .* a line of .*labels\.csv"
    ):
        something_something_v1(**something_files)


def test_a_csv_of_another_data_set_is_told(kinetics_files):
    write(kinetics_files["train"], "video,class", "a,b")
    with pytest.raises(DataError, match=r"train\.csv: found video, class; allowed: label, youtube_id"):
        kinetics(**kinetics_files)


def test_a_class_that_nothing_can_be_learned_of_is_told(kinetics_files, tmp_path):
    (tmp_path / "videos/train/abc_def-123_000100_000110.webm").unlink()
    with pytest.raises(DataError, match="no training video: massaging person's head"):
        kinetics(**kinetics_files)


@pytest.mark.parametrize("name", ["train", "labels", "videos"])
def test_a_path_that_is_wrong_is_named(name, sports_files, tmp_path):
    sports_files[name] = tmp_path / "nowhere"
    with pytest.raises(DataError, match=r"nowhere is no (file|folder)"):
        sports1m(**sports_files)
