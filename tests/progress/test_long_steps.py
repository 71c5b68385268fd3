"""Labelling and the benchmarks on frozen features say how far they are, to the end, and what comes next."""

import numpy as np
import pytest
from tiny_run import make_run

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.progress.state import VARIABLE, look
from vissl_clusterfit.progress.step import Progress, followed_by
from vissl_clusterfit.transfer.knn import KnnSettings, knn_predict
from vissl_clusterfit.transfer.linear import LinearProbeSettings, linear_probe
from vissl_clusterfit.transfer.low_shot_probe import LowShotProbeSettings, low_shot_probe
from vissl_clusterfit.transfer.retrieval import category_retrieval
from vissl_clusterfit.transfer.svm import by_all_processes

ROWS = np.random.default_rng(0).standard_normal((60, 5))
LABELS = np.arange(60) % 3
SPLITS = (ROWS, LABELS, ROWS[:30], LABELS[:30])


@pytest.fixture
def told(tmp_path, monkeypatch):
    """The last moment that was told of."""
    place = tmp_path / "progress.json"
    monkeypatch.setenv(VARIABLE, str(place))
    return lambda: look(place)


@pytest.mark.parametrize(
    ("work", "step", "total", "unit"),
    [
        (lambda: knn_predict(*SPLITS[:1], ROWS, LABELS, KnnSettings(3)), "Nearest neighbours", 60, "queries"),
        (lambda: category_retrieval(ROWS[:40], LABELS[:40]), "Retrieval", 40, "queries"),
        (lambda: linear_probe(*SPLITS, LinearProbeSettings(c_grid=(0.1, 1.0))), "Linear probe", 3, "fits"),
        (
            lambda: low_shot_probe(*SPLITS, 2, LowShotProbeSettings(draws=4, c_grid=(1.0,))),
            "Low-shot probe, k = 2",
            4,
            "draws",
        ),
        (lambda: by_all_processes([int] * 7, "classes"), "SVM", 7, "classes"),
    ],
    ids=["knn", "retrieval", "linear", "low-shot", "svm"],
)
def test_a_benchmark_is_shown_to_its_end(told, work, step, total, unit):
    with followed_by("the next one"):
        work()
    state = told()
    assert (state.step, state.done, state.total, state.unit) == (step, total, total, unit)
    assert state.then == "the next one"
    assert state.amount.endswith(", then the next one")


@pytest.mark.parametrize("max_cluster_size", [0.0, 1.0])
def test_labelling_is_shown_to_its_end(told, tmp_path, max_cluster_size):
    run = make_run(tmp_path / "run")
    store, codebook = FeatureStore.open(run / "features/train"), Codebook.open(run / "codebook")
    label_store(store, codebook, "cpu", tmp_path / "labels", max_cluster_size=max_cluster_size)
    state = told()
    assert (state.step, state.done, state.total) == ("Labelling", store.num_samples, store.num_samples)


def test_the_innermost_block_says_what_comes_next(told):
    with followed_by("training"):
        with followed_by("labelling"), Progress("Clustering", 1, "iterations") as progress:
            progress.complete()
        assert told().then == "labelling"
        with Progress("Labelling", 1, "samples") as progress:
            progress.complete()
        assert told().then == "training"
    with Progress("Training", 1, "images") as progress:
        progress.complete()
    assert told().amount.startswith("1 of 1 images")
    assert "then" not in told().amount
