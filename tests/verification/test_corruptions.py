"""Every corruption of every artefact: who finds it, what is said, and what mends it.

Opening finds what shape, count or coverage show; ``tools/check_artifacts.py`` finds all, with exit code 1.
"""

import os
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from repository import ROOT
from tiny_run import ROWS, make_run
from tiny_store import edit_manifest

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.features.store import FeatureStore, Shard
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.storage import artifacts

TOOL = ROOT / "tools/check_artifacts.py"
#: Of each artefact its folder in a run, one of its arrays, and what opens it.
ARTIFACTS = {
    "features": ("features/train", Shard(100, 200).rows_file, FeatureStore.open),
    "codebook": ("codebook", "centroids.npy", Codebook.open),
    "labels": ("labels/train", "labels.npy", PseudoLabels.open),
}


def flip_a_byte(file, _other):
    data = bytearray(file.read_bytes())
    data[-5] ^= 0xFF
    file.write_bytes(data)


def truncate(file, _other):
    os.truncate(file, file.stat().st_size - 1)


def empty(file, _other):
    os.truncate(file, 0)


def remove(file, _other):
    file.unlink()


def take_that_of_another_run(file, other):
    shutil.copy(other, file)


def take_one_of_another_shape(file, other):
    array = artifacts.read_array(other)
    np.save(file, array[:-1])


def take_one_of_another_dtype(file, other):
    array = artifacts.read_array(other)
    np.save(file, array.astype("float64" if array.dtype.kind == "f" else "int32"))


def edit_the_manifest(file, _other):
    edit_manifest(file.parent, inputs={**artifacts.read_manifest(file.parent)["inputs"], "dtype": "float16"})


def make_the_format_newer(file, _other):
    edit_manifest(file.parent, format=artifacts.FORMAT_VERSION + 1)


def truncate_the_manifest(file, _other):
    truncate(file.parent / "manifest.json", None)
    truncate(file.parent / "manifest.json", None)


def remove_the_manifest(file, _other):
    (file.parent / "manifest.json").unlink()


def put_a_temporary_file_beside(file, other):
    shutil.copy(other, file.with_name(f".{file.name}.0123.tmp"))


ARRAY, MANIFEST, NOBODY = "the array", "the manifest", "nobody"
#: What is named, what is said of it, and whether opening finds it, too; of a codebook, whose arrays are read then,
#: opening finds other bytes as well.
CORRUPTIONS = {
    flip_a_byte: (ARRAY, "is not the file that was written: its SHA-256 is", False),
    truncate: (ARRAY, "cannot be read as an array", True),
    empty: (ARRAY, "cannot be read as an array", True),
    remove: (ARRAY, "is missing", True),
    take_that_of_another_run: (ARRAY, "is not the file that was written: its SHA-256 is", False),
    take_one_of_another_shape: (ARRAY, "must hold", True),
    take_one_of_another_dtype: (ARRAY, "must hold", True),
    edit_the_manifest: (MANIFEST, "was edited or damaged: it is not what was written", True),
    make_the_format_newer: (MANIFEST, "found format 2; this version of vissl-clusterfit reads formats up to 1", True),
    truncate_the_manifest: (MANIFEST, "cannot be read as JSON", True),
    remove_the_manifest: (MANIFEST, "manifest.json", True),
    put_a_temporary_file_beside: (NOBODY, "", False),
}
#: What a remedy begins with.
REMEDIES = ("Delete ", "Make the ", "Run ", "Upgrade it: ")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run, and another of the same shapes: the same settings, other images."""
    folder = tmp_path_factory.mktemp("runs")
    return make_run(folder / "one"), make_run(folder / "other", seed=3, normalize=False)


@pytest.fixture
def check(monkeypatch, capsys):
    """The command, in this process: its exit code, and what it prints."""

    def run(folder):
        monkeypatch.setattr(sys, "argv", [str(TOOL), str(folder)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(TOOL), run_name="__main__")
        return end.value.code, capsys.readouterr().out.splitlines()

    return run


@pytest.mark.parametrize("kind", ARTIFACTS)
@pytest.mark.parametrize("corrupt", CORRUPTIONS, ids=lambda corrupt: corrupt.__name__)
def test_each_corruption_is_found_and_named(tmp_path, runs, check, corrupt, kind):
    run, (folder, array, open_artifact) = Path(shutil.copytree(runs[0], tmp_path / "run")), ARTIFACTS[kind]
    named, said, opening_finds_it = CORRUPTIONS[corrupt]
    file = run / folder / array
    open_artifact(file.parent)
    assert check(run / folder)[0] == 0

    corrupt(file, other_rows(tmp_path, runs[1]) if kind == "features" else runs[1] / folder / array)

    code, lines = check(run / folder)
    if named == NOBODY:
        assert (code, lines) == (0, [f"ok     {run / folder}"])
    else:
        path = {ARRAY: file, MANIFEST: file.parent}[named]
        assert code == 1
        assert any(line.startswith(f"wrong  {path}") and said in line for line in lines)
        assert any(remedy in line for line in lines for remedy in REMEDIES)
    if opening_finds_it or (kind == "codebook" and named == ARRAY):
        with pytest.raises(ArtifactError) as found:
            open_artifact(file.parent)
        assert str(found.value).startswith(str(path))
        assert said in str(found.value)
        if corrupt not in (remove_the_manifest, truncate_the_manifest):
            assert any(remedy in str(found.value) for remedy in REMEDIES)
    else:
        open_artifact(file.parent)


def other_rows(tmp_path, run):
    """A shard of the same shape with other features."""
    array = artifacts.read_array(run / "features/train" / Shard(100, 200).rows_file)
    assert array.shape == ROWS[100:200].shape
    np.save(tmp_path / "other.npy", 2 * array)
    return tmp_path / "other.npy"
