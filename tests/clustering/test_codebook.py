import dataclasses
import logging

import faiss
import numpy as np
import pytest
import torch
from tiny_store import edit_manifest, rewrite_manifest, rewrite_rows

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.clustering.codebook_inputs import codebook_inputs
from vissl_clusterfit.clustering.fit import fit_codebook
from vissl_clusterfit.config.clusterfit import ClusterFitConfig, SamplingSettings
from vissl_clusterfit.config.features import FeatureSettings
from vissl_clusterfit.errors import ArtifactError, ConfigError, DataError
from vissl_clusterfit.storage import artifacts


def settings(**changes):
    """Settings of a small clustering; those of FEATURES are given by name, too."""
    features = {name: changes.pop(name) for name in list(changes) if hasattr(FeatureSettings(), name)}
    return ClusterFitConfig(**{"num_clusters": 12, "num_iter": 15, "features": FeatureSettings(**features), **changes})


def fit(store, folder, **changes):
    return fit_codebook(store, settings(**changes), "cpu", folder)


def labels_of(codebook, rows):
    return codebook.search().nearest(rows)[0][:, 0]


def test_codebook_comes_back_from_disk_as_it_was(make_store, blobs, tmp_path):
    store = make_store(blobs)
    options = {"dimensionality_reduction": 6, "whiten": True, "metric": "cosine"}
    made = fit(store, tmp_path / "codebook", **options)
    opened = Codebook.open(tmp_path / "codebook", codebook_inputs(store.inputs, settings(**options)))
    np.testing.assert_array_equal(opened.centroids, made.centroids)
    np.testing.assert_array_equal(opened.preprocessing.apply(blobs), made.preprocessing.apply(blobs))
    assert opened.content_hash == made.content_hash
    assert (opened.num_clusters, opened.input_dim) == (12, 16)


def test_files_are_json_and_plain_arrays(make_store, blobs, tmp_path):
    fit(make_store(blobs), tmp_path / "codebook", dimensionality_reduction=6)
    files = sorted(path.name for path in (tmp_path / "codebook").iterdir())
    assert files == ["centroids.npy", "counts.npy", "manifest.json", "pca_components.npy", "pca_mean.npy"]
    arrays = {name: np.load(tmp_path / "codebook" / name, allow_pickle=False) for name in files if name[-3:] == "npy"}
    assert arrays.pop("counts.npy").dtype == np.int64
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}


def test_manifest_says_how_the_clustering_went(make_store, blobs, tmp_path):
    store = make_store(blobs, [3, 4])
    codebook = fit(store, tmp_path / "codebook", seed=5)
    facts = codebook.manifest
    assert facts["inputs"] == codebook_inputs(store.inputs, settings(seed=5))
    assert facts["inputs"]["features"] == store.inputs
    assert (facts["num_samples"], facts["num_points"], facts["num_clusters"]) == (1000, 998, 12)
    assert (facts["dim"], facts["input_dim"], facts["metric"], facts["seed"]) == (16, 16, "l2", 5)
    assert len(facts["objective"]) == len(facts["empty_clusters_repaired"]) == facts["num_iter_run"] <= 15
    assert facts["sha256"] == {
        name: artifacts.file_sha256(tmp_path / "codebook" / name) for name in ("centroids.npy", "counts.npy")
    }
    assert codebook.counts.sum() == 998


def test_unreadable_samples_do_not_influence_centroids(make_store, blobs, tmp_path):
    unreadable = [0, 17, 250, 251, 999]
    with_them = fit(make_store(blobs, unreadable, "a"), tmp_path / "with", dimensionality_reduction=5)
    without = make_store(np.delete(blobs, unreadable, axis=0), name="b")
    np.testing.assert_array_equal(
        with_them.centroids, fit(without, tmp_path / "without", dimensionality_reduction=5).centroids
    )


def test_data_limit_clusters_a_part_and_says_so(make_store, blobs, tmp_path, caplog):
    store = make_store(blobs, [2])
    with caplog.at_level(logging.INFO):
        limited = fit(store, tmp_path / "a", data_limit=200)
    assert limited.manifest["num_points"] == 200
    assert "computed from 200 of 1000 samples (1 unreadable, config.CLUSTERFIT.DATA_LIMIT 200)" in caplog.text
    again = fit(store, tmp_path / "b", data_limit=200)
    other = fit(store, tmp_path / "c", data_limit=200, data_limit_sampling=SamplingSettings(seed=1))
    assert again.content_hash == limited.content_hash
    assert other.content_hash != limited.content_hash


def test_data_limit_beyond_the_data_is_all_of_it(make_store, blobs, tmp_path):
    store = make_store(blobs)
    unlimited = fit(store, tmp_path / "a")
    assert fit(store, tmp_path / "b", data_limit=5000).content_hash == unlimited.content_hash


def test_data_limit_draws_from_the_whole_range(make_store, tmp_path):
    rows = np.arange(1000, dtype=np.float32)[:, None] + 1
    codebook = fit(
        make_store(rows), tmp_path / "codebook", num_clusters=100, num_iter=1, data_limit=100, normalize=False
    )
    drawn = np.sort(codebook.centroids[:, 0])
    assert len(np.unique(drawn)) == 100
    assert drawn[0] < 100
    assert drawn[-1] > 900


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"metric": "cosine"},
        {"dimensionality_reduction": 6},
        {"dimensionality_reduction": 6, "whiten": True},
    ],
)
def test_fit_and_assign_share_one_preprocessing(make_store, blobs, tmp_path, options):
    """Once converged, the centroids are the means of the vectors that the codebook itself assigns to them."""
    codebook = fit(make_store(blobs), tmp_path / "codebook", num_iter=200, **options)
    assert codebook.manifest["converged"]
    labels, distances = (column[:, 0] for column in codebook.search().nearest(blobs))
    vectors = codebook.preprocessing.apply(blobs)
    means = np.stack([vectors[labels == k].mean(axis=0) for k in range(12)])
    if options.get("metric") == "cosine":
        means /= np.linalg.norm(means, axis=1, keepdims=True)
    np.testing.assert_allclose(codebook.centroids, means, atol=1e-5)
    np.testing.assert_allclose(distances.mean(), codebook.manifest["objective"][-1], rtol=1e-5)


@pytest.mark.parametrize("options", [{"normalize": False}, {"dimensionality_reduction": 6}])
def test_cosine_compares_directions(make_store, blobs, tmp_path, options):
    codebook = fit(make_store(blobs), tmp_path / "codebook", metric="cosine", **options)
    vectors = codebook.preprocessing.apply(blobs)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(codebook.centroids, axis=1), 1, rtol=1e-6)
    np.testing.assert_array_equal(labels_of(codebook, blobs), (vectors @ codebook.centroids.T).argmax(axis=1))


def test_normalised_features_do_not_depend_on_their_scale(make_store, blobs, tmp_path):
    codebook = fit(make_store(blobs), tmp_path / "codebook")
    scale = np.random.default_rng(0).uniform(0.1, 10, size=(1000, 1)).astype(np.float32)
    np.testing.assert_array_equal(labels_of(codebook, blobs), labels_of(codebook, blobs * scale))


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"num_clusters": 13}, r"settings\.num_clusters: it was made with 12, this run has 13"),
        ({"num_iter": 16}, r"settings\.num_iter: it was made with 15, this run has 16"),
        ({"metric": "cosine"}, r'settings\.metric: it was made with "l2", this run has "cosine"'),
        ({"seed": 1}, r"settings\.seed: it was made with 0, this run has 1"),
        ({"data_limit": 50}, r"settings\.data_limit: it was made with -1, this run has 50"),
        ({"normalize": False}, r"settings\.normalize: it was made with true, this run has false"),
        (
            {"dimensionality_reduction": 4},
            r"settings\.dimensionality_reduction: it was made with 0, this run has 4",
        ),
    ],
)
def test_a_codebook_of_other_settings_is_refused(make_store, blobs, tmp_path, changes, difference):
    store = make_store(blobs)
    fit(store, tmp_path / "codebook")
    with pytest.raises(ArtifactError, match=difference):
        Codebook.open(tmp_path / "codebook", codebook_inputs(store.inputs, settings(**changes)))


def test_a_codebook_of_other_features_is_refused(make_store, blobs, tmp_path):
    fit(make_store(blobs, name="a"), tmp_path / "codebook")
    others = make_store(blobs + 1, name="b").inputs
    with pytest.raises(ArtifactError, match=r"features\.dataset\.fingerprint: it was made with"):
        Codebook.open(tmp_path / "codebook", codebook_inputs(others, settings()))


def test_settings_without_effect_on_the_result_do_not_count(make_store, blobs):
    store = make_store(blobs)
    plain = settings()
    other = dataclasses.replace(plain, output_dir="elsewhere", data_limit_sampling=SamplingSettings(seed=9))
    assert codebook_inputs(store.inputs, other) == codebook_inputs(store.inputs, plain)


def test_the_seed_of_the_sample_counts_when_there_is_a_limit():
    first, second = (
        codebook_inputs({}, settings(data_limit=50, data_limit_sampling=SamplingSettings(seed=seed))) for seed in (1, 2)
    )
    assert first != second


def test_what_a_killed_run_left_is_made_anew(make_store, blobs, tmp_path):
    whole = fit(make_store(blobs), tmp_path / "whole")
    (tmp_path / "codebook").mkdir()
    (tmp_path / "codebook" / "centroids.npy").write_bytes(b"half of a file")
    assert fit(make_store(blobs), tmp_path / "codebook").content_hash == whole.content_hash


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_clusters": 11}, r"centroids\.npy must hold \(11, 16\) of float32, found \(12, 16\)"),
        ({"dim": 15}, r"centroids\.npy must hold \(12, 15\)"),
        ({"input_dim": 8}, "dim is 16 and input_dim 8, but there is no projection"),
        ({"input_dim": None}, r"manifest\.json is damaged"),
        ({"preprocessing": {}}, r"manifest\.json is damaged: normalize is missing"),
        ({"kind": "pseudo_labels"}, "must hold a codebook, found a 'pseudo_labels'"),
    ],
)
def test_a_manifest_that_does_not_fit_its_arrays_is_refused(make_store, blobs, tmp_path, changes, message):
    fit(make_store(blobs), tmp_path / "codebook")
    rewrite_manifest(tmp_path / "codebook", **changes)
    with pytest.raises(ArtifactError, match=message):
        Codebook.open(tmp_path / "codebook")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_clusters": 11}, r"manifest\.json was edited or damaged.* Make the codebook again"),
        ({"seed": 1}, r"manifest\.json was edited or damaged"),
        ({"format": 99}, "found format 99"),
    ],
)
def test_an_edited_manifest_is_refused(make_store, blobs, tmp_path, changes, message):
    fit(make_store(blobs), tmp_path / "codebook")
    edit_manifest(tmp_path / "codebook", **changes)
    with pytest.raises(ArtifactError, match=message):
        Codebook.open(tmp_path / "codebook")


@pytest.mark.parametrize("name", ["centroids.npy", "counts.npy", "pca_mean.npy", "pca_components.npy"])
def test_a_missing_array_is_named(make_store, blobs, tmp_path, name):
    fit(make_store(blobs), tmp_path / "codebook", dimensionality_reduction=4)
    (tmp_path / "codebook" / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        Codebook.open(tmp_path / "codebook")


def test_more_clusters_than_readable_samples_is_refused_before_anything_is_written(make_store, blobs, tmp_path):
    store = make_store(blobs[:20], [4, 5])
    with pytest.raises(ConfigError, match=r"CLUSTERFIT\.NUM_CLUSTERS: found 19; allowed: 1 to 18"):
        fit(store, tmp_path / "codebook", num_clusters=19)
    assert not (tmp_path / "codebook").exists()


def test_nan_features_are_refused_before_anything_is_written(make_store, blobs, tmp_path):
    store = make_store(blobs)
    name = "rows-000000000400-000000000500.npy"
    rows = artifacts.read_array(store.folder / name)
    rows[6] = np.nan
    store = rewrite_rows(store, name, rows)
    with pytest.raises(DataError, match=r"features of 1 of 1000 samples are NaN or infinite, the first is sample 406"):
        fit(store, tmp_path / "codebook")
    assert not (tmp_path / "codebook").exists()


def test_a_clustering_starts_from_the_centroids_of_a_codebook(make_store, blobs, tmp_path):
    store = make_store(blobs)
    first = fit(store, tmp_path / "first", num_iter=3)
    rest = fit(store, tmp_path / "rest", num_iter=1, start=str(tmp_path / "first"), seed=7)
    vectors = first.preprocessing.apply(blobs).astype(np.float64)
    distances = ((vectors[:, None] - first.centroids[None]) ** 2).sum(axis=2)
    assert rest.manifest["objective"] == pytest.approx([distances.min(axis=1).mean()], rel=1e-9)
    assert rest.manifest["inputs"]["settings"]["start"] == first.content_hash


def test_a_clustering_that_resumes_does_not_need_the_codebook_that_it_started_from(make_store, blobs, tmp_path):
    """Two iterations after three are all five: from the same centroids come the same ones."""
    store, options = make_store(blobs), {"growing_sample": False, "start": "random"}
    fit(store, tmp_path / "three", num_iter=3, **options)
    five = fit(store, tmp_path / "five", num_iter=5, **options)
    rest = fit(store, tmp_path / "rest", num_iter=2, **{**options, "start": str(tmp_path / "three")})
    assert rest.centroids.tobytes() == five.centroids.tobytes()
    assert rest.manifest["objective"] == five.manifest["objective"][3:]


@pytest.mark.parametrize(
    ("others", "found"),
    [
        ({"num_clusters": 13}, r"a codebook of 13 clusters; allowed: one of NUM_CLUSTERS \(12\)"),
        ({"dimensionality_reduction": 4}, r"a codebook of dimension 4; allowed: .*16"),
    ],
)
def test_a_start_from_a_codebook_that_does_not_fit_is_refused(make_store, blobs, tmp_path, others, found):
    store = make_store(blobs)
    fit(store, tmp_path / "other", **others)
    with pytest.raises(ConfigError, match=rf"config\.CLUSTERFIT\.START: found {found}"):
        fit(store, tmp_path / "codebook", start=str(tmp_path / "other"))
    assert not (tmp_path / "codebook").exists()


def test_a_start_that_is_neither_a_way_nor_a_codebook_is_refused(make_store, blobs, tmp_path):
    allowed = r"random \| k-means\+\+ \| hierarchical \| the folder of a codebook"
    with pytest.raises(ConfigError, match=rf"CLUSTERFIT\.START: found 'kmeans\+\+'; allowed: {allowed}"):
        fit(make_store(blobs), tmp_path / "codebook", start="kmeans++")
    assert not (tmp_path / "codebook").exists()


@pytest.mark.parametrize("options", [{}, {"metric": "cosine"}, {"dimensionality_reduction": 4}, {"start": "random"}])
def test_both_backends_give_the_same_codebook_but_for_rounding(make_store, blobs, tmp_path, options):
    made = {
        backend: fit(make_store(blobs), tmp_path / backend, cluster_backend=backend, **options)
        for backend in ("faiss", "torch")
    }
    np.testing.assert_allclose(made["torch"].centroids, made["faiss"].centroids, atol=1e-5)
    assert [made[backend].manifest["cluster_backend"] for backend in made] == ["faiss", "torch"]
    np.testing.assert_array_equal(labels_of(made["torch"], blobs), labels_of(made["faiss"], blobs))


def test_the_same_seed_gives_the_same_bytes(make_store, blobs, tmp_path):
    store = make_store(blobs)
    first, again, other = (
        fit(store, tmp_path / name, dimensionality_reduction=6, seed=seed)
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert first.content_hash == again.content_hash != other.content_hash


@pytest.mark.parametrize("backend", ["faiss", "torch"])
def test_gpu_where_there_is_none_is_refused_before_anything_is_written(make_store, blobs, tmp_path, backend):
    if faiss.get_num_gpus() if backend == "faiss" else torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ConfigError, match=r"config\.MACHINE\.DEVICE: found gpu"):
        fit_codebook(make_store(blobs), settings(cluster_backend=backend), "gpu", tmp_path / "codebook")
    assert not (tmp_path / "codebook").exists()
