import hashlib
import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.features.sample_list import (
    SAMPLES_FILE,
    dataset_inputs,
    hash_samples,
    names_and_sizes,
    require_same_samples,
)
from vissl_clusterfit.storage import artifacts

NAMES = st.lists(st.text("ab/ é\udcff", max_size=4), max_size=8)


def require(folder, before, now):
    """Keeps one list and compares it with another."""
    artifacts.write_array(folder / SAMPLES_FILE, hash_samples(before))
    require_same_samples(folder, hash_samples(now), now.__getitem__)


@given(one=NAMES, other=NAMES)
@settings(max_examples=300, deadline=None)
def test_equal_lists_and_no_others_have_equal_hashes(one, other):
    hashes = hash_samples(one), hash_samples(other)
    assert (hashes[0].tolist() == hashes[1].tolist()) == (one == other)
    assert (dataset_inputs(hashes[0]) == dataset_inputs(hashes[1])) == (one == other)


def test_hashes_are_eight_bytes_in_the_order_of_the_names():
    hashes = hash_samples(f"{index}.png" for index in range(100))
    assert (hashes.shape, hashes.dtype) == ((100,), np.dtype("<u8"))
    assert len(np.unique(hashes)) == 100
    assert hashes[::-1].tolist() == hash_samples([f"{index}.png" for index in range(99, -1, -1)]).tolist()
    assert hash_samples([]).shape == (0,)


def test_hashes_are_blake2b_of_the_names():
    names = [f"é{index}" for index in range(2000)]  # of some the hash ends in zeros
    expected = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names)
    assert hash_samples(names).tobytes() == expected
    assert b"\0" in expected[7::8]


@pytest.mark.parametrize("num_files", [0, 1, 1000, 35_001])
def test_files_are_named_in_their_order_with_their_sizes(tmp_path, num_files):
    files = [str(tmp_path / f"{index % 9}" / f"{index}.png") for index in range(num_files)]
    for index in range(0, num_files, 7):
        path = tmp_path / f"{index % 9}" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x" * (index % 50))
    expected = [
        f"{os.path.relpath(file, tmp_path)} {index % 50 if index % 7 == 0 else -1}" for index, file in enumerate(files)
    ]
    assert list(names_and_sizes(files, str(tmp_path))) == expected


@pytest.mark.parametrize("folder", ["images", "./images", "images/", "images/../images", "images//."])
def test_files_have_the_same_names_however_their_folder_is_written(tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images/class").mkdir(parents=True)
    (tmp_path / "images/class/one.png").write_bytes(b"1")
    (tmp_path / "images/class/none.png").symlink_to("nowhere")
    files = [os.path.join(folder, "class", f"{name}.png") for name in ("one", "none")]
    assert list(names_and_sizes(files, folder)) == ["class/one.png 1", "class/none.png -1"]


def test_the_fingerprint_is_the_same_everywhere():
    """Whatever the machine, and the version: labels are tied to it."""
    inputs = dataset_inputs(hash_samples(["a.png 10", "b/ü.png 20"]))
    assert inputs["num_samples"] == 2
    assert inputs["fingerprint"] == "aa0e4777adcb485dfa1311bc55f35b0d189def429d9c8cc147dff9ca57950ebd"


def test_a_name_that_is_not_unicode_has_a_hash(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.png")).touch()
    (name,) = os.listdir(tmp_path)
    assert hash_samples([name]).tolist() != hash_samples(["café.png"]).tolist()


def test_the_same_list_is_accepted(tmp_path):
    require(tmp_path, ["a", "b"], ["a", "b"])
    require_same_samples(tmp_path / "without a list", hash_samples(["a"]), str)


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (["a", "B", "c"], r"1 of 3 samples differ \(it has 3\)\. sample 1 is now 'B'\. Files were renamed"),
        (["b", "a", "c"], r"2 of 3 samples differ \(it has 3\)\. sample 0 is now 'b'; sample 1 is now 'a'\."),
        (["a", "b", "c", "d"], r"1 of 4 samples differ \(it has 3\)\. sample 3 is now 'd'\."),
        (["a", "b"], r"1 of 2 samples differ \(it has 3\)\. Files"),
        (
            ["0", "a", "b", "c"],
            r"4 of 4 samples differ .* sample 0 is now '0'; sample 1 is now 'a'; sample 2 is now 'b'\.",
        ),
        ([], r"3 of 0 samples differ \(it has 3\)\. Files were .* Restore them, name another folder"),
    ],
    ids=["renamed", "reordered", "added", "removed", "added in front", "all removed"],
)
def test_what_has_changed_is_counted_and_named(tmp_path, now, message):
    with pytest.raises(ArtifactError, match=message):
        require(tmp_path, ["a", "b", "c"], now)


@given(before=NAMES, now=NAMES)
@settings(max_examples=150, deadline=None)
def test_positions_that_differ_are_counted(tmp_path_factory, before, now):
    folder = tmp_path_factory.getbasetemp() / "positions"
    num_differing = sum(one != other for one, other in zip(before, now, strict=False)) + abs(len(before) - len(now))
    if not num_differing:
        require(folder, before, now)
        return
    with pytest.raises(ArtifactError, match=f": {num_differing} of {len(now)} samples differ") as caught:
        require(folder, before, now)
    shown = str(caught.value).count(" is now ")
    changed = sum(index >= len(before) or before[index] != name for index, name in enumerate(now))
    assert shown == min(3, changed)


def test_a_list_that_is_damaged_is_named(tmp_path):
    (tmp_path / SAMPLES_FILE).write_bytes(b"half")
    with pytest.raises(ArtifactError, match=r"samples\.npy cannot be read as an array"):
        require_same_samples(tmp_path, hash_samples(["a"]), str)


@pytest.mark.parametrize("content", [np.zeros((2, 1), np.uint64), np.zeros(2), np.uint64(3)])
def test_what_is_no_list_of_hashes_is_named(tmp_path, content):
    artifacts.write_array(tmp_path / SAMPLES_FILE, np.asarray(content))
    with pytest.raises(ArtifactError, match=r"samples\.npy must hold \(N,\) of uint64, found"):
        require_same_samples(tmp_path, hash_samples(["a", "b"]), str)


def test_memory_is_eight_bytes_a_name():
    tracemalloc.start()
    samples = hash_samples(map(str, range(100_000)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(samples) == 100_000
    assert peak < 16 * 100_000
