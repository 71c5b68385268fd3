"""Extraction, clustering, labelling and training: what is missing is made, what is there is used."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from checkpoint_parts import network_of
from tiny import write_images

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.features.imports import import_features
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.imports import import_labels
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.storage import leases
from vissl_clusterfit.storage.artifacts import ArtifactPaths, read_array, read_manifest, write_array, write_manifest
from vissl_clusterfit.verification.verify import verify_artifacts

#: Of a further K.
PARTS = (("codebook",), ("labels", "train"))


def artifact_paths(folder: Path) -> ArtifactPaths:
    return ArtifactPaths(output_dir=folder / "clusterfit", features_dir=folder / "clusterfit/features")


def times(folder: Path) -> dict[Path, int]:
    """When each file was written; VISSL writes its config down at every start."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != "train_config.yaml")
    return {file: file.stat().st_mtime_ns for file in files}


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def test_one_command_extracts_clusters_and_trains(student_run):
    paths = artifact_paths(student_run)
    store, labels = FeatureStore.open(paths.features("TRAIN")), PseudoLabels.open(paths.labels("TRAIN"))
    assert (store.num_samples, store.dim, len(store.unreadable)) == (30, 2048, 0)
    assert Codebook.open(paths.codebook).num_clusters == 4
    assert labels.cluster_sizes.sum() == 30
    assert labels.names == store.names
    assert labels.names[0].endswith(".png")
    assert not labels.names[0].startswith("/")
    # The images are of three colours; the fourth cluster splits one of them.
    assert len(set(zip(np.repeat([0, 1, 2], 10), labels.labels.tolist(), strict=True))) == 4
    checkpoint = torch.load(student_run / "model_final_checkpoint_phase0.torch")
    assert network_of(checkpoint)["heads"]["0.classifiers.0.clf.0.weight"].shape == (
        4,
        2048,
    )
    assert [list(entry) for entry in metrics(student_run)] == [
        ["iteration", "phase_idx", "train_accuracy_list_meter", "train_clusterfit_samples", "train_phase_idx"]
    ]


def test_a_second_start_finds_everything_done(student_run, student_overrides, run_command, tmp_path):
    before = times(student_run)
    result = run_command(*student_overrides, f"config.CHECKPOINT.DIR={student_run}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f"This training is finished; its checkpoints and scores are in {student_run}." in result.stdout
    assert times(student_run) == before


def test_training_resumes_on_the_same_labels(student_run, student_overrides, run_command, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(student_run / "clusterfit", folder / "clusterfit")
    command = [*student_overrides, f"config.CHECKPOINT.DIR={folder}", "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1"]
    command += ["config.OPTIMIZER.num_epochs=3"]
    before = times(folder / "clusterfit")
    # Of a process that was killed when the labels were made, and it had not yet given its lease back.
    lease = folder / "clusterfit/labels/train.lease"
    kill = f"import os, pathlib; from {leases.__name__} import Lease; Lease(pathlib.Path({str(lease)!r})).acquire()"
    subprocess.run([sys.executable, "-c", f"{kill}; os._exit(0)"], check=True)
    assert lease.is_file()
    first = run_command(*command, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "Labels of 30 samples are in" in first.stdout
    assert not lease.exists()
    (folder / "model_final_checkpoint_phase2.torch").unlink()
    (folder / "model_phase1.torch").unlink()  # as if it had been killed in the second epoch
    second = run_command(*command, cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    for phase, expected in ((0, False), (1, True), (2, True)):
        assert (f"Starting phase {phase} [train]" in second.stdout) == expected
    assert (folder / "model_final_checkpoint_phase2.torch").is_file()
    assert times(folder / "clusterfit") == before
    again = [entry["train_phase_idx"] for entry in metrics(folder)]
    assert again == [0, 1, 2]


def test_every_stage_has_its_engine(student_overrides, images, teacher, run_command, tmp_path):
    """Each makes its own artefact and finds the earlier ones; training then makes none. With a held-out split."""
    folder, held_out = tmp_path / "run", write_images(tmp_path / "held_out", 12, seed=1)
    paths = artifact_paths(folder)
    command = [
        *student_overrides,
        f"config.CHECKPOINT.DIR={folder}",
        "config.CLUSTERFIT.FEATURES.TEST_PARTITION=TEST",
        "config.CLUSTERFIT.TOP_CLUSTERS=3",
        "config.TEST_MODEL=true",
        "config.DATA.TEST.DATA_SOURCES=[disk_folder]",
        "config.DATA.TEST.DATASET_NAMES=[tiny]",
        f"config.DATA.TEST.DATA_PATHS=[{held_out}]",
        "config.DATA.TEST.BATCHSIZE_PER_REPLICA=6",
        "config.DATA.TEST.TRANSFORMS=[{name:Resize,size:[32,32]},{name:ToTensor}]",
    ]
    made = {}
    for engine, folders in (
        ("clusterfit_extract", [paths.features("TRAIN"), paths.features("TEST")]),
        ("clusterfit_cluster", [paths.codebook]),
        ("clusterfit_label", [paths.labels("TRAIN"), paths.labels("TEST")]),
        ("train", []),
    ):
        result = run_command(*command, f"engine_name={engine}", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        now = times(folder / "clusterfit")
        assert made.items() <= now.items()
        assert {file.parent for file in now.keys() - made.keys()} == set(folders)
        made = now

    codebook, store = Codebook.open(paths.codebook), FeatureStore.open(paths.features("TEST"))
    labels = PseudoLabels.open(paths.labels("TEST"))
    nearest, distances = codebook.search("cpu").nearest(store.read(0, 12), 3)
    np.testing.assert_array_equal(labels.labels, nearest[:, 0])
    np.testing.assert_array_equal(labels.nearest, nearest)
    np.testing.assert_array_equal(labels.nearest_distances, distances)
    assert labels.codebook_hash == PseudoLabels.open(paths.labels("TRAIN")).codebook_hash == codebook.content_hash
    evaluated = [entry["test_accuracy_list_meter"] for entry in metrics(folder) if "test_accuracy_list_meter" in entry]
    assert [list(entry["top_1"]) for entry in evaluated] == [["clusters"]]


def test_further_clusters_in_the_same_run(student_overrides, run_command, tmp_path):
    """Each has its codebook and labels, and a second start makes nothing; one that is added later is made alone."""
    folder = tmp_path / "run"
    command = [*student_overrides, f"config.CHECKPOINT.DIR={folder}", "engine_name=clusterfit_label"]
    made = {}
    for also in ([2, 6], [6, 2], [2, 6, 3]):
        numbers = ",".join(map(str, also))
        result = run_command(*command, f"config.CLUSTERFIT.ALSO_NUM_CLUSTERS=[{numbers}]", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        now = times(folder / "clusterfit")
        assert made.items() <= now.items()
        fresh = {file.relative_to(folder / "clusterfit").parent for file in now.keys() - made.keys()}
        if made:
            later = {3} & {*also}
            assert fresh == {Path(f"also/{number}", *below) for number in later for below in PARTS}
        made = now
    assert [problems for _, problems in verify_artifacts([folder])] == [[]] * 9
    for number in (2, 6, 3):
        labels = PseudoLabels.open(folder / f"clusterfit/also/{number}/labels/train")
        assert labels.num_clusters == (number,)
        assert labels.codebook_hash == Codebook.open(folder / f"clusterfit/also/{number}/codebook").content_hash
    result = run_command(*command, "config.CLUSTERFIT.ALSO_NUM_CLUSTERS=[2,31]", cwd=tmp_path)
    assert result.returncode == 2
    assert "NUM_CLUSTERS: found 31 for 30 samples; allowed: 1 to 30" in result.stderr


def test_features_are_not_extracted_where_that_is_forbidden(student_overrides, run_command, tmp_path):
    result = run_command(
        *student_overrides,
        f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
        "config.CLUSTERFIT.FEATURES.EXTRACT=false",
        "engine_name=clusterfit_cluster",
        cwd=tmp_path,
    )
    assert result.returncode == 2
    assert "clusterfit/features/train holds no feature_store" in result.stderr


def test_labels_alone_serve_without_features_and_codebook(student_run, student_overrides, run_command, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(student_run / "clusterfit/labels", folder / "clusterfit/labels")
    result = run_command(*student_overrides, f"config.CHECKPOINT.DIR={folder}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [path.name for path in (folder / "clusterfit").iterdir()] == ["labels"]


def test_features_and_labels_from_elsewhere_are_trained_on(
    student_run, student_overrides, images, run_command, tmp_path
):
    folder = tmp_path / "run/clusterfit"
    names = FeatureStore.open(artifact_paths(student_run).features("TRAIN")).names
    rows = np.random.default_rng(0).standard_normal((30, 7)).astype(np.float32)
    features = import_features(rows, tmp_path / "features", names=names, images=images)
    found = [number % 4 for number in range(30)]
    import_labels(dict(zip(names[::-1], found, strict=True)), folder / "labels/train", features)
    overrides = [text for text in student_overrides if "TEACHER.WEIGHTS" not in text]
    arguments = [*overrides, f"config.CHECKPOINT.DIR={folder.parent}", "config.CLUSTERFIT.TEACHER.WEIGHTS="]
    result = run_command(*arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [path.name for path in folder.iterdir()] == ["labels"]
    other = import_features(rows, tmp_path / "others", names=[f"other-{name}" for name in names])
    shutil.rmtree(folder.parent)
    import_labels(dict(zip(other.names, found, strict=True)), folder / "labels/train", other)
    result = run_command(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert "was made for other data: 30 of 30 samples differ" in result.stderr


def test_names_that_are_secret_are_not_kept(student_overrides, run_command, tmp_path):
    more = ["engine_name=clusterfit_label", "config.CLUSTERFIT.FEATURES.KEEP_NAMES=false"]
    result = run_command(*student_overrides, f"config.CHECKPOINT.DIR={tmp_path / 'run'}", *more, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert PseudoLabels.open(artifact_paths(tmp_path / "run").labels("TRAIN")).names is None
    assert not list((tmp_path / "run").rglob("names*"))


def test_labels_of_another_codebook_are_refused(student_run, student_overrides, run_command, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(student_run / "clusterfit", folder / "clusterfit")
    facts = read_manifest(folder / "clusterfit/codebook", "codebook")
    kind, inputs, _ = facts.pop("kind"), facts.pop("inputs"), facts.pop("format")
    centroids = folder / "clusterfit/codebook/centroids.npy"
    facts["sha256"]["centroids.npy"] = write_array(centroids, read_array(centroids)[::-1])
    write_manifest(folder / "clusterfit/codebook", kind, inputs, facts)
    result = run_command(*student_overrides, f"config.CHECKPOINT.DIR={folder}", cwd=tmp_path)
    assert result.returncode == 2
    assert "labels/train was made with another codebook than the one in" in result.stderr


def test_a_finished_training_of_other_settings_is_not_taken_for_this_one(
    student_run, student_overrides, run_command, tmp_path
):
    folder = tmp_path / "run"
    shutil.copytree(student_run, folder)
    overrides = [*student_overrides, f"config.CHECKPOINT.DIR={folder}"]
    result = run_command(*overrides, "config.CLUSTERFIT.NUM_CLUSTERS=5", cwd=tmp_path)
    assert result.returncode == 2
    assert "codebook.settings.num_clusters: it was made with 4, this run has 5" in result.stderr
    again = run_command(*overrides, cwd=tmp_path)
    assert again.returncode == 0
    assert "This training is finished" in again.stdout


def test_the_link_to_the_latest_checkpoint_leads_there_from_a_relative_folder(student_overrides, run_command, tmp_path):
    result = run_command(*student_overrides, "config.CHECKPOINT.DIR=runs/student", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    latest = tmp_path / "runs/student/checkpoint.torch"
    assert latest.resolve().name == "model_final_checkpoint_phase0.torch"
    assert latest.resolve().is_file()
    assert (tmp_path / "runs/student/clusterfit/labels/train/manifest.json").is_file()
