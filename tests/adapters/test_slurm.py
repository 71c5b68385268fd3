"""Jobs that really run: through a SLURM of one machine, and through submitit's local executor."""

import os
import re
import signal
import time
from pathlib import Path

import pytest
from command import CommandServer
from fake_slurm import FakeSlurm

pytestmark = pytest.mark.slow


def contents(folder: Path) -> dict[Path, bytes]:
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    slurm = FakeSlurm(tmp_path_factory.mktemp("slurm"))
    yield slurm
    slurm.stop()


@pytest.fixture(scope="module")
def command(cluster):
    """The command where SLURM is on the PATH; its environment is that of its first run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{cluster.bin}:{os.environ['PATH']}")
        server = CommandServer()
        server.run("config=no_such_config", cwd=cluster.folder)
    yield server.run
    server.stop()


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
    return (tmp_path / "logs" / f"{job}_0_log.{kind}").read_text("utf-8", "replace")


def test_a_chain_runs_in_order_and_makes_what_one_process_makes(submit, cluster, student_run, tmp_path):
    """Extraction on two nodes (of this machine), which meet at the port of the job; the rest on one process."""
    jobs = submit(
        "config.CLUSTERFIT.SLURM.STAGES=[extract,label,train]",
        "config.CLUSTERFIT.SLURM.EXTRACT.NUM_NODES=2",
    )
    assert cluster.wait_for_end(*jobs) == ["COMPLETED"] * 3, [log(tmp_path, job, "err")[-2000:] for job in jobs]
    assert contents(tmp_path / "run/clusterfit") == contents(student_run / "clusterfit")
    assert (tmp_path / "run/model_final_checkpoint_phase0.torch").is_file()
    made = [tmp_path / "run/clusterfit/features/train", tmp_path / "run/clusterfit/labels/train"]
    ends = [(folder / "manifest.json").stat().st_mtime for folder in made]
    begins = [min(f.stat().st_mtime for f in (tmp_path / "logs").glob(f"{job}_0_log.out")) for job in jobs]
    assert ends == sorted(ends)
    assert len(begins) == 3


def test_a_stage_that_fails_keeps_the_later_ones_from_running(submit, cluster, tmp_path):
    """A user's mistake that only the job can find: one message in its log, no traceback."""
    jobs = submit(
        "config.CLUSTERFIT.SLURM.STAGES=[extract,train]",
        "config.CLUSTERFIT.TEACHER.WEIGHTS=no_such_teacher.torch",
    )
    assert cluster.wait_for_end(*jobs) == ["FAILED", "CANCELLED"]
    errors = log(tmp_path, jobs[0], "err")
    assert "error: " in errors
    assert "no_such_teacher.torch" in errors
    assert "Traceback" not in errors
    assert cluster.starts(jobs[1]) == 0


def test_preempted_in_every_stage_a_job_goes_on_and_makes_the_same(submit, cluster, student_run, tmp_path):
    """All processes of the job are told, ranks and data workers, too; then everything that is left is killed."""
    (job,) = submit(
        "config.CLUSTERFIT.FEATURES.SHARD_SIZE=1",
        "config.CLUSTERFIT.NUM_ITER=5",
        "config.OPTIMIZER.num_epochs=40",
        "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1",
        "config.DATA.NUM_DATALOADER_WORKERS=1",
    )
    run = tmp_path / "run"
    features = run / "clusterfit/features/train"
    cluster.wait(lambda: len(list(features.glob("*/*.json"))) + len(list(features.glob("rows-*"))) >= 2)
    cluster.warn(job)
    cluster.wait(lambda: cluster.starts(job) == 2)
    made = {file: file.stat().st_mtime_ns for file in features.glob("rows-*.npy")}
    cluster.wait(lambda: (run / "model_phase2.torch").exists() or cluster.state(job) != "RUNNING")
    cluster.warn(job)
    assert cluster.wait_for_end(job) == ["COMPLETED"], log(tmp_path, job, "err")[-3000:]
    assert cluster.starts(job) == 3
    assert made
    assert made.items() <= {file: file.stat().st_mtime_ns for file in features.glob("rows-*.npy")}.items()
    labels = "clusterfit/labels/train/labels.npy"
    assert (run / labels).read_bytes() == (student_run / labels).read_bytes()
    assert "Starting phase 0 " in log(tmp_path, job)
    assert log(tmp_path, job).count("Starting phase 2 ") == 1


def test_a_job_that_times_out_too_often_ends_and_nothing_that_depends_on_it_runs(submit, cluster, tmp_path):
    jobs = submit(
        "config.CLUSTERFIT.SLURM.STAGES=[extract,cluster]",
        "config.CLUSTERFIT.SLURM.EXTRACT.TIME_HOURS=0",
        "config.CLUSTERFIT.SLURM.EXTRACT.TIME_MINUTES=5",
        "config.SLURM.MAX_TIMEOUTS=0",
        "config.CLUSTERFIT.FEATURES.SHARD_SIZE=1",
    )
    cluster.wait(
        lambda: (tmp_path / "logs" / f"{jobs[0]}_0_log.out").exists() and "extract: " in log(tmp_path, jobs[0])
    )
    cluster.warn(jobs[0])
    assert cluster.wait_for_end(*jobs) == ["FAILED", "CANCELLED"]
    assert "timed-out too many times" in log(tmp_path, jobs[0]) + log(tmp_path, jobs[0], "err")


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


def wait_for_local(tmp_path: Path, job: str, limit_s: float = 120) -> None:
    end = time.monotonic() + limit_s
    while Path(f"/proc/{job}/stat").exists() and "Z" not in Path(f"/proc/{job}/stat").read_text().rpartition(")")[2]:
        assert time.monotonic() < end, log(tmp_path, job, "err")
        time.sleep(0.1)


@pytest.mark.parametrize(
    "num_processes, start_method", [(2, "fork"), (1, "forkserver"), (1, "spawn")], ids=lambda value: str(value)
)
def test_on_this_machine_with_every_kind_of_data_workers(submit, student_run, tmp_path, num_processes, start_method):
    (job,) = submit(
        "config.SLURM.CLUSTER=local",
        f"config.DISTRIBUTED.NUM_PROC_PER_NODE={num_processes}",
        f"config.MULTI_PROCESSING_METHOD={start_method}",
        "config.DATA.NUM_DATALOADER_WORKERS=1",
    )
    wait_for_local(tmp_path, job)
    assert contents(tmp_path / "run/clusterfit") == contents(student_run / "clusterfit"), log(tmp_path, job, "err")
    assert (tmp_path / "run/model_final_checkpoint_phase0.torch").is_file()


def test_on_this_machine_a_chain_is_one_job_that_goes_on_after_preemption(submit, student_run, tmp_path):
    (job,) = submit(
        "config.SLURM.CLUSTER=local",
        "config.CLUSTERFIT.SLURM.STAGES=[extract,label]",
        "config.CLUSTERFIT.FEATURES.SHARD_SIZE=1",
    )
    features = tmp_path / "run/clusterfit/features/train"
    end = time.monotonic() + 60
    while not list(features.glob("rows-*.npy")):
        assert time.monotonic() < end, log(tmp_path, job, "err")
        time.sleep(0.05)
    for task in children_of(int(job)):
        os.kill(task, signal.SIGUSR2)
    wait_for_local(tmp_path, job)
    assert "Exiting gracefully" in log(tmp_path, job, "err") + log(tmp_path, job)
    labels = "clusterfit/labels/train/labels.npy"
    assert (tmp_path / "run" / labels).read_bytes() == (student_run / labels).read_bytes()
