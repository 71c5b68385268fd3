"""A run that is started before its turn does nothing until it is told."""

import signal
import subprocess

import pytest

from vissl_clusterfit.launch.runs.subprocess_runs import python_command

COMMAND = [*python_command("vissl_clusterfit.launch.waiting", "main_when_told"), "config=nosuch"]


def started() -> subprocess.Popen:
    return subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize(("told", "code", "says"), [("", 0, ""), ("\n", 2, "config=nosuch")])
def test_it_runs_when_it_is_told_and_ends_when_it_never_will_be(told, code, says):
    with started() as process:
        output, _ = process.communicate(told)
    assert process.returncode == code, output
    assert says in output
    assert bool(output) is bool(says)


def test_it_can_be_interrupted():
    with started() as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(5)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate()
    assert (process.returncode, output) == (130, "")
