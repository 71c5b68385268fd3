import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_pipeline_that_is_killed_a_few_times_loses_nothing():
    """The real command; ``make bench BENCH=kill_resume`` kills it a hundred times."""
    command = [sys.executable, BENCHMARKS / "kill_resume.py", "--kills", "8", "--seed", "3"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=840)
    report = json.loads(ended.stdout.splitlines()[-1])
    assert (ended.returncode, report["identical"], report["lost_shards"], report["kills"]) == (0, True, 0, 8)
    assert report["finished_runs"] >= 1
