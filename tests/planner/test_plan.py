import dataclasses
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import plan_work
import pytest
from tiny_store import save_store

from vissl_clusterfit.clustering.fit import fit_codebook
from vissl_clusterfit.clustering.minibatches import steps, width
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.planner import announce
from vissl_clusterfit.planner.calibration import calibrate, product_bytes, this_machine
from vissl_clusterfit.planner.memory import card_footprint, footprint
from vissl_clusterfit.planner.networks import partial_head_bytes
from vissl_clusterfit.planner.plan import Machine, Rates, in_bytes, in_time, make_plan, warnings
from vissl_clusterfit.planner.workload import Workload
from vissl_clusterfit.search.tile import card_bytes
from vissl_clusterfit.storage import artifacts

WORK = Workload(num_samples=1_000_000, input_dim=512, num_clusters=1000, num_iter=12, start="random")
RATES = Rates(label=1e-9, nearest=3e-9, add=1e-6, read=0.0, prepare=0.0, covariance=1e-4, update=0.0, keep=0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_clusters": 1_000_001}, "NUM_CLUSTERS: found 1000001; allowed: 1 to 1000000"),
        ({"data_limit": 999}, "NUM_CLUSTERS: found 1000; allowed: 1 to 999"),
        ({"num_samples": 0}, "number of samples: found 0; allowed: 1 or more"),
        ({"input_dim": -3}, "dimension of the features: found -3"),
        ({"num_components": 513}, "DIMENSIONALITY_REDUCTION: found 513; allowed: 0 to 512"),
        ({"machines": 2}, "number of machines: found 2; allowed: 1 to 1"),
        ({"backend": "annoy"}, "CLUSTER_BACKEND: found annoy"),
    ],
)
def test_a_workload_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        dataclasses.replace(WORK, **changes)


def test_the_sums_of_an_iteration_are_counted_to_the_byte():
    parts = footprint(dataclasses.replace(WORK, num_clusters=100_000), product_bytes=4).parts
    assert parts["centroids"] == 2 * 100_000 * 512 * 4
    # Of the part that is added up, and of all four in float32: there are few vectors for each cluster.
    assert parts["sums"] == 100_000 * (512 * 8 + 4 * 512 * 4 + 8)
    parts = footprint(dataclasses.replace(WORK, num_clusters=10_000), product_bytes=4).parts
    assert parts["sums"] == 10_000 * (512 * 8 + 8 * 512 * 4 + 8)  # of all eight
    # Of more vectors, two sums of each number are kept.
    parts = footprint(dataclasses.replace(WORK, num_clusters=100_000, num_samples=10**9), product_bytes=4).parts
    assert parts["sums"] == 100_000 * (2 * 512 * 8 + 8 * 512 * 4 + 8)


def test_a_card_has_the_search_the_sums_and_what_is_under_way_and_its_process_the_chunks_that_travel():
    on_card = dataclasses.replace(WORK, num_clusters=100_000, device="cuda", threads=4)
    sums = 100_000 * (512 * 8 + 8)
    assert card_footprint(WORK) == 0
    assert card_footprint(on_card) == card_bytes(100_000, 512, 2) + sums + (4 + 6) * (64 << 20)
    read = 2048 * 512 * (4 + 2 * 4 + 4)  # a piece as it is on disk, as it is read, of unit length, and as a copy
    assert footprint(on_card).parts["chunks"] == 4 * ((64 << 20) + read)


def test_memory_does_not_grow_with_the_features_but_for_lists_of_samples():
    of_more = dataclasses.replace(WORK, num_samples=2_000_000)
    assert footprint(of_more).total == footprint(WORK).total
    limited = dataclasses.replace(of_more, data_limit=1_000_000)
    assert footprint(limited).total == footprint(WORK).total + 3 * 8 * 1_000_000


def test_passes_follow_the_schedule():
    plan = make_plan(WORK, 4)
    assert plan.reads == {"iterations": sum(map(width, steps(12, 1_000_000, 1000, growing=True))), "labels": 1.0}
    assert plan.assignments == plan.reads
    all_vectors = make_plan(dataclasses.replace(WORK, growing=False, num_components=64), 4)
    assert all_vectors.reads == {"projection": 1.0, "largest number": 1.0, "iterations": 12.0, "labels": 1.0}
    spread = make_plan(dataclasses.replace(WORK, growing=False, start="k-means++"), 4)
    assert spread.reads["first centroids"] == 5
    assert spread.assignments["first centroids"] == 5 / 6
    assert make_plan(dataclasses.replace(WORK, growing=False, num_done=9), 4).reads["iterations"] == 3
    by_levels = make_plan(dataclasses.replace(WORK, start="hierarchical", num_iter=4), 4)
    assert by_levels.reads["first centroids"] == 3 / 8
    assert by_levels.reads["iterations"] == 3 / 8
    assert by_levels.assignments["first centroids"] < 0.05


def test_a_tolerance_may_end_it_after_two_passes():
    assert WORK.fewest_iterations == 12
    assert dataclasses.replace(WORK, tolerance=0.01, growing=False).fewest_iterations == 2
    assert dataclasses.replace(WORK, tolerance=0.01, num_iter=60).fewest_iterations == 10 + 16
    assert dataclasses.replace(WORK, tolerance=0.01).fewest_iterations == 12


def test_the_passes_are_those_that_k_means_makes(make_store, blobs, tmp_path, monkeypatch):
    store = make_store(blobs)
    read = []
    for name in ("read", "take"):
        before = getattr(type(store), name)

        def counted(self, *where, before=before):
            rows = before(self, *where)
            read.append(len(rows))
            return rows

        monkeypatch.setattr(type(store), name, counted)
    settings = ClusterFitConfig(num_clusters=16, num_iter=4, growing_sample=False)
    codebook = fit_codebook(store, settings, "cpu", tmp_path / "codebook")
    assert codebook.manifest["num_iter_run"] == 4
    plan = make_plan(Workload.of_settings(settings, 1000, 16, "float32", "cpu"), 4)
    # The first centroids are read once more, by themselves.
    assert sum(read) == 1000 * (plan.reads["first centroids"] + plan.reads["iterations"]) + 16


_OF_A_CODEBOOK = ("codebook", "labels")


def bytes_of_arrays(folder):
    return sum(artifacts.read_array(path).nbytes for path in folder.glob("**/*.npy"))


def test_the_disk_is_what_the_artefacts_take(make_store, blobs, tmp_path):
    store = make_store(blobs)
    settings = ClusterFitConfig(num_clusters=16, num_iter=2, top_clusters=6, also_num_clusters=[4])
    disk = make_plan(Workload.of_settings(settings, 1000, 16, "float32", "cpu"), 4).disk
    for each, place in ((settings, "own"), (settings.also[0], "also")):
        codebook = fit_codebook(store, each, "cpu", tmp_path / place / "codebook")
        label_store(store, codebook, "cpu", tmp_path / place / "labels", top_clusters=each.top_clusters)
    for name, folder in (("features", store.folder), *((name, tmp_path / "own" / name) for name in _OF_A_CODEBOOK)):
        assert disk[name] == bytes_of_arrays(folder), name
    further = sum(bytes_of_arrays(tmp_path / "also" / name) for name in _OF_A_CODEBOOK)
    of_four = dataclasses.replace(settings, num_clusters=4, also_num_clusters=[], top_clusters=4)
    kept = make_plan(Workload.of_settings(of_four, 1000, 16, "float32", "cpu"), 4).disk["iterations kept"]
    assert disk["ALSO_NUM_CLUSTERS"] == further + kept


def test_processes_share_the_work_and_send_nearly_all_sums_twice():
    one, four = (make_plan(dataclasses.replace(WORK, processes=number), 4, RATES) for number in (1, 4))
    assert one.network == 0
    assert four.network == 2 * 3 / 4 * 1000 * (512 * 8 + 8)
    assert four.seconds["iterations"] == pytest.approx(one.seconds["iterations"] / 4)
    assert four.seconds["labels"] == one.seconds["labels"] / 4


def test_seconds_follow_from_rates():
    plan = make_plan(WORK, 4, RATES)
    equivalents = plan.assignments["iterations"]
    assert plan.seconds["iterations"] == pytest.approx(equivalents * 1e6 * (1000 / 4 * 1e-9 + 1e-6))  # on a grid
    many = make_plan(dataclasses.replace(WORK, num_clusters=4096), 4, RATES)
    by_lists = 192 + 4096 / 32
    assert many.seconds["iterations"] == pytest.approx(many.assignments["iterations"] * 1e6 * (by_lists * 1e-9 + 1e-6))
    exact = make_plan(dataclasses.replace(WORK, growing=False), 4, RATES)
    assert exact.seconds["iterations"] == pytest.approx(exact.assignments["iterations"] * 1e6 * (1000 * 1e-9 + 1e-6))
    assert plan.seconds["labels"] == pytest.approx(1e6 * 1000 * 3e-9)
    assert plan.clustering_seconds == pytest.approx(sum(plan.seconds.values()) - plan.seconds["labels"])
    slow_disk = make_plan(WORK, 4, dataclasses.replace(RATES, read=1e-3))
    assert slow_disk.seconds["labels"] == pytest.approx(1e3)  # reading goes on beside the work
    shared = make_plan(dataclasses.replace(WORK, processes=4), 4, dataclasses.replace(RATES, shared_by=4))
    assert shared.seconds["iterations"] == pytest.approx(plan.seconds["iterations"])


def test_what_does_not_fit_is_said_with_the_setting_to_change():
    plan = make_plan(dataclasses.replace(WORK, processes=8), 4)
    assert list(warnings(plan, Machine())) == []
    assert list(warnings(plan, Machine(8 * plan.memory.total, sum(plan.disk.values())))) == []
    [memory] = warnings(plan, Machine(memory=3 * plan.memory.total))
    assert memory.endswith("Set config.DISTRIBUTED.NUM_PROC_PER_NODE to at most 3.")
    features = plan.disk["features"]
    [disk] = warnings(plan, Machine(disk=features))
    assert "config.CLUSTERFIT.FEATURES.DTYPE to float16" in disk
    assert list(warnings(plan, Machine(disk=features), features_are_there=True)) == []


def test_the_number_of_clusters_that_is_advised_fits_and_one_more_does_not():
    plan = make_plan(dataclasses.replace(WORK, num_clusters=500_000), 4)
    available = plan.memory.total // 2
    [text] = warnings(plan, Machine(memory=available))
    advised = int(text.split("NUM_CLUSTERS to at most ")[1].split(",")[0])
    sizes = [footprint(dataclasses.replace(WORK, num_clusters=advised + more)).total for more in (0, 1)]
    assert sizes[0] <= available < sizes[1]


def test_a_partial_head_takes_its_share_of_the_rows_and_what_it_draws():
    fixed, of_image = partial_head_bytes(1_000_000, 2048, 0.1, 2)
    assert fixed == 4 * 2048 * (500_000 + 50_000)
    assert of_image == 16 * 50_000 * 2
    everything, _ = partial_head_bytes(1000, 64, 1.0, 1)
    assert everything == 2 * 4 * 1000 * 64  # rows and a copy


def test_figures_for_people():
    assert [in_bytes(number) for number in (5, 2048, 3 * 2**30, 2**42)] == ["5 bytes", "2 KiB", "3 GiB", "4 TiB"]
    assert [in_time(seconds) for seconds in (0.5, 90, 7200, 864000)] == [
        "0.5 seconds",
        "90 seconds",
        "2.0 hours",
        "10.0 days",
    ]


@pytest.mark.parametrize("backend", ["torch", "faiss"])
def test_a_calibration_is_short_and_leaves_nothing_behind(tmp_path, backend):
    work = dataclasses.replace(WORK, num_components=64, backend=backend)
    rates = calibrate(work, folder=tmp_path / "not" / "there", seconds=0.2)
    assert all(value > 0 for value in dataclasses.asdict(rates).values())
    assert list(tmp_path.iterdir()) == []


def test_this_machine_has_memory_and_disk(tmp_path):
    machine = this_machine(tmp_path)
    assert 2**20 < machine.memory < 2**60
    assert 0 < machine.disk < 2**60
    assert machine.card is None


def test_the_log_says_what_a_clustering_takes_before_it_begins(make_store, blobs, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(announce, "_WORTH_MEASURING", 0)
    store = make_store(blobs)
    with caplog.at_level(logging.INFO):
        announce.announce_clustering(
            store, ClusterFitConfig(num_clusters=5, num_iter=3, output_dir=str(tmp_path)), "cpu"
        )
    said = [record.getMessage() for record in caplog.records]
    [plan] = [
        text for text in said if text.startswith("k-means of 1000 features of dimension 16 into 5 clusters takes")
    ]
    assert " of memory in each of 1 processes, " in plan
    assert "passes over the features, and about " in plan


def test_the_log_warns_of_memory_that_is_not_there(make_store, blobs, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(announce, "this_machine", lambda *_: Machine(memory=1000))
    config = ClusterFitConfig(num_clusters=5, num_iter=2, output_dir=str(tmp_path))
    announce.announce_clustering(make_store(blobs), config, "cpu")
    assert "Memory: 1 process(es) on one machine take" in caplog.text


def run_and_measure(folder: Path, num_rows: int, dim: int, dtype: str = "float32", **settings) -> dict:
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((num_rows, dim), dtype=np.float32)
    rows += 0.3 * rng.standard_normal((300, dim), dtype=np.float32)[rng.integers(0, 300, num_rows)]
    store = save_store(folder / "store", rows, shard_size=4096, dtype=dtype)
    ended = subprocess.run(
        [sys.executable, plan_work.__file__, str(store.folder), str(folder / "run"), json.dumps(settings)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("num_rows", "dim", "settings"),
    [
        pytest.param(10_000, 512, {"NUM_CLUSTERS": 200}, id="chunks"),
        pytest.param(10_000, 512, {"NUM_CLUSTERS": 8000, "START": "random"}, id="centroids"),
        pytest.param(10_000, 512, {"NUM_CLUSTERS": 6000, "METRIC": "cosine"}, id="cosine, k-means++"),
        pytest.param(8000, 1024, {"FEATURES": {"DIMENSIONALITY_REDUCTION": 32}, "NUM_CLUSTERS": 9}, id="projection"),
        pytest.param(8000, 1024, {"CLUSTER_BACKEND": "faiss", "NUM_CLUSTERS": 3000}, id="faiss"),
    ],
)
def test_memory_is_what_a_run_takes(tmp_path, num_rows, dim, settings):
    found = run_and_measure(tmp_path, num_rows, dim, NUM_ITER=2, **settings)
    assert 0.5 < found["plan"]["memory_per_process"] / found["peak"] < 2, found["plan"]["memory"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        ("float32", {"NUM_CLUSTERS": 2000, "NUM_ITER": 20}),
        ("float16", {"NUM_CLUSTERS": 1000, "NUM_ITER": 20, "CLUSTER_BACKEND": "faiss", "METRIC": "cosine"}),
        ("float32", {"NUM_CLUSTERS": 2000, "NUM_ITER": 20, "FEATURES": {"DIMENSIONALITY_REDUCTION": 128}}),
    ],
)
def test_the_time_is_that_of_a_run(tmp_path, dtype, settings):
    found = run_and_measure(tmp_path, 60_000, 256, dtype, GROWING_SAMPLE=False, **settings)
    manifest = artifacts.read_manifest(tmp_path / "run/codebook")
    assert manifest["num_iter_run"] == settings["NUM_ITER"]  # it has not converged before
    # Wide, as other work shares the machine: what is held is the order of magnitude.
    assert 1 / 10 < found["clustering_seconds"] / found["seconds"] < 10, found


def test_the_product_of_a_search_has_two_or_four_bytes():
    assert product_bytes(WORK) in (2, 4)
    assert product_bytes(dataclasses.replace(WORK, backend="faiss")) == 4


def test_the_iterations_after_two_levels_are_said_with_their_memory(tmp_path, monkeypatch, caplog):
    rows = np.random.default_rng(0).standard_normal((500, 16), dtype=np.float32)
    store = save_store(tmp_path / "features", rows)
    settings = ClusterFitConfig(output_dir=str(tmp_path), num_clusters=40, num_coarse_clusters=4)
    monkeypatch.setattr(announce, "this_machine", lambda *_: Machine(memory=1 << 20))
    with caplog.at_level(logging.INFO):
        announce.announce_clustering(store, settings, "cpu")
    assert "4 iterations over all 40 clusters follow both levels, with" in caplog.text
    assert "Set config.CLUSTERFIT.REFINEMENT_ITERATIONS to 0" in caplog.text
    caplog.clear()
    announce.announce_clustering(store, dataclasses.replace(settings, refinement_iterations=0), "cpu")
    assert "REFINEMENT_ITERATIONS" not in caplog.text


def test_a_limit_of_time_says_how_many_iterations_there_is_time_for(tmp_path, caplog):
    work = dataclasses.replace(WORK, growing=False, num_iter=10)
    whole = make_plan(work, 4, RATES)
    each, start = whole.seconds["iterations"] / 10, whole.seconds["first centroids"]
    assert whole.iterations_in_time is None
    for limit, expected in ((1e-3, 1), (start + 2.5 * each, 2), (start + 9.99 * each, 9), (start + 11 * each, 10)):
        limited = make_plan(dataclasses.replace(work, time_limit=limit), 4, RATES)
        assert limited.iterations_in_time == expected
    assert limited.as_json()["iterations_in_time"] == 10
    rows = np.random.default_rng(0).standard_normal((500, 16), dtype=np.float32)
    settings = ClusterFitConfig(output_dir=str(tmp_path), num_clusters=40, num_iter=7, time_limit=3600.0)
    with caplog.at_level(logging.INFO):
        announce.announce_clustering(save_store(tmp_path / "features", rows), settings, "cpu")
    assert "TIME_LIMIT, 60.0 minutes, leaves time for all 7 of 7 iterations" in caplog.text
