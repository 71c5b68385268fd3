"""The code in docs/artifacts.md, which knows NumPy and the standard library alone, on real artefacts."""

import ast
import re
from types import SimpleNamespace

import numpy as np
import pytest
from repository import ROOT
from tiny_run import ROWS, UNREADABLE, make_run
from tiny_store import edit_manifest, save_codebook, save_store

from vissl_clusterfit.features.imports import import_features
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.labels.imports import import_labels

DOCUMENT = (ROOT / "docs/artifacts.md").read_text("utf-8")
CODE = "\n\n".join(re.findall(r"^```python\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL))
# What a table of the document describes: the first cell of each of its rows, by the heading above it.
DESCRIBED = {
    section.partition("\n")[0]: set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))
    for section in DOCUMENT.split("\n## ")
}
FOLDERS = {"Features": "features/test", "Codebook": "codebook", "Pseudo-labels": "labels/test"}
# Files that not every run has; one of those below has each.
TWO_LEVELS = {"coarse_centroids.npy", "fine_counts.npy", "num_coarse_clusters", "coarse_objective", "num_probed"}
OPTIONAL = {
    "Features": {"shard_rows", "rows_in"},
    "Codebook": {"pca_mean.npy", "pca_components.npy", "settled", "timed_out", "since_start", *TWO_LEVELS},
    "Pseudo-labels": {"nearest.npy", "nearest_distances.npy", "bounded", "imported", "has_distances"},
}
RUNS = {
    "normalised": {},
    "raw, float16": {"normalize": False, "dtype": "float16"},
    "PCA": {"dimensionality_reduction": 4, "max_distance": 0.3},
    "top clusters": {"top_clusters": 3, "max_distance": 0.3},
    "two levels": {"num_clusters": 60, "num_coarse_clusters": 12},
    "cosine, whitened PCA": {"metric": "cosine", "dimensionality_reduction": 4, "whiten": True},
}


@pytest.fixture(scope="module")
def reader():
    names: dict = {}
    exec(compile(CODE, "docs/artifacts.md", "exec"), names)
    return SimpleNamespace(**names)


@pytest.fixture(scope="module", params=RUNS)
def run(request, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"), **RUNS[request.param])


def test_the_reader_needs_numpy_and_the_standard_library_alone():
    imported = {
        name.name.partition(".")[0] if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(CODE))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    assert imported == {"gzip", "hashlib", "json", "pathlib", "numpy"}


def test_features(reader, run):
    features, unreadable, manifest = reader.read_features(run / "features/train")
    expected = ROWS.astype(manifest["dtype"])
    expected[UNREADABLE["train"]] = 0
    np.testing.assert_array_equal(features, expected)
    assert unreadable.tolist() == [entry["index"] for entry in manifest["unreadable"]] == UNREADABLE["train"]
    assert reader.features_hash(manifest) == manifest["content_hash"]


def test_samples(reader, run):
    samples = reader.hash_samples(f"train {index}" for index in range(len(ROWS)))
    labels, manifest = reader.read_labels(run / "labels/train")
    np.testing.assert_array_equal(labels["samples"], samples)
    assert manifest["inputs"]["features"]["dataset"] == reader.dataset_inputs(samples)


def test_each_artefact_names_those_that_it_was_made_from(reader, run):
    manifests = {
        split: (
            reader.read_features(run / "features" / split)[-1],
            reader.read_labels(run / "labels" / split)[-1],
        )
        for split in ("train", "test")
    }
    codebook = reader.read_codebook(run / "codebook")[-1]
    assert codebook["features_hash"] == reader.features_hash(manifests["train"][0])
    assert codebook["inputs"]["features"] == manifests["train"][0]["inputs"]
    for features, labels in manifests.values():
        assert labels["codebook_hash"] == reader.codebook_hash(codebook)
        assert labels["features_hash"] == reader.features_hash(features)
        assert (labels["inputs"]["features"], labels["inputs"]["codebook"]) == (features["inputs"], codebook["inputs"])


@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_by_brute_force(reader, run, split):
    features, unreadable, _ = reader.read_features(run / "features" / split)
    codebook, codebook_manifest = reader.read_codebook(run / "codebook")
    labels, manifest = reader.read_labels(run / "labels" / split)
    distances = reader.distances_to_centroids(features, codebook, codebook_manifest)
    nearest, second = np.sort(distances, axis=1)[:, :2].T
    expected = distances.argmin(axis=1)
    limit = manifest["inputs"]["max_distance"]
    if limit is not None:
        expected[nearest > limit] = -1
        assert manifest["num_too_far"] == (expected < 0).sum() - (nearest[unreadable] > limit).sum() > 0
    expected[unreadable] = -1
    np.testing.assert_array_equal(labels["labels"], expected)
    readable = np.setdiff1d(np.arange(len(features)), unreadable)
    np.testing.assert_allclose(labels["distances"][readable], nearest[readable], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(labels["margins"][readable], (second - nearest)[readable], rtol=1e-3, atol=1e-5)
    assert set(labels["distances"][unreadable]) == set(labels["margins"][unreadable]) == {-1}
    np.testing.assert_array_equal(labels["sizes"], np.bincount(expected[expected >= 0], minlength=len(labels["sizes"])))
    if top := manifest["inputs"].get("top_clusters"):
        order = np.argsort(distances, axis=1, kind="stable")[:, :top]
        unlabelled = (expected < 0)[:, None]
        np.testing.assert_array_equal(labels["nearest"], np.where(unlabelled, -1, order))
        far = np.where(unlabelled, -1, np.take_along_axis(distances, order, axis=1))
        np.testing.assert_allclose(labels["nearest_distances"], far, rtol=1e-4, atol=1e-6)


def test_counts_of_the_codebook(reader, run):
    codebook, manifest = reader.read_codebook(run / "codebook")
    assert codebook["counts"].sum() == manifest["num_points"] == len(ROWS) - len(UNREADABLE["train"])


@pytest.mark.parametrize("section", FOLDERS)
def test_every_file_and_key_is_described(reader, run, section):
    folder = run / FOLDERS[section]
    manifest = reader.json.loads((folder / "manifest.json").read_text())
    common = {"kind", "format", "inputs", "sha256", "manifest_sha256"}
    assert common <= DESCRIBED["What all three have in common"] & manifest.keys()
    files = {re.sub(r"\d{12}-\d{12}", "<start>-<stop>", path.name) for path in folder.iterdir()} - {"manifest.json"}
    found = (manifest.keys() - common) | files
    assert found | OPTIONAL.get(section, set()) == DESCRIBED[section]
    if section == "Codebook":
        assert found & TWO_LEVELS in (set(), TWO_LEVELS)


def test_every_key_of_a_store_that_refers_to_files_is_described(reader, tmp_path):
    names = [f"{number}.jpg" for number in range(len(ROWS))]
    (tmp_path / "rows").mkdir()
    for number, rows in enumerate(np.split(ROWS, [7, 50])):
        np.save(tmp_path / "rows" / f"{number}.npy", rows)
    store = import_features(tmp_path / "rows", tmp_path / "store", names=names)
    manifest = reader.read_manifest(store.folder, "feature_store")
    assert manifest.keys() - {"kind", "inputs", "sha256", "format"} <= DESCRIBED["Features"]
    assert manifest["rows_in"].keys() == set(reader.shard_names(manifest))
    assert reader.features_hash(manifest) == manifest["content_hash"]
    assert reader.read_names(store.folder) == names
    copied = import_features(tmp_path / "rows", tmp_path / "copy", names=names, copy=True).folder
    np.testing.assert_array_equal(reader.read_features(copied)[0], ROWS)


def test_every_key_of_labels_from_elsewhere_is_described(reader, tmp_path):
    names = [f"{number}.jpg" for number in range(len(ROWS))]
    features = import_features(ROWS, tmp_path / "store", names=names)
    given = np.arange(len(ROWS)) % 4 - 1
    folder = import_labels(given[::-1], tmp_path / "labels", features, names=names[::-1]).folder
    labels, manifest = reader.read_labels(folder)
    np.testing.assert_array_equal(labels["labels"], given)
    assert manifest.keys() - {"kind", "inputs", "sha256", "format"} <= DESCRIBED["Pseudo-labels"]
    assert (manifest["imported"], manifest["has_distances"]) == (True, False)
    assert manifest["inputs"]["codebook"] == {"imported_labels": manifest["codebook_hash"]}
    assert reader.read_names(folder) == names


def test_every_key_of_bounded_labels_is_described(tmp_path):
    store, codebook = save_store(tmp_path / "store", ROWS), save_codebook(tmp_path / "codebook", ROWS[:5])
    labels = label_store(store, codebook, "cpu", tmp_path / "labels", max_cluster_size=1.0)
    assert labels.manifest["bounded"].keys() == DESCRIBED["Bounded cluster sizes"]


def test_the_reader_refuses_what_is_not_what_was_written(reader, tmp_path):
    folder = save_store(tmp_path / "store", ROWS).folder
    shard = folder / "rows-000000000100-000000000200.npy"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match="is not the file that was written"):
        reader.read_features(folder)
    edit_manifest(folder, num_unreadable=1)
    with pytest.raises(ValueError, match="was edited"):
        reader.read_features(folder)
    edit_manifest(folder, format=2)
    with pytest.raises(ValueError, match="of format 1"):
        reader.read_features(folder)
