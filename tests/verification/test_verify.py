"""What is verified: whole runs, artefacts that were made from others, and those in the making; and the command."""

import shutil
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from repository import ROOT
from run_artifacts import ALL, CODEBOOK, LABELS, SHARD, STORE, wrong
from tiny_run import ROWS, UNREADABLE, cluster, make_run
from tiny_store import edit_manifest, flip_a_bit, rewrite_array, rewrite_manifest, save_store

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.features.store import FeatureStore, Shard
from vissl_clusterfit.features.writer import FeatureStoreWriter
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.labels.files import LabelFiles
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.verification.verify import find_artifacts, verify_artifact, verify_artifacts

TOOL = ROOT / "tools/check_artifacts.py"


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
    flip_a_bit(tmp_path / "store" / SHARD)
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
    iteration = run / CODEBOOK / "in_progress" / "iteration-000003"
    shutil.copytree(run / CODEBOOK, iteration)
    shutil.copytree(iteration, iteration.with_name("iteration-000004"))
    (iteration.with_name("iteration-000004") / "manifest.json").unlink()
    assert wrong(run) == {}
    for file in (run / CODEBOOK).glob("*.*"):
        file.unlink()
    assert find_artifacts(run / CODEBOOK) == [run / CODEBOOK, iteration]
    assert list(wrong(run / CODEBOOK)) == [run / CODEBOOK]
    flip_a_bit(iteration / "centroids.npy")
    assert list(wrong(run / CODEBOOK)) == [run / CODEBOOK, iteration]


# The command


def check(*folders):
    done = subprocess.run([sys.executable, TOOL, *folders], capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines(), done.stderr


def test_the_command_says_that_all_is_well(run):
    assert check(run) == (0, [f"ok     {run / name}" for name in ALL], "")


def test_the_command_says_what_is_wrong(run):
    flip_a_bit(run / STORE / SHARD)
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
