"""ClusterFit of video on two cores: from clips of moving digits to a table of transfer figures.

    python tools/quickstart_video.py [--folder quickstart-video] [--control] [--small]

What is already done in the folder is not done again. ``--control`` adds a teacher that is trained for as long as
teacher and student together. ``--small`` shows in a minute that everything runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from quickstart_stages import Stage, run_stages

from vissl_clusterfit.datasets.synthetic.digits import DigitsSpec
from vissl_clusterfit.datasets.synthetic.moving_digits import write_moving_digits
from vissl_clusterfit.errors import ClusterFitError

DIGITS = DigitsSpec(train_drawings=2, test_drawings=2)
SMALL_DIGITS = DigitsSpec(num_scans=160, num_test_scans=40, train_drawings=1, test_drawings=1)
SMALL_TRAINING = ["config.OPTIMIZER.num_epochs=1"]
SMALL_CLUSTERING = ["config.CLUSTERFIT.NUM_CLUSTERS=10", "config.CLUSTERFIT.NUM_ITER=3"]
CONTROL, CONTROL_NAME = "teacher_twice_as_long", "teacher, twice as long"
ONE_FRAME = [f"config.DATA.{split}.CLIPS.NUM_FRAMES=1" for split in ("TRAIN", "TEST")]


def main() -> int:
    """Runs every stage that is missing, prints the table and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("quickstart-video"), help="where everything is kept")
    parser.add_argument("--control", action="store_true", help="also a teacher that is trained twice as long")
    parser.add_argument("--small", action="store_true", help="a few clips and one epoch")
    arguments = parser.parse_args()
    folder, started = arguments.folder, time.monotonic()
    training = SMALL_TRAINING if arguments.small else []
    clustering = SMALL_CLUSTERING if arguments.small else []
    try:
        print("Writing clips of scikit-learn's handwritten digits, moving, as video files", flush=True)
        write_moving_digits(folder / "clips", SMALL_DIGITS if arguments.small else DIGITS)
    except ClusterFitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    stages = [
        Stage("Pre-training the teacher on verbs, several per clip and many of them wrong", "teacher", training),
        Stage("Its features, their clusters, and the student", "clusterfit", [*training, *clustering]),
        Stage("For comparison: a network that learns the motions from single frames", "one_frame", training),
    ]
    if arguments.control:
        stages.append(Stage("For comparison: a teacher trained twice as long", CONTROL, training))
    weights = "config.MODEL.WEIGHTS_INIT.PARAMS_FILE"
    models = {
        "single frames": [f"{weights}={folder}/one_frame/checkpoint.torch", *ONE_FRAME],
        "untrained network": [],
        "teacher": [f"{weights}={folder}/teacher/checkpoint.torch"],
        **({CONTROL_NAME: [f"{weights}={folder}/{CONTROL}/checkpoint.torch"]} if arguments.control else {}),
        "student": [f"{weights}={folder}/clusterfit/checkpoint.torch"],
    }
    return run_stages(folder, "clusterfit/video/quickstart", stages, models, started=started)


if __name__ == "__main__":
    sys.exit(main())
