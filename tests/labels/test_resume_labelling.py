"""A labelling is killed, again and again, and then its files are byte-identical to those of an undisturbed one."""

import itertools
import logging
import random
import signal

import pytest
import stage_work
from processes import context, exit_code, kill_after, outcome, running
from stage_work import MAX_DISTANCE, REFUSED
from tiny_store import contents, save_codebook

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.storage import artifacts


@pytest.fixture(scope="module")
def codebook(tmp_path_factory, grouped_rows):
    return save_codebook(tmp_path_factory.mktemp("codebook") / "codebook", grouped_rows[::100]).folder


@pytest.fixture(scope="module")
def labels(tmp_path_factory, grouped_store, codebook):
    """What labelling gives that nobody disturbs, with one and two thirds of the samples too far."""
    folder = tmp_path_factory.mktemp("undisturbed") / "labels"
    assert outcome(stage_work.label, grouped_store, codebook, folder, max_distance=MAX_DISTANCE) == 0
    assert 0.1 < artifacts.read_manifest(folder)["drift"] < 0.9
    return contents(folder)


@pytest.mark.parametrize("moved", [False, True], ids=["half written", "written"])
def test_a_labelling_that_is_killed_at_any_file(tmp_path, grouped_store, codebook, labels, moved):
    options = {"max_distance": MAX_DISTANCE}
    for number in itertools.count():
        folder = tmp_path / f"{number}"
        code = outcome(stage_work.label, grouped_store, codebook, folder, dies_at=(number, moved), **options)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert outcome(stage_work.label, grouped_store, codebook, folder, **options) == 0
        assert contents(folder) == labels
    assert number == 6 + 3  # marks; sizes, samples and the manifest


def test_a_labelling_that_is_killed_at_random_moments(tmp_path, grouped_store, codebook, labels):
    folder, moments, kills = tmp_path / "labels", random.Random(0), 0
    options = {"max_distance": MAX_DISTANCE, "pause_s": 0.02}
    while kills < 10 and not artifacts.has_manifest(folder):
        delay_s = moments.uniform(0, 0.1)
        kills += kill_after(stage_work.label, grouped_store, codebook, folder, delay_s=delay_s, **options) != 0
    assert kills >= 2
    assert outcome(stage_work.label, grouped_store, codebook, folder, max_distance=MAX_DISTANCE) == 0
    assert contents(folder) == labels


def test_a_bounded_labelling_that_is_killed(tmp_path, grouped_store, codebook):
    """While prices are sought, after the marks, and before the manifest."""
    assert outcome(stage_work.label, grouped_store, codebook, tmp_path / "whole", max_cluster_size=1.0) == 0
    expected, codes = contents(tmp_path / "whole"), []
    for number in (0, 3, 20, 49, 52, 55):
        folder = tmp_path / f"{number}"
        codes.append(
            outcome(stage_work.label, grouped_store, codebook, folder, max_cluster_size=1.0, dies_at=(number, True))
        )
        assert outcome(stage_work.label, grouped_store, codebook, folder, max_cluster_size=1.0) == 0
        assert contents(folder) == expected
    assert codes == [-signal.SIGKILL] * 6


def test_a_labelling_resumes_at_its_last_mark(tmp_path, grouped_store, codebook, labels, caplog):
    assert (
        outcome(stage_work.label, grouped_store, codebook, tmp_path, max_distance=MAX_DISTANCE, dies_at=(3, True)) < 0
    )
    with caplog.at_level(logging.INFO):
        label_store(
            FeatureStore.open(grouped_store), Codebook.open(codebook), "cpu", tmp_path, max_distance=MAX_DISTANCE
        )
    assert "Labelling resumes after 2048 of 3000 samples." in caplog.text
    assert contents(tmp_path) == labels


def test_a_labelling_does_not_resume_from_another(tmp_path, grouped_store, codebook, labels, caplog):
    assert outcome(stage_work.label, grouped_store, codebook, tmp_path, dies_at=(3, True)) == -signal.SIGKILL
    with caplog.at_level(logging.INFO):
        label_store(
            FeatureStore.open(grouped_store), Codebook.open(codebook), "cpu", tmp_path, max_distance=MAX_DISTANCE
        )
    assert "Labelling resumes" not in caplog.text
    assert contents(tmp_path) == labels


@pytest.mark.parametrize("number", range(4))
def test_labels_that_are_written_over_are_no_artefact_meanwhile(tmp_path, grouped_store, codebook, labels, number):
    folder = tmp_path / "labels"
    assert outcome(stage_work.label, grouped_store, codebook, folder) == 0
    options = {"max_distance": MAX_DISTANCE}
    assert outcome(stage_work.label, grouped_store, codebook, folder, dies_at=(2 * number, False), **options) < 0
    with pytest.raises(ArtifactError, match=r"manifest\.json is missing"):
        PseudoLabels.open(folder)
    assert outcome(stage_work.label, grouped_store, codebook, folder, **options) == 0
    assert contents(folder) == labels


def overtake(tmp_path, store, codebook, **second):
    """Lets a labelling begin, and another one write into its folder: the folder, and how the second ended."""
    folder, begun, may_continue = tmp_path / "labels", context.Event(), context.Event()
    options = {"max_distance": MAX_DISTANCE}
    first_work = (stage_work.told, stage_work.label, tmp_path / "said", store, codebook, folder)
    with running(*first_work, begun=begun, may_continue=may_continue, **options) as first:
        assert begun.wait(60)
        code = outcome(stage_work.label, store, codebook, folder, **options, **second)
        may_continue.set()
        assert exit_code(first) == REFUSED
    return folder, code


def test_of_two_that_label_into_one_folder_the_first_stops(tmp_path, grouped_store, codebook, labels):
    folder, code = overtake(tmp_path, grouped_store, codebook)
    assert code == 0
    assert (tmp_path / "said").read_text() == f"{folder} is written by another run now; this one stops."
    assert contents(folder) == labels


def test_two_that_label_into_one_folder_and_are_killed_harm_nothing(tmp_path, grouped_store, codebook, labels):
    """The first one is overtaken by one that is killed before it has written as much, and is then killed, too."""
    folder, code = overtake(tmp_path, grouped_store, codebook, dies_at=(0, False))
    assert code < 0
    assert outcome(stage_work.label, grouped_store, codebook, folder, max_distance=MAX_DISTANCE) == 0
    assert contents(folder) == labels
