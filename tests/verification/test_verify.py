import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from repository import ROOT
from tiny_run import ROWS, UNREADABLE, cluster, make_run
from tiny_store import edit_manifest, rewrite_array, rewrite_manifest, save_store

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.features.store import FeatureStore, Shard
from vissl_clusterfit.features.writer import FeatureStoreWriter
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.labels.files import LabelFiles
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.verification.verify import find_artifacts, verify_artifact, verify_artifacts

TOOL = ROOT / "tools/check_artifacts.py"
STORE, CODEBOOK, LABELS = "features/train", "codebook", "labels/train"
ALL = ["codebook", "features/test", "features/train", "labels/test", "labels/train"]
SHARD, DONE = Shard(100, 200).rows_file, Shard(100, 200).done_file
OPEN = {STORE: FeatureStore.open, CODEBOOK: Codebook.open, LABELS: PseudoLabels.open}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("made") / "run", dimensionality_reduction=4, max_distance=0.5)


@pytest.fixture
def run(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "run"))


def wrong(*folders):
    """What is wrong, by artefact; those that are well are left out."""
    return {folder: problems for folder, problems in verify_artifacts(folders) if problems}


def flip_bit(path, position=-1, bit=0):
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def rewrite_rows(folder, shard, rows):
    """Another shard, with all that names its hash."""
    rewrite_array(folder, shard.rows_file, rows)
    manifest = artifacts.read_manifest(folder)
    done = artifacts.read_json(folder / shard.done_file)
    artifacts.write_json(folder / shard.done_file, {**done, "sha256": manifest["sha256"][shard.rows_file]})
    digests = {name: digest for name, digest in manifest["sha256"].items() if name.startswith("rows-")}
    rewrite_manifest(folder, content_hash=artifacts.content_hash([manifest["inputs"], digests]))


# What is well


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "float16", "normalize": False},
        {"metric": "cosine", "dimensionality_reduction": 4, "whiten": True},
        {"num_clusters": 1},
        {"data_limit": 50, "max_distance": 0.0},
    ],
)
def test_a_whole_run_is_well(tmp_path, options):
    run = make_run(tmp_path / "run", **options)
    assert list(verify_artifacts([run])) == [(run / name, []) for name in ALL]


def test_what_a_run_leaves_beside_its_artefacts_is_harmless(run):
    (run / "codebook.lease").write_text("{}")
    (run / STORE / "leases").mkdir()
    (run / STORE / "leases" / "000000000000.json").write_text("{}")
    (run / STORE / f".{SHARD}.0123.tmp").write_bytes(b"half of a shard")
    (run / LABELS / "progress.json").write_text("{")
    (run / "codebook" / "pca_mean.npy.bak").write_bytes(b"")
    assert wrong(run) == {}


def test_other_folders_with_a_manifest_are_left_alone(run):
    artifacts.write_manifest(run / "images", "handwritten digits", {}, {})
    assert find_artifacts(run) == [run / name for name in ALL]
    assert verify_artifact(run / "images") == [
        f"{run / 'images'} must hold one of feature_store, codebook, pseudo_labels, found a 'handwritten digits'."
    ]


def test_features_behind_a_link_are_found_once(run, tmp_path):
    (run / "features").rename(tmp_path / "large_disk")
    (run / "features").symlink_to(tmp_path / "large_disk")
    (tmp_path / "large_disk" / "circle").symlink_to(run)
    assert find_artifacts(run) == [run / name for name in ALL]
    assert wrong(run) == {}


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path):
    def peak_bytes(num_samples):
        run = tmp_path / str(num_samples)
        store = save_store(run / STORE, np.ones((num_samples, 2), dtype=np.float32), shard_size=num_samples // 4)
        label_store(store, cluster(store, run / CODEBOOK, num_clusters=2, num_iter=1), "cpu", run / LABELS)
        tracemalloc.start()
        assert wrong(run) == {}
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_bytes(1_200_000) < 1.05 * peak_bytes(300_000)


# Files that are not what was written


@pytest.mark.parametrize(
    "name",
    [
        *(f"{STORE}/{name}" for name in (SHARD, "samples.npy", "unreadable.npy")),
        *(f"{CODEBOOK}/{name}" for name in ("centroids.npy", "counts.npy", "pca_mean.npy", "pca_components.npy")),
        *(f"{LABELS}/{name}.npy" for name in ("labels", "distances", "margins", "sizes", "samples")),
    ],
)
def test_a_flipped_bit_is_named(run, name):
    file = run / name
    flip_bit(file)
    assert set(wrong(run)) == {file.parent}
    [problem] = verify_artifact(file.parent)
    found, expected = artifacts.file_sha256(file), artifacts.read_manifest(file.parent)["sha256"][file.name]
    assert problem == f"{file} is not the file that was written: its SHA-256 is {found}, not {expected}."


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_bit_that_flips_anywhere_is_found(made, data):
    files = sorted(path for path in made.rglob("*") if path.is_file())
    file = data.draw(st.sampled_from(files))
    position, bit = data.draw(st.integers(0, file.stat().st_size - 1)), data.draw(st.integers(0, 7))
    try:
        flip_bit(file, position, bit)
        assert file.parent in wrong(made)
    finally:
        flip_bit(file, position, bit)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{STORE}/{SHARD}", "cannot be read as an array"),
        (f"{CODEBOOK}/centroids.npy", "cannot be read as an array"),
        (f"{LABELS}/labels.npy", "cannot be read as an array"),
        (f"{STORE}/{DONE}", "cannot be read as JSON"),
        (f"{CODEBOOK}/manifest.json", "cannot be read as JSON"),
    ],
)
def test_a_truncated_file_is_named(run, name, message):
    file = run / name
    file.write_bytes(file.read_bytes()[:-20])
    assert [problem for problem in wrong(run)[file.parent] if problem.startswith(f"{file} {message}")]


@pytest.mark.parametrize(
    "name", [f"{STORE}/{SHARD}", f"{STORE}/{DONE}", f"{LABELS}/margins.npy", "codebook/counts.npy"]
)
def test_a_missing_file_is_named(run, name):
    file = run / name
    file.unlink()
    assert f"{file} is missing." in wrong(run)[file.parent]


@pytest.mark.parametrize("folder", [STORE, CODEBOOK, LABELS])
def test_a_missing_manifest_is_named(run, folder):
    (run / folder / "manifest.json").unlink()
    message = f"{run / folder} is incomplete: it has no manifest.json. Run its stage again; it resumes."
    assert wrong(run)[run / folder] == [message]


@pytest.mark.parametrize("folder", [STORE, CODEBOOK, LABELS])
def test_an_edited_manifest_is_named(run, folder):
    edit_manifest(run / folder, inputs={**artifacts.read_manifest(run / folder)["inputs"], "seed": 1})
    [problem] = wrong(run)[run / folder]
    assert problem.startswith(f"{run / folder}/manifest.json was edited or damaged: it is not what was written.")
    with pytest.raises(ArtifactError, match="was edited or damaged"):
        OPEN[folder](run / folder)


@pytest.mark.parametrize("folder", [STORE, CODEBOOK, LABELS])
def test_a_newer_format_is_named(run, folder):
    edit_manifest(run / folder, format=2)
    [problem] = wrong(run)[run / folder]
    assert problem.startswith(f"{run / folder}: found format 2; this version of vissl-clusterfit reads formats up to 1")
    with pytest.raises(ArtifactError, match="found format 2"):
        OPEN[folder](run / folder)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (f"{STORE}/{SHARD}", np.zeros((99, 6), np.float32), r"must hold (100, 6) of float32, found (99, 6) of float32"),
        (
            f"{STORE}/{SHARD}",
            np.zeros((100, 6), np.float16),
            r"must hold (100, 6) of float32, found (100, 6) of float16",
        ),
        (f"{LABELS}/labels.npy", np.zeros(250, np.int32), r"must hold (250,) of int64, found (250,) of int32"),
        (f"{LABELS}/samples.npy", np.zeros(251, np.uint64), r"must hold (250,) of uint64, found (251,) of uint64"),
    ],
)
def test_another_shape_or_dtype_is_named(run, name, array, message):
    rewrite_array((run / name).parent, (run / name).name, array)
    with pytest.raises(ArtifactError, match=f"{Path(name).name} must hold"):
        OPEN[str(Path(name).parent)](Path(run / name).parent)
    assert any(problem.startswith(f"{run / name} {message}") for problem in wrong(run)[(run / name).parent])


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


# What cannot be opened safely


@pytest.mark.parametrize(
    "name",
    ["../../codebook/centroids.npy", "/etc/hostname", "..", "leases/../../x.npy", "rows-000000000300-000000000400.npy"],
)
@pytest.mark.parametrize("folder", [STORE, CODEBOOK, LABELS])
def test_a_name_that_is_not_ours_is_named_and_not_read(run, folder, name):
    rewrite_manifest(run / folder, sha256={**artifacts.read_manifest(run / folder)["sha256"], name: "0" * 64})
    message = f"manifest.json names {name!r}, which is no file of this artefact; it was not read."
    assert f"{run / folder}/{message}" in verify_artifact(run / folder)


@pytest.mark.parametrize(
    "name", [f"{STORE}/{SHARD}", f"{STORE}/{DONE}", f"{CODEBOOK}/manifest.json", f"{LABELS}/labels.npy"]
)
def test_a_link_out_of_the_folder_is_named_and_not_read(run, tmp_path, name):
    file = run / name
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert f"{file} is a link that leaves the folder of the artefact; it was not read." in wrong(run)[file.parent]


def test_a_link_inside_of_the_folder_is_well(run):
    (run / STORE / SHARD).rename(run / STORE / "kept.npy")
    (run / STORE / SHARD).symlink_to("kept.npy")
    assert wrong(run) == {}


@pytest.mark.parametrize("name", [SHARD, DONE, "manifest.json"])
def test_a_pipe_is_not_read(run, name):
    (run / STORE / name).unlink()
    os.mkfifo(run / STORE / name)
    assert f"{run / STORE / name} is not a regular file." in wrong(run)[run / STORE]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", [STORE, f"{STORE}/{SHARD}", f"{STORE}/manifest.json"])
def test_what_may_not_be_read_is_named(run, name):
    (run / name).chmod(0)
    problems = wrong(run)
    (run / name).chmod(0o700)
    assert "Permission denied" in problems[run / STORE][0]


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (Path.touch, (self.marker,))


@pytest.mark.parametrize("packed", ["array", "pickle", "archive"])
@pytest.mark.parametrize(
    "name", [f"{STORE}/{SHARD}", f"{STORE}/unreadable.npy", "codebook/counts.npy", f"{LABELS}/labels.npy"]
)
def test_a_malicious_pickle_is_not_run(run, tmp_path, name, packed):
    file, objects = run / name, np.array([Malicious(tmp_path / "marker")], dtype=object)
    with open(file, "wb") as target:
        if packed == "array":
            np.save(target, objects, allow_pickle=True)
        elif packed == "archive":
            np.savez(target, objects)
        else:
            pickle.dump(objects[0], target)
    digests = {**artifacts.read_manifest(file.parent)["sha256"], file.name: artifacts.file_sha256(file)}
    rewrite_manifest(file.parent, sha256=digests)
    assert any(problem.startswith(str(file)) for problem in wrong(run)[file.parent])
    if packed != "archive":
        with pytest.raises(ArtifactError, match="cannot be read as an array"):
            OPEN[str(Path(name).parent)](file.parent)
    assert not (tmp_path / "marker").exists()
    if packed == "array":
        np.load(file, allow_pickle=True)
        assert (tmp_path / "marker").exists(), "the pickle would have run"


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


# Artefacts that were made from others than those that are there


def test_another_codebook_beside_the_labels_is_named(run):
    centroids = artifacts.read_array(run / CODEBOOK / "centroids.npy")
    rewrite_array(run / CODEBOOK, "centroids.npy", centroids[::-1])
    message = f"was made from another codebook than the one in {run / CODEBOOK}"
    assert {folder for folder, [problem] in wrong(run).items() if message in problem} == {
        run / "labels/train",
        run / "labels/test",
    }


def test_a_codebook_of_other_settings_beside_the_labels_is_named(run):
    shutil.rmtree(run / CODEBOOK)
    cluster(FeatureStore.open(run / STORE), run / CODEBOOK, seed=1)
    assert set(wrong(run)) == {run / "labels/train", run / "labels/test"}


def test_features_that_were_extracted_again_with_another_outcome_are_named(run, tmp_path):
    shutil.rmtree(run / STORE)
    save_store(run / STORE, ROWS + 1, UNREADABLE["train"])
    message = f"was made from another feature_store than the one in {run / STORE}"
    assert {folder for folder, [problem] in wrong(run).items() if message in problem} == {run / CODEBOOK, run / LABELS}


def test_folders_of_one_run_that_lie_apart_are_held_against_each_other(made, tmp_path):
    shutil.copytree(made / LABELS, tmp_path / "a")
    shutil.copytree(made / CODEBOOK, tmp_path / "b")
    assert wrong(tmp_path / "a", tmp_path / "b") == {}
    rewrite_manifest(tmp_path / "a", codebook_hash="0" * 64)
    assert set(wrong(tmp_path / "a", tmp_path / "b")) == {tmp_path / "a"}


def test_two_runs_on_the_same_data_are_well(run, tmp_path):
    make_run(tmp_path / "again", dimensionality_reduction=4, max_distance=0.5, seed=1)
    assert wrong(tmp_path) == {}


# What is in the making


def test_an_incomplete_store_is_named_and_its_shards_are_checked(tmp_path):
    samples = artifacts.read_array(save_store(tmp_path / "whole", ROWS).folder / "samples.npy")
    inputs = artifacts.read_manifest(tmp_path / "whole")["inputs"]
    writer = FeatureStoreWriter(tmp_path / "store", inputs, samples, shard_size=100, dtype="float32")
    writer.begin()
    writer.write(Shard(100, 200), ROWS[100:200], {})
    incomplete = f"{tmp_path}/store/manifest.json says that the store is incomplete: 2 of 3 shards are missing."
    [problem] = verify_artifact(tmp_path / "store")
    assert problem.startswith(incomplete)
    flip_bit(tmp_path / "store" / SHARD)
    assert [problem.partition(" is not the file")[0] for problem in verify_artifact(tmp_path / "store")] == [
        problem,
        str(tmp_path / "store" / SHARD),
    ]
    with pytest.raises(ArtifactError, match="is incomplete"):
        FeatureStore.open(tmp_path / "store")


def test_labels_in_the_making_are_named(tmp_path):
    with LabelFiles(tmp_path / "labels", 10, "run") as files:
        files.append(*(np.zeros(5) for _ in range(3)))
    assert list(wrong(tmp_path)) == [tmp_path / "labels"]


def test_a_clustering_in_the_making_is_named_and_its_last_iteration_is_checked(run):
    kept = run / CODEBOOK / "in_progress" / "iteration-000003"
    shutil.copytree(run / CODEBOOK, kept)
    shutil.copytree(kept, kept.with_name("iteration-000004"))
    (kept.with_name("iteration-000004") / "manifest.json").unlink()
    assert wrong(run) == {}
    for file in (run / CODEBOOK).glob("*.*"):
        file.unlink()
    assert find_artifacts(run / CODEBOOK) == [run / CODEBOOK, kept]
    assert list(wrong(run / CODEBOOK)) == [run / CODEBOOK]
    flip_bit(kept / "centroids.npy")
    assert list(wrong(run / CODEBOOK)) == [run / CODEBOOK, kept]


# What opening finds by itself


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{STORE}/{SHARD}", "cannot be read as an array"),
        (f"{STORE}/unreadable.npy", "cannot be read as an array"),
        (f"{STORE}/samples.npy", "cannot be read as an array"),
        (f"{LABELS}/samples.npy", "cannot be read as an array"),
        (f"{CODEBOOK}/centroids.npy", "cannot be read as an array"),
        (f"{LABELS}/margins.npy", "cannot be read as an array"),
    ],
)
def test_opening_finds_what_is_truncated_or_missing(run, name, message):
    file = run / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=f"{file.name} {message}"):
        OPEN[str(Path(name).parent)](file.parent)
    file.unlink()
    with pytest.raises(ArtifactError, match=f"{file.name} is missing"):
        OPEN[str(Path(name).parent)](file.parent)


@pytest.mark.parametrize(
    ("folder", "changes", "message"),
    [
        (STORE, {"num_samples": 350}, "do not cover its 350 samples once"),
        (STORE, {"shard_size": 50}, "do not cover its 250 samples once"),
        (STORE, {"shard_size": 0}, "is damaged"),
        (STORE, {"sha256": {}}, "do not cover its 250 samples once"),
        (STORE, {"num_unreadable": 2}, r"unreadable\.npy must hold 2 samples"),
        (CODEBOOK, {"num_points": 250}, r"counts\.npy counts 247 features, the manifest 250"),
        (CODEBOOK, {"num_clusters": 8}, r"centroids\.npy must hold \(8, 4\)"),
        (LABELS, {"num_unlabelled": 4}, r"sizes\.npy counts 247 labels"),
        (LABELS, {"num_samples": 251}, r"labels\.npy must hold \(251,\)"),
    ],
)
def test_opening_finds_shapes_counts_and_coverage_that_do_not_fit(run, folder, changes, message):
    rewrite_manifest(run / folder, **changes)
    with pytest.raises(ArtifactError, match=message):
        OPEN[folder](run / folder)
    assert verify_artifact(run / folder)


# The command


def check(*folders):
    done = subprocess.run([sys.executable, TOOL, *folders], capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_the_command_says_that_all_is_well(run):
    assert check(run) == (0, [f"ok     {run / name}" for name in ALL], "")


def test_the_command_says_what_is_wrong(run):
    flip_bit(run / STORE / SHARD)
    edit_manifest(run / CODEBOOK, seed=9)
    code, lines, errors = check(run / "features", run / CODEBOOK)
    assert (code, errors) == (1, "")
    assert lines[0].startswith(f"wrong  {run / CODEBOOK}/manifest.json was edited or damaged")
    assert lines[1] == f"ok     {run / 'features/test'}"
    assert lines[2].startswith(f"wrong  {run / STORE / SHARD} is not the file that was written")
    assert lines[3].startswith(f"mend   Delete {run / STORE} and run its stage again.")
    assert len(lines) == 4  # the first problem says itself how it is mended


def test_the_command_says_where_there_is_nothing(run, tmp_path):
    (tmp_path / "empty").mkdir()
    code, lines, errors = check(run, tmp_path / "empty", tmp_path / "missing")
    assert (code, lines) == (2, [])
    assert errors == f"error: there is no artefact in {tmp_path / 'empty'}, {tmp_path / 'missing'}.\n"
