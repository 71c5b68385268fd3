import contextlib
import io
import json
import mmap
import os
import pickle
import string
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.storage import artifacts


def test_array_round_trip_and_its_digest(tmp_path):
    rows = np.arange(6, dtype=np.float16).reshape(2, 3)
    digest = artifacts.write_array(tmp_path / "deep" / "rows.npy", rows)
    for use_mmap in (False, True):
        read = artifacts.read_array(tmp_path / "deep" / "rows.npy", mmap=use_mmap)
        np.testing.assert_array_equal(read, rows)
        assert read.dtype == np.float16
    assert digest == artifacts.file_sha256(tmp_path / "deep" / "rows.npy")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    artifacts.write_json(tmp_path / "a.json", {"kept": 1})
    with pytest.raises(ValueError, match="Out of range float values"):
        artifacts.write_json(tmp_path / "a.json", {"bad": float("nan")})
    with pytest.raises(ValueError, match="Arrays of Python objects"):
        artifacts.write_array(tmp_path / "b.npy", np.array([object()], dtype=object))
    assert artifacts.read_json(tmp_path / "a.json") == {"kept": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]


def test_an_array_of_objects_is_not_opened(tmp_path):
    np.save(tmp_path / "evil.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ArtifactError, match="cannot be read as an array"):
        artifacts.read_array(tmp_path / "evil.npy")


def test_a_pickle_named_npy_is_not_opened(tmp_path):
    (tmp_path / "evil.npy").write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(ArtifactError, match="cannot be read as an array"):
        artifacts.read_array(tmp_path / "evil.npy")


@pytest.mark.parametrize("text", ["", "[1, 2]", "{", "\udcff"])
def test_damaged_json_is_named(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ArtifactError, match=r"a\.json (cannot be read as JSON|must hold a JSON object)"):
        artifacts.read_json(tmp_path / "a.json")


def test_content_hash_ignores_the_order_of_keys_only():
    assert artifacts.content_hash({"a": 1, "b": [1, 2]}) == artifacts.content_hash({"b": [1, 2], "a": 1})
    assert artifacts.content_hash({"a": [1, 2]}) != artifacts.content_hash({"a": [2, 1]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "codebook"}, "must hold a feature_store, found a 'codebook'"),
        ({"format": artifacts.FORMAT_VERSION + 1}, "Upgrade it"),
        ({"format": "1"}, "found format '1'"),
        ({"num_samples": 4}, "manifest.json was edited or damaged: it is not what was written"),
        ({"manifest_sha256": None}, "manifest.json was edited or damaged"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path, change, message):
    artifacts.write_manifest(tmp_path, "feature_store", {"layer": "res5"}, {"num_samples": 3})
    manifest = artifacts.read_manifest(tmp_path, "feature_store")
    assert manifest["num_samples"] == 3
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(ArtifactError, match=message):
        artifacts.read_manifest(tmp_path, "feature_store")


def test_a_missing_manifest_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"holds no codebook: its manifest\.json is missing"):
        artifacts.read_manifest(tmp_path, "codebook")


def test_every_difference_is_named_with_both_values(tmp_path):
    found = {"teacher": {"layer": "res4", "pooling": "avg"}, "same": 1}
    expected = {"teacher": {"layer": "res5", "pooling": "avg"}, "same": 1, "new": [1]}
    with pytest.raises(ArtifactError) as caught:
        artifacts.require_same_inputs(tmp_path, found, expected)
    lines = str(caught.value).splitlines()
    assert lines[1:3] == [
        "  new: it was made with null, this run has [1]",
        '  teacher.layer: it was made with "res4", this run has "res5"',
    ]
    artifacts.require_same_inputs(tmp_path, found, dict(found))


def test_a_manifest_without_inputs_is_refused(tmp_path):
    artifacts.write_manifest(tmp_path, "feature_store", None, {})
    with pytest.raises(ArtifactError, match=r"manifest\.json must name the inputs of the feature_store"):
        artifacts.read_manifest(tmp_path, "feature_store")


KEYS = st.text(string.ascii_letters + "äß_.", min_size=1, max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(inputs=st.dictionaries(KEYS, VALUES, max_size=4), facts=st.dictionaries(KEYS, VALUES, max_size=6))
@settings(max_examples=100, deadline=None)
def test_manifests_come_back_as_they_were_written(inputs, facts):
    facts = {f"fact {name}": value for name, value in facts.items()}
    with tempfile.TemporaryDirectory() as folder:
        artifacts.write_manifest(Path(folder), "codebook", inputs, facts)
        found = artifacts.read_manifest(Path(folder), "codebook")
    assert found.pop("inputs") == inputs
    assert {name: found[name] for name in facts} == facts
    assert sorted(found) == sorted([*facts, "format", "kind"])


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_manifest_of_which_a_byte_was_changed_is_refused(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.json"
        artifacts.write_manifest(Path(folder), "codebook", {"seed": 10, "a": [1.5, None]}, {"num_clusters": 25})
        written = artifacts.read_manifest(Path(folder))
        text = bytearray(path.read_bytes())
        position = data.draw(st.integers(0, len(text) - 1))
        text[position] = data.draw(st.integers(0, 255).filter(lambda byte: byte != text[position]))
        path.write_bytes(text)
        try:
            found = artifacts.read_manifest(Path(folder))
        except ArtifactError:
            return
        assert found == written  # one kind of white space for another


@pytest.mark.parametrize(
    "text",
    [
        '{"format": 1, "kind": "codebook", "inputs": {}, "objective": NaN}',
        '{"format": 1, "kind": "codebook", "inputs": {}, "objective": 1e999}',
        '{"format": 1, "kind": "codebook", "inputs": {}, "seed": ' + "9" * 5000 + "}",
        '{"a":' * 100_000,
        '{"format": 1, "kind": ["codebook"], "inputs": {}}',
        '{"format": true, "kind": "codebook", "inputs": {}}',
        '{"format": 1, "kind": "codebook", "inputs": {}, "manifest_sha256": 3}',
        '{"format": 1, "kind": "\\ud800", "inputs": {}}',
    ],
    ids=["nan", "infinity", "large", "deep", "list", "bool", "hash", "surrogate"],
)
def test_json_that_nobody_writes_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"manifest\.json (cannot be read as JSON|was edited)|must hold a codebook"):
        artifacts.read_manifest(tmp_path, "codebook")


@pytest.mark.parametrize("use_mmap", [False, True])
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_array_is_read_or_refused(use_mmap, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        artifacts.write_array(path, np.arange(6, dtype=np.float32).reshape(2, 3))
        content = bytearray(path.read_bytes())
        if data.draw(st.booleans(), label="truncate"):
            del content[data.draw(st.integers(0, len(content) - 1)) :]
        else:
            for _ in range(data.draw(st.integers(1, 3))):
                content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(content)
        with contextlib.suppress(ArtifactError):
            assert isinstance(artifacts.read_array(path, mmap=use_mmap), np.ndarray)


@given(array=st_numpy.arrays(st.sampled_from(["<f4", "<f2", "<i8", "<u8"]), st_numpy.array_shapes(min_side=0)))
@settings(max_examples=100, deadline=None)
def test_arrays_come_back_as_they_were_written(array):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npy"
        artifacts.write_array(path, array)
        expected = io.BytesIO()
        np.save(expected, array)
        assert path.read_bytes() == expected.getvalue()
        for use_mmap in (False, True):
            found = artifacts.read_array(path, mmap=use_mmap)
            assert (found.dtype, found.shape, found.tobytes()) == (array.dtype, array.shape, array.tobytes())
            del found


def test_an_archive_named_npy_is_not_opened(tmp_path):
    np.savez(tmp_path / "rows.npz", rows=np.zeros(3))
    (tmp_path / "rows.npz").rename(tmp_path / "rows.npy")
    with pytest.raises(ArtifactError, match=r"rows\.npy cannot be read as an array"):
        artifacts.read_array(tmp_path / "rows.npy")


def test_an_array_that_claims_to_be_huge_is_refused(tmp_path):
    with open(tmp_path / "rows.npy", "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 10**6)}
        np.lib.format.write_array_header_1_0(file, header)
    for use_mmap in (False, True):
        with pytest.raises(ArtifactError, match=r"rows\.npy cannot be read as an array"):
            artifacts.read_array(tmp_path / "rows.npy", mmap=use_mmap)


def test_a_file_system_without_mmap_is_slower_and_no_more(tmp_path, monkeypatch):
    artifacts.write_array(tmp_path / "rows.npy", np.arange(5))

    def refuse(*_, **__):
        raise OSError(19, os.strerror(19))

    monkeypatch.setattr(mmap, "mmap", refuse)
    found = artifacts.read_array(tmp_path / "rows.npy", mmap=True)
    assert found.tolist() == [0, 1, 2, 3, 4]
    assert not found.flags.writeable


def test_a_file_that_vanishes_while_it_is_hashed_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"rows\.npy cannot be read: No such file"):
        artifacts.file_sha256(tmp_path / "rows.npy")


def test_a_record_without_what_it_must_say_is_damaged(tmp_path):
    artifacts.write_json(tmp_path / "a.json", {"overrides": []})
    assert artifacts.read_json(tmp_path / "a.json", "overrides") == {"overrides": []}
    with pytest.raises(ArtifactError, match=r"a\.json is damaged: it has no grid, chosen\. Move it away, and start"):
        artifacts.read_json(tmp_path / "a.json", "overrides", "grid", "chosen")
