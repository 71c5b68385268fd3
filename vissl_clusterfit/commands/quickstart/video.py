"""The quickstart with clips of moving digits."""

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
    weights_of,
)
from vissl_clusterfit.datasets.synthetic.digits import DigitsSpec
from vissl_clusterfit.datasets.synthetic.moving_digits import write_moving_digits

DIGITS = DigitsSpec(train_drawings=2, test_drawings=2)
SMALL_DIGITS = DigitsSpec(num_scans=160, num_test_scans=40, train_drawings=1, test_drawings=1)
SMALL_CLUSTERING = ("config.CLUSTERFIT.NUM_CLUSTERS=10", "config.CLUSTERFIT.NUM_ITER=3")
ONE_FRAME = [f"config.DATA.{split}.CLIPS.NUM_FRAMES=1" for split in ("TRAIN", "TEST")]


def quickstart(folder: Path, *, small: bool, control: bool, open_page: bool) -> int:
    """Runs every stage that is missing, prints the table and returns the exit code."""
    started = time.monotonic()
    training = SMALL_TRAINING if small else ()
    clustering = SMALL_CLUSTERING if small else ()
    print("Writing clips of scikit-learn's handwritten digits, moving, as video files", flush=True)
    draw = functools.partial(write_moving_digits, folder / "clips", SMALL_DIGITS if small else DIGITS)
    stages = [
        Stage("Pre-training the teacher on verbs, several per clip and many of them wrong", "teacher", training),
        Stage("Its features, their clusters, and the student", "clusterfit", [*training, *clustering]),
        Stage("For comparison: a network that learns the motions from single frames", "one_frame", training),
    ]
    if control:
        stages.append(control_stage(training))
    models = {
        "single frames": [*weights_of(folder, "one_frame"), *ONE_FRAME],
        "untrained network": [],
        **teacher_and_student(folder, control=control),
    }
    return run_stages(
        folder, "clusterfit/video/quickstart", stages, models, draw=draw, started=started, open_page=open_page
    )
