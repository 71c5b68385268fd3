import tracemalloc

import numpy as np
import pytest
from tiny_store import edit_manifest, rewrite_manifest, rewrite_rows, save_codebook, save_store

from vissl_clusterfit.clustering.preprocessing import Preprocessing
from vissl_clusterfit.errors import ArtifactError, DataError
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels, label_inputs
from vissl_clusterfit.storage import artifacts

ROWS = np.random.default_rng(0).standard_normal((1000, 6)).astype(np.float32)
CENTROIDS = np.random.default_rng(1).standard_normal((9, 6)).astype(np.float32)
ARRAYS = ("labels.npy", "distances.npy", "margins.npy", "sizes.npy", "samples.npy")
UNREADABLE = [0, 13, 14, 500, 731, 998, 999]


@pytest.fixture
def store(tmp_path):
    return save_store(tmp_path / "features", ROWS, UNREADABLE)


@pytest.fixture
def codebook(tmp_path):
    return save_codebook(tmp_path / "codebook", CENTROIDS)


@pytest.fixture
def labels(store, codebook, tmp_path):
    return label_store(store, codebook, "cpu", tmp_path / "labels")


def test_every_readable_sample_gets_its_nearest_centroid(labels):
    distances = ((ROWS[:, None].astype(np.float64) - CENTROIDS[None]) ** 2).sum(axis=2)
    expected, nearest = distances.argmin(axis=1), distances.min(axis=1)
    expected[UNREADABLE], nearest[UNREADABLE] = -1, -1
    np.testing.assert_array_equal(labels.labels, expected)
    np.testing.assert_allclose(labels.distances, nearest, rtol=1e-5)
    assert (labels.labels.dtype, labels.distances.dtype) == (np.int64, np.float32)


def test_margins_are_how_much_farther_the_second_centroid_is(labels):
    distances = np.sort(((ROWS[:, None].astype(np.float64) - CENTROIDS[None]) ** 2).sum(axis=2), axis=1)
    expected = distances[:, 1] - distances[:, 0]
    expected[UNREADABLE] = -1
    np.testing.assert_allclose(labels.margins, expected, rtol=1e-4, atol=1e-5)
    assert labels.margins.dtype == np.float32


def test_with_one_cluster_margins_are_infinite(store, tmp_path):
    labels = label_store(store, save_codebook(tmp_path / "one", CENTROIDS[:1]), "cpu", tmp_path / "labels")
    readable = np.delete(np.arange(1000), UNREADABLE)
    assert (labels.margins[readable] == np.inf).all()
    assert (labels.margins[UNREADABLE] == -1).all()


def test_between_centroids_that_are_equal_there_is_no_margin(store, tmp_path):
    """Nor a negative one, which rounding could give."""
    centroids = np.concatenate([CENTROIDS, CENTROIDS, CENTROIDS * np.float32(1 + 1e-7)])
    labels = label_store(store, save_codebook(tmp_path / "equal", centroids), "cpu", tmp_path / "labels")
    readable = np.delete(np.arange(1000), UNREADABLE)
    assert labels.margins[readable].min() >= 0
    assert labels.margins[readable].max() < 1e-4


def test_samples_that_are_too_far_have_no_label(labels, store, codebook, tmp_path):
    limit = float(np.median(labels.distances))
    limited = label_store(store, codebook, "cpu", tmp_path / "limited", max_distance=limit)
    far = labels.distances > limit
    np.testing.assert_array_equal(limited.labels, np.where(far, -1, labels.labels))
    np.testing.assert_array_equal(limited.distances, labels.distances)
    np.testing.assert_array_equal(limited.margins, labels.margins)
    facts = limited.manifest
    assert facts["num_too_far"] == far.sum() > 400
    assert facts["num_unlabelled"] == limited.num_unlabelled == far.sum() + 7 == (limited.labels == -1).sum()
    assert facts["num_unreadable"] == 7
    assert facts["drift"] == far.sum() / 993
    np.testing.assert_array_equal(limited.cluster_sizes, np.bincount(limited.labels[limited.labels >= 0], minlength=9))


def test_a_sample_at_the_limit_keeps_its_label(labels, store, codebook, tmp_path):
    farthest = labels.distances.max()
    assert label_store(store, codebook, "cpu", tmp_path / "a", max_distance=float(farthest)).manifest["drift"] == 0
    below = float(np.nextafter(farthest, np.float32(0)))
    assert label_store(store, codebook, "cpu", tmp_path / "b", max_distance=below).manifest["num_too_far"] == 1


def test_when_all_are_too_far_no_cluster_is_filled(store, codebook, tmp_path):
    labels = label_store(store, codebook, "cpu", tmp_path / "labels", max_distance=0.0)
    assert labels.manifest["drift"] == 1
    assert labels.imbalance == (0.0,)
    assert labels.manifest["num_empty_clusters"] == [9]


def test_labels_of_another_limit_are_refused(store, codebook, tmp_path):
    label_store(store, codebook, "cpu", tmp_path / "labels", max_distance=2.0)
    with pytest.raises(ArtifactError, match=r"max_distance: it was made with 2\.0, this run has 3\.0"):
        PseudoLabels.open(tmp_path / "labels", label_inputs(store.inputs, codebook.manifest["inputs"], 3.0))


def test_exactly_the_unreadable_samples_have_no_label(labels):
    assert np.flatnonzero(labels.labels == -1).tolist() == UNREADABLE
    assert labels.manifest["unreadable"] == [{"index": index, "reason": "truncated"} for index in UNREADABLE]
    assert labels.manifest["num_unreadable"] == labels.manifest["num_unlabelled"] == 7


def test_manifest_counts(labels, store, codebook):
    sizes = np.bincount(labels.labels[labels.labels >= 0], minlength=9)
    np.testing.assert_array_equal(labels.cluster_sizes, sizes)
    assert (labels.num_samples, labels.num_clusters) == (1000, (9,))
    assert labels.manifest["imbalance"] == pytest.approx([sizes.max() / (993 / 9)])
    assert labels.manifest["num_empty_clusters"] == [0]
    assert labels.inputs == label_inputs(store.inputs, codebook.manifest["inputs"])
    assert labels.manifest["features_hash"] == store.content_hash
    assert labels.codebook_hash == codebook.content_hash
    for name, digest in labels.manifest["sha256"].items():
        assert artifacts.file_sha256(labels.folder / name) == digest
    assert set(labels.manifest["sha256"]) == {*ARRAYS}


def test_empty_clusters_are_counted(store, tmp_path):
    codebook = save_codebook(tmp_path / "other", np.vstack([CENTROIDS[:1], np.full((3, 6), 1e3, dtype=np.float32)]))
    labels = label_store(store, codebook, "cpu", tmp_path / "labels")
    assert labels.cluster_sizes.tolist() == [993, 0, 0, 0]
    assert labels.manifest["num_empty_clusters"] == [3]
    assert labels.manifest["imbalance"] == [4.0]


def test_labels_use_the_preprocessing_of_the_codebook(store, tmp_path):
    rng = np.random.default_rng(2)
    preprocessing = Preprocessing(
        normalize=True,
        mean=rng.standard_normal(6).astype(np.float32),
        components=rng.standard_normal((3, 6)).astype(np.float32),
        unit_output=True,
    )
    codebook = save_codebook(tmp_path / "other", CENTROIDS[:, :3], preprocessing, input_dim=6)
    labels = label_store(store, codebook, "cpu", tmp_path / "labels")
    vectors = (ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True) - preprocessing.mean) @ preprocessing.components.T
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = ((vectors[:, None] - CENTROIDS[None, :, :3]) ** 2).sum(axis=2).argmin(axis=1)
    readable = np.delete(np.arange(1000), UNREADABLE)
    np.testing.assert_array_equal(labels.labels[readable], expected[readable])


def test_a_held_out_split_gets_the_labels_of_the_same_codebook(labels, codebook, tmp_path):
    held_out = save_store(tmp_path / "held_out", ROWS[200:230])
    others = label_store(held_out, codebook, "cpu", tmp_path / "held_out_labels")
    np.testing.assert_array_equal(others.labels, labels.labels[200:230])
    assert others.inputs["codebook"] == labels.inputs["codebook"]
    assert others.inputs["features"]["dataset"] != labels.inputs["features"]["dataset"]


def test_a_split_without_readable_samples_has_no_labels(codebook, tmp_path):
    store = save_store(tmp_path / "held_out", ROWS[:3], [0, 1, 2])
    labels = label_store(store, codebook, "cpu", tmp_path / "labels")
    assert labels.labels.tolist() == [-1, -1, -1]
    assert labels.manifest["imbalance"] == [0.0]


def test_files_are_json_and_plain_arrays(labels):
    files = sorted(path.name for path in labels.folder.iterdir())
    assert files == sorted([*ARRAYS, "manifest.json"])
    for name in ARRAYS:
        np.load(labels.folder / name, allow_pickle=False)


def test_labels_are_read_lazily_and_cannot_be_written(labels):
    assert isinstance(labels.labels, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        labels.labels[0] = 3


def test_labels_of_another_data_set_are_refused(labels, store, codebook):
    other = {**store.inputs, "dataset": {"fingerprint": "other data", "num_samples": 1000}}
    difference = r'features\.dataset\.fingerprint: it was made with "[0-9a-f]{64}", this run has "other data"'
    with pytest.raises(ArtifactError, match=difference):
        PseudoLabels.open(labels.folder, label_inputs(other, codebook.manifest["inputs"]))


def test_labels_of_another_codebook_are_refused(labels, store):
    with pytest.raises(ArtifactError, match=r'codebook\.features: it was made with "abc", this run has "xyz"'):
        PseudoLabels.open(labels.folder, label_inputs(store.inputs, {"features": "xyz"}))


def test_a_store_without_its_sample_list_is_refused(store, codebook, tmp_path):
    (store.folder / "samples.npy").unlink()
    with pytest.raises(ArtifactError, match=r"samples\.npy is missing"):
        label_store(store, codebook, "cpu", tmp_path / "labels")
    assert not artifacts.has_manifest(tmp_path / "labels")


def test_labels_of_the_same_inputs_are_accepted(labels, store, codebook):
    PseudoLabels.open(labels.folder, label_inputs(store.inputs, codebook.manifest["inputs"]))


def test_features_of_another_dimension_are_refused(codebook, tmp_path):
    store = save_store(tmp_path / "narrow", ROWS[:10, :5])
    with pytest.raises(ArtifactError, match="labels features of dimension 6, found 5"):
        label_store(store, codebook, "cpu", tmp_path / "labels")


def test_a_failure_leaves_no_manifest(store, codebook, tmp_path):
    name = "rows-000000000900-000000001000.npy"
    rows = artifacts.read_array(store.folder / name)
    rows[4, 0] = np.inf
    store = rewrite_rows(store, name, rows)
    with pytest.raises(DataError, match="features of sample 904 are NaN or infinite"):
        label_store(store, codebook, "cpu", tmp_path / "labels")
    assert not artifacts.has_manifest(tmp_path / "labels")
    with pytest.raises(ArtifactError, match=r"holds no pseudo_labels: its manifest\.json is missing"):
        PseudoLabels.open(tmp_path / "labels")


def test_what_a_killed_run_left_is_made_anew(store, codebook, tmp_path, labels):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "labels.npy").write_bytes(b"half of a file")
    again = label_store(store, codebook, "cpu", tmp_path / "other")
    np.testing.assert_array_equal(again.labels, labels.labels)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": 999}, r"labels\.npy must hold \(999,\) of int64, found \(1000,\)"),
        ({"num_clusters": [8]}, r"sizes\.npy must hold \(8,\) of int64, found \(9,\)"),
        ({"num_clusters": [9, 9]}, "one label per sample, but 2 codebooks"),
        (
            {"num_unlabelled": 6},
            r"sizes\.npy counts 993 labels, the manifest 1000 samples of which 6 have none",
        ),
        ({"num_clusters": None}, r"manifest\.json is damaged"),
        ({"kind": "codebook"}, "must hold a pseudo_labels, found a 'codebook'"),
    ],
)
def test_a_manifest_that_does_not_fit_its_arrays_is_refused(labels, changes, message):
    rewrite_manifest(labels.folder, **changes)
    with pytest.raises(ArtifactError, match=message):
        PseudoLabels.open(labels.folder)


@pytest.mark.parametrize("changes", [{"num_samples": 999}, {"num_unlabelled": 0}, {"new": 1}, {"drift": 0.5}])
def test_an_edited_manifest_is_refused(labels, changes):
    edit_manifest(labels.folder, **changes)
    with pytest.raises(ArtifactError, match=r"manifest\.json was edited or damaged.* Make the pseudo_labels again"):
        PseudoLabels.open(labels.folder)


@pytest.mark.parametrize("name", ["labels.npy", "distances.npy", "margins.npy", "sizes.npy"])
def test_a_truncated_array_is_named(labels, name):
    path = labels.folder / name
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ArtifactError, match=f"{name} cannot be read as an array"):
        PseudoLabels.open(labels.folder)


def test_labels_of_several_codebooks(labels, tmp_path):
    folder = tmp_path / "two"
    columns = np.stack([labels.labels, np.where(labels.labels < 0, -1, labels.labels % 2)], axis=1)
    sizes = np.stack([np.bincount(column[column >= 0], minlength=9) for column in columns.T])
    artifacts.write_array(folder / "labels.npy", columns)
    artifacts.write_array(folder / "distances.npy", np.zeros(columns.shape, dtype=np.float32))
    artifacts.write_array(folder / "sizes.npy", sizes)
    facts = {"num_samples": 1000, "num_clusters": [9, 2], "num_unlabelled": 7}
    artifacts.write_manifest(folder, "pseudo_labels", {}, facts)
    opened = PseudoLabels.open(folder)
    assert opened.num_clusters == (9, 2)
    np.testing.assert_array_equal(opened.labels, columns)
    rewrite_manifest(folder, num_clusters=[9])
    with pytest.raises(ArtifactError, match=r"sizes\.npy must hold \(1, 9\)"):
        PseudoLabels.open(folder)


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path):
    centroids = np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32)
    codebook = save_codebook(tmp_path / "codebook", centroids)
    rows = np.random.default_rng(1).standard_normal((20_000, 64)).astype(np.float32)

    def peak_bytes(name, repeats):
        store = save_store(tmp_path / name, np.tile(rows, (repeats, 1)), shard_size=len(rows))
        tracemalloc.start()
        label_store(store, codebook, "cpu", tmp_path / f"labels_{name}")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak_bytes("first", 1)  # pays for imports
    # An array of one number for each of the 180,000 samples more would be 720 kB or more.
    assert peak_bytes("ten_times", 10) < peak_bytes("once", 1) + 200_000
