"""Manifests with a right hash and wrong values are refused in bounded time and memory."""

import contextlib
import copy
import json
import os
import resource

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_store import rewrite_manifest, save_codebook, save_store

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.errors import ClusterFitError
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.features.writer import FeatureStoreWriter
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.verification.verify import verify_artifact, verify_artifacts

OPEN = {"features": FeatureStore.open, "codebook": Codebook.open, "labels": PseudoLabels.open}
ABSURD = [10**30, -1, -(10**30), 0, 2**63, 1e300, 1.5, True, None, "", "9", "x" * 9999]
ABSURD += [[], [[]], {}, {"a": {}}, [10**30]]


def places(value, path=()):
    """Every place in a manifest, as the keys that lead to it."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield (*path, key)
            yield from places(value[key], (*path, key))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    rows = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    store = save_store(folder / "features", rows, [3], shard_size=16)
    codebook = save_codebook(folder / "codebook", rows[:5])
    label_store(store, codebook, "cpu", folder / "labels", top_clusters=3)
    label_store(store, codebook, "cpu", folder / "bounded", max_cluster_size=1.5)
    return folder


@pytest.fixture(scope="module")
def manifests(run):
    return {name: json.loads((run / name / "manifest.json").read_text()) for name in (*OPEN, "bounded")}


@pytest.fixture
def limited_memory():
    """A manifest that takes memory for what it says ends in a MemoryError, not in an exhausted machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        own = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (own + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def damaged(run, name, manifest):
    manifest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    (run / name / "manifest.json").write_text(
        json.dumps({**manifest, "manifest_sha256": artifacts.content_hash(manifest)})
    )


@pytest.mark.parametrize("name", [*OPEN, "bounded"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_any_place(run, manifests, limited_memory, name, data):
    manifest = copy.deepcopy(manifests[name])
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from([of for of in places(manifest) if of[0] not in ("kind", "format")]))
        of = manifest
        for key in place[:-1]:
            of = of[key]
        of[place[-1]] = copy.deepcopy(data.draw(st.sampled_from(ABSURD)))
    damaged(run, name, manifest)
    try:
        opened = OPEN.get(name, PseudoLabels.open)(run / name)
        if isinstance(opened, FeatureStore):
            opened.read(0, opened.num_samples)
    except ClusterFitError:
        pass
    assert all(isinstance(problem, str) for problem in verify_artifact(run / name))
    assert all(isinstance(problems, list) for _, problems in verify_artifacts([run]))
    damaged(run, name, manifests[name])
    OPEN.get(name, PseudoLabels.open)(run / name)


@pytest.mark.parametrize("number", [10**30, 10**12, -1, 41, True, "40", 40.0])
@pytest.mark.parametrize("complete", [True, False])
def test_an_absurd_number_of_samples_takes_no_memory(tmp_path, limited_memory, number, complete):
    """Of 10^30 samples a list of shards was made: it took all memory of the machine."""
    store = save_store(tmp_path / "f", np.ones((40, 2), dtype=np.float32))
    inputs = {"dataset": {**store.inputs["dataset"], "num_samples": number}}
    rewrite_manifest(store.folder, num_samples=number, complete=complete, inputs=inputs)
    with pytest.raises(ClusterFitError):
        FeatureStore.open(store.folder)
    assert verify_artifact(store.folder)


@pytest.mark.parametrize("size", [0, -1, 10**30, "8", 1.5, None, [8]])
def test_an_absurd_size_of_shards_is_refused_by_an_extraction_that_resumes(tmp_path, limited_memory, size):
    store = save_store(tmp_path / "f", np.ones((40, 2), dtype=np.float32))
    samples = artifacts.read_array(store.folder / "samples.npy")
    rewrite_manifest(store.folder, shard_size=size, complete=False)
    with pytest.raises(ClusterFitError, match="shard_size"):
        FeatureStoreWriter(store.folder, store.inputs, samples, shard_size=8, dtype="float32").begin()


@pytest.mark.parametrize("depth", [60, 70, 900, 100_000])
def test_a_manifest_that_is_nested_deep_is_refused(tmp_path, depth):
    store = save_store(tmp_path / "f", np.ones((4, 2), dtype=np.float32))
    text = "[" * depth + "]" * depth
    (store.folder / "manifest.json").write_text('{"format": 1, "kind": "feature_store", "inputs": {"a": ' + text + "}}")
    with pytest.raises(ClusterFitError):
        FeatureStore.open(store.folder)
    assert verify_artifact(store.folder)


@settings(max_examples=200, deadline=None)
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(str.encode),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=5)),
            lambda of: st.lists(of, max_size=4) | st.dictionaries(st.text(max_size=5), of, max_size=4),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_any_bytes_are_a_json_object_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_bytes(content)
    with contextlib.suppress(ClusterFitError):
        assert isinstance(artifacts.read_json(path), dict)


@pytest.mark.parametrize("name", ["features/rows-000000000016-000000000032.npy", "features/unreadable.npy"])
def test_a_flipped_bit_in_features_is_found_where_they_are_read(tmp_path, name):
    """And the file restored afterwards: nothing was made of it."""
    rows = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    save_store(tmp_path / "features", rows, [3], shard_size=16)
    codebook = save_codebook(tmp_path / "codebook", rows[:5])
    _flip(tmp_path / name)
    with pytest.raises(ClusterFitError, match="is not the file that was written"):
        label_store(FeatureStore.open(tmp_path / "features"), codebook, "cpu", tmp_path / "labels")
    assert not artifacts.has_manifest(tmp_path / "labels")


def _flip(path):
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_in_centroids_or_labels_is_found_where_they_are_read(run, tmp_path):
    rows = np.random.default_rng(0).standard_normal((40, 4)).astype(np.float32)
    codebook = save_codebook(tmp_path / "codebook", rows[:5])
    labels = label_store(save_store(tmp_path / "features", rows), codebook, "cpu", tmp_path / "labels")
    for path in (codebook.folder / "centroids.npy", labels.folder / "labels.npy", labels.folder / "sizes.npy"):
        assert path.is_file()
        _flip(path)
        with pytest.raises(ClusterFitError, match="is not the file that was written"):
            _ = (Codebook if path.parent == codebook.folder else PseudoLabels).open(path.parent).labels
        _flip(path)
    assert PseudoLabels.open(labels.folder).labels.tolist() == labels.labels.tolist()


def test_a_file_is_hashed_once_per_process(tmp_path, monkeypatch):
    store = save_store(tmp_path / "f", np.ones((40, 2), dtype=np.float32))
    for path in store.folder.glob("*.npy"):
        os.utime(path, (1e9, 1e9))
    hashed, hash_file = [], artifacts.file_sha256
    monkeypatch.setattr(artifacts, "file_sha256", lambda path: hashed.append(path.name) or hash_file(path))
    for _ in range(3):
        opened = FeatureStore.open(store.folder)
        opened.read(0, 40)
        opened.take(np.arange(40))
    assert sorted(hashed) == ["rows-000000000000-000000000040.npy", "unreadable.npy"]
