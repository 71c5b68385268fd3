import os
import time

import disk_work
import pytest
from processes import context, running

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.storage.artifacts import read_json, write_json
from vissl_clusterfit.storage.atomic import remove_leftovers, write_file


def test_a_file_system_without_hard_links_keeps_the_first_file_too(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(1, os.strerror(1))

    monkeypatch.setattr(os, "link", refuse)
    assert write_json(tmp_path / "a.json", {"first": 1}, new=True)
    assert not write_json(tmp_path / "a.json", {"second": 2}, new=True)
    assert read_json(tmp_path / "a.json") == {"first": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_of_two_that_make_a_new_file_the_first_stays(tmp_path):
    assert write_json(tmp_path / "a.json", {"first": 1}, new=True)
    assert not write_json(tmp_path / "a.json", {"second": 2}, new=True)
    assert read_json(tmp_path / "a.json") == {"first": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    begun = context.Event()
    with running(disk_work.write_slowly, tmp_path / "rows.npy", begun) as process:
        assert begun.wait(60)
        (half,) = tmp_path.glob(".*.tmp")
        remove_leftovers(tmp_path)
        assert half.exists()  # its writer lives
        process.kill()
        process.join()
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_another_host_left_half_written_is_removed_after_an_hour(tmp_path):
    half, others = tmp_path / ".rows.npy.0a1b2c3d-12-3456-0123456789abcdef.tmp", tmp_path / ".rows.tmp"
    half.touch()
    others.touch()
    remove_leftovers(tmp_path)
    assert half.exists()
    for path in (half, others):
        os.utime(path, (time.time() - 4000,) * 2)
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [others]  # a file of somebody else


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    begun = context.Event()
    with running(disk_work.write_slowly, tmp_path / "rows.npy", begun) as process:
        assert begun.wait(60)
        assert not (tmp_path / "rows.npy").exists()
        assert write_file(tmp_path / "rows.npy", lambda file: file.write(b"whole"))
        process.kill()
        process.join()
    assert (tmp_path / "rows.npy").read_bytes() == b"whole"


def test_an_error_of_the_writer_leaves_the_old_file_and_nothing_else(tmp_path):
    write_file(tmp_path / "rows.npy", lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_file(tmp_path / "rows.npy", fail)
    assert (tmp_path / "rows.npy").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["rows.npy"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"rows\.npy cannot be written: (Not a directory|File exists)"):
        write_file(tmp_path / "file" / "rows.npy", lambda file: None)
