"""What the tests of jobs share: the command on a machine with a SLURM."""

import os

import pytest
from command import CommandServer


@pytest.fixture(scope="module")
def command(cluster):
    """The command where SLURM is on the PATH; its environment is that of its first run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{cluster.bin}:{os.environ['PATH']}")
        server = CommandServer()
        server.run("config=no_such_config", cwd=cluster.folder)
    yield server.run
    server.stop()
