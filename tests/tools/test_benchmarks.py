import json
import os
import subprocess
import sys

import pytest
import torch
from repository import ROOT

BENCHMARKS = ROOT / "benchmarks"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_pipeline_that_is_killed_a_few_times_loses_nothing():
    """The real command; ``make bench BENCH=kill_resume`` kills it a thousand times."""
    scenarios = ["--scenario", "workers", "--scenario", "several"]
    command = [sys.executable, BENCHMARKS / "kill_resume.py", "--kills", "12", "--seed", "3", *scenarios]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=840)
    report = json.loads(ended.stdout.splitlines()[-1])
    assert (report["failures"], report["lost_shards"], report["orphans"]) == ([], 0, 0)
    assert (ended.returncode, report["identical"], report["kills"]) == (0, True, 12), report["tracebacks"]
    assert report["finished_runs"] >= 2


@pytest.mark.parametrize(
    ("name", "size", "agreement"),
    [("knn", "60x700x32x20", "predictions_agree"), ("retrieval", "40x20000x16", "figures_agree")],
)
def test_both_sides_of_a_benchmark_of_transfer_agree(name, size, agreement):
    command = [sys.executable, BENCHMARKS / f"{name}.py", "--sizes", size, "--pairs", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout.splitlines()[-1])
    assert report[agreement] is True
    assert set(report["ratios"]) == {"scikit-learn", "faiss"}


def test_two_processes_of_the_benchmark_label_as_one():
    command = [sys.executable, BENCHMARKS / "labelling.py", "--size", "5000x16x40", "--pairs", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout.splitlines()[-1])
    assert report["same_labels"] is True
    assert report["ratio"] > 0


@pytest.mark.slow
def test_the_benchmark_of_a_card_runs_through_on_a_processor():
    command = [sys.executable, BENCHMARKS / "gpu.py", "--device", "cpu", "--tiny"]
    ended = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout.splitlines()[-1])
    assert report["checks"] == dict.fromkeys(
        ["features_in_float32", "features_in_bfloat16", "labels", "sums", "centers", "predictions"], True
    )
    figures = {"extraction_in_float32", "extraction_in_bfloat16", "assignment", "assignment_in_memory", "kmeans", "knn"}
    of_a_pass = {"pass_copied_float32", "pass_copied_float16", "pass_on_device", "sums", "copies"}
    assert report["figures"].keys() == figures | of_a_pass | {"training"}
    assert all(figure["share"] > 0 for name, figure in report["figures"].items() if name != "copies")
    assert report["left_out"] == ["flash_kmeans", "faiss"]


_ON_A_PRETENDED_CARD = """
import sys
import pytest
import torch
import gpu
from pretend_card import pretended_card

with pytest.MonkeyPatch.context() as patch, pretended_card(patch):
    patch.setattr(torch.cuda, "get_device_name", lambda *_: "pretended")
    sys.exit(gpu.main())
"""


def test_the_benchmark_of_a_card_measures_passes_on_tensors_that_say_they_are_on_one():
    parts = ["assignment", "passes", "clustering", "neighbors", "peers"]
    paths = os.pathsep.join([str(BENCHMARKS), str(ROOT / "tests" / "support"), str(ROOT)])
    ended = subprocess.run(
        [sys.executable, "-c", _ON_A_PRETENDED_CARD, "--tiny", "--only", *parts],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
    )
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout.splitlines()[-1])
    assert report["checks"] == dict.fromkeys(["labels", "sums", "centers", "predictions"], True)
    assert {"assignment", "pass_copied_float16", "pass_on_device", "sums", "copies", "kmeans"} <= report[
        "figures"
    ].keys()
    assert (report["device"], report["left_out"]) == ("pretended", ["flash_kmeans", "faiss"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_benchmark_of_a_card_says_what_it_needs():
    ended = subprocess.run([sys.executable, BENCHMARKS / "gpu.py"], capture_output=True, text=True)
    assert ended.returncode == 2
    assert "there is no CUDA device; --device cpu --tiny runs through without one" in ended.stderr
