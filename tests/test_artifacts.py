import json
import pickle

import numpy as np
import pytest

from vissl_clusterfit import artifacts
from vissl_clusterfit.errors import ArtifactError


def test_array_round_trip_and_its_digest(tmp_path):
    rows = np.arange(6, dtype=np.float16).reshape(2, 3)
    digest = artifacts.write_array(tmp_path / "deep" / "rows.npy", rows)
    for mmap in (False, True):
        read = artifacts.read_array(tmp_path / "deep" / "rows.npy", mmap=mmap)
        np.testing.assert_array_equal(read, rows)
        assert read.dtype == np.float16
    assert digest == artifacts.file_sha256(tmp_path / "deep" / "rows.npy")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    artifacts.write_json(tmp_path / "a.json", {"kept": 1})
    with pytest.raises(ValueError, match="Out of range float values"):
        artifacts.write_json(tmp_path / "a.json", {"bad": float("nan")})
    with pytest.raises(ValueError, match="allow_pickle=False"):
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
        ({"inputs": None}, "must name the inputs"),
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
