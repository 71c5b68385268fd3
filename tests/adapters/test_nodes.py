"""Two nodes with two processes each, on two hosts in two network namespaces: the labels of one process, and training."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hosts import CannotJoin, Host, free_port, two_hosts

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = str(REPOSITORY / "tools/run_distributed_engines.py")


@pytest.fixture(scope="module")
def hosts():
    try:
        with two_hosts() as pair:
            yield pair
    except CannotJoin as reason:
        pytest.skip(f"network namespaces are not allowed here: {reason}")


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


def contents(folder: Path) -> dict[Path, bytes]:
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("by_torchrun", [False, True], ids=["node_id", "torchrun"])
def test_two_nodes_of_two_processes(hosts, start, student_run, student_overrides, tmp_path, by_torchrun):
    folder, port = tmp_path / "run", free_port()
    overrides = [*student_overrides, f"config.CHECKPOINT.DIR={folder}"]
    processes = []
    for node, host in enumerate(hosts):
        if by_torchrun:
            where = [f"--master-addr={hosts[0].address}", f"--master-port={port}", f"--node-rank={node}"]
            command = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2", *where, SCRIPT, *overrides]
        else:
            command = [
                SCRIPT,
                *overrides,
                "config.DISTRIBUTED.NUM_NODES=2",
                "config.DISTRIBUTED.NUM_PROC_PER_NODE=2",
                f"config.DISTRIBUTED.RUN_ID={hosts[0].address}:{port}",
                f"node_id={node}",
            ]
        processes.append(start(host, *command))
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert contents(folder / "clusterfit") == contents(student_run / "clusterfit")
    assert (folder / "model_final_checkpoint_phase0.torch").is_file()
    for out, _ in said:
        assert "| initialized host clusterfit-host" in out
