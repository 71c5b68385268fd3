"""The command ``tools/compare_labels.py`` on the labels of small runs."""

import json
import runpy
import shutil
import sys

import numpy as np
import pytest
from repository import ROOT
from tiny_run import UNREADABLE, make_run
from tiny_store import rewrite_array, rewrite_manifest

from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.labels.quality import agreement
from vissl_clusterfit.storage.artifacts import read_manifest

TOOL = ROOT / "tools/compare_labels.py"
TRAIN, TEST = "labels/train", "labels/test"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same data, clustered with two seeds."""
    folder = tmp_path_factory.mktemp("runs")
    return make_run(folder / "first"), make_run(folder / "second", seed=3)


@pytest.fixture
def compare(monkeypatch, capsys):
    """The command, in this process: its exit code, what it prints, and its errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(TOOL), run_name="__main__")
        return end.value.code, *capsys.readouterr()

    return run


@pytest.fixture
def classes(tmp_path):
    def save(array):
        np.save(tmp_path / "true.npy", array)
        return tmp_path / "true.npy"

    return save


def test_two_seeds_and_true_classes(runs, compare, classes):
    true = np.arange(250) % 3
    true[:10] = -1
    first, second = (PseudoLabels.open(run / TRAIN) for run in runs)
    path = classes(true)
    code, out, _ = compare(first.folder, second.folder, "--true", path, "--json")
    assert code == 0
    quality = json.loads(out)
    pairs = [
        (first.folder, second.folder, first.labels, second.labels),
        (first.folder, path, first.labels, true),
        (second.folder, path, second.labels, true),
    ]
    for found, (own, other, labels, others) in zip(quality["agreement"], pairs, strict=True):
        assert found == {"labels": str(own), "with": str(other), **vars(agreement(labels, others))}
    assert quality["agreement"][0]["num_left_out"] == len(UNREADABLE["train"])
    for found, labels, run in zip(quality["labels"], (first, second), runs, strict=True):
        assert (found["num_samples"], found["num_unlabelled"], found["num_clusters"]) == (250, 3, 7)
        assert (found["largest"], found["smallest"]) == (labels.cluster_sizes.max(), labels.cluster_sizes.min())
        assert found["imbalance"] == labels.imbalance[0]
        assert found["objective"] == read_manifest(run / "codebook")["objective"]


def test_one_alone_as_a_table(runs, compare):
    code, out, _ = compare(runs[0] / TRAIN)
    heading, line = out.splitlines()
    assert code == 0
    assert heading.split()[:4] == ["labels", "samples", "unlabelled", "clusters"]
    assert line.split()[:4] == [str(runs[0] / TRAIN), "250", "3", "7"]


def test_a_pair_as_a_table(runs, compare, classes):
    _, out, _ = compare(runs[0] / TRAIN, "--true", classes(PseudoLabels.open(runs[0] / TRAIN).labels))
    assert out.splitlines()[-1].split()[2:] == ["247", "3", "1", "1", "1", "1"]


def test_all_are_undecided_with_enough_tolerance(runs, compare):
    shares = [
        json.loads(compare(runs[0] / TRAIN, "--json", "--tolerance", tolerance)[1])["labels"][0]["undecided_share"]
        for tolerance in ("0", "0.1", "1e9")
    ]
    assert 0 == shares[0] < shares[1] < shares[2] == 1


def test_labels_without_their_codebook_have_no_objective(runs, compare, tmp_path):
    shutil.copytree(runs[0] / TRAIN, tmp_path / TRAIN)
    shutil.copytree(runs[1] / "codebook", tmp_path / "codebook")
    assert json.loads(compare(tmp_path / TRAIN, "--json")[1])["labels"][0]["objective"] is None


def test_a_run_stands_for_the_labels_of_the_split_that_it_was_clustered_on(runs, compare):
    by_run, by_labels = compare(*runs, "--json"), compare(*(run / TRAIN for run in runs), "--json")
    assert by_run == by_labels
    assert by_run[0] == 0


def refused(answer):
    """The one message of a command that compares nothing."""
    code, out, err = answer
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    return line.removeprefix("error: ")


def test_a_folder_with_several_sets_of_labels_or_none_is_refused(runs, compare, tmp_path):
    message = refused(compare(runs[0].parent))
    assert all(str(run / TRAIN) in message for run in runs)
    assert "no pseudo-labels below it" in refused(compare(tmp_path))


def test_labels_of_other_data_are_refused(runs, compare):
    message = refused(compare(runs[0] / TRAIN, runs[0] / TEST))
    assert "are labels of different data: 250 samples with the fingerprint" in message


def test_labels_that_do_not_say_of_what_data_they_are_refused(runs, compare, tmp_path):
    for name in "ab":
        shutil.copytree(runs[0] / TRAIN, tmp_path / name)
        inputs = read_manifest(tmp_path / name)["inputs"]
        rewrite_manifest(tmp_path / name, inputs={**inputs, "features": {}})
    assert "different data" in refused(compare(tmp_path / "a", tmp_path / "b"))


def test_a_folder_without_labels_is_refused(runs, compare):
    assert "must hold a pseudo_labels, found a 'codebook'" in refused(compare(runs[0] / "codebook"))
    assert "nowhere: found no pseudo-labels below it" in refused(compare(runs[0] / "nowhere"))


def test_labels_of_several_codebooks_are_refused(runs, compare, tmp_path):
    shutil.copytree(runs[0] / TRAIN, tmp_path / "two")
    for name in ("labels", "distances", "margins"):
        array = np.load(tmp_path / f"two/{name}.npy")
        rewrite_array(tmp_path / "two", f"{name}.npy", np.stack([array, array], axis=1))
    sizes = np.load(tmp_path / "two/sizes.npy")
    rewrite_array(tmp_path / "two", "sizes.npy", np.stack([sizes, sizes]))
    rewrite_manifest(tmp_path / "two", num_clusters=[7, 7])
    assert "found labels of 2 codebooks; allowed: those of one codebook" in refused(compare(tmp_path / "two"))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.arange(249), "found (249,) of int64; allowed: (250,) integers, one for each sample"),
        (np.zeros(250), "found (250,) of float64"),
        (np.full(250, -5), "other labels: found the label -5"),
        (np.full(250, -1), "found no sample with a label in both"),
        (np.array([{}]), "cannot be read as an array"),
    ],
)
def test_true_classes_that_cannot_be_are_refused(runs, compare, classes, array, message):
    assert message in refused(compare(runs[0] / TRAIN, "--true", classes(array)))


def test_true_classes_that_are_missing_are_refused(runs, compare, tmp_path):
    assert "true.npy is missing" in refused(compare(runs[0] / TRAIN, "--true", tmp_path / "true.npy"))


@pytest.mark.parametrize("tolerance", ["-1", "nan", "inf", "much"])
def test_a_tolerance_that_cannot_be_is_refused(runs, compare, tolerance):
    code, _, err = compare(runs[0] / TRAIN, f"--tolerance={tolerance}")
    assert code == 2
    assert f"argument --tolerance: found '{tolerance}'; allowed: a number, 0 or more" in err
