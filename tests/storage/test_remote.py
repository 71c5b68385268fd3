"""Artefacts on other file systems have the bytes that they have on this machine's, and are as safe there."""

import dataclasses
import errno
import os
from collections import Counter

import numpy as np
import pytest
import stage_work
import tiny_store
from iopath.common.file_io import g_pathmgr
from object_store import contents, handler_of
from processes import exit_code, running
from remote_run import ALL, SETTINGS, extract, extract_elsewhere, make, wrong
from stage_work import COUNT, SHARD_SIZE, Numbers
from tiny_run import make_run
from tiny_store import save_store

from vissl_clusterfit import import_features, import_labels, make_codebook, make_labels
from vissl_clusterfit.clustering.fit import fit_codebook
from vissl_clusterfit.config.features import EncodingSettings
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.features.extract import extract_features
from vissl_clusterfit.features.sample_list import dataset_inputs
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.report.results import ResultRow, append_results, read_results
from vissl_clusterfit.storage import artifacts

#: k-means runs so many...
NUM_ITER_RUN = 4


def test_all_stages_give_the_bytes_that_they_give_on_this_machine(run, local):
    labels = make(run)
    assert contents(run) == tiny_store.contents(local)
    there = PseudoLabels.open(local / "labels" / "train")
    for name in ("labels", "distances", "margins", "cluster_sizes"):
        np.testing.assert_array_equal(getattr(labels, name), getattr(there, name))
    assert wrong(run) == {f"{run}/{name}": [] for name in ALL}


def test_clustering_on_two_levels(run, tmp_path):
    settings = dataclasses.replace(SETTINGS, num_clusters=20, num_coarse_clusters=4)
    for folder in (run, tmp_path / "local"):
        fit_codebook(extract(folder / "features" / "train"), settings, "cpu", folder / "codebook")
    assert contents(run / "codebook") == tiny_store.contents(tmp_path / "local/codebook")
    assert wrong(run / "codebook") == {f"{run}/codebook": []}


def test_what_is_done_is_not_done_again(run):
    make(run)
    handler_of(run).forget()
    encoded = Counter()
    make(run, encoded)
    assert (handler_of(run).written, encoded) == ([], {})


def test_features_are_read_by_index(run, tmp_path):
    rows = np.random.default_rng(0).standard_normal((250, 6)).astype(np.float32)
    store = save_store(run / "features", rows, dtype="float16")
    np.testing.assert_array_equal(store.read(90, 210), rows.astype(np.float16)[90:210])
    np.testing.assert_array_equal(store.take(np.array([3, 99, 100, 249])), rows.astype(np.float16)[[3, 99, 100, 249]])
    assert store.content_hash == save_store(tmp_path / "features", rows, dtype="float16").content_hash


def test_a_projection_and_a_held_out_split(run, tmp_path):
    settings = {"dimensionality_reduction": 4, "whiten": True, "metric": "cosine", "max_distance": 0.2}
    assert contents(make_run(run, **settings)) == tiny_store.contents(make_run(tmp_path / "local", **settings))
    assert not any(wrong(run).values())


# Stopped and resumed


def test_a_run_that_is_stopped_at_any_file_resumes(run, local, tmp_path):
    handler, expected = handler_of(run), tiny_store.contents(local)
    num_files = 2 + 2 * 6 + 2 + (NUM_ITER_RUN + 1) * 3 + 6
    for number in range(num_files):
        handler.root = tmp_path / f"{number}"
        handler.forget()
        handler.refuses_write = number
        encoded = Counter()
        with pytest.raises(ArtifactError, match=r"cannot be written: RuntimeError: 503 Slow Down\. What is"):
            make(run, encoded)
        handler.refuses_write = -1
        make(run, encoded)
        assert contents(run) == expected
        assert encoded.total() <= COUNT + 2 * SHARD_SIZE  # one is written while the next is computed
        iterations = [path for path in handler.written if "/iteration-" in path and path.endswith("/manifest.json")]
        assert len(iterations) == len(set(iterations)) == NUM_ITER_RUN  # none was done again
    assert len(handler.written) == num_files + 5  # labels begin again: only the last of their six files was refused


@pytest.mark.parametrize("stage", ["features/train", "codebook", "labels/train"])
def test_a_run_that_is_interrupted_resumes(run, local, stage, monkeypatch):
    """In the middle of a file, when nothing of it has been handed over."""

    def interrupted(path, write, **options):
        def half(file):
            file.write(b"half")
            raise KeyboardInterrupt

        return write_file(path, half if f"/{stage}/" in str(path) else write, **options)

    write_file = artifacts.write_file
    monkeypatch.setattr(artifacts, "write_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(run)
    monkeypatch.undo()
    make(run)
    assert contents(run) == tiny_store.contents(local)


def test_the_processes_of_a_run_share_the_work_without_leases(run, tmp_path, local):
    log, root, uri, count = tmp_path / "log", handler_of(run).root, str(run / "features"), 30 * SHARD_SIZE
    (tmp_path / "rendezvous").mkdir()
    options = {"log": log, "pause_s": 0.02}
    alone = Numbers(count, frozenset(range(3, count, 10)))
    with (
        running(extract_elsewhere, root, uri, count, group=(0, 2, tmp_path / "rendezvous/file"), **options) as first,
        running(extract_elsewhere, root, uri, count, group=(1, 2, tmp_path / "rendezvous/file"), **options) as second,
    ):
        assert [exit_code(first), exit_code(second)] == [0, 0]
    encoded = Counter(map(int, log.read_text().split()))
    assert sorted(encoded) == list(range(count))
    assert encoded.total() <= count + 2 * SHARD_SIZE
    settings = EncodingSettings(batch_size=stage_work.BATCH_SIZE, shard_size=SHARD_SIZE, max_unreadable=0.5)
    inputs = {"dataset": dataset_inputs(alone.samples)}
    extract_features(alone, lambda: stage_work.encode, tmp_path / "alone", inputs, settings)
    assert contents(uri) == tiny_store.contents(tmp_path / "alone")


@pytest.mark.parametrize(
    ("method", "work"),
    [
        ("_exists", lambda run: artifacts.write_json(run / "file.json", {}, new=True)),
        ("_mkdirs", lambda run: artifacts.write_json(run / "file.json", {})),
        ("_isfile", artifacts.has_manifest),
        ("_ls", wrong),
    ],
)
def test_a_file_system_that_fails_is_named(run, method, work, monkeypatch):
    def fail(path):
        raise RuntimeError("no route to host")

    monkeypatch.setattr(g_pathmgr._path_handlers[f"{str(run).partition(':')[0]}://"], method, fail)
    with pytest.raises(ArtifactError, match=rf"^{run}.* cannot be \w+.*: RuntimeError: no route to host\. What is"):
        work(run)


def test_results_are_added_to_those_that_are_there(run):
    row = {"benchmark": "knn", "dataset": "d", "split": "test", "metric": "top-1", "protocol": "p", "seed": 0}
    rows = [ResultRow(model=name, value=0.5, **row) for name in ("teacher", "student")]
    append_results(run, rows[:1])
    append_results(run, rows[1:])
    assert read_results(run) == rows
    with pytest.raises(ArtifactError, match="nothing has been evaluated"):
        read_results(run / "elsewhere")


# File systems of this machine that cannot do much


def test_a_file_system_without_maps_links_and_locks(local, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENODEV, "no such thing here")

    monkeypatch.setattr(np.lib.format, "open_memmap", refuse)
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr("fcntl.flock", refuse)
    make(tmp_path / "run")
    monkeypatch.undo()
    assert tiny_store.contents(tmp_path / "run") == tiny_store.contents(local)
    assert not any(wrong(tmp_path / "run").values())


def test_features_from_elsewhere_are_copied_and_named(run, tmp_path):
    rows = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
    names = [f"{number}.jpg" for number in range(30)]
    np.save(tmp_path / "rows.npy", rows)
    store = import_features(tmp_path / "rows.npy", str(run / "features"), names=names)
    np.testing.assert_array_equal(store.read(0, 30), rows)
    codebook = make_codebook(store, str(run / "codebook"), 3)
    labels = make_labels(str(run / "features"), codebook, str(run / "labels"))
    given = import_labels(dict(zip(names, labels.labels.tolist(), strict=True)), str(run / "given"), store)
    assert store.names == labels.names == given.names == names
    assert wrong(run) == {str(run / name): [] for name in ("codebook", "features", "given", "labels")}
