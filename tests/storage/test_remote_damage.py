"""What is damaged, missing or written again on another file system is found."""

import os
import runpy
import subprocess
import sys

import numpy as np
import object_store
import pytest
from object_store import handler_of
from remote_run import ALL, SETTINGS, make, wrong
from repository import ROOT
from tiny_store import flip_a_bit, save_store

from vissl_clusterfit import dependencies
from vissl_clusterfit.clustering.fit import fit_codebook
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.verification.verify import verify_artifact

TOOL = ROOT / "tools/check_artifacts.py"


@pytest.mark.parametrize(
    "name", ["features/train/rows-000000000008-000000000016.npy", "codebook/centroids.npy", "labels/train/labels.npy"]
)
def test_a_flipped_byte_is_found(run, name):
    make(run)
    file = handler_of(run).file(f"{run}/{name}")
    flip_a_bit(file)
    artifact = name.rpartition("/")[0]
    problems = wrong(run)
    assert problems[f"{run}/{artifact}"][0].startswith(f"{run}/{name} is not the file that was written")
    assert verify_artifact(run / artifact) == problems[f"{run}/{artifact}"]


def test_features_that_were_damaged_are_not_clustered(run):
    make(run)
    name = "features/train/rows-000000000008-000000000016.npy"
    handler_of(run).file(f"{run}/{name}").write_bytes(b"short")
    with pytest.raises(ArtifactError, match=f"{run}/{name} is not the file that was written"):
        fit_codebook(FeatureStore.open(run / "features" / "train"), SETTINGS, "cpu", run / "again")


@pytest.mark.parametrize(
    "name", ["features/train/rows-000000000008-000000000016.npy", "features/train/samples.npy", "codebook/counts.npy"]
)
def test_a_missing_file_is_named(run, name):
    make(run)
    handler_of(run).file(f"{run}/{name}").unlink()
    assert f"{run}/{name} is missing." in wrong(run)[f"{run}/{name.rpartition('/')[0]}"]


def test_opening_finds_a_missing_shard(run):
    make(run)
    name = "rows-000000000008-000000000016.npy"
    handler_of(run).file(f"{run}/features/train/{name}").unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        FeatureStore.open(run / "features" / "train")


def test_labels_of_another_length_are_refused_when_they_are_read(run):
    labels = make(run)
    artifacts.write_array(labels.folder / "labels.npy", np.zeros(3, dtype=np.int64))
    opened = PseudoLabels.open(labels.folder)
    with pytest.raises(ArtifactError, match=r"labels\.npy must hold \(45,\) of int64"):
        _ = opened.labels


def test_an_artefact_that_was_made_again_is_read_again(run):
    rows = np.arange(24, dtype=np.float32).reshape(12, 2)
    for folder, shift in ((run / "features", 0), (run / "features", 100)):
        handler_of(run).file(str(folder / "manifest.json")).unlink(missing_ok=True)
        for shard in ("rows-000000000000-000000000012.npy", "rows-000000000000-000000000012.json"):
            handler_of(run).file(str(folder / shard)).unlink(missing_ok=True)
        store = save_store(folder, rows + shift)
        np.testing.assert_array_equal(store.read(0, 12), rows + shift)


def test_the_command_checks_a_uri(run, tmp_path):
    make(run)
    environment = {
        **os.environ,
        dependencies.IMPORT_VARIABLE: "fake_s3",
        object_store.ROOT_VARIABLE: str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run([sys.executable, TOOL, f"{run}/"], capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"ok     {run}/{name}" for name in ALL]
    assert done.returncode == 0


def test_the_command_says_what_it_cannot_reach(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["check_artifacts.py", "gs://bucket/run"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOL), run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: FOLDER: found 'gs://bucket/run', and iopath has no handler")
