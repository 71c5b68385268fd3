"""Contents that contradict each other, under honest hashes, and shards of other runs."""

import shutil

import numpy as np
import pytest
from run_artifacts import CODEBOOK, DONE, LABELS, SHARD, STORE, wrong
from tiny_run import ROWS, UNREADABLE
from tiny_store import rewrite_array, rewrite_manifest, save_store

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.features.store import FeatureStore, Shard
from vissl_clusterfit.features.writer import FeatureStoreWriter
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.verification.verify import verify_artifact


def rewrite_rows(folder, shard, rows):
    """Another shard, with all that names its hash."""
    rewrite_array(folder, shard.rows_file, rows)
    manifest = artifacts.read_manifest(folder)
    done = artifacts.read_json(folder / shard.done_file)
    artifacts.write_json(folder / shard.done_file, {**done, "sha256": manifest["sha256"][shard.rows_file]})
    digests = {name: digest for name, digest in manifest["sha256"].items() if name.startswith("rows-")}
    rewrite_manifest(folder, content_hash=artifacts.content_hash([manifest["inputs"], digests]))


# Shards of another run


def test_a_shard_of_another_run_is_named(run, tmp_path):
    save_store(tmp_path / "other", 3 * ROWS)
    for name in (SHARD, DONE):
        shutil.copy(tmp_path / "other" / name, run / STORE / name)
    problems = wrong(run)[run / STORE]
    assert f"{run / STORE / DONE} does not fit the manifest: it was edited, or is of another run." in problems
    assert [problem for problem in problems if problem.startswith(f"{run / STORE / SHARD} is not the file that was")]


def test_a_shard_of_another_size_is_named(run, tmp_path):
    other = save_store(tmp_path / "other", ROWS, UNREADABLE["train"], shard_size=80).folder
    for name in (Shard(80, 160).rows_file, Shard(80, 160).done_file):
        shutil.copy(other / name, run / STORE / name)
    assert wrong(run) == {
        run / STORE: [
            f"{run / STORE}/rows-000000000080-000000000160.{suffix} is of another run: this store has no such shard."
            for suffix in ("json", "npy")
        ]
    }


def test_a_shard_of_another_run_in_an_incomplete_store_is_named(run, tmp_path):
    manifest, samples = artifacts.read_manifest(run / STORE), artifacts.read_array(run / STORE / "samples.npy")
    writer = FeatureStoreWriter(tmp_path / "store", manifest["inputs"], samples, shard_size=100, dtype="float32")
    writer.begin()
    for shard in writer.shards():
        writer.write(shard, ROWS[shard.start : shard.stop], {})
    save_store(tmp_path / "other", 3 * ROWS)
    for name in (SHARD, DONE):
        shutil.copy(tmp_path / "other" / name, tmp_path / "store" / name)
    message = f"{tmp_path / 'store' / DONE} does not fit the manifest: it was edited, or is of another run."
    assert message in verify_artifact(tmp_path / "store")
    with pytest.raises(ArtifactError, match=f"{DONE} is of another run: its features were made from other data"):
        writer.finish()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 7}, "does not fit the manifest"),
        ({"unreadable": {"121": "truncated"}}, "names other unreadable samples, or reasons, than the shards"),
        ({"unreadable": {"120": "forged"}}, "names other unreadable samples, or reasons, than the shards"),
        ({"unreadable": {"220": "truncated"}}, "names unreadable samples of other shards"),
    ],
)
def test_an_edited_done_file_is_named(run, changes, message):
    artifacts.write_json(run / STORE / DONE, {**artifacts.read_json(run / STORE / DONE), **changes})
    assert any(message in problem for problem in wrong(run)[run / STORE])


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": ["codebook"]},
        {"inputs": {}},
        {"num_samples": "many"},
        {"sha256": 3},
        {"sha256": None},
        {"num_samples": 10**15},
        {"features_hash": None, "dim": "wide"},
    ],
)
@pytest.mark.parametrize("folder", [STORE, CODEBOOK, LABELS])
def test_a_senseless_manifest_gives_a_line(run, folder, changes):
    rewrite_manifest(run / folder, **changes)
    assert wrong(run)[run / folder]


# Contents that contradict each other under honest hashes


def test_features_that_are_not_finite_are_named(run):
    rows = ROWS[:100].copy()
    rows[5, 2] = np.nan
    rows[3] = 0
    rewrite_rows(run / STORE, Shard(0, 100), rows)
    assert verify_artifact(run / STORE) == [
        f"{run / STORE / Shard(0, 100).rows_file} holds features that are NaN or infinite."
    ]


def test_features_of_unreadable_samples_are_named(run):
    rewrite_rows(run / STORE, Shard(0, 100), ROWS[:100])
    assert verify_artifact(run / STORE) == [
        f"{run / STORE / Shard(0, 100).rows_file} holds features of samples that could not be read."
    ]


@pytest.mark.parametrize("indices", [[3, 120], [120, 3, 249], [3, 120, 250], [-3, 120, 249], [3, 121, 249]])
def test_wrong_unreadable_samples_are_named(run, indices):
    rewrite_array(run / STORE, "unreadable.npy", np.array(indices))
    assert any("unreadable.npy" in problem for problem in verify_artifact(run / STORE))
    if indices != [3, 121, 249]:
        with pytest.raises(
            ArtifactError, match=r"unreadable\.npy must hold 3 samples of the store as int64, ascending"
        ):
            FeatureStore.open(run / STORE)


def test_another_sample_list_is_named(run):
    for folder in (STORE, LABELS):
        samples = artifacts.read_array(run / folder / "samples.npy")
        rewrite_array(run / folder, "samples.npy", samples[::-1])
        assert verify_artifact(run / folder) == [
            f"{run / folder / 'samples.npy'} is not the sample list that the inputs name by its fingerprint."
        ]


def test_a_wrong_content_hash_is_named(run):
    rewrite_manifest(run / STORE, content_hash="0" * 64)
    message = f"{run / STORE}/manifest.json has another content_hash than its inputs and shards."
    assert verify_artifact(run / STORE) == [message]


@pytest.mark.parametrize(("name", "value"), [("centroids.npy", np.nan), ("pca_mean.npy", np.inf)])
def test_a_codebook_that_is_not_finite_is_named(run, name, value):
    array = artifacts.read_array(run / CODEBOOK / name)
    array.flat[1] = value
    rewrite_array(run / CODEBOOK, name, array)
    assert verify_artifact(run / CODEBOOK) == [f"{run / CODEBOOK / name} holds values that are NaN or infinite."]


@pytest.mark.parametrize("counts", [[246, 0, 0, 0, 0, 0, 0], [248, -1, 0, 0, 0, 0, 1]])
def test_wrong_counts_of_a_codebook_are_named(run, counts):
    rewrite_array(run / CODEBOOK, "counts.npy", np.array(counts))
    total = sum(counts)
    assert verify_artifact(run / CODEBOOK) == [
        f"{run / CODEBOOK}/counts.npy counts {total} features, or less than none, the manifest 247."
    ]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("labels.npy", {0: 7}, "labels.npy holds labels outside of -1 to K - 1 (1 times)"),
        ("labels.npy", {0: -2}, "labels.npy holds labels outside of -1 to K - 1 (1 times)"),
        ("labels.npy", {0: -1, 8: -1}, "and only there (2 times)"),
        ("labels.npy", {3: 0}, "labels.npy must hold -1 for samples that are unreadable"),
        ("distances.npy", {0: -0.5}, "labels.npy has no finite distance >= 0 in distances.npy (1 times)"),
        ("distances.npy", {0: np.nan}, "labels.npy has no finite distance >= 0 in distances.npy (1 times)"),
        ("margins.npy", {0: np.nan}, "labels.npy has no margin in margins.npy (1 times)"),
        ("margins.npy", {0: np.inf}, "labels.npy has no margin in margins.npy (1 times)"),
        ("margins.npy", {3: 1.0}, "labels.npy has no margin in margins.npy (1 times)"),
        ("sizes.npy", {0: 0, 1: 300}, "sizes.npy miscounts labels"),
    ],
)
def test_labels_that_contradict_each_other_are_named(run, name, change, message):
    array = artifacts.read_array(run / LABELS / name)
    array[[*change]] = [*change.values()]
    rewrite_array(run / LABELS, name, array)
    assert any(message in problem for problem in verify_artifact(run / LABELS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_unreadable": 2}, "has num_unreadable 2; the labels have 1"),
        ({"num_too_far": 0}, "has num_too_far 0; the labels have "),
        ({"num_unlabelled": 0}, "has num_unlabelled 0; the labels have "),
        ({"num_empty_clusters": [8]}, "has num_empty_clusters [8]; the labels have "),
        ({"unreadable": [{"index": 6, "reason": "truncated"}]}, "lists other unreadable samples than the labels"),
    ],
)
def test_wrong_counts_of_labels_are_named(run, changes, message):
    rewrite_manifest(run / "labels/test", **changes)
    assert any(message in problem for problem in verify_artifact(run / "labels/test"))


def test_a_threshold_that_does_not_fit_the_labels_is_named(run):
    inputs = artifacts.read_manifest(run / "labels/test")["inputs"]
    rewrite_manifest(run / "labels/test", inputs={**inputs, "max_distance": None})
    assert "and only there" in verify_artifact(run / "labels/test")[0]
