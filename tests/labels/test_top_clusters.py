"""Labels that keep the nearest clusters of each sample beside its own."""

import numpy as np
import pytest
from tiny_run import make_run
from tiny_store import contents, rewrite_manifest, save_codebook, save_store

from vissl_clusterfit.clustering import sources
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ArtifactError, ConfigError
from vissl_clusterfit.labels import files
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.labels.files import LabelFiles
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels, label_inputs
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.verification.verify import verify_artifact, verify_artifacts

ROWS = np.random.default_rng(0).standard_normal((1000, 6)).astype(np.float32)
CENTROIDS = np.random.default_rng(1).standard_normal((9, 6)).astype(np.float32)
UNREADABLE = [0, 13, 500, 999]
DISTANCES = ((ROWS[:, None].astype(np.float64) - CENTROIDS[None]) ** 2).sum(axis=2)
LIMIT = float(np.median(DISTANCES.min(axis=1)))


@pytest.fixture
def store(tmp_path):
    return save_store(tmp_path / "features", ROWS, UNREADABLE)


@pytest.fixture(params=["torch", "faiss"])
def codebook(request, tmp_path):
    return save_codebook(tmp_path / "codebook", CENTROIDS, cluster_backend=request.param)


@pytest.fixture
def label(store, codebook, tmp_path):
    def run(top_clusters, name="labels", **options):
        return label_store(store, codebook, "cpu", tmp_path / name, top_clusters=top_clusters, **options)

    return run


@pytest.mark.parametrize("top_clusters", [2, 4, 9])
def test_they_are_those_of_brute_force(label, top_clusters):
    labels = label(top_clusters)
    expected = np.argsort(DISTANCES, axis=1)[:, :top_clusters]
    distances = np.take_along_axis(DISTANCES, expected, axis=1)
    expected[UNREADABLE], distances[UNREADABLE] = -1, -1
    np.testing.assert_array_equal(labels.nearest, expected)
    np.testing.assert_allclose(labels.nearest_distances, distances, rtol=1e-5)
    assert (labels.nearest.dtype, labels.nearest_distances.dtype) == (np.int64, np.float32)
    assert labels.top_clusters == top_clusters


def test_samples_that_are_too_far_have_none(label):
    labels = label(3, max_distance=LIMIT)
    unlabelled = labels.labels < 0
    assert 400 < unlabelled.sum() < 600
    assert (labels.nearest[unlabelled] == -1).all()
    assert (labels.nearest_distances[unlabelled] == -1).all()
    np.testing.assert_array_equal(labels.nearest[:, 0], labels.labels)
    np.testing.assert_array_equal(labels.nearest_distances[~unlabelled, 0], labels.distances[~unlabelled])


def test_centroids_at_the_same_place_come_in_the_order_of_their_indices(store, tmp_path):
    codebook = save_codebook(tmp_path / "codebook", np.repeat(CENTROIDS, 2, axis=0))
    nearest = label_store(store, codebook, "cpu", tmp_path / "labels", top_clusters=4).nearest[1:13]
    first, second = np.argsort(DISTANCES, axis=1)[1:13, :2].T
    np.testing.assert_array_equal(nearest, np.stack([2 * first, 2 * first + 1, 2 * second, 2 * second + 1], axis=1))


def test_all_else_is_what_it_is_without_them(label):
    alone, with_top = label(1, "alone", max_distance=LIMIT), label(5, "with_top", max_distance=LIMIT)
    files = contents(alone.folder)
    manifest = files.pop("manifest.json")
    assert files.items() < contents(with_top.folder).items()
    assert contents(with_top.folder).keys() - files.keys() == {
        "nearest.npy",
        "nearest_distances.npy",
        "manifest.json",
    }
    assert manifest != contents(with_top.folder)["manifest.json"]
    expected = artifacts.read_manifest(alone.folder)
    found = artifacts.read_manifest(with_top.folder)
    assert found.pop("inputs") == {**expected.pop("inputs"), "top_clusters": 5}
    digests = found.pop("sha256")
    assert expected.pop("sha256").items() < digests.items()
    assert digests.keys() >= {"nearest.npy", "nearest_distances.npy"}
    assert found == expected


def test_labels_of_the_nearest_cluster_alone_are_what_they_always_were(label, store, codebook):
    labels = label(1)
    assert "top_clusters" not in labels.inputs
    PseudoLabels.open(labels.folder, label_inputs(store.inputs, codebook.manifest["inputs"]))
    with pytest.raises(ArtifactError, match="holds the nearest cluster of each sample alone"):
        _ = labels.nearest


def test_labels_of_another_number_are_refused(label, store, codebook):
    labels = label(3)
    with pytest.raises(ArtifactError, match="top_clusters: it was made with 3, this run has 4"):
        PseudoLabels.open(labels.folder, label_inputs(store.inputs, codebook.manifest["inputs"], top_clusters=4))
    with pytest.raises(ArtifactError, match="top_clusters: it was made with 3, this run has null"):
        PseudoLabels.open(labels.folder, label_inputs(store.inputs, codebook.manifest["inputs"]))


def test_more_than_there_are_clusters_are_refused(label, tmp_path):
    with pytest.raises(ConfigError, match=r"TOP_CLUSTERS: found 10; allowed: 1 to 9, the clusters of the codebook in"):
        label(10)
    assert not (tmp_path / "labels").exists()


def test_the_config_refuses_more_than_there_are_clusters():
    with pytest.raises(ConfigError, match=r"TOP_CLUSTERS: found 5; allowed: 1 to 4, which is NUM_CLUSTERS\."):
        ClusterFitConfig.from_block({"NUM_CLUSTERS": 4, "TOP_CLUSTERS": 5})
    with pytest.raises(ConfigError, match="TOP_CLUSTERS: found 0; allowed: at least 1"):
        ClusterFitConfig.from_block({"TOP_CLUSTERS": 0})
    # K is then that of the codebook.
    assigned = ClusterFitConfig.from_block({"NUM_CLUSTERS": 4, "TOP_CLUSTERS": 5, "ASSIGN": {"CODEBOOK": "codebook"}})
    assert assigned.top_clusters == 5


@pytest.mark.parametrize("num_chunks", [0, 1, 2, 3])
def test_labelling_that_was_stopped_gives_the_same_bytes(label, monkeypatch, num_chunks):
    monkeypatch.setattr(sources, "_CHUNK_ROWS", 256)
    monkeypatch.setattr(files, "_ROWS_BETWEEN_MARKS", 500)
    expected = contents(label(3, "undisturbed").folder)
    append, chunks = LabelFiles.append, iter(range(num_chunks))

    def append_few(self, *arrays):
        if next(chunks, None) is None:
            raise KeyboardInterrupt
        append(self, *arrays)

    monkeypatch.setattr(LabelFiles, "append", append_few)
    with pytest.raises(KeyboardInterrupt):
        label(3)
    monkeypatch.setattr(LabelFiles, "append", append)
    assert contents(label(3).folder) == expected


def test_progress_with_another_number_is_no_progress(label, monkeypatch):
    monkeypatch.setattr(LabelFiles, "remove_progress", lambda self: None)
    label(3)
    monkeypatch.undo()
    files = contents(label(4).folder)
    assert files == contents(label(4, "undisturbed").folder)


def test_what_another_number_left_is_removed(label):
    label(3)
    assert contents(label(1).folder) == contents(label(1, "undisturbed").folder)


def test_a_run_with_them_is_well(tmp_path):
    run = make_run(tmp_path / "run", top_clusters=3, max_distance=0.3)
    assert [problems for _, problems in verify_artifacts([run])] == [[]] * 5


def change(folder, name, position, value):
    array = np.array(artifacts.read_array(folder / name))
    array[position] = value
    digest = artifacts.write_array(folder / name, array)
    rewrite_manifest(folder, sha256={**artifacts.read_manifest(folder)["sha256"], name: digest})


@pytest.fixture
def labels(store, tmp_path):
    codebook = save_codebook(tmp_path / "codebook", CENTROIDS)
    labels = label_store(store, codebook, "cpu", tmp_path / "labels", top_clusters=3)
    inputs = {**labels.inputs, "codebook": {"features": store.inputs}}
    rewrite_manifest(labels.folder, inputs=inputs)
    assert verify_artifact(labels.folder) == []
    return labels


@pytest.mark.parametrize(
    ("name", "position", "value", "message"),
    [
        ("nearest.npy", (1, 2), 9, "must hold different clusters, each 0 to K - 1 (1 times)"),
        ("nearest.npy", (1, 2), -1, "must hold different clusters, each 0 to K - 1 (1 times)"),
        ("nearest.npy", (0, 1), 3, "must hold -1 for samples without a label (1 times)"),
        ("nearest_distances.npy", (0, 0), 1.0, "must hold -1 for samples without a label (1 times)"),
        ("nearest_distances.npy", (1, 0), 0.0, "must begin with the distance in distances.npy (1 times)"),
        ("nearest_distances.npy", (1, 1), 99.0, "does not have the margin in margins.npy (1 times)"),
        ("nearest_distances.npy", (1, 2), np.nan, "must be finite and >= 0 (1 times)"),
        ("nearest_distances.npy", (1, 2), -1.0, "must be finite and >= 0 (1 times)"),
    ],
)
def test_values_that_cannot_be_are_found(labels, name, position, value, message):
    change(labels.folder, name, position, value)
    assert f"{labels.folder / name} {message}." in verify_artifact(labels.folder)


def test_a_first_cluster_that_is_not_the_label_is_found(labels):
    first, second = labels.nearest[1, :2].tolist()
    change(labels.folder, "nearest.npy", (1, slice(0, 2)), [second, first])
    assert verify_artifact(labels.folder) == [f"{labels.folder / 'nearest.npy'} must begin with the label (1 times)."]


@pytest.mark.parametrize("name", ["nearest.npy", "nearest_distances.npy"])
def test_arrays_that_are_not_what_was_written_are_found(labels, name):
    path = labels.folder / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (problem,) = verify_artifact(labels.folder)
    assert f"{name} is not the file that was written" in problem
    np.save(path, np.load(path)[:, :2])
    with pytest.raises(ArtifactError, match=rf"{name} must hold \(1000, 3\) of .*found \(1000, 2\)"):
        PseudoLabels.open(labels.folder)
    path.unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        PseudoLabels.open(labels.folder)
