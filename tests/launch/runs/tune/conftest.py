"""Fixtures of the tests of tunings: data whose test split is watched."""

import os

import numpy as np
import pytest
import watched_files
from benchmark_data import write_classes
from command import CommandServer
from tune_work import NUM_CLASSES, NUM_TEST, NUM_TRAIN
from vissl.config import AttrDict

from vissl_clusterfit import dependencies
from vissl_clusterfit.launch.compose.compose import compose


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> list[str]:
    """TRAIN in class folders; TEST a list of files that are watched."""
    root = tmp_path_factory.mktemp("colours")
    train = write_classes(root / "train", NUM_TRAIN, NUM_CLASSES, seed=1)
    files = sorted(write_classes(root / "test", NUM_TEST, NUM_CLASSES, seed=2).rglob("*.png"))
    np.save(root / "images.npy", np.array([f"{watched_files.PREFIX}{file}" for file in files]))
    np.save(root / "labels.npy", np.array([int(file.parent.name[-1]) for file in files]))
    return [
        "config.DATA.TRAIN.DATA_SOURCES=[disk_folder]",
        "config.DATA.TRAIN.LABEL_SOURCES=[disk_folder]",
        f"config.DATA.TRAIN.DATA_PATHS=[{train}]",
        "config.DATA.TEST.DATA_SOURCES=[disk_filelist]",
        "config.DATA.TEST.LABEL_SOURCES=[disk_filelist]",
        f"config.DATA.TEST.DATA_PATHS=[{root / 'images.npy'}]",
        f"config.DATA.TEST.LABEL_PATHS=[{root / 'labels.npy'}]",
    ]


@pytest.fixture(scope="module")
def start_watched():
    """``start_command`` where processes import the module that watches files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(dependencies.IMPORT_VARIABLE, "watched_files")
        patch.setenv("PYTHONPATH", os.path.dirname(watched_files.__file__), prepend=os.pathsep)
        server = CommandServer()
        yield server.start
        server.stop()


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """The times at which commands that are started from now on open each file of TEST."""
    log = tmp_path / "opened.txt"
    monkeypatch.setenv(watched_files.LOG_VARIABLE, str(log))

    def times() -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for line in log.read_text().splitlines() if log.exists() else ():
            when, _, file = line.split(" ", 2)
            found.setdefault(file, []).append(int(when))
        return found

    return times


@pytest.fixture
def composed(data, teacher, tmp_path):
    """The config of a tuning in ``tmp_path / "run"``."""

    def compose_it(*overrides: str) -> AttrDict:
        weights = f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={teacher}"
        return compose([*overrides, *data, weights, f"config.CHECKPOINT.DIR={tmp_path / 'run'}"])[2]

    return compose_it
