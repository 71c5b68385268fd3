"""Fixtures of the tests that run VISSL: real images, a real checkpoint and the real command, all small."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import CommandServer
from repository import ROOT
from tiny import STUDENT, write_images

from vissl_clusterfit.compat import repairs
from vissl_clusterfit.plugin import registration

repairs.apply()
registration.register()


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    return write_images(tmp_path_factory.mktemp("images"), 30)


@pytest.fixture(scope="session")
def student_overrides(images, teacher) -> list[str]:
    """A run from images to a trained student. Its export would be a quarter of what the run takes."""
    return [
        *STUDENT,
        "config.CLUSTERFIT.EXPORT=false",
        f"config.DATA.TRAIN.DATA_PATHS=[{images}]",
        f"config.CLUSTERFIT.TEACHER.WEIGHTS={teacher}",
    ]


@pytest.fixture(scope="session")
def model_config(tmp_path_factory):
    """The MODEL block of ``STUDENT``."""
    from vissl_clusterfit.launch.compose.compose import compose

    folder = tmp_path_factory.mktemp("compose")
    return compose([*STUDENT, f"config.CHECKPOINT.DIR={folder}"])[2].MODEL


@pytest.fixture(scope="session")
def teacher(tmp_path_factory, model_config) -> Path:
    """A checkpoint as VISSL writes it, of an untrained network with statistics of its own."""
    import torch
    from classy_vision.generic.util import save_checkpoint
    from vissl.config import AttrDict
    from vissl.models import build_model

    torch.manual_seed(1)
    model = build_model(AttrDict(model_config), AttrDict({}))
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model.trunk(torch.rand(16, 3, 32, 32), [])
    folder = tmp_path_factory.mktemp("teacher")
    state = {
        "classy_state_dict": {"base_model": model.get_classy_state()},
        "config": model_config,
        "phase_idx": 0,
    }
    save_checkpoint(str(folder), state, checkpoint_file="teacher.torch")
    return folder / "teacher.torch"


@pytest.fixture(scope="session")
def commands():
    server = CommandServer()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def run_command(commands):
    """``run_command(*overrides, cwd=…)``: the command in a process of its own, without the time for its imports."""
    return commands.run


@pytest.fixture(scope="session")
def start_command(commands):
    """``start_command(*overrides, cwd=…)`` does not wait for its end."""
    return commands.start


@pytest.fixture(scope="session")
def start_script():
    """Starts ``tools/run_distributed_engines.py`` as a user does, from another folder. Nothing is imported before."""

    def start(*overrides: str, cwd: Path, before: tuple[str, ...] = ()) -> subprocess.Popen:
        return subprocess.Popen(
            [*before, sys.executable, str(ROOT / "tools/run_distributed_engines.py"), *overrides],
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pipesize=1 << 20,  # what a test does not read yet must not stop it
        )

    return start


@pytest.fixture(scope="session")
def student_run(tmp_path_factory, student_overrides, run_command) -> Path:
    """The folder of one run that did everything, on one process. Tests read it and leave it as it is."""
    folder = tmp_path_factory.mktemp("student")
    everything = [*student_overrides, "config.CLUSTERFIT.EXPORT=true"]
    result = run_command(*everything, f"config.CHECKPOINT.DIR={folder}", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder
