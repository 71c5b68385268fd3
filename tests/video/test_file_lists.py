"""Folders and lists of videos."""

from pathlib import Path

import numpy as np
import pytest

from vissl_clusterfit.errors import DataError
from vissl_clusterfit.video.file_lists import read_list, videos_in


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def read(path):
    return read_list(str(path), lambda name: open(name, "rb"))


def names(videos):
    return [videos.path(index) for index in range(len(videos))]


def test_class_folders_are_labelled_in_their_order(tmp_path):
    files = [tmp_path / name for name in ("b/2.mp4", "a/1.AVI", "a/0/3.webm", "ä/x y.mkv")]
    touch(*files, tmp_path / "a/notes.txt", tmp_path / "list.csv")
    videos = videos_in(str(tmp_path))
    assert names(videos) == [str(files[place]) for place in (2, 1, 0, 3)]
    assert videos.labels.tolist() == [0, 0, 1, 2]


def test_a_folder_without_folders_is_one_class(tmp_path):
    touch(tmp_path / "1.mp4", tmp_path / "0.mp4")
    assert [Path(name).name for name in names(videos_in(str(tmp_path)))] == ["0.mp4", "1.mp4"]
    assert videos_in(str(tmp_path)).labels.tolist() == [0, 0]


def test_a_folder_without_videos_is_refused(tmp_path):
    touch(tmp_path / "a/0.mp4", tmp_path / "b/0.txt")
    with pytest.raises(DataError, match=r"found no video in .*/b; allowed: at least one video \(\.3gp, "):
        videos_in(str(tmp_path))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_text_has_paths_with_labels_or_none(tmp_path, end):
    lines = {
        "plain": (["a b.mp4", "", "c.mp4"], None),
        "one": (["a b.mp4 3", "c.mp4\t0"], [3, 0]),
        "several": (["a b.mp4 3,5", "c.mp4  0"], [[3, 5], [0, -1]]),
    }
    for name, (text, labels) in lines.items():
        (tmp_path / name).write_bytes(end.join(text).encode())
        videos = read(tmp_path / name)
        assert names(videos) == ["a b.mp4", "c.mp4"]
        assert (videos.labels if labels is None else videos.labels.tolist()) == labels


def test_labels_for_some_only_are_refused(tmp_path):
    (tmp_path / "list.txt").write_text("a.mp4 1\nb.mp4\n")
    with pytest.raises(DataError, match=r"found labels for 1 of 2 lines; 'b\.mp4' has none"):
        read(tmp_path / "list.txt")


def test_an_array_has_paths(tmp_path):
    np.save(tmp_path / "list.npy", np.array(["a.mp4", "ö.mp4"]))
    assert names(read(tmp_path / "list.npy")) == ["a.mp4", "ö.mp4"]
    np.save(tmp_path / "list.npy", np.arange(3))
    with pytest.raises(DataError, match=r"found an array of int64 of shape \(3,\)"):
        read(tmp_path / "list.npy")
    np.save(tmp_path / "list.npy", np.array(["a.mp4"], dtype=object))
    with pytest.raises(DataError, match="no array of paths: found an array of Python objects"):
        read(tmp_path / "list.npy")


def test_an_archive_of_arrays_is_no_list(tmp_path):
    with (tmp_path / "list.npy").open("wb") as file:
        np.savez(file, np.array(["a.mp4"]))
    with pytest.raises(DataError, match=r"no array of paths: found an archive"):
        read(tmp_path / "list.npy")
