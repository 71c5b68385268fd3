"""Modules of a user's own, as docs/extending.md has them: in every process of a run, or one message."""

import os
import re

import pytest
from repository import ROOT

from vissl_clusterfit import dependencies


@pytest.fixture
def own_parts(monkeypatch):
    monkeypatch.setenv(dependencies.IMPORT_VARIABLE, "my_parts")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "examples"), prepend=os.pathsep)


TRUNK = (
    "config.MODEL.TRUNK.NAME=patch_means",
    "+config.MODEL.TRUNK.PATCH_MEANS.WIDTH=12",
    "config.DATA.TRAIN.TRANSFORMS=[{name:Resize,size:[32,32]},{name:ToTensor},{name:Invert}]",
    "config.CLUSTERFIT.FEATURES.LAYER_NAME=",
    "config.CLUSTERFIT.FEATURES.TRANSFORMS=[{name:Resize,size:[32,32]},{name:ToTensor},{name:Invert}]",
)


@pytest.mark.slow
def test_a_trunk_and_a_transform_of_ones_own_are_trained_in_every_process(
    own_parts, start_script, student_overrides, teacher, tmp_path
):
    import torch

    weights = tmp_path / "teacher.pth"
    torch.save({"linear.weight": torch.randn(12, 48), "linear.bias": torch.zeros(12)}, weights)
    process = start_script(
        *student_overrides,
        *TRUNK,
        f"config.CLUSTERFIT.TEACHER.WEIGHTS={weights}",
        "config.DISTRIBUTED.NUM_PROC_PER_NODE=2",
        "config.MULTI_PROCESSING_METHOD=spawn",
        "config.DATA.NUM_DATALOADER_WORKERS=1",
        f"config.CHECKPOINT.DIR={tmp_path}/run",
        cwd=tmp_path,
    )
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    trained = torch.load(tmp_path / "run/model_final_checkpoint_phase0.torch", weights_only=False)
    assert trained["classy_state_dict"]["base_model"]["model"]["trunk"]["linear.weight"].shape == (12, 48)


def test_a_module_that_cannot_be_imported_is_one_message(monkeypatch, start_script, tmp_path):
    (tmp_path / "half.py").write_text("import no_such_library\n")
    monkeypatch.setenv(dependencies.IMPORT_VARIABLE, "half")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    process = start_script("config=clusterfit/quickstart/teacher", cwd=tmp_path)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2, errors
    assert re.fullmatch(
        r"error: VISSL_CLUSTERFIT_IMPORT: found 'half', which cannot be imported \(ModuleNotFoundError: .*\); "
        r"allowed: Python modules.*\n",
        errors.splitlines(keepends=True)[-1],
    )
    assert "Traceback" not in errors
