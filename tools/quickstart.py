"""ClusterFit on two cores: from handwritten digits to a table of transfer figures, by the commands that it prints.

    python tools/quickstart.py [--folder quickstart] [--control] [--small]

What is already done in the folder is not done again. ``--control`` adds a teacher that is trained for as long as
teacher and student together. ``--small`` shows in a minute or two that everything runs; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from vissl_clusterfit.digits import DigitsSpec, write_digits
from vissl_clusterfit.errors import ClusterFitError
from vissl_clusterfit.report.results import append_results, read_results
from vissl_clusterfit.report.table import format_table

RUN = Path(__file__).with_name("run_distributed_engines.py")

SMALL_DIGITS = DigitsSpec(num_scans=300, num_test_scans=100, train_drawings=1, test_drawings=1)
SMALL_TRAINING = ["config.OPTIMIZER.num_epochs=1"]
SMALL_CLUSTERING = ["config.CLUSTERFIT.NUM_CLUSTERS=20", "config.CLUSTERFIT.NUM_ITER=3"]
CONTROL, CONTROL_NAME = "teacher_twice_as_long", "teacher, twice as long"

# Two threads of one process on two busy cores wait for each other; and with one, figures do not depend on the cores.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

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
    evaluations = _evaluations(folder, control=arguments.control)
    control = (CONTROL, "For comparison: a teacher trained twice as long", CONTROL, training)
    stages = [
        ("teacher", "Pre-training the teacher (RotNet, which sees no labels)", "teacher", training),
        ("student", "Its features, their clusters, and the student", "clusterfit", training + clustering),
        *([control] if arguments.control else []),
        *[(f"evaluate_{model}", f"Evaluating: {model}", "evaluate", of) for model, of in evaluations],
    ]
    for name, title, config, overrides in stages:
        print(f"\n{title}", flush=True)
        code = _run(_file_name(name), config, folder, overrides)
        if code:
            return code
    rows = [row for model, _ in evaluations for row in read_results(_evaluation_folder(folder, model))]
    append_results(folder, rows)
    print(f"\n{format_table(rows)}\n\nRows with their protocols: {folder / 'results.json'}.", end=" ")
    print(f"{time.monotonic() - started:.0f} seconds in all.")
    return 0


def _evaluation_folder(folder: Path, model: str) -> Path:
    return folder / "evaluation" / _file_name(model)


def _file_name(title: str) -> str:
    return title.replace(",", "").replace(" ", "_")


def _evaluations(folder: Path, *, control: bool) -> list[tuple[str, list[str]]]:
    """Each model of the table, and what makes the evaluation that of this model."""
    weights = "config.MODEL.WEIGHTS_INIT.PARAMS_FILE"
    models = {
        "raw pixels": ["config.MODEL.TRUNK.NAME=raw_pixels", f"config.TRANSFER.FEATURES.TRANSFORMS={ONE_CHANNEL}"],
        "untrained network": [],
        "teacher": [f"{weights}={folder}/teacher/checkpoint.torch"],
        **({CONTROL_NAME: [f"{weights}={folder}/{CONTROL}/checkpoint.torch"]} if control else {}),
        "student": [f"{weights}={folder}/clusterfit/checkpoint.torch"],
    }
    return [
        (
            model,
            [
                *overrides,
                f'config.TRANSFER.MODEL_NAME="{model}"',
                f"config.CHECKPOINT.DIR={_evaluation_folder(folder, model)}",
            ],
        )
        for model, overrides in models.items()
    ]


def _run(name: str, config: str, folder: Path, overrides: list[str]) -> int:
    """Runs one config in a process of its own, its output in a log file."""
    command = [f"config=clusterfit/quickstart/{config}", f"quickstart.folder={folder}", *overrides]
    print(f"    python tools/{RUN.name} {shlex.join(command)}", flush=True)
    log = folder / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with open(log, "w", encoding="utf-8") as output:
        code = subprocess.run(
            [sys.executable, RUN, *command], stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **ENVIRONMENT}
        ).returncode
    outcome = "done" if code == 0 else f"failed with exit code {code}"
    print(f"    {outcome} in {time.monotonic() - started:.0f} s; log: {log}", flush=True)
    if code:
        print("\n".join(log.read_text("utf-8").splitlines()[-15:]), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
