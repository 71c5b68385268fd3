"""The video quickstart as a user runs it, in its small size: its scores say nothing, its way is the real one."""

import os
import subprocess
import sys

import pytest
from repository import ROOT
from results_file import rows_in

QUICKSTART = ROOT / "tools/quickstart_video.py"
MODELS = ["single frames", "untrained network", "teacher", "student"]


@pytest.mark.slow
def test_it_ends_with_a_table_and_its_rows(tmp_path):
    done = subprocess.run(
        [sys.executable, QUICKSTART, "--small", "--folder", "quickstart"],  # relative, as a user has it
        cwd=tmp_path,
        env={**os.environ, "VISSL_DATASET_CATALOG_PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "quickstart"
    rows = rows_in(folder)
    assert [(row["model"], row["benchmark"]) for row in rows] == [(m, b) for m in MODELS for b in ("linear", "knn")]
    assert all(0 <= row["value"] <= 1 and len(row["protocol"]) > 100 for row in rows)
    table = done.stdout.split("top-1 accuracy, in %")[1]
    for model in MODELS:
        scores = [f"{100 * row['value']:.1f}" for row in rows if row["model"] == model]
        [line] = [line for line in table.splitlines() if line.startswith(f"{model}  ")]
        assert line.split()[-2:] == scores
    assert (folder / "clusterfit/artifacts/labels/train/labels.npy").is_file()
