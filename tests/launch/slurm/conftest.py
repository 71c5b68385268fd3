"""What the tests of jobs share: the command on a machine with a SLURM."""

import functools
import os

import pytest


@pytest.fixture(scope="module")
def command(cluster, run_command):
    """The command where SLURM is on the PATH."""
    return functools.partial(run_command, PATH=f"{cluster.bin}:{os.environ['PATH']}")
