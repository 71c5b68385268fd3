"""Jobs that really run: through a SLURM of one machine, and through submitit's local executor."""

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from benchmark_data import write_classes
from fake_slurm import ENDED, LIMIT_S, FakeSlurm
from suite import benchmarks, linear_on, transfer_on
from tiny_store import contents

from vissl_clusterfit.report.results import read_results
from vissl_clusterfit.storage.leases import Lease

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    slurm = FakeSlurm(tmp_path_factory.mktemp("slurm"))
    yield slurm
    slurm.stop()


@pytest.fixture
def submit(command, student_overrides, tmp_path):
    """Submits a run into ``tmp_path / "run"``; the numbers of its jobs."""

    def run(*overrides: str) -> list[str]:
        result = command(
            *student_overrides,
            "config.SLURM.USE_SLURM=true",
            f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
            f"config.SLURM.LOG_FOLDER={tmp_path / 'logs'}",
            *overrides,
            cwd=tmp_path,
        )
        assert result.returncode == 0, result.stderr
        return re.findall(r"^  job (\d+):", result.stdout, flags=re.MULTILINE)

    return run


def log(tmp_path: Path, job: str, kind: str = "out") -> str:
    """What a job has said so far."""
    file = tmp_path / "logs" / f"{job}_0_log.{kind}"
    return file.read_text("utf-8", "replace") if file.exists() else ""


def test_a_chain_runs_in_order_and_a_preempted_training_resumes(submit, cluster, student_run, tmp_path):
    """Extraction on two nodes (of this machine), which meet at the port of the job.

    All processes of the preempted job are told, ranks and data workers, too; then everything that is left is killed.
    """
    jobs = submit(
        "config.CLUSTERFIT.SLURM.STAGES=[extract,train]",
        "config.CLUSTERFIT.SLURM.EXTRACT.NUM_NODES=2",
        "config.OPTIMIZER.num_epochs=6",
        "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1",
        "config.DATA.NUM_DATALOADER_WORKERS=1",
    )
    run = tmp_path / "run"
    cluster.wait(lambda: (run / "model_phase2.torch").exists() or cluster.state(jobs[1]) in ENDED)
    assert cluster.state(jobs[0]) == "COMPLETED"
    cluster.warn(jobs[1])
    assert cluster.wait_for_end(jobs[1]) == ["COMPLETED"], log(tmp_path, jobs[1], "err")[-3000:]
    assert [cluster.starts(job) for job in jobs] == [1, 2]
    assert [re.findall(rf"^(\w+): job {job} on", log(tmp_path, job), flags=re.M) for job in jobs] == [
        ["extract"],
        ["train", "train"],
    ]
    assert contents(run / "clusterfit") == contents(student_run / "clusterfit")
    assert log(tmp_path, jobs[1]).count("Starting phase 2 ") == 1
    assert (run / "model_final_checkpoint_phase5.torch").is_file()


def test_a_stage_that_fails_keeps_the_later_ones_from_running(submit, cluster, tmp_path):
    """A user's mistake that only the job can find: one message in its log, no traceback."""
    jobs = submit("config.CLUSTERFIT.SLURM.STAGES=[extract,train]", "config.DATA.TRAIN.DATA_PATHS=[/no/such/images]")
    assert cluster.wait_for_end(*jobs) == ["FAILED", "CANCELLED"]
    errors = log(tmp_path, jobs[0], "err")
    assert "error: config.DATA.TRAIN: the data set cannot be opened" in errors
    assert "/no/such/images" in errors
    assert "Traceback" not in errors
    assert cluster.starts(jobs[1]) == 0


def test_a_job_that_timed_out_resumes_from_disk_and_not_too_often(submit, cluster, student_run, tmp_path):
    jobs = submit(
        "config.CLUSTERFIT.SLURM.STAGES=[extract,cluster]",
        "config.CLUSTERFIT.SLURM.EXTRACT.TIME_HOURS=0",
        "config.CLUSTERFIT.SLURM.EXTRACT.TIME_MINUTES=2",  # its last two minutes: asked to end, it has timed out
        "config.SLURM.MAX_TIMEOUTS=1",
    )
    rows = tmp_path / "run/clusterfit/features/train"
    cluster.wait(lambda: list(rows.glob("rows-*.npy")))
    cluster.warn(jobs[0])
    cluster.wait(lambda: log(tmp_path, jobs[0]).count("extract: job") == 2)
    made = {file: file.stat().st_mtime_ns for file in rows.glob("rows-*.npy")}
    cluster.warn(jobs[0])
    assert cluster.wait_for_end(*jobs) == ["FAILED", "CANCELLED"]
    assert "timed-out too many times" in log(tmp_path, jobs[0], "err")
    assert made.items() <= {file: file.stat().st_mtime_ns for file in rows.glob("rows-*.npy")}.items()
    there = student_run / "clusterfit/features/train"
    assert all(file.read_bytes() == (there / file.name).read_bytes() for file in made)


def children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == pid and state != "Z":
            found.append(int(stat.parent.name))
    return found


def is_alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, job: str, tmp_path: Path) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, log(tmp_path, job, "err")
        time.sleep(0.1)


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_on_this_machine_with_data_workers_that_import_anew(submit, student_run, tmp_path, start_method):
    """They unpickle the paired source, so there, too, VISSL has to be repaired first."""
    (job,) = submit(
        "config.SLURM.CLUSTER=local",
        f"config.CLUSTERFIT.OUTPUT_DIR={student_run / 'clusterfit'}",
        f"config.MULTI_PROCESSING_METHOD={start_method}",
        "config.DATA.NUM_DATALOADER_WORKERS=1",
    )
    wait_until(lambda: not is_alive(job), job, tmp_path)
    assert (tmp_path / "run/model_final_checkpoint_phase0.torch").is_file(), log(tmp_path, job, "err")


def test_on_this_machine_a_run_on_two_processes_resumes_after_preemption(submit, student_run, tmp_path):
    """Preempted in the clustering, which waits for this test."""
    run = tmp_path / "run"
    lease = Lease(run / "clusterfit/codebook.lease")
    assert lease.acquire()
    (job,) = submit(
        "config.SLURM.CLUSTER=local",
        "config.DISTRIBUTED.NUM_PROC_PER_NODE=2",
        "config.DATA.NUM_DATALOADER_WORKERS=1",
    )
    wait_until(lambda: "Clustering: process" in log(tmp_path, job), job, tmp_path)
    for task in children_of(int(job)):
        os.kill(task, signal.SIGUSR2)
    lease.release()
    wait_until(lambda: not is_alive(job), job, tmp_path)
    assert log(tmp_path, job).count("train: job ") == 2
    assert contents(run / "clusterfit") == contents(student_run / "clusterfit"), log(tmp_path, job, "err")
    assert (run / "model_final_checkpoint_phase0.torch").is_file()


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colours")
    return write_classes(folder / "train", 24, 3, seed=1), write_classes(folder / "test", 12, 3, seed=2)


def test_benchmarks_are_jobs_after_the_training_and_a_preempted_one_resumes(
    submit, cluster, student_run, colours, tmp_path
):
    """Preempted in the benchmark of the second checkpoint. One that fails stops no other."""
    train, wrong, linear = submit(
        f"config.CLUSTERFIT.OUTPUT_DIR={student_run / 'clusterfit'}",
        benchmarks(transfer_on(tmp_path / "nowhere", colours[1], NAME="wrong"), linear_on(*colours, NAME="linear")),
        "config.CLUSTERFIT.BENCHMARKS.CHECKPOINTS=every",
        "config.OPTIMIZER.num_epochs=2",
    )
    assert [cluster.options(job).get("dependency") for job in (train, wrong, linear)] == [
        None,
        *[f"afterok:{train}"] * 2,
    ]
    first, second = (f"benchmarks/linear-*/epoch_{epoch}" for epoch in (1, 2))
    run = tmp_path / "run"
    cluster.wait(lambda: list(run.glob(f"{second}/model_phase0.torch")) or cluster.state(linear) in ENDED)
    cluster.warn(linear)
    assert cluster.wait_for_end(wrong, linear) == ["FAILED", "COMPLETED"], log(tmp_path, linear, "err")[-3000:]
    assert cluster.starts(linear) == 2
    said = log(tmp_path, linear)
    assert said.count("linear, epoch 1: job ") == 1
    assert said.count("linear, epoch 1: was finished before.") == 1
    assert said.count("linear, epoch 2: job ") == 2
    assert len(list(run.glob(f"{first}/metrics.json"))) == 1
    assert [(row.model, row.benchmark) for row in read_results(run)] == [
        (f"run, epoch {epoch}", "linear, layer res5") for epoch in (1, 2)
    ]
    assert log(tmp_path, wrong, "err").strip().endswith("FAILED: wrong, epoch 1; wrong, epoch 2.")


def test_benchmarks_on_this_machine_are_in_the_job_of_the_training(submit, student_run, colours, tmp_path):
    """The training is done; what fails is named last."""
    run = tmp_path / "run"
    shutil.copytree(student_run, run)
    suite = benchmarks(transfer_on(tmp_path / "nowhere", colours[1], NAME="wrong"), transfer_on(*colours))
    (job,) = submit("config.SLURM.CLUSTER=local", suite)
    wait_until(lambda: not is_alive(job), job, tmp_path)
    errors = log(tmp_path, job, "err")
    assert "nowhere" in errors
    assert errors.strip().endswith("FAILED: wrong, epoch 1.")
    assert [row.benchmark for row in read_results(run)] == ["linear", "knn"]
