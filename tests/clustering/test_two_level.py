"""Clustering on two levels: shares, centroids, objective, and what is on disk."""

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_store import contents, rewrite_manifest, save_store

from vissl_clusterfit.clustering import fit, sources, two_level
from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.clustering.codebook_inputs import codebook_inputs
from vissl_clusterfit.clustering.two_level import shares_of_clusters
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.config.features import FeatureSettings
from vissl_clusterfit.errors import ArtifactError, ConfigError
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.search.torch_search import TorchSearch
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.verification.verify import verify_artifact


@pytest.fixture(scope="module")
def store(grouped_store):
    return FeatureStore.open(grouped_store)


def settings(**changes):
    features = {name: changes.pop(name) for name in list(changes) if hasattr(FeatureSettings(), name)}
    usual = {"num_clusters": 120, "num_coarse_clusters": 10, "num_iter": 30, "features": FeatureSettings(**features)}
    return ClusterFitConfig(**{**usual, **changes})


def cluster(store, folder, **changes):
    return fit.fit_codebook(store, settings(**changes), "cpu", folder)


def readable_rows(store, codebook):
    rows = np.delete(store.read(0, store.num_samples), store.unreadable, axis=0)
    return codebook.preprocessing.apply(rows)


@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=12).filter(sum),
    part=st.floats(0, 1),
)
def test_shares(sizes, part):
    sizes = np.array(sizes)
    least = (sizes > 0).sum()
    num_clusters = int(least + part * (sizes.sum() - least))
    shares = shares_of_clusters(sizes, num_clusters)
    assert shares.sum() == num_clusters
    assert (shares >= np.minimum(sizes, 1)).all()
    assert (shares <= sizes).all()
    exact = sizes * num_clusters / sizes.sum()
    if (exact[sizes > 0] >= 1).all():  # largest remainders: nobody is a whole cluster away from the exact part
        assert (np.abs(shares - exact) < 1).all()


def test_shares_of_more_than_32_bits():
    assert shares_of_clusters(np.array([3 * 10**9, 10**9, 1, 0]), 10**6).tolist() == [749_999, 250_000, 1, 0]


@pytest.mark.parametrize("kind", [{}, {"metric": "cosine"}, {"normalize": False}, {"dimensionality_reduction": 5}])
def test_every_fine_centroid_is_the_mean_of_its_own_vectors(store, tmp_path, kind):
    codebook = cluster(store, tmp_path / "codebook", num_iter=100, refinement_iterations=0, **kind)
    assert codebook.manifest["converged"]
    assert codebook.fine_counts.sum() == codebook.num_clusters == 120
    rows = readable_rows(store, codebook)
    coarse = TorchSearch(codebook.coarse_centroids).labels(rows)
    np.testing.assert_array_equal(codebook.fine_counts, shares_of_clusters(np.bincount(coarse, minlength=10), 120))
    stops = np.cumsum(codebook.fine_counts)
    counts, squared = [], 0.0
    for index, (start, stop) in enumerate(zip(stops - codebook.fine_counts, stops, strict=True)):
        own, centroids = rows[coarse == index].astype("f8"), codebook.centroids[start:stop]
        distances = ((own[:, None] - centroids[None]) ** 2).sum(axis=2)
        fine = distances.argmin(axis=1)
        counts += np.bincount(fine, minlength=stop - start).tolist()
        squared += distances.min(axis=1).sum()
        means = np.stack([own[fine == number].mean(axis=0) for number in range(stop - start)])
        if kind.get("metric") == "cosine":
            means /= np.linalg.norm(means, axis=1, keepdims=True)
        np.testing.assert_allclose(centroids, means, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(codebook.counts, counts)
    assert codebook.manifest["objective"][-1] == pytest.approx(squared / len(rows), rel=1e-4)


def test_the_objective_is_near_that_of_one_level(store, tmp_path):
    flat = cluster(store, tmp_path / "flat", num_coarse_clusters=0, num_iter=40)
    two = cluster(store, tmp_path / "two", num_iter=40)
    assert two.manifest["objective"][-1] < 1.07 * flat.manifest["objective"][-1]
    assert len(two.manifest["coarse_objective"]) <= 40
    assert len(two.manifest["objective"]) == len(two.manifest["shares"]) == two.manifest["num_iter_run"]


def test_vectors_that_do_not_fit_into_memory_together(store, tmp_path, monkeypatch):
    """Several groups of coarse clusters give the same bytes as one."""
    cluster(store, tmp_path / "at once", dimensionality_reduction=5)
    monkeypatch.setattr(two_level, "_GROUP_BYTES", 600 * 8 * 4)
    cluster(store, tmp_path / "in groups", dimensionality_reduction=5)
    assert contents(tmp_path / "in groups") == contents(tmp_path / "at once")


def test_a_coarse_cluster_that_does_not_fit_into_memory(store, tmp_path, monkeypatch):
    held = cluster(store, tmp_path / "held", num_iter=5, refinement_iterations=0)
    monkeypatch.setattr(two_level, "_GROUP_BYTES", 1)
    monkeypatch.setattr(sources, "_CHUNK_ROWS", 256)
    read = cluster(store, tmp_path / "read", num_iter=5, refinement_iterations=0)
    np.testing.assert_array_equal(read.fine_counts, held.fine_counts)
    np.testing.assert_allclose(read.centroids, held.centroids, rtol=1e-4, atol=1e-5)


def test_the_codebook_on_disk(store, tmp_path):
    made = cluster(store, tmp_path / "codebook")
    opened = Codebook.open(tmp_path / "codebook", codebook_inputs(store.inputs, settings()))
    np.testing.assert_array_equal(opened.coarse_centroids, made.coarse_centroids)
    assert verify_artifact(tmp_path / "codebook") == []
    assert not (tmp_path / "codebook/in_progress").exists()
    assert {"coarse_centroids.npy", "fine_counts.npy"} < opened.manifest["sha256"].keys()
    flat = settings(num_coarse_clusters=0)
    with pytest.raises(ArtifactError, match="num_coarse_clusters: it was made with 10, this run has null"):
        Codebook.open(tmp_path / "codebook", codebook_inputs(store.inputs, flat))


def test_fine_counts_that_do_not_add_up_are_refused(store, tmp_path):
    folder = cluster(store, tmp_path / "codebook").folder
    digest = artifacts.write_array(folder / "fine_counts.npy", np.full(10, 11))
    rewrite_manifest(folder, sha256={**artifacts.read_manifest(folder)["sha256"], "fine_counts.npy": digest})
    message = "fine_counts.npy must give each of 120 clusters to a coarse one"
    with pytest.raises(ArtifactError, match=message):
        Codebook.open(folder)
    assert any(message in problem for problem in verify_artifact(folder))


def test_too_few_samples_for_the_coarse_clusters(store, tmp_path):
    with pytest.raises(ConfigError, match=r"NUM_COARSE_CLUSTERS: found 101; allowed: 0 to 100, half the number"):
        cluster(store, tmp_path / "codebook", num_clusters=150, num_coarse_clusters=101, data_limit=200)
    assert not (tmp_path / "codebook").exists()


def test_fewer_distinct_vectors_than_clusters(tmp_path, caplog):
    rows = np.random.default_rng(0).standard_normal((30, 8)).astype("f4")
    store = save_store(tmp_path / "features", np.repeat(rows, 10, axis=0))
    codebook = cluster(store, tmp_path / "codebook", num_clusters=60, num_coarse_clusters=4)
    assert codebook.counts.sum() == 300
    assert codebook.manifest["num_empty_clusters"] == (codebook.counts == 0).sum() == 30
    assert caplog.text.count("30 of 60 clusters stay empty") == 1
    caplog.clear()
    cluster(store, tmp_path / "unrefined", num_clusters=60, num_coarse_clusters=4, refinement_iterations=0)
    assert caplog.text.count("30 of 60 clusters stay empty: coarse clusters have fewer distinct features") == 1


def test_more_coarse_clusters_than_distinct_vectors(tmp_path):
    rows = np.random.default_rng(0).standard_normal((3, 8)).astype("f4")
    store = save_store(tmp_path / "features", np.repeat(rows, 10, axis=0))
    codebook = cluster(store, tmp_path / "codebook", num_clusters=9, num_coarse_clusters=6)
    assert (codebook.fine_counts == 0).sum() == 3
    assert codebook.fine_counts.sum() == 9
    labels = codebook.search().nearest(store.read(0, 30))[0][:, 0]
    assert len(set(labels)) == 3


def test_what_is_done_is_not_done_again(store, tmp_path, monkeypatch, caplog):
    whole = contents(cluster(store, tmp_path / "whole").folder)

    class Stopped(Exception):
        pass

    save = two_level.FineFiles.save

    def save_four(self, index, state):
        if index == 4:
            raise Stopped
        save(self, index, state)

    with monkeypatch.context() as patch:
        patch.setattr(two_level.FineFiles, "save", save_four)
        with pytest.raises(Stopped):
            cluster(store, tmp_path / "stopped")
    damaged = tmp_path / "stopped/in_progress/fine-000002-centroids.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    with caplog.at_level(logging.INFO):
        cluster(store, tmp_path / "stopped")
    assert "3 of 10 coarse clusters were done before" in caplog.text
    assert contents(tmp_path / "stopped") == whole


def test_the_work_of_another_clustering_is_not_used(store, tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    def stop(*_):
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(two_level, "_as_one", stop)
        with pytest.raises(Stopped):
            cluster(store, tmp_path / "codebook", seed=1)
    cluster(store, tmp_path / "codebook")
    cluster(store, tmp_path / "undisturbed")
    assert contents(tmp_path / "codebook") == contents(tmp_path / "undisturbed")
