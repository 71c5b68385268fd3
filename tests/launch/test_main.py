"""From the command to the exit code, with the script as a user starts it."""

import os
import signal
import time

import pytest

from vissl_clusterfit.launch import main

BROKEN_ENGINE = """
from vissl.engines.engine_registry import Engine, register_engine


@register_engine("broken")
class Broken(Engine):
    def run_engine(self, *args, **kwargs):
        raise RuntimeError("the engine is broken")
"""


def start_long_training(start_script, student_overrides, tmp_path, *overrides):
    """A training of a thousand epochs that has begun."""
    process = start_script(
        *student_overrides,
        "config.OPTIMIZER.num_epochs=1000",
        f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
        *overrides,
        cwd=tmp_path,
    )
    assert any("Starting phase 1 " in line for line in process.stdout), process.stderr.read()
    return process


def nobody_left(process_group: int) -> bool:
    try:
        os.killpg(process_group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_ctrl_c_ends_all_processes(start_script, student_overrides, tmp_path, num_processes):
    """Only the first process gets the signal here, as from ``kill -INT``; a terminal sends it to all."""
    process = start_long_training(
        start_script,
        student_overrides,
        tmp_path,
        f"config.DISTRIBUTED.NUM_PROC_PER_NODE={num_processes}",
        "config.DATA.NUM_DATALOADER_WORKERS=1",
    )
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == main.INTERRUPTED == 130
    assert "Interrupted." in errors
    assert "Traceback" not in errors
    # Data workers look every five seconds whether their rank lives.
    assert any(nobody_left(process.pid) or time.sleep(1) for _ in range(30))


@pytest.mark.parametrize("num_processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_any_other_failure_keeps_its_traceback(start_script, student_overrides, tmp_path, monkeypatch, num_processes):
    (tmp_path / "broken_part.py").write_text(BROKEN_ENGINE)
    monkeypatch.setenv("VISSL_CLUSTERFIT_IMPORT", "broken_part")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    process = start_script(
        *student_overrides,
        "engine_name=broken",
        f"config.DISTRIBUTED.NUM_PROC_PER_NODE={num_processes}",
        f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
        cwd=tmp_path,
    )
    _, errors = process.communicate(timeout=100)
    assert process.returncode == main.FAILED == 1
    assert "Traceback (most recent call last)" in errors
    assert "RuntimeError: the engine is broken" in errors
    assert "error: " not in errors


def test_help_is_no_mistake(capsys):
    assert main.main(["--help"]) == main.DONE == 0
    assert "config=NAME" in capsys.readouterr().out
