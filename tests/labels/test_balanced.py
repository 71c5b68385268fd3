import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from tiny_store import contents, save_codebook, save_store

from vissl_clusterfit.clustering import sources
from vissl_clusterfit.clustering.kmeans import kmeans
from vissl_clusterfit.clustering.preprocessing import Preprocessing
from vissl_clusterfit.clustering.store_source import StoreSource
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.labels import assign, balanced_labels, files
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.labels.balanced import capacity
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels, label_inputs
from vissl_clusterfit.search.backends import search_factory
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.verification.verify import verify_artifact

RATIOS = (1.0, 1.1, 1.5, 2.0, 30.0)


def clustered(num_rows: int, num_clusters: int, dim: int, spread: float, seed: int = 0):
    """Groups of very different sizes, and centroids in them."""
    rng = np.random.default_rng(seed)
    groups = rng.standard_normal((num_clusters, dim))
    of = rng.choice(num_clusters, num_rows, p=rng.dirichlet(np.full(num_clusters, 0.7)))
    rows = groups[of] + spread * rng.standard_normal((num_rows, dim))
    centroids = groups + 0.1 * rng.standard_normal(groups.shape)
    return rows.astype(np.float32), centroids.astype(np.float32)


def squared_distances(rows, centroids):
    return ((rows[:, None].astype(np.float64) - centroids[None]) ** 2).sum(axis=2)


def bounded(folder, rows, centroids, ratio, unreadable=(), **options) -> PseudoLabels:
    store = save_store(folder / "features", rows, unreadable)
    return label_store(
        store,
        save_codebook(folder / "codebook", centroids, **options),
        "cpu",
        folder / "labels",
        max_cluster_size=ratio,
    )


def least_cost(distances, limit) -> float:
    """The mean of the best assignment within the limit: each centroid stands ``limit`` times."""
    repeated = np.repeat(distances, limit, axis=1)
    return float(repeated[linear_sum_assignment(repeated)].mean())


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_cluster_is_larger_than_the_bound(data, tmp_path_factory):
    """Of any rows, many of them alike, on centroids, zero or unreadable."""
    num_rows, num_clusters = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 12))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    centroids = rng.standard_normal((num_clusters, 3)).astype(np.float32)
    distinct = np.concatenate([centroids, np.zeros((1, 3)), rng.standard_normal((5, 3))]).astype(np.float32)
    num_distinct = data.draw(st.integers(1, len(distinct)))
    rows = distinct[rng.integers(0, num_distinct, num_rows)]
    if data.draw(st.booleans()):
        centroids = centroids[rng.integers(0, num_clusters, num_clusters)]
    unreadable = sorted(data.draw(st.sets(st.integers(0, num_rows - 1), max_size=num_rows)))
    ratio = data.draw(st.sampled_from(RATIOS))
    made = bounded(tmp_path_factory.mktemp("run"), rows, centroids, ratio, unreadable)
    readable = np.setdiff1d(np.arange(num_rows), unreadable)
    assert np.flatnonzero(made.labels < 0).tolist() == unreadable
    sizes = np.bincount(made.labels[readable], minlength=num_clusters)
    assert sizes.max() <= math.ceil(ratio * len(readable) / num_clusters)
    distances = squared_distances(rows, centroids)
    own = distances[readable, made.labels[readable]]
    np.testing.assert_allclose(made.distances[readable], own, rtol=1e-6)
    np.testing.assert_array_equal(made.distances[unreadable], -1)
    if num_clusters > 1:
        first, second = np.sort(distances[readable], axis=1)[:, :2].T
        np.testing.assert_allclose(made.margins[readable], np.where(own > first, 0, second - first), atol=1e-5)


@pytest.mark.parametrize(("ratio", "limit"), [(1.0, 100), (1.1, 110), (1.15, 115), (1.151, 116), (3, 300)])
def test_the_factor_counts_as_the_decimal_number_that_it_is_written_as(ratio, limit):
    assert capacity(ratio, 1000, 10) == limit


@pytest.mark.parametrize("ratio", [1.0, 1.1, 1.5])
@pytest.mark.parametrize(("num_clusters", "spread"), [(20, 1.0), (20, 0.3), (7, 0.1), (50, 1.0)])
def test_the_cost_is_near_the_least_one(tmp_path, num_clusters, spread, ratio):
    rows, centroids = clustered(1000, num_clusters, 6, spread)
    distances, limit = squared_distances(rows, centroids), math.ceil(ratio * 1000 / num_clusters)
    least = least_cost(distances, limit)
    facts = bounded(tmp_path, rows, centroids, ratio).manifest["bounded"]
    assert least * (1 - 1e-6) <= facts["mean_distance"] <= 1.01 * least
    assert 0.99 * least <= facts["mean_distance_at_least"] <= least * (1 + 1e-6)
    assert facts["mean_distance_unbounded"] == pytest.approx(distances.min(axis=1).mean(), rel=1e-5)


def test_what_the_manifest_says_of_the_bound(tmp_path):
    rows, centroids = clustered(600, 7, 4, 0.5)
    made = bounded(tmp_path, rows, centroids, 1.2, [3, 17, 599])
    facts, readable = made.manifest["bounded"], np.delete(np.arange(600), [3, 17, 599])
    assert (facts["max_cluster_size"], facts["limit"]) == (1.2, math.ceil(1.2 * 597 / 7))
    assert made.cluster_sizes.max() == facts["limit"] == facts["largest"]
    nearest = squared_distances(rows, centroids).argmin(axis=1)
    assert facts["num_not_nearest"] == (made.labels != nearest)[readable].sum() > 0
    assert facts["mean_distance"] == pytest.approx(made.distances[readable].astype(np.float64).mean(), rel=1e-12)
    assert 0 < facts["num_price_passes"] <= 48


@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_a_bound_that_holds_anyway_changes_no_label(tmp_path, backend):
    rows, centroids = clustered(500, 5, 4, 0.5)
    store, codebook = (
        save_store(tmp_path / "f", rows),
        save_codebook(tmp_path / "c", centroids, cluster_backend=backend),
    )
    free = label_store(store, codebook, "cpu", tmp_path / "free")
    made = label_store(store, codebook, "cpu", tmp_path / "bounded", max_cluster_size=5.0)
    for name in free.manifest["sha256"]:
        assert made.manifest["sha256"][name] == free.manifest["sha256"][name]
    facts = made.manifest["bounded"]
    assert facts["mean_distance"] == facts["mean_distance_unbounded"] == facts["mean_distance_at_least"]
    assert (facts["num_price_passes"], facts["num_not_nearest"]) == (0, 0)
    assert "bounded" not in free.manifest


def test_faiss_keeps_the_bound(tmp_path):
    rows, centroids = clustered(500, 9, 4, 0.5)
    assert bounded(tmp_path, rows, centroids, 1.0, cluster_backend="faiss").cluster_sizes.max() == 56


def test_features_are_prepared_before_they_are_compared(tmp_path):
    rows, centroids = clustered(300, 5, 4, 0.5)
    store, unit = save_store(tmp_path / "f", rows), Preprocessing(normalize=True)
    raw = save_codebook(tmp_path / "raw", centroids)
    prepared = save_store(tmp_path / "g", unit.apply(rows))
    expected = label_store(prepared, raw, "cpu", tmp_path / "expected", max_cluster_size=1.0)
    codebook = save_codebook(tmp_path / "unit", centroids, unit)
    made = label_store(store, codebook, "cpu", tmp_path / "labels", max_cluster_size=1.0)
    np.testing.assert_array_equal(made.labels, expected.labels)


@pytest.mark.parametrize("size", [7, 64, 1000])
def test_chunks_of_any_size_give_the_same_bytes(tmp_path, monkeypatch, size):
    rows, centroids = clustered(1000, 12, 5, 0.5)
    rows[100:300] = rows[0]  # which prices cannot part
    monkeypatch.setattr("vissl_clusterfit.labels.min_cost_flow._MOST_EDGES", 50)
    expected = bounded(tmp_path / "expected", rows, centroids, 1.0, [5, 950])
    assert expected.manifest["bounded"]["num_moved"] > 0
    assert expected.manifest["bounded"]["num_settled_in_order"] > 0
    for module in (sources, assign):
        monkeypatch.setattr(module, "chunk_rows", lambda _: size)
    made = label_store(
        save_store(tmp_path / "expected/features", rows, [5, 950]),
        save_codebook(tmp_path / "expected/codebook", centroids),
        "cpu",
        tmp_path / "made",
        max_cluster_size=1.0,
    )
    assert contents(made.folder) == contents(expected.folder)


def test_where_many_vectors_are_there_a_sample_prices_first(tmp_path, monkeypatch):
    monkeypatch.setattr("vissl_clusterfit.labels.auction._VECTORS_PER_CLUSTER", 20)
    rows, centroids = clustered(2000, 10, 5, 1.0)
    made = bounded(tmp_path, rows, centroids, 1.0)
    facts = made.manifest["bounded"]
    assert made.cluster_sizes.tolist() == [200] * 10
    assert facts["num_price_passes"] > 24
    assert facts["mean_distance"] < 1.02 * facts["mean_distance_at_least"]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("in_pass", [1, 5, None])
def test_what_was_stopped_resumes_to_the_same_bytes(tmp_path, monkeypatch, caplog, in_pass):
    """In the search for prices, or in the midst of the labels."""
    rows, centroids = clustered(1000, 12, 5, 0.5)
    rows[100:300] = rows[0]
    monkeypatch.setattr(sources, "_CHUNK_ROWS", 256)
    expected = bounded(tmp_path, rows, centroids, 1.0, [5, 950])
    store, codebook = save_store(tmp_path / "features", rows, [5, 950]), save_codebook(tmp_path / "codebook", centroids)
    folder = tmp_path / "made"
    with monkeypatch.context() as patch:
        patch.setattr(files, "_ROWS_BETWEEN_MARKS", 256)
        _die(patch, in_pass)
        with pytest.raises(Killed):
            label_store(store, codebook, "cpu", folder, max_cluster_size=1.0)
    assert (folder / "prices.npy").is_file()
    with caplog.at_level("INFO"):
        label_store(store, codebook, "cpu", folder, max_cluster_size=1.0)
    assert f"resumes after pass {in_pass}." in caplog.text if in_pass else "resumes after 512 of 1000" in caplog.text
    assert contents(folder) == contents(expected.folder)


def _die(patch, in_pass):
    """After a pass, or where the third chunk of labels would be written."""
    module, name, number = (artifacts, "write_array", in_pass) if in_pass else (files.LabelFiles, "append", 2)
    original, calls = getattr(module, name), []

    def dying(*args):
        if in_pass and len(calls) == number - 1:
            original(*args)
            raise Killed
        if len(calls) == number:
            raise Killed
        calls.append(0)
        return original(*args)

    patch.setattr(module, name, dying)


def test_prices_of_another_run_are_not_used(tmp_path, monkeypatch):
    rows, centroids = clustered(500, 12, 5, 0.5)
    store, codebook = save_store(tmp_path / "f", rows), save_codebook(tmp_path / "c", centroids)
    expected = label_store(store, codebook, "cpu", tmp_path / "expected", max_cluster_size=1.0)
    with monkeypatch.context() as patch:
        _die(patch, 7)
        with pytest.raises(Killed):
            label_store(store, codebook, "cpu", tmp_path / "made", max_cluster_size=1.5)
    label_store(store, codebook, "cpu", tmp_path / "made", max_cluster_size=1.0)
    assert contents(tmp_path / "made") == contents(expected.folder)


def test_the_inputs_name_the_bound_only_where_there_is_one(tmp_path):
    rows, centroids = clustered(100, 5, 4, 0.5)
    made = bounded(tmp_path, rows, centroids, 1.5)
    features, codebook = made.inputs["features"], made.inputs["codebook"]
    assert made.inputs == label_inputs(features, codebook, max_cluster_size=1.5)
    assert "max_cluster_size" not in json.dumps(label_inputs(features, codebook))
    with pytest.raises(ArtifactError, match=r"max_cluster_size: it was made with 1\.5, this run has "):
        PseudoLabels.open(made.folder, label_inputs(features, codebook))


def test_a_bound_and_a_threshold_exclude_each_other(tmp_path):
    store, codebook = save_store(tmp_path / "f", np.zeros((9, 2), dtype=np.float32)), None
    with pytest.raises(ValueError, match="leave max_distance out"):
        label_store(store, codebook, "cpu", tmp_path / "labels", max_distance=1.0, max_cluster_size=1.0)


def test_candidates_run_out_and_are_searched_again(tmp_path, monkeypatch):
    """Rows that are all alike fill one cluster after the other."""
    monkeypatch.setattr(balanced_labels, "_CANDIDATES", 2)
    monkeypatch.setattr("vissl_clusterfit.labels.min_cost_flow._MOST_EDGES", 0)
    centroids = np.arange(8, dtype=np.float32)[:, None].copy()
    made = bounded(tmp_path, np.full((80, 1), -1, dtype=np.float32), centroids, 1.0)
    assert made.cluster_sizes.tolist() == [10] * 8
    assert made.manifest["bounded"]["num_settled_in_order"] == 70


def hard_rows(kind: str, rng: np.random.Generator, num_rows: int, dim: int) -> np.ndarray:
    """Rows (n, D) float32 on which prices don't settle well."""
    normal = rng.standard_normal((num_rows, dim))
    rows = {
        "sparse": lambda: np.maximum(normal - 1, 0),
        "tied": lambda: rng.integers(0, 3, (num_rows, dim)).astype(float),
        "duplicate": lambda: normal[rng.integers(0, max(1, num_rows // 8), num_rows)],
        "long-tailed": lambda: rng.standard_cauchy((num_rows, dim)),
        "unequal axes": lambda: normal * 10.0 ** -np.arange(dim),
        "huge": lambda: normal * 1e15,
        "tiny": lambda: normal * 1e-15,
        "all alike": lambda: np.ones((num_rows, dim)),
    }[kind]()
    return rows.astype(np.float32)


KINDS = ("sparse", "tied", "duplicate", "long-tailed", "unequal axes", "huge", "tiny", "all alike")


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**32 - 1),
    num_rows=st.integers(2, 150),
    dim=st.integers(1, 16),
    share=st.floats(0, 1),
    ratio=st.one_of(st.sampled_from([1.0, 1.0000001, 1.1, 2.0, 1e300]), st.floats(1, 4)),
    normalize=st.booleans(),
    cosine=st.booleans(),
    backend=st.sampled_from(["torch", "torch", "faiss"]),
)
def test_the_bound_holds_on_hard_rows(
    tmp_path_factory, kind, seed, num_rows, dim, share, ratio, normalize, cosine, backend
):
    """With centroids as k-means leaves them after a few iterations."""
    rng, folder = np.random.default_rng(seed), tmp_path_factory.mktemp("run")
    store = save_store(folder / "features", hard_rows(kind, rng, num_rows, dim))
    num_clusters = 1 + int(share * (num_rows - 1))
    prepared = Preprocessing(normalize, unit_output=cosine)
    source = StoreSource(store, prepared)
    result = kmeans(source, num_clusters, 3, 0, search_factory(backend, "cpu"), spherical=cosine)
    codebook = save_codebook(folder / "codebook", result.centroids, prepared, cluster_backend=backend)
    made = label_store(store, codebook, "cpu", folder / "labels", max_cluster_size=ratio)
    facts, sizes = made.manifest["bounded"], np.bincount(made.labels, minlength=num_clusters)
    assert sizes.sum() == num_rows
    assert sizes.max() == facts["largest"] <= facts["limit"] == capacity(ratio, num_rows, num_clusters)
    assert facts["limit"] <= min(num_rows, ratio * num_rows / num_clusters + 1)
    limit, exact = facts["limit"], squared_distances(prepared.apply(store.read(0, num_rows)), result.centroids)
    least = least_cost(exact, min(limit, num_rows))
    # In float32, of distances plus prices.
    slack = 1e-5 * float(exact.max())
    assert facts["mean_distance_at_least"] <= least + slack
    assert facts["mean_distance"] >= least - slack
    assert verify_artifact(folder / "labels") == []


def test_a_cluster_that_is_a_link_of_many_chains_takes_no_more_than_it_may_have(tmp_path):
    """Clusters that are too full give as many as they are given: all that came were once more than the bound."""
    rows = np.maximum(np.random.default_rng(0).standard_normal((60, 8)) - 1, 0).astype(np.float32)
    store, prepared = save_store(tmp_path / "features", rows), Preprocessing(normalize=True)
    source = StoreSource(store, prepared)
    centroids = kmeans(source, 20, 5, 0, search_factory("torch", "cpu")).centroids
    codebook = save_codebook(tmp_path / "codebook", centroids, prepared)
    made = label_store(store, codebook, "cpu", tmp_path / "labels", max_cluster_size=1.0)
    assert made.cluster_sizes.tolist() == [3] * 20


@pytest.mark.parametrize("ratio", [1e300, 1.7976931348623157e308, 20.5])
def test_a_bound_above_all_samples_is_that_of_all_samples(ratio):
    assert capacity(ratio, 200, 10) == 200
