"""Two nodes with two processes each, on hosts in two network namespaces: the labels of one process, and training."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hosts import CannotJoin, Host, free_port, two_hosts
from repository import ROOT
from tiny_store import contents

SCRIPT = str(ROOT / "tools/run_distributed_engines.py")


@pytest.fixture
def hosts():
    with contextlib.ExitStack() as stack:
        try:
            pair = stack.enter_context(two_hosts())
        except CannotJoin as reason:
            pytest.skip(f"network namespaces are not allowed here: {reason}")
        yield pair


@pytest.fixture
def start(tmp_path):
    """``start(host, command…)`` starts a command there; whatever it left is ended with the test."""
    started = []

    def start_command(host: Host, *command: str, **environment: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [*host.prefix, sys.executable, *command],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start_command
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


TORCHRUN = ("-m", "torch.distributed.run")


def check(folder: Path, student_run: Path, processes: list[subprocess.Popen]) -> list[str]:
    """All was done, on several nodes as on one process; what each node printed."""
    said = [process.communicate(timeout=400) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert contents(folder / "clusterfit") == contents(student_run / "clusterfit")
    assert (folder / "model_final_checkpoint_phase0.torch").is_file()
    return [output for output, _ in said]


@pytest.mark.slow
def test_two_hosts_with_two_processes_each(hosts, start, student_run, student_overrides, tmp_path):
    """The names of these hosts lead to no address, so gloo must be told which interface to use."""
    folder = tmp_path / "run"
    command = [
        SCRIPT,
        *student_overrides,
        f"config.CHECKPOINT.DIR={folder}",
        "config.DISTRIBUTED.NUM_NODES=2",
        "config.DISTRIBUTED.NUM_PROC_PER_NODE=2",
        f"config.DISTRIBUTED.RUN_ID={hosts[0].address}:{free_port()}",
    ]
    processes = [start(host, *command, f"node_id={node}") for node, host in enumerate(hosts)]
    for host, output in zip(hosts, check(folder, student_run, processes), strict=True):
        assert output.count(f"| initialized host {host.name} as rank") == 2


@pytest.mark.slow
def test_two_nodes_by_torchrun(start, student_run, student_overrides, tmp_path):
    """Both on this machine, so that this runs everywhere."""
    folder, port = tmp_path / "run", free_port()
    where = ["--nnodes=2", "--nproc-per-node=2", "--master-addr=127.0.0.1", f"--master-port={port}"]
    command = [SCRIPT, *student_overrides, f"config.CHECKPOINT.DIR={folder}"]
    here = Host("127.0.0.1")
    processes = [start(here, *TORCHRUN, *where, f"--node-rank={node}", *command) for node in range(2)]
    for node, output in enumerate(check(folder, student_run, processes)):
        for rank in (2 * node, 2 * node + 1):
            assert f" as rank {rank} ({rank})" in output


@pytest.mark.slow
def test_a_mistake_under_torchrun_is_said_once_and_in_its_summary(start, student_overrides, tmp_path):
    command = [SCRIPT, *student_overrides, f"config.CHECKPOINT.DIR={tmp_path / 'run'}"]
    missing = f"config.CLUSTERFIT.TEACHER.WEIGHTS={tmp_path / 'none.torch'}"
    process = start(Host("127.0.0.1"), *TORCHRUN, "--standalone", "--nproc-per-node=2", *command, missing)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 1  # torchrun's own, whatever the processes end with
    message = f"config.CLUSTERFIT.TEACHER.WEIGHTS: found {tmp_path / 'none.torch'}, which does not exist"
    assert f"\n{errors}".count(f"\nerror: {message}") == 1
    assert message in errors.partition("Root Cause (first observed failure):")[2]
    assert "exitcode  : 2" in errors
