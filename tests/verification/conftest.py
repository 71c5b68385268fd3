"""Fixtures of the tests of verification."""

import shutil
from pathlib import Path

import pytest
from tiny_run import make_run


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A run with a projection and a threshold; tests leave it as it is."""
    return make_run(tmp_path_factory.mktemp("made") / "run", dimensionality_reduction=4, max_distance=0.5)


@pytest.fixture
def run(made, tmp_path) -> Path:
    """A copy of it, to damage."""
    return Path(shutil.copytree(made, tmp_path / "run"))
