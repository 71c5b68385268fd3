"""Ctrl-C in a stage: the command ends with 130, and so does everything that it started."""

import os
import signal
import time

import pytest
from tiny import write_images

from vissl_clusterfit.launch import main
from vissl_clusterfit.storage import artifacts


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "settings", "num_processes", "to_all"),
    [("clusterfit_label", "config.CLUSTERFIT", 1, False), ("clusterfit_transfer", "config.TRANSFER", 2, True)],
)
def test_ctrl_c_in_a_stage_ends_all_processes(
    start_command, student_overrides, tmp_path, engine, settings, num_processes, to_all
):
    """A terminal sends it to all processes, ``kill -INT`` to the first."""
    images = write_images(tmp_path / "images", 300)
    process = start_command(
        *(student_overrides if settings == "config.CLUSTERFIT" else ["config=clusterfit/transfer"]),
        f"engine_name={engine}",
        "config.MACHINE.DEVICE=cpu",
        "config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP=4",
        f"config.DATA.TRAIN.DATA_PATHS=[{images}]",
        f"config.DATA.TEST.DATA_PATHS=[{images}]",
        "config.DATA.NUM_DATALOADER_WORKERS=1",
        "config.MULTI_PROCESSING_METHOD=forkserver",
        f"config.DISTRIBUTED.NUM_PROC_PER_NODE={num_processes}",
        f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
        f"{settings}.FEATURES.BATCH_SIZE=1",
        f"{settings}.FEATURES.TRANSFORMS=[{{name:Resize,size:[224,224]}},{{name:ToTensor}}]",
        cwd=tmp_path,
    )
    assert any("Extracting 300 samples" in line for line in process.stdout), process.stderr.read()
    (os.killpg if to_all else os.kill)(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == main.INTERRUPTED == 130
    assert errors.endswith("Interrupted.\n")
    assert any(_nobody_left(process.pid) or time.sleep(0.5) for _ in range(60))
    [manifest] = (tmp_path / "run").rglob("manifest.json")
    assert artifacts.read_manifest(manifest.parent)["complete"] is False


def _nobody_left(process_group: int) -> bool:
    try:
        os.killpg(process_group, 0)
    except ProcessLookupError:
        return True
    return False
