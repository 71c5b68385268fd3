"""Every stage is killed, again and again, and then ends with the very bytes that it would have had."""

import contextlib
import itertools
import logging
import os
import random
import signal
from collections import Counter

import numpy as np
import pytest
import stage_work
from processes import context, exit_code, outcome, running
from stage_work import COUNT, MAX_DISTANCE, REFUSED, SHARD_SIZE
from tiny_store import contents, save_codebook, save_store

from vissl_clusterfit.clustering import fit
from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.clustering.kmeans import kmeans
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.storage import artifacts

KINDS = list(stage_work.CLUSTERINGS)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """What an extraction gives that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed") / "features"
    assert outcome(stage_work.extract, folder, COUNT) == 0
    return contents(folder)


def encoded(log):
    """How often each sample was encoded."""
    return Counter(map(int, log.read_text().split()))


def kill_after(work, *args, delay_s, number=signal.SIGKILL, **options):
    """Ends a process some time after it has found work to do; its exit code."""
    begun = context.Event()
    with running(work, *args, begun=begun, **options) as process:
        while not begun.wait(0.01) and process.is_alive():
            pass
        process.join(delay_s)
        if process.is_alive():
            os.kill(process.pid, number)
        return exit_code(process)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_extraction_that_is_killed_at_random_moments(tmp_path, features, num_workers):
    folder, log, moments = tmp_path / "features", tmp_path / "log", random.Random(num_workers)
    options = {"log": log, "num_workers": num_workers}
    kills = 0
    while kills < 10 and not (artifacts.has_manifest(folder) and artifacts.read_manifest(folder).get("complete")):
        delay_s = moments.uniform(0, 0.1)
        kills += kill_after(stage_work.extract, folder, COUNT, delay_s=delay_s, pause_s=0.02, **options) != 0
    assert kills >= 3  # it takes 0.3 s
    assert outcome(stage_work.extract, folder, COUNT, **options) == 0
    assert contents(folder) == features
    again = encoded(log)
    assert sorted(again) == list(range(COUNT))
    assert again.total() <= COUNT + kills * SHARD_SIZE


@pytest.mark.parametrize("moved", [False, True], ids=["half written", "written"])
def test_an_extraction_that_is_killed_at_any_file(tmp_path, features, moved):
    for number in itertools.count():
        folder, log = tmp_path / f"{number}", tmp_path / f"log{number}"
        code = outcome(stage_work.extract, folder, COUNT, dies_at=(number, moved), log=log)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert outcome(stage_work.extract, folder, COUNT, log=log) == 0
        assert contents(folder) == features
        assert encoded(log).total() <= COUNT + SHARD_SIZE
    assert number == 2 + 2 * 6 + 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_extraction_that_is_asked_to_end(tmp_path, features, number):
    options = {"delay_s": 0.1, "number": number, "pause_s": 0.02, "num_workers": 2}
    # Python drops an interrupt that falls into the hooks of a fork: a user would press Ctrl-C again.
    folders = (tmp_path / f"features{attempt}" for attempt in range(3))
    folder = next(folder for folder in folders if kill_after(stage_work.extract, folder, COUNT, **options) != 0)
    assert outcome(stage_work.extract, folder, COUNT) == 0
    assert contents(folder) == features


def test_an_extraction_that_loses_a_process_that_reads_images(tmp_path, features):
    folder = tmp_path / "features"
    assert outcome(stage_work.extract, folder, COUNT, num_workers=2, loses_worker=True, pause_s=0.1) == 1
    assert list((folder / "leases").iterdir()) == []
    assert outcome(stage_work.extract, folder, COUNT) == 0
    assert contents(folder) == features


@pytest.mark.parametrize("start_method", ["fork", "forkserver"])
def test_processes_that_read_images_end_with_the_one_that_they_read_for(tmp_path, start_method):
    """Even if it is killed before they could know it: what adopts them is then their first parent."""
    ours, theirs = context.Pipe(duplex=False)
    options = {"num_workers": 1, "start_method": start_method, "orphan": theirs}
    with running(stage_work.extract, tmp_path / "features", COUNT, **options) as process:
        theirs.close()
        reader = ours.recv()
        process.kill()
        try:
            assert ours.poll(10), "it waits for ever"
            with pytest.raises(EOFError):  # nobody is left who could say anything
                ours.recv()
        except BaseException:
            os.kill(reader, signal.SIGKILL)
            raise


def test_two_extractions_into_one_folder_share_the_work(tmp_path, features):
    folder, log = tmp_path / "features", tmp_path / "log"
    options = {"log": log, "pause_s": 0.01, "num_workers": 1}
    with (
        running(stage_work.extract, folder, COUNT, **options) as first,
        running(stage_work.extract, folder, COUNT, **options) as second,
    ):
        assert [exit_code(first), exit_code(second)] == [0, 0]
    assert contents(folder) == features
    assert encoded(log) == Counter(range(COUNT))


def extract_together(folder, world_size, meeting, **options):
    """Starts all processes of one run; a context that gives them."""
    stack = contextlib.ExitStack()
    processes = [
        stack.enter_context(running(stage_work.extract, folder, COUNT, group=(rank, world_size, meeting), **options))
        for rank in range(world_size)
    ]
    return stack, processes


@pytest.mark.parametrize("then", [1, 3])
def test_an_extraction_goes_on_with_another_number_of_processes(tmp_path, features, then):
    folder, log, begun = tmp_path / "features", tmp_path / "log", context.Event()
    stack, _ = extract_together(folder, 2, tmp_path / "first", log=log, pause_s=0.03, begun=begun)
    with stack:
        assert begun.wait(60)
        while not list(folder.glob("rows-*.json")):
            pass
    done = len(list(folder.glob("rows-*.json")))
    stack, processes = extract_together(folder, then, tmp_path / "second", log=log)
    with stack:
        assert [exit_code(process) for process in processes] == [0] * then
    assert contents(folder) == features
    assert 1 <= done < 6
    assert encoded(log).total() <= COUNT + 2 * SHARD_SIZE


def test_an_extraction_keeps_the_size_of_its_shards(tmp_path, features):
    folder = tmp_path / "features"
    assert outcome(stage_work.extract, folder, COUNT, dies_at=(5, True)) == -signal.SIGKILL
    assert outcome(stage_work.extract, folder, COUNT, shard_size=5) == 0
    assert contents(folder) == features


@pytest.fixture(scope="module")
def rows():
    """(3000, 8) float32: forty groups."""
    rng = np.random.default_rng(5)
    return (3 * rng.standard_normal((40, 8))[rng.integers(0, 40, 3000)] + rng.standard_normal((3000, 8))).astype("f4")


@pytest.fixture(scope="module")
def store(tmp_path_factory, rows):
    return save_store(tmp_path_factory.mktemp("rows") / "features", rows, [0, 77, 500, 2999], shard_size=700).folder


@pytest.fixture(scope="module")
def codebooks(tmp_path_factory, store):
    """What each kind of clustering gives when nobody disturbs it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for kind in KINDS:
        stage_work.cluster(store, folder / kind, kind)
    return {kind: contents(folder / kind) for kind in KINDS}


def stop_after(monkeypatch, iteration, *args):
    """Clusters, and stops when the state after an iteration has been kept."""

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
    tmp_path, store, codebooks, kind, iteration, monkeypatch, caplog
):
    stop_after(monkeypatch, iteration, store, tmp_path, kind)
    assert not artifacts.has_manifest(tmp_path)
    with caplog.at_level(logging.INFO):
        stage_work.cluster(store, tmp_path, kind)
    last = stage_work.CLUSTERINGS[kind].get("num_iter", 6)
    assert iterations(caplog) == list(range(iteration + 1, last + 1))
    assert contents(tmp_path) == codebooks[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moved", [False, True], ids=["half written", "written"])
def test_a_clustering_that_is_killed_at_any_file(tmp_path, store, codebooks, kind, moved):
    for number in itertools.count(int(moved), 2 if kind == "l2" else 6):
        folder = tmp_path / f"{number}"
        code = outcome(stage_work.cluster, store, folder, kind, dies_at=(number, moved))
        if code == 0:
            break
        assert code == -signal.SIGKILL
        stage_work.cluster(store, folder, kind)
        assert contents(folder) == codebooks[kind]
    assert number >= 7 * (5 if kind == "whitened" else 3)


def test_a_clustering_that_is_killed_at_random_moments(tmp_path, store, rows):
    undisturbed, folder, moments = tmp_path / "undisturbed", tmp_path / "codebook", random.Random(0)
    options = {"num_iter": 20}
    stage_work.cluster(store, undisturbed, **options)
    kills = 0
    while kills < 10 and not artifacts.has_manifest(folder):
        delay_s = moments.uniform(0, 0.1)
        kills += kill_after(stage_work.cluster, store, folder, delay_s=delay_s, pause_s=0.01, **options) != 0
    assert kills >= 2  # it takes 0.2 s
    stage_work.cluster(store, folder, **options)
    assert contents(folder) == contents(undisturbed)


def test_a_clustering_that_had_converged_is_not_done_again(tmp_path, rows, monkeypatch, caplog):
    store = save_store(tmp_path / "features", rows[:200]).folder
    stage_work.cluster(store, tmp_path / "undisturbed", num_iter=100)
    last = artifacts.read_manifest(tmp_path / "undisturbed")["num_iter_run"]
    assert last < 100
    stop_after(monkeypatch, last, store, tmp_path / "codebook", "l2", 100)
    with caplog.at_level(logging.INFO):
        stage_work.cluster(store, tmp_path / "codebook", num_iter=100)
    assert iterations(caplog) == []
    assert contents(tmp_path / "codebook") == contents(tmp_path / "undisturbed")


def flip_a_bit(path):
    damaged = bytearray(path.read_bytes())
    damaged[-7] ^= 4
    path.write_bytes(damaged)


@pytest.mark.parametrize("name", ["centroids.npy", "counts.npy", "pca_mean.npy", "pca_components.npy", "manifest.json"])
@pytest.mark.parametrize("damage", [flip_a_bit, os.unlink, lambda path: os.truncate(path, 100)])
def test_a_state_that_was_damaged_is_not_gone_on_from(tmp_path, store, codebooks, name, damage, monkeypatch, caplog):
    stop_after(monkeypatch, 3, store, tmp_path, "whitened")
    damage(tmp_path / "in_progress" / "iteration-000003" / name)
    with caplog.at_level(logging.INFO):
        stage_work.cluster(store, tmp_path, "whitened")
    assert iterations(caplog) == [1, 2, 3, 4, 5, 6]
    assert "A saved iteration is not used" in caplog.text
    assert contents(tmp_path) == codebooks["whitened"]


@pytest.mark.parametrize("name", ["sums.npy", "sum_counts.npy", "centroids.npy"])
@pytest.mark.parametrize("damage", [flip_a_bit, os.unlink])
@pytest.mark.parametrize("iteration", [5, 9, 12])
def test_sums_of_parts_that_were_damaged_are_not_gone_on_from(
    tmp_path, store, codebooks, name, damage, iteration, monkeypatch, caplog
):
    """Those of iteration 9 are needed after the twelfth; those of the fifth are found anew by the thirteenth."""
    stop_after(monkeypatch, 12, store, tmp_path, "in parts")
    kept = sorted(path.name for path in (tmp_path / "in_progress").iterdir())
    assert kept == [f"iteration-{number:06d}" for number in range(5, 13)]
    damage(tmp_path / "in_progress" / f"iteration-{iteration:06d}" / name)
    with caplog.at_level(logging.INFO):
        stage_work.cluster(store, tmp_path, "in parts")
    first = {(9, True): 1, (12, True): 12, (12, False): 12}.get((iteration, name != "centroids.npy"), 13)
    assert iterations(caplog) == list(range(first, 15))
    assert contents(tmp_path) == codebooks["in parts"]


def test_a_state_of_another_clustering_is_not_gone_on_from(tmp_path, store, codebooks, monkeypatch, caplog):
    stop_after(monkeypatch, 3, store, tmp_path, "cosine")
    with caplog.at_level(logging.INFO):
        stage_work.cluster(store, tmp_path, "l2")
    assert iterations(caplog) == [1, 2, 3, 4, 5, 6]
    assert contents(tmp_path) == codebooks["l2"]


def test_of_two_clusterings_in_one_folder_each_goes_on_from_its_own_state(
    tmp_path, store, codebooks, monkeypatch, caplog
):
    """A state is written over file by file: one that holds files of both is nobody's."""
    stop_after(monkeypatch, 2, store, tmp_path, "cosine")
    assert outcome(stage_work.cluster, store, tmp_path, "l2", dies_at=(3, True)) == -signal.SIGKILL
    with caplog.at_level(logging.INFO):
        stage_work.cluster(store, tmp_path, "cosine")
    assert contents(tmp_path) == codebooks["cosine"]


def test_a_state_of_other_features_is_not_gone_on_from(tmp_path, store, rows, monkeypatch, caplog):
    """The same data set and teacher, which gave other features, as on another machine."""
    other = save_store(tmp_path / "features", rows + 1e-6, [0, 77, 500, 2999], shard_size=700)
    assert FeatureStore.open(store).inputs == other.inputs
    stop_after(monkeypatch, 3, other.folder, tmp_path / "codebook")
    with caplog.at_level(logging.INFO):
        stage_work.cluster(store, tmp_path / "codebook")
    assert iterations(caplog) == [1, 2, 3, 4, 5, 6]


@pytest.fixture(scope="module")
def codebook(tmp_path_factory, rows):
    return save_codebook(tmp_path_factory.mktemp("codebook") / "codebook", rows[::100]).folder


@pytest.fixture(scope="module")
def labels(tmp_path_factory, store, codebook):
    """What labelling gives that nobody disturbs, with one and two thirds of the samples too far."""
    folder = tmp_path_factory.mktemp("undisturbed") / "labels"
    assert outcome(stage_work.label, store, codebook, folder, max_distance=MAX_DISTANCE) == 0
    assert 0.1 < artifacts.read_manifest(folder)["drift"] < 0.9
    return contents(folder)


@pytest.mark.parametrize("moved", [False, True], ids=["half written", "written"])
def test_a_labelling_that_is_killed_at_any_file(tmp_path, store, codebook, labels, moved):
    options = {"max_distance": MAX_DISTANCE}
    for number in itertools.count():
        folder = tmp_path / f"{number}"
        code = outcome(stage_work.label, store, codebook, folder, dies_at=(number, moved), **options)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert outcome(stage_work.label, store, codebook, folder, **options) == 0
        assert contents(folder) == labels
    assert number == 6 + 3  # marks; sizes, samples and the manifest


def test_a_labelling_that_is_killed_at_random_moments(tmp_path, store, codebook, labels):
    folder, moments, kills = tmp_path / "labels", random.Random(0), 0
    options = {"max_distance": MAX_DISTANCE, "pause_s": 0.02}
    while kills < 10 and not artifacts.has_manifest(folder):
        delay_s = moments.uniform(0, 0.1)
        kills += kill_after(stage_work.label, store, codebook, folder, delay_s=delay_s, **options) != 0
    assert kills >= 2
    assert outcome(stage_work.label, store, codebook, folder, max_distance=MAX_DISTANCE) == 0
    assert contents(folder) == labels


def test_a_bounded_labelling_that_is_killed(tmp_path, store, codebook):
    """While prices are sought, after the marks, and before the manifest."""
    assert outcome(stage_work.label, store, codebook, tmp_path / "whole", max_cluster_size=1.0) == 0
    expected, codes = contents(tmp_path / "whole"), []
    for number in (0, 3, 20, 49, 52, 55):
        folder = tmp_path / f"{number}"
        codes.append(outcome(stage_work.label, store, codebook, folder, max_cluster_size=1.0, dies_at=(number, True)))
        assert outcome(stage_work.label, store, codebook, folder, max_cluster_size=1.0) == 0
        assert contents(folder) == expected
    assert codes == [-signal.SIGKILL] * 6


def test_a_labelling_goes_on_at_its_last_mark(tmp_path, store, codebook, labels, caplog):
    assert outcome(stage_work.label, store, codebook, tmp_path, max_distance=MAX_DISTANCE, dies_at=(3, True)) < 0
    with caplog.at_level(logging.INFO):
        label_store(FeatureStore.open(store), Codebook.open(codebook), "cpu", tmp_path, max_distance=MAX_DISTANCE)
    assert "Labelling resumes after 2048 of 3000 samples." in caplog.text
    assert contents(tmp_path) == labels


def test_a_labelling_does_not_go_on_from_another(tmp_path, store, codebook, labels, caplog):
    assert outcome(stage_work.label, store, codebook, tmp_path, dies_at=(3, True)) == -signal.SIGKILL
    with caplog.at_level(logging.INFO):
        label_store(FeatureStore.open(store), Codebook.open(codebook), "cpu", tmp_path, max_distance=MAX_DISTANCE)
    assert "goes on" not in caplog.text
    assert contents(tmp_path) == labels


@pytest.mark.parametrize("number", range(4))
def test_labels_that_are_written_over_are_no_artefact_meanwhile(tmp_path, store, codebook, labels, number):
    folder = tmp_path / "labels"
    assert outcome(stage_work.label, store, codebook, folder) == 0
    options = {"max_distance": MAX_DISTANCE}
    assert outcome(stage_work.label, store, codebook, folder, dies_at=(2 * number, False), **options) < 0
    with pytest.raises(ArtifactError, match=r"manifest\.json is missing"):
        PseudoLabels.open(folder)
    assert outcome(stage_work.label, store, codebook, folder, **options) == 0
    assert contents(folder) == labels


def test_of_two_that_label_into_one_folder_the_first_stops(tmp_path, store, codebook, labels):
    folder, said, begun, may_go_on = tmp_path / "labels", tmp_path / "said", context.Event(), context.Event()
    options = {"max_distance": MAX_DISTANCE}
    first_work = (stage_work.told, stage_work.label, said, store, codebook, folder)
    with running(*first_work, begun=begun, may_go_on=may_go_on, **options) as first:
        assert begun.wait(60)
        assert outcome(stage_work.label, store, codebook, folder, **options) == 0
        may_go_on.set()
        assert exit_code(first) == REFUSED
    assert said.read_text() == f"{folder} is written by another run now; this one stops."
    assert contents(folder) == labels


def test_two_that_label_into_one_folder_and_are_killed_harm_nothing(tmp_path, store, codebook, labels):
    """The first one is overtaken by one that is killed before it has written as much, and is then killed, too."""
    folder, said, begun, may_go_on = tmp_path / "labels", tmp_path / "said", context.Event(), context.Event()
    options = {"max_distance": MAX_DISTANCE}
    first_work = (stage_work.told, stage_work.label, said, store, codebook, folder)
    with running(*first_work, begun=begun, may_go_on=may_go_on, **options) as first:
        assert begun.wait(60)
        assert outcome(stage_work.label, store, codebook, folder, dies_at=(0, False), **options) < 0
        may_go_on.set()
        assert exit_code(first) == REFUSED
    assert outcome(stage_work.label, store, codebook, folder, **options) == 0
    assert contents(folder) == labels
