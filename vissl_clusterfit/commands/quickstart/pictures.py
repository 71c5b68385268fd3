"""The quickstart with scikit-learn's handwritten digits, drawn into small cluttered pictures."""

from __future__ import annotations

import functools
import time
from pathlib import Path

from vissl_clusterfit.commands.quickstart.stages import (
    SMALL_TRAINING,
    Stage,
    control_stage,
    run_stages,
    teacher_and_student,
)
from vissl_clusterfit.datasets.synthetic.digits import DigitsSpec, write_digits

SMALL_DIGITS = DigitsSpec(num_scans=300, num_test_scans=100, train_drawings=1, test_drawings=1)
SMALL_CLUSTERING = ("config.CLUSTERFIT.NUM_CLUSTERS=20", "config.CLUSTERFIT.NUM_ITER=3")

# The pictures are grey: three equal channels would tell raw pixels nothing more.
ONE_CHANNEL = "[{name: Grayscale}, {name: ToTensor}, {name: Normalize, mean: [0.25], std: [0.21]}]"


def quickstart(folder: Path, *, small: bool, control: bool, open_page: bool) -> int:
    """Runs every stage that is missing, prints the table and returns the exit code."""
    started = time.monotonic()
    training = SMALL_TRAINING if small else ()
    clustering = SMALL_CLUSTERING if small else ()
    print("Writing scikit-learn's handwritten digits as image files", flush=True)
    draw = functools.partial(write_digits, folder / "images", SMALL_DIGITS if small else DigitsSpec())
    stages = [
        Stage("Pre-training the teacher (RotNet, which sees no labels)", "teacher", training),
        Stage("Its features, their clusters, and the student", "clusterfit", [*training, *clustering]),
    ]
    if control:
        stages.append(control_stage(training))
    models = {
        "raw pixels": ["config.MODEL.TRUNK.NAME=raw_pixels", f"config.TRANSFER.FEATURES.TRANSFORMS={ONE_CHANNEL}"],
        "untrained network": [],
        **teacher_and_student(folder, control=control),
    }
    return run_stages(folder, "clusterfit/quickstart", stages, models, draw=draw, started=started, open_page=open_page)
