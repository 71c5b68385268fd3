"""The examples, run as a user runs them."""

import csv
import subprocess
import sys

import numpy as np
import pytest
from repository import ROOT
from safetensors.numpy import save_file

from vissl_clusterfit import label_rows, open_artifact

ROWS = np.random.default_rng(4).standard_normal((1000, 16)).astype(np.float32)
NAMES = [f"img/{number}.jpg" for number in range(1000)]


@pytest.fixture
def features(tmp_path):
    save_file({"features": ROWS}, tmp_path / "features.safetensors")
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")
    return tmp_path / "features.safetensors"


def run(features, num_clusters, folder):
    script = ROOT / "examples/features_to_labels.py"
    command = [sys.executable, script, features, features.parent / "names.txt", str(num_clusters), folder]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_features_of_ones_own_to_labels(features, tmp_path):
    done = run(features, 20, tmp_path / "run")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "run/labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = label_rows(ROWS, open_artifact(tmp_path / "run/codebook"))
    assert [row["name"] for row in rows] == NAMES
    np.testing.assert_array_equal([int(row["label"]) for row in rows], expected.labels)
    np.testing.assert_array_equal(np.array([row["distance"] for row in rows]).astype("f4"), expected.distances)
    assert len(set(expected.labels)) == 20


def test_what_is_wrong_is_one_message(features, tmp_path):
    done = run(features, 1001, tmp_path / "run")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("error: num_clusters: found 1001; allowed: 1 to 1000")
