"""A clustering is killed, again and again, and then its files are byte-identical to those of an undisturbed one."""

import itertools
import logging
import os
import random
import signal

import pytest
import stage_work
from processes import kill_after, outcome
from tiny_store import contents, flip_a_bit, save_store

from vissl_clusterfit.clustering import fit
from vissl_clusterfit.clustering.kmeans import kmeans
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.storage import artifacts

KINDS = list(stage_work.CLUSTERINGS)


@pytest.fixture(scope="module")
def codebooks(tmp_path_factory, grouped_store):
    """What each kind of clustering gives when nobody disturbs it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for kind in KINDS:
        stage_work.cluster(grouped_store, folder / kind, kind)
    return {kind: contents(folder / kind) for kind in KINDS}


def stop_after(monkeypatch, iteration, *args):
    """Clusters, and stops when the state after an iteration has been saved."""

    def stopping_kmeans(*args, on_iteration, **options):
        def then_stop(state, sums):
            on_iteration(state, sums)
            if len(state.objective) == iteration:
                raise KeyboardInterrupt

        return kmeans(*args, on_iteration=then_stop, **options)

    with monkeypatch.context() as patch:
        patch.setattr(fit, "kmeans", stopping_kmeans)
        with pytest.raises(KeyboardInterrupt):
            stage_work.cluster(*args)


def iterations(caplog):
    """The iterations that were done, as the log says."""
    return [int(line.split()[2]) for line in caplog.messages if line.startswith("k-means iteration")]


@pytest.mark.parametrize(
    ("kind", "iteration"),
    [(kind, iteration) for kind in KINDS for iteration in range(1, 7)]
    + [("in parts", iteration) for iteration in range(7, 15)],
)
def test_a_clustering_that_is_stopped_after_an_iteration(
    tmp_path, grouped_store, codebooks, kind, iteration, monkeypatch, caplog
):
    stop_after(monkeypatch, iteration, grouped_store, tmp_path, kind)
    assert not artifacts.has_manifest(tmp_path)
    with caplog.at_level(logging.INFO):
        stage_work.cluster(grouped_store, tmp_path, kind)
    last = stage_work.CLUSTERINGS[kind].get("num_iter", 6)
    of_refinement = [1, 2, 3, 4] if kind == "two levels" else []
    assert iterations(caplog) == [*range(iteration + 1, last + 1), *of_refinement]
    assert contents(tmp_path) == codebooks[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moved", [False, True], ids=["half written", "written"])
def test_a_clustering_that_is_killed_at_any_file(tmp_path, grouped_store, codebooks, kind, moved):
    for number in itertools.count(int(moved), 2 if kind == "l2" else 6):
        folder = tmp_path / f"{number}"
        code = outcome(stage_work.cluster, grouped_store, folder, kind, dies_at=(number, moved))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        stage_work.cluster(grouped_store, folder, kind)
        assert contents(folder) == codebooks[kind]
    assert number >= 7 * (5 if kind == "whitened" else 3)


def test_a_clustering_that_is_killed_at_random_moments(tmp_path, grouped_store):
    undisturbed, folder, moments = tmp_path / "undisturbed", tmp_path / "codebook", random.Random(0)
    options = {"num_iter": 20}
    stage_work.cluster(grouped_store, undisturbed, **options)
    kills = 0
    while kills < 10 and not artifacts.has_manifest(folder):
        delay_s = moments.uniform(0, 0.1)
        kills += kill_after(stage_work.cluster, grouped_store, folder, delay_s=delay_s, pause_s=0.01, **options) != 0
    assert kills >= 2  # it takes 0.2 s
    stage_work.cluster(grouped_store, folder, **options)
    assert contents(folder) == contents(undisturbed)


def test_a_clustering_that_had_converged_is_not_done_again(tmp_path, grouped_rows, monkeypatch, caplog):
    store = save_store(tmp_path / "features", grouped_rows[:200]).folder
    stage_work.cluster(store, tmp_path / "undisturbed", num_iter=100)
    last = artifacts.read_manifest(tmp_path / "undisturbed")["num_iter_run"]
    assert last < 100
    stop_after(monkeypatch, last, store, tmp_path / "codebook", "l2", 100)
    with caplog.at_level(logging.INFO):
        stage_work.cluster(store, tmp_path / "codebook", num_iter=100)
    assert iterations(caplog) == []
    assert contents(tmp_path / "codebook") == contents(tmp_path / "undisturbed")


@pytest.mark.parametrize("name", ["centroids.npy", "counts.npy", "pca_mean.npy", "pca_components.npy", "manifest.json"])
@pytest.mark.parametrize("damage", [flip_a_bit, os.unlink, lambda path: os.truncate(path, 100)])
def test_a_state_that_was_damaged_is_not_resumed_from(
    tmp_path, grouped_store, codebooks, name, damage, monkeypatch, caplog
):
    stop_after(monkeypatch, 3, grouped_store, tmp_path, "whitened")
    damage(tmp_path / "in_progress" / "iteration-000003" / name)
    with caplog.at_level(logging.INFO):
        stage_work.cluster(grouped_store, tmp_path, "whitened")
    assert iterations(caplog) == [3, 4, 5, 6]  # from the state before
    assert "A saved iteration is not used" in caplog.text
    assert contents(tmp_path) == codebooks["whitened"]


@pytest.mark.parametrize("name", ["sums.npy", "sum_counts.npy", "centroids.npy"])
@pytest.mark.parametrize("damage", [flip_a_bit, os.unlink])
@pytest.mark.parametrize("iteration", [5, 9, 12])
def test_sums_of_parts_that_were_damaged_are_not_resumed_from(
    tmp_path, grouped_store, codebooks, name, damage, iteration, monkeypatch, caplog
):
    """Those of iteration 9 are needed after the twelfth; those of the fifth are found again by the thirteenth."""
    stop_after(monkeypatch, 12, grouped_store, tmp_path, "in parts")
    saved = sorted(path.name for path in (tmp_path / "in_progress").iterdir())
    assert saved == [f"iteration-{number:06d}" for number in range(5, 13)]
    damage(tmp_path / "in_progress" / f"iteration-{iteration:06d}" / name)
    with caplog.at_level(logging.INFO):
        stage_work.cluster(grouped_store, tmp_path, "in parts")
    first = {(9, True): 1, (12, True): 12, (12, False): 12}.get((iteration, name != "centroids.npy"), 13)
    assert iterations(caplog) == list(range(first, 15))
    assert contents(tmp_path) == codebooks["in parts"]


def test_a_state_of_another_clustering_is_not_resumed_from(tmp_path, grouped_store, codebooks, monkeypatch, caplog):
    stop_after(monkeypatch, 3, grouped_store, tmp_path, "cosine")
    with caplog.at_level(logging.INFO):
        stage_work.cluster(grouped_store, tmp_path, "l2")
    assert iterations(caplog) == [1, 2, 3, 4, 5, 6]
    assert contents(tmp_path) == codebooks["l2"]


def test_of_two_clusterings_in_one_folder_each_resumes_from_its_own_state(
    tmp_path, grouped_store, codebooks, monkeypatch, caplog
):
    """A state is written over file by file: one that holds files of both is nobody's."""
    stop_after(monkeypatch, 2, grouped_store, tmp_path, "cosine")
    assert outcome(stage_work.cluster, grouped_store, tmp_path, "l2", dies_at=(3, True)) == -signal.SIGKILL
    with caplog.at_level(logging.INFO):
        stage_work.cluster(grouped_store, tmp_path, "cosine")
    assert contents(tmp_path) == codebooks["cosine"]


def test_a_state_of_other_features_is_not_resumed_from(tmp_path, grouped_store, grouped_rows, monkeypatch, caplog):
    """The same data set and teacher, which gave other features, as on another machine."""
    other = save_store(tmp_path / "features", grouped_rows + 1e-6, [0, 77, 500, 2999], shard_size=700)
    assert FeatureStore.open(grouped_store).inputs == other.inputs
    stop_after(monkeypatch, 3, other.folder, tmp_path / "codebook")
    with caplog.at_level(logging.INFO):
        stage_work.cluster(grouped_store, tmp_path / "codebook")
    assert iterations(caplog) == [1, 2, 3, 4, 5, 6]
