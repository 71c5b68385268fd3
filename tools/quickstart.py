"""ClusterFit on two cores: from handwritten digits to a table of transfer figures, by the commands that it prints.

    python tools/quickstart.py [--folder quickstart] [--control] [--small]

What is already done in the folder is not done again. ``--control`` adds a teacher that is trained for as long as
teacher and student together. ``--small`` shows in a minute or two that everything runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from quickstart_stages import Stage, run_stages

from vissl_clusterfit.datasets.synthetic.digits import DigitsSpec, write_digits
from vissl_clusterfit.errors import ClusterFitError

SMALL_DIGITS = DigitsSpec(num_scans=300, num_test_scans=100, train_drawings=1, test_drawings=1)
SMALL_TRAINING = ["config.OPTIMIZER.num_epochs=1"]
SMALL_CLUSTERING = ["config.CLUSTERFIT.NUM_CLUSTERS=20", "config.CLUSTERFIT.NUM_ITER=3"]
CONTROL, CONTROL_NAME = "teacher_twice_as_long", "teacher, twice as long"

# The pictures are grey: three equal channels would tell raw pixels nothing more.
ONE_CHANNEL = "[{name: Grayscale}, {name: ToTensor}, {name: Normalize, mean: [0.25], std: [0.21]}]"


def main() -> int:
    """Runs every stage that is missing, prints the table and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("quickstart"), help="where everything is kept")
    parser.add_argument("--control", action="store_true", help="also a teacher that is trained twice as long")
    parser.add_argument("--small", action="store_true", help="a few pictures and one epoch")
    arguments = parser.parse_args()
    folder, started = arguments.folder, time.monotonic()
    training = SMALL_TRAINING if arguments.small else []
    clustering = SMALL_CLUSTERING if arguments.small else []
    try:
        print("Writing scikit-learn's handwritten digits as image files", flush=True)
        write_digits(folder / "images", SMALL_DIGITS if arguments.small else DigitsSpec())
    except ClusterFitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    stages = [
        Stage("Pre-training the teacher (RotNet, which sees no labels)", "teacher", training),
        Stage("Its features, their clusters, and the student", "clusterfit", [*training, *clustering]),
    ]
    if arguments.control:
        stages.append(Stage("For comparison: a teacher trained twice as long", CONTROL, training))
    weights = "config.MODEL.WEIGHTS_INIT.PARAMS_FILE"
    models = {
        "raw pixels": ["config.MODEL.TRUNK.NAME=raw_pixels", f"config.TRANSFER.FEATURES.TRANSFORMS={ONE_CHANNEL}"],
        "untrained network": [],
        "teacher": [f"{weights}={folder}/teacher/checkpoint.torch"],
        **({CONTROL_NAME: [f"{weights}={folder}/{CONTROL}/checkpoint.torch"]} if arguments.control else {}),
        "student": [f"{weights}={folder}/clusterfit/checkpoint.torch"],
    }
    return run_stages(folder, "clusterfit/quickstart", stages, models, started=started)


if __name__ == "__main__":
    sys.exit(main())
