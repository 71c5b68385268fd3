"""Files that hold no features or no names, are damaged, or would run code: one message, and nothing is written."""

import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from feature_files import FORMATS, NAMES, ROWS, npy_bytes, save
from pickled_calls import Reduced

from vissl_clusterfit.errors import DataError
from vissl_clusterfit.features.imports import import_features

HUGE = (
    b"\x93NUMPY\x01\x00\x46\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4)}".ljust(69)
    + b"\n"
)


def refused(tmp_path, content, **more):
    """The message; nothing is written."""
    with pytest.raises(DataError) as error:
        import_features(content, tmp_path / "store", **more)
    assert not (tmp_path / "store").exists()
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_rows_that_are_not_finite_are_named(tmp_path):
    rows = ROWS.copy()
    rows[[2, 3, 5, 7, 11, 13]] = np.nan
    message = refused(tmp_path, save(tmp_path / "features.npy", rows))
    assert "6 of 30 rows are NaN, or infinite in float32: rows 2, 3, 5, 7, 11, …" in message
    (tmp_path / "parts").mkdir()
    save(tmp_path / "parts" / "0.npy", ROWS)
    save(tmp_path / "parts" / "1.npy", rows)
    assert "1.npy: 6 of 60 rows are NaN, or infinite in float32: rows 32, 33" in refused(tmp_path, tmp_path / "parts")
    far = ROWS.astype(np.float64)
    far[4, 4] = 1e39
    assert "1 of 30 rows are NaN, or infinite in float32: rows 4." in refused(tmp_path, far)


def test_what_cannot_be_features_is_refused_with_one_message(tmp_path):
    def message(content, **more):
        return refused(tmp_path, content, **more)

    assert "found 29 names for 30 rows" in message(ROWS, names=NAMES[:29])
    assert "found 1 names that occurred before" in message(ROWS, names=[*NAMES[:29], NAMES[0]])
    assert "found (30,) of float32; allowed: (N, D)" in message(ROWS[:, 0])
    assert "found (0, 5) of float32" in message(ROWS[:0])
    assert "found (30, 5) of int64; allowed: (N, D), one row or more, of float16" in message(ROWS.astype(int))
    assert "nowhere.npy, which is not there" in message(tmp_path / "nowhere.npy")
    np.savez(tmp_path / "two.npz", train=ROWS, test=ROWS)
    assert "two.npz with 2 arrays; allowed: the name of one array in it (test, train)" in message(tmp_path / "two.npz")
    assert "'val', which is not in" in message(tmp_path / "two.npz", key="val")
    assert import_features(tmp_path / "two.npz", tmp_path / "good", key="test").num_samples == 30
    (tmp_path / "mixed").mkdir()
    save(tmp_path / "mixed" / "1.npy")
    save(tmp_path / "mixed" / "2.pt")
    assert "mixed with .npy, .pt; allowed: a file, or a folder of files" in message(tmp_path / "mixed")
    (tmp_path / "widths").mkdir()
    save(tmp_path / "widths" / "1.npy")
    save(tmp_path / "widths" / "2.npy", ROWS[:, :4])
    assert "found files of 4 columns of float32, 5 columns of float32" in message(tmp_path / "widths")
    (tmp_path / "list.json").write_text("[]")
    assert "list.json; allowed: a file of one of .txt, .csv" in message(ROWS, names=tmp_path / "list.json")


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_damaged_file_is_refused(tmp_path, suffix):
    path = save(tmp_path / f"features{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert f"features{suffix} cannot be read" in refused(tmp_path, path)
    path.write_bytes(b"")
    assert f"features{suffix} cannot be read" in refused(tmp_path, path)


def bad_npz(path, content, **changes):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("features.npy", content)
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    for name, value in changes.items():  # in the header of the member, and in the list at the end
        offset = {"flags": 6, "method": 8}[name]
        data[offset] = data[central + offset + 2] = value
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        (b"\x89PNG\r\n\x1a\n", {}, "a picture (PNG), not a NumPy array"),
        (b"", {}, "an empty file"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': (((((\n", {}, "a damaged NumPy array"),
        (HUGE, {}, "by its header, 0 bytes in the file"),
        (HUGE, {"flags": 1}, "password"),
        (HUGE, {"method": 99}, "compression method is not supported"),
    ],
)
def test_what_is_in_an_archive_is_looked_at_as_an_array_of_its_own(tmp_path, content, changes, message):
    found = refused(tmp_path, bad_npz(tmp_path / "a.npz", content, **changes))
    assert "a.npz cannot be read as .npz: " in found
    assert message in found


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(1).expand(10**9, 10**4),  # 4 bytes in the file
        torch.ones(4, 2).to(torch.float8_e4m3fn),
        torch.ones(4, 2).to_sparse(),
        torch.empty(4, 2, device="meta"),
        torch.ones(4, 2, dtype=torch.complex64).conj(),
    ],
)
def test_a_tensor_that_is_no_array_is_refused(tmp_path, tensor):
    torch.save(tensor, tmp_path / "rows.pt")
    assert "allowed: an array of numbers. Save it by" in refused(tmp_path, tmp_path / "rows.pt")


@pytest.mark.parametrize("content", [b"", HUGE, npy_bytes(np.float32(1)), npy_bytes(np.ones((3, 2)))])
def test_a_list_of_names_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "names.npy").write_bytes(content)
    assert "names.npy cannot be read as a list of names: " in refused(tmp_path, ROWS, names=tmp_path / "names.npy")


def test_code_in_a_file_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs_code = Reduced(os.mkdir, ("ran",))
    objects = np.array([runs_code], dtype=object)
    np.save(tmp_path / "rows.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "rows.npz", objects)
    torch.save({"features": runs_code}, tmp_path / "rows.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(runs_code))
    for name in ("rows.npy", "rows.npz", "rows.pt", "old.pt"):
        assert "holds Python objects, and reading them could run code" in refused(tmp_path, tmp_path / name)
    assert not (tmp_path / "ran").exists()
