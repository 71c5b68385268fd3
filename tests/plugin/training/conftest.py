"""Real trainings of the tiny student, and a split that they hold out."""

import pytest
import torch
from tiny import write_images


@pytest.fixture
def train(tmp_path, run_command, student_overrides):
    """Runs the command in a folder, and gives what it said and its final checkpoint."""

    def run(name, *overrides, code=0):
        folder = tmp_path / name
        result = run_command(*student_overrides, *overrides, f"config.CHECKPOINT.DIR={folder}", cwd=tmp_path)
        assert result.returncode == code, result.stdout + result.stderr
        found = sorted(folder.glob("model_final_checkpoint_phase*.torch"))
        return result.stdout + result.stderr, torch.load(found[-1]) if found else None

    return run


@pytest.fixture
def held_out(tmp_path):
    """Overrides: twelve images of their own are labelled, too, and scored after each epoch."""
    return (
        "config.CLUSTERFIT.FEATURES.TEST_PARTITION=TEST",
        "config.TEST_MODEL=true",
        "config.DATA.TEST.DATA_SOURCES=[disk_folder]",
        "config.DATA.TEST.DATASET_NAMES=[tiny]",
        f"config.DATA.TEST.DATA_PATHS=[{write_images(tmp_path / 'held_out', 12, seed=1)}]",
        "config.DATA.TEST.BATCHSIZE_PER_REPLICA=6",
        "config.DATA.TEST.TRANSFORMS=[{name:Resize,size:[32,32]},{name:ToTensor}]",
    )
