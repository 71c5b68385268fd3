"""COPY_TO_LOCAL_DISK: what a run copies, and that it removes nothing else."""

import os
from pathlib import Path

import numpy as np
import pytest
from collections_on_disk import as_tars
from tiny import write_images
from tiny_store import contents
from vissl.config import AttrDict

from vissl_clusterfit.errors import ClusterFitError, ConfigError, DataError
from vissl_clusterfit.images import open_images
from vissl_clusterfit.plugin.data.local_copies import local_copies


def config(destination: Path | str, **train) -> AttrDict:
    split = {
        "DATA_SOURCES": ["disk_folder"],
        "DATASET_NAMES": ["copied"],
        "LABEL_PATHS": [""],
        "COPY_TO_LOCAL_DISK": True,
        "COPY_DESTINATION_DIR": str(destination),
        **train,
    }
    return AttrDict({"DATA": {"TRAIN": split, "TEST": {**split, "COPY_TO_LOCAL_DISK": False}}})


@pytest.mark.parametrize(
    "name", ["images", "my images", "a;touch pwned", "$(touch pwned)", "`touch pwned`", "'\"\n*", "-rf"]
)
def test_a_folder_is_copied_and_the_copy_removed(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    data, destination = write_images(tmp_path / name, 6), tmp_path / "fast disk"
    destination.mkdir()
    (destination / "kept").write_text("kept")
    before, found = contents(data), config(destination, DATA_PATHS=[name])
    with local_copies(found):
        (copy,) = found.DATA.TRAIN.DATA_PATHS
        assert destination in Path(copy).parents
        assert contents(Path(copy)) == before
        assert (found.DATA.TRAIN.COPY_TO_LOCAL_DISK, found.DATA.TRAIN.LABEL_PATHS) == (False, [""])
    assert (True, [name]) == (found.DATA.TRAIN.COPY_TO_LOCAL_DISK, found.DATA.TRAIN.DATA_PATHS)
    assert [path.name for path in destination.iterdir()] == ["kept"]
    assert contents(data) == before
    assert not list(tmp_path.rglob("pwned"))


def test_collections_are_copied_where_they_are_whole(tmp_path, caplog):
    shards = as_tars(write_images(tmp_path / "images", 6), tmp_path / "shards")
    (tmp_path / "list.txt").write_text("images/class0/00000.png")
    for place, copied in (
        (shards, True),
        (shards / "shard-000.tar", True),
        (shards / "shard-{000..002}.tar", False),
        (tmp_path / "list.txt", False),
    ):
        found = config(tmp_path / "fast", DATA_SOURCES=["images"], DATA_PATHS=[str(place)])
        with local_copies(found):
            (there,) = found.DATA.TRAIN.DATA_PATHS
            assert (there != str(place)) == copied
            assert len(open_images(there)) == (
                1 if place.suffix == ".txt" else 2 if place.name == "shard-000.tar" else 6
            )
        assert (f"COPY_TO_LOCAL_DISK has no effect on {place}" in caplog.text) != copied


def test_files_of_one_name_do_not_meet(tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        np.save(tmp_path / folder / "list.npy", np.array([folder]))
    lists = [str(tmp_path / folder / "list.npy") for folder in "ab"]
    found = config(
        tmp_path / "fast",
        DATA_SOURCES=["disk_filelist"] * 2,
        DATASET_NAMES=["x"] * 2,
        DATA_PATHS=lists,
        LABEL_PATHS=lists,
    )
    with local_copies(found):
        copies = [*found.DATA.TRAIN.DATA_PATHS, *found.DATA.TRAIN.LABEL_PATHS]
        assert [np.load(copy).item() for copy in copies] == ["a", "b", "a", "b"]
        assert not set(copies) & set(lists)
    assert list((tmp_path / "fast").iterdir()) == []


def test_a_list_of_videos_stays_where_its_paths_begin(tmp_path):
    (tmp_path / "list.txt").write_text("a.mp4\n")
    found = config(tmp_path / "fast", DATA_SOURCES=["video_filelist"], DATA_PATHS=[str(tmp_path / "list.txt")])
    with local_copies(found):
        assert [str(tmp_path / "list.txt")] == found.DATA.TRAIN.DATA_PATHS


def test_links_are_copied_as_what_they_lead_to(tmp_path):
    data, elsewhere = write_images(tmp_path / "images", 3), write_images(tmp_path / "elsewhere", 3)
    (data / "linked").symlink_to(elsewhere / "class0")
    (data / "class0/dead.png").symlink_to(tmp_path / "nowhere.png")
    found = config(tmp_path / "fast", DATA_PATHS=[str(data)])
    with local_copies(found):
        copy = Path(found.DATA.TRAIN.DATA_PATHS[0])
        assert not (copy / "linked").is_symlink()
        assert contents(copy / "linked") == contents(elsewhere / "class0")
        assert (copy / "class0/dead.png").is_symlink()
    assert len(contents(elsewhere)) == 3


def test_a_folder_that_leads_into_itself_is_refused(tmp_path):
    data = write_images(tmp_path / "images", 3)
    (data / "class0/again").symlink_to(data)
    found = config(tmp_path / "fast", DATA_PATHS=[str(data)])
    with pytest.raises(DataError, match="class0/again leads to a folder that it is in"), local_copies(found):
        pass
    assert list((tmp_path / "fast").iterdir()) == []


@pytest.mark.parametrize("inside", ["", "class0", "new"])
def test_no_copy_goes_into_the_data(tmp_path, inside):
    data = write_images(tmp_path / "images", 3)
    before, found = contents(data), config(data / inside, DATA_PATHS=[str(data)])
    with pytest.raises(ConfigError, match=r"COPY_DESTINATION_DIR: found .* outside of the data"), local_copies(found):
        pass
    assert contents(data) == before


def test_what_fails_leaves_what_was_there(tmp_path):
    data = write_images(tmp_path / "images", 3)
    os.mkfifo(data / "class0/pipe")
    found = config(tmp_path / "fast", DATA_PATHS=[str(data)])
    with pytest.raises(DataError, match=r"the data cannot be copied to .*pipe"), local_copies(found):
        pass
    assert list((tmp_path / "fast").iterdir()) == []
    assert len(contents(data)) == 3


def test_a_destination_that_is_a_file(tmp_path):
    (tmp_path / "fast").write_text("kept")
    found = config(tmp_path / "fast", DATA_PATHS=[str(write_images(tmp_path / "images", 3))])
    with pytest.raises(ConfigError, match="COPY_DESTINATION_DIR: found "), local_copies(found):
        pass
    assert (tmp_path / "fast").read_text() == "kept"


@pytest.mark.parametrize("name", ["zero\0byte", "x" * 300, "/proc/fast", "pipe"])
def test_a_destination_that_no_folder_can_have(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    found = config(name, DATA_PATHS=[str(write_images(tmp_path / "images", 3))])
    with pytest.raises(ConfigError, match="COPY_DESTINATION_DIR: found "), local_copies(found):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "pipe"]


def test_a_number_is_the_name_of_a_destination(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = config("", DATA_PATHS=[str(write_images(tmp_path / "images", 3))])
    found.DATA.TRAIN.COPY_DESTINATION_DIR = 5
    with local_copies(found):
        assert Path(found.DATA.TRAIN.DATA_PATHS[0]).is_relative_to(tmp_path / "5")
    assert list((tmp_path / "5").iterdir()) == []


@pytest.mark.parametrize("name", ["zero\0byte", "x" * 300, "pipe", "/dev/zero", "loop"])
def test_data_that_no_copy_can_be_made_of(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.symlink("loop", "loop")
    with pytest.raises(ClusterFitError, match=r"config\.DATA\.TRAIN"), local_copies(config("fast", DATA_PATHS=[name])):
        pass
    assert not Path("fast").exists() or list(Path("fast").iterdir()) == []


def test_data_that_are_not_there(tmp_path):
    found = config(tmp_path / "fast", DATA_PATHS=[str(tmp_path / "nowhere")])
    with pytest.raises(ClusterFitError, match="nowhere"), local_copies(found):
        pass


def test_the_folder_of_the_run_alone_is_removed_even_if_another_stands_in_its_place(tmp_path):
    data, kept = write_images(tmp_path / "images", 3), write_images(tmp_path / "kept", 3)
    found = config(tmp_path / "fast", DATA_PATHS=[str(data)])
    with local_copies(found):
        (own,) = (tmp_path / "fast").iterdir()
        own.rename(tmp_path / "moved")
        own.symlink_to(kept)
    assert len(contents(kept)) == 3


def test_without_a_destination_a_folder_of_the_system_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "system"))
    (tmp_path / "system").mkdir()
    found = config("", DATA_PATHS=[str(write_images(tmp_path / "images", 3))])
    with local_copies(found):
        assert found.DATA.TRAIN.DATA_PATHS[0].startswith(str(tmp_path / "system"))
    assert list((tmp_path / "system").iterdir()) == []
