"""What a user gets wrong: one message, exit code 2, and nothing on disk that looks done."""

import json

import numpy as np
import pytest
import torch

# What VISSL writes before the first step of any training, and its log.
VISSLS_OWN = {"train_config.yaml", "log.txt", "stdout.json"}


def require_refusal(result, *fragments: str) -> str:
    """One message on stderr, which is returned; the exit code of a user's mistake; no traceback anywhere."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert result.stderr.count("error: ") == 1, result.stderr
    message = result.stderr.split("error: ")[1]
    for fragment in fragments:
        assert fragment in message
    return message


def require_nothing_half_written(folder):
    """No artefact says that it is complete, and VISSL wrote no checkpoint."""
    manifests = [json.loads(file.read_text()) for file in folder.rglob("manifest.json")]
    assert [manifest["kind"] for manifest in manifests if manifest.get("complete", True)] == []
    assert {path.name for path in folder.iterdir() if path.name != "clusterfit"} <= VISSLS_OWN


@pytest.fixture
def refuse(tmp_path, run_command, student_overrides):
    """Runs the student's config with a mistake in it."""

    def run(*mistake: str):
        folder = tmp_path / "run"
        result = run_command(*student_overrides, f"config.CHECKPOINT.DIR={folder}", *mistake, cwd=tmp_path)
        require_nothing_half_written(folder)
        return result

    return run
MISTAKES = {
    "K above N": (["config.CLUSTERFIT.NUM_CLUSTERS=31"], ["config.CLUSTERFIT.NUM_CLUSTERS: found 31 for 30 samples; allowed: 1 to 30"]),
    "no weights": (["config.CLUSTERFIT.TEACHER.WEIGHTS=''"], ["config.CLUSTERFIT.TEACHER.WEIGHTS: found nothing"]),
    "weights missing": (["config.CLUSTERFIT.TEACHER.WEIGHTS=nowhere.torch"], ["found nowhere.torch, which does not exist"]),
    "layer": (["config.CLUSTERFIT.FEATURES.LAYER_NAME=res6"], ["LAYER_NAME: found 'res6'", "conv1", "res5", "flatten", "heads"]),
    "wrong head": (['config.MODEL.HEAD.PARAMS=[["mlp",{"dims":[2048,7]}]]'], ["HEAD.PARAMS: found a head of width 7; allowed: 4"]),
    "empty": (["config.DATA.TRAIN.DATA_PATHS=[empty]"], ["DATA"]),
    "no such folder": (["config.DATA.TRAIN.DATA_PATHS=[missing]"], ["missing"]),
}
@pytest.mark.parametrize("overrides, fragments", list(MISTAKES.values()), ids=list(MISTAKES))
def test_mistakes(refuse, tmp_path, overrides, fragments):
    (tmp_path/"empty").mkdir()
    (tmp_path/"empty"/"class0").mkdir()
    require_refusal(refuse(*overrides), *fragments)
