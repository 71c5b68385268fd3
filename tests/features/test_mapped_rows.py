"""Rows of a mapped file are those that the mapping shows, and are read without being mapped."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.features import mapped_rows
from vissl_clusterfit.features.mapped_rows import copy_rows


@pytest.fixture(scope="module", params=["float16", "float32", "float64"])
def mapped(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, np.random.default_rng(0).standard_normal((1000, 7)).astype(request.param))
    return np.load(path, mmap_mode="r")


@settings(deadline=None)
@given(start=st.integers(0, 999), number=st.integers(0, 1000), piece_bytes=st.integers(1, 20_000))
def test_any_rows_of_a_mapped_file(mapped, start, number, piece_bytes):
    expected = np.asarray(mapped[start : start + number]).astype(np.float32)
    out = np.full_like(expected, np.nan)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped_rows, "_PIECE_BYTES", piece_bytes)
        copy_rows(mapped, start, out)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    "of",
    [lambda rows: rows[3:], lambda rows: rows[::2], lambda rows: rows[:, 1:4], lambda rows: rows.T, np.array],
    ids=["later rows", "every other row", "some columns", "transposed", "in memory"],
)
def test_rows_of_a_view_and_of_memory(mapped, of):
    rows = of(mapped)
    out = np.empty((4, rows.shape[1]), dtype=np.float32)
    copy_rows(rows, 2, out)
    np.testing.assert_array_equal(out, np.asarray(rows[2:6]).astype(np.float32))


def test_rows_of_a_file_in_columns_order(tmp_path):
    rows = np.asfortranarray(np.arange(30, dtype=np.float32).reshape(10, 3))
    np.save(tmp_path / "rows.npy", rows)
    out = np.empty((5, 3), dtype=np.float32)
    copy_rows(np.load(tmp_path / "rows.npy", mmap_mode="r"), 4, out)
    np.testing.assert_array_equal(out, rows[4:9])


def test_a_file_that_has_become_shorter(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, np.ones((100, 8), dtype=np.float32))
    rows = np.load(path, mmap_mode="r")
    os.truncate(path, 1000)
    with pytest.raises(ArtifactError, match=re.escape(f"{path} became shorter while it was read.")):
        copy_rows(rows, 10, np.empty((90, 8), dtype=np.float32))


def test_what_is_read_does_not_count_as_mapped(tmp_path):
    """The pages of a mapping do, each that was touched."""
    np.save(tmp_path / "rows.npy", np.ones((20_000, 256), dtype=np.float32))  # 20 MB
    rows, out = np.load(tmp_path / "rows.npy", mmap_mode="r"), np.ones((20_000, 256), dtype=np.float32)
    before = _mapped_bytes(tmp_path / "rows.npy")
    copy_rows(rows, 0, out)
    assert _mapped_bytes(tmp_path / "rows.npy") == before
    out[:] = rows
    assert _mapped_bytes(tmp_path / "rows.npy") >= rows.nbytes


def _mapped_bytes(path: Path) -> int:
    """Of a file, resident in this process."""
    parts = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(encoding="utf-8"), flags=re.M)
    return sum(1024 * int(re.search(r"^Rss:\s+(\d+)", part, re.M)[1]) for part in parts if str(path) in part)
