"""Modules of VISSL are imported by these tests: repaired, and with our registrations."""

import pytest
from refusals import require_nothing_half_written

from vissl_clusterfit import compat, plugin

compat.apply()
plugin.register()


@pytest.fixture
def refuse(tmp_path, run_command, student_overrides):
    """Runs the student's config with a mistake in it."""

    def run(*mistake: str):
        folder = tmp_path / "run"
        result = run_command(*student_overrides, f"config.CHECKPOINT.DIR={folder}", *mistake, cwd=tmp_path)
        require_nothing_half_written(folder)
        return result

    return run
