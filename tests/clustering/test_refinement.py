"""After two levels, iterations over all fine centroids: they cross borders, and do not depend on who computes them."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_store import contents, rewrite_manifest, save_store

from vissl_clusterfit.clustering import fit, refinement, sources
from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.clustering.codebook_inputs import codebook_inputs
from vissl_clusterfit.clustering.kmeans import kmeans
from vissl_clusterfit.clustering.sources import ArraySource
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.search.backends import search_factory
from vissl_clusterfit.search.torch_search import TorchSearch
from vissl_clusterfit.verification.verify import verify_artifact

NUM_CLUSTERS, NUM_COARSE = 300, 12


def cut_rows(num_groups: int = 150, seed: int = 0) -> np.ndarray:
    """Groups of some dozen vectors in many directions, which the borders of a few coarse clusters cut."""
    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((num_groups, 24), dtype=np.float32)
    rows = middles[rng.integers(num_groups, size=2400)]
    return rows + 0.9 * rng.standard_normal(rows.shape, dtype=np.float32)


@pytest.fixture(scope="module")
def rows():
    found = cut_rows()
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def store(rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut") / "features"
    save_store(folder, rows)
    return FeatureStore.open(folder)


def of(folder, **changes):
    usual = {"num_clusters": NUM_CLUSTERS, "num_coarse_clusters": NUM_COARSE, "num_iter": 12}
    return ClusterFitConfig(output_dir=str(folder), **{**usual, **changes})


def cluster(store, folder, **changes):
    settings = of(folder, **changes)
    return fit.fit_codebook(store, settings, "cpu", settings.paths.codebook)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_what_borders_cost_is_won_back(store, rows, tmp_path, metric):
    one, two, refined = (
        cluster(store, tmp_path / name, metric=metric, **changes)
        for name, changes in (
            ("one", {"num_coarse_clusters": 0}),
            ("two", {"refinement_iterations": 0}),
            ("refined", {}),
        )
    )
    cost = [TorchSearch(codebook.centroids).nearest(rows)[1].mean() for codebook in (one, two, refined)]
    assert cost[1] > 1.08 * cost[0]  # the data are such that borders cost something
    assert cost[2] - cost[0] < 0.5 * (cost[1] - cost[0])
    manifest = refined.manifest
    assert manifest["objective"][:-4] == two.manifest["objective"]
    assert sorted(manifest["objective"], reverse=True) == manifest["objective"]
    assert verify_artifact(refined.folder) == []


def test_it_is_lloyds_algorithm_from_the_centroids_of_two_levels(store, rows, tmp_path):
    two = cluster(store, tmp_path / "two", refinement_iterations=0)
    refined = cluster(store, tmp_path / "refined", refinement_iterations=3)
    plain = kmeans(
        ArraySource(two.preprocessing.apply(rows)),
        NUM_CLUSTERS,
        3,
        0,
        search_factory("torch", "cpu"),
        initial_centroids=two.centroids,
    )
    nearest = TorchSearch(refined.coarse_centroids).labels(plain.centroids)
    order = np.argsort(nearest, kind="stable")
    np.testing.assert_allclose(refined.centroids, plain.centroids[order], atol=1e-6)
    np.testing.assert_array_equal(refined.counts, plain.counts[order])
    np.testing.assert_array_equal(refined.fine_counts, np.bincount(nearest, minlength=NUM_COARSE))


def test_labels_are_the_nearest_of_all(store, rows, tmp_path):
    refined = cluster(store, tmp_path)
    assert refined.manifest["num_probed"] == NUM_COARSE
    exact = np.square(rows[:, None].astype("f8") - refined.centroids[None]).sum(axis=2)
    np.testing.assert_array_equal(refined.search().labels(rows), exact.argmin(axis=1))


def test_more_centroids_than_one_product_takes(store, rows, tmp_path, monkeypatch):
    """They are sought by way of the coarse clusters near a vector, as many as are enough for a sample."""
    together = cluster(store, tmp_path / "together")
    monkeypatch.setattr(refinement, "_SEARCHED_TOGETHER", 10)
    apart = cluster(store, tmp_path / "apart")
    assert 8 <= apart.manifest["num_probed"] <= NUM_COARSE
    cost = [TorchSearch(codebook.centroids).nearest(rows)[1].mean() for codebook in (together, apart)]
    assert cost[1] == pytest.approx(cost[0], rel=0.01)
    missed = apart.search().labels(rows) != TorchSearch(apart.centroids).labels(rows)
    assert missed.mean() < 0.02


@settings(deadline=None, max_examples=20)
@given(
    num_coarse=st.integers(9, 40),
    per_coarse=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_as_many_coarse_clusters_are_looked_at_as_are_enough(num_coarse, per_coarse, seed):
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((num_coarse, 6), dtype=np.float32)
    fine = rng.standard_normal((num_coarse * per_coarse, 6), dtype=np.float32)
    sample = rng.standard_normal((100, 6), dtype=np.float32)
    order, counts = refinement._grouped(fine, coarse, TorchSearch)
    own = ((fine[order][:, None].astype("f8") - coarse[None]) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(own, np.repeat(np.arange(num_coarse), counts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refinement, "_SEARCHED_TOGETHER", 1)
        number = refinement._num_probed(fine[order], coarse, counts, sample, TorchSearch)
    filled = np.flatnonzero(counts)
    nearest = ((sample[:, None].astype("f8") - fine[order][None]) ** 2).sum(axis=2).argmin(axis=1)
    by_distance = filled[((sample[:, None].astype("f8") - coarse[filled][None]) ** 2).sum(axis=2).argsort(axis=1)]

    def missed(looked_at: int) -> float:
        return (by_distance[:, :looked_at] != own[nearest][:, None]).all(axis=1).mean()

    assert missed(number) <= 0.005 or number == num_coarse
    assert all(missed(fewer) > 0.005 for fewer in (8, 16, 32) if fewer < number)


@pytest.mark.parametrize("together", [True, False])
def test_how_vectors_are_cut_into_chunks_changes_no_byte(store, tmp_path, monkeypatch, together):
    if not together:
        monkeypatch.setattr(refinement, "_SEARCHED_TOGETHER", 10)
    cluster(store, tmp_path / "long")
    monkeypatch.setattr(sources, "_CHUNK_ROWS", 256)
    cluster(store, tmp_path / "short")
    assert contents(tmp_path / "short") == contents(tmp_path / "long")


class Stopped(Exception):
    pass


@pytest.mark.parametrize("after", [1, 3])
def test_a_refinement_that_was_stopped_goes_on(store, tmp_path, monkeypatch, caplog, after):
    whole = contents(cluster(store, tmp_path / "whole").folder)
    save = fit.save_checkpoint

    def save_some(place, state, *rest):
        save(place, state, *rest)
        if place.name == "refinement" and len(state.objective) == after:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(fit, "save_checkpoint", save_some)
        with pytest.raises(Stopped):
            cluster(store, tmp_path / "stopped")
    with caplog.at_level(logging.INFO):
        cluster(store, tmp_path / "stopped")
    assert f"k-means resumes after iteration {after} of 4" in caplog.text
    assert contents(tmp_path / "stopped/codebook") == whole


def test_another_number_of_refinements_is_refused(store, tmp_path):
    made = cluster(store, tmp_path, refinement_iterations=0)
    with pytest.raises(ArtifactError, match="refinement_iterations: it was made with 0, this run has 4"):
        Codebook.open(made.folder, codebook_inputs(store.inputs, of(tmp_path)))


def test_what_an_older_version_made_is_kept(store, tmp_path):
    made = cluster(store, tmp_path, refinement_iterations=0)
    inputs = made.manifest["inputs"]
    older = {name: value for name, value in inputs["settings"].items() if name != "refinement_iterations"}
    rewrite_manifest(made.folder, inputs={**inputs, "settings": older})
    Codebook.open(made.folder, codebook_inputs(store.inputs, of(tmp_path)))
