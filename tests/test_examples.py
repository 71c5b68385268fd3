"""The examples, run as a user runs them."""

import csv
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from repository import ROOT
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors
from tiny import write_images

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


@pytest.mark.slow
def test_the_ten_lines_of_ones_own_train_in_every_process(student_overrides, tmp_path):
    """The trunk of docs/extending.md, in a module on the search path, through the real command and data workers."""
    [code] = re.findall(r"## Ten lines\n\n```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL)
    assert len([line for line in code.splitlines() if line]) <= 10
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/my_parts.py").write_text(code)
    done = subprocess.run(
        [
            sys.executable,
            ROOT / "tools/run_distributed_engines.py",
            *student_overrides,
            "config.MODEL.TRUNK.NAME=means",
            "config.CLUSTERFIT.EXPORT=true",
            "+config.CLUSTERFIT.TEACHER.MODEL.TRUNK.NAME=resnet",
            "config.MULTI_PROCESSING_METHOD=spawn",
            "config.DATA.NUM_DATALOADER_WORKERS=1",
            f"config.CHECKPOINT.DIR={tmp_path}/run",
        ],
        cwd=tmp_path,
        env={**os.environ, "VISSL_CLUSTERFIT_IMPORT": "my_parts", "PYTHONPATH": f"{tmp_path}/parts:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # What no other library has is left under VISSL's names.
    assert (
        '"why_no_other_library": "no other library has the trunk means"'
        in (tmp_path / "run/export/card.json").read_text()
    )


@pytest.mark.slow
def test_a_network_of_timm_teaches_another(tmp_path):
    """On a path with a blank, with networks of a few thousand weights, twice; plain timm loads the student."""
    images = tmp_path / "my images"
    for number, image in enumerate(sorted(write_images(tmp_path / "in classes", 32).glob("*/*"))):
        images.mkdir(exist_ok=True)
        image.rename(images / f"bild {number} ü.png")
    save_tensors(timm.create_model("test_resnet").state_dict(), tmp_path / "teacher.safetensors")
    command = tmp_path / "bin/vissl-clusterfit"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m vissl_clusterfit.commands.main "$@"\n')
    command.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "TEACHER": "timm:test_resnet",
        "STUDENT": "timm:test_resnet",
    }
    small = (
        "config.MACHINE.DEVICE=cpu",
        "config.DISTRIBUTED.NUM_PROC_PER_NODE=1",
        "config.DATA.NUM_DATALOADER_WORKERS=0",
        "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=8",
        "config.CLUSTERFIT.NUM_CLUSTERS=4",
        "config.OPTIMIZER.num_epochs=2",
    )
    script = ["bash", ROOT / "examples/timm_teacher_to_student.sh", images, "teacher.safetensors", "run", *small]
    for _ in range(2):
        done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "run/labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["name"] for row in rows) == sorted(str(path.relative_to(images)) for path in images.glob("*"))
    assert {int(row["label"]) for row in rows} == {0, 1, 2, 3}
    card = json.loads((tmp_path / "run/export/card.json").read_text())
    scope = {"images": torch.rand(2, 3, 224, 224)}
    lines = "\n".join(card["load"]).replace("model.safetensors", str(tmp_path / "run/export/model.safetensors"))
    exec(lines, scope)
    assert scope["features"].shape == (2, card["output"]["dim"])
    export = [command, "export", "model", "run", "again", "--form", "timm", "--head"]
    done = subprocess.run(export, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "again\n"), done.stderr
    assert json.loads((tmp_path / "again/card.json").read_text())["output"]["name"] == "logits"
