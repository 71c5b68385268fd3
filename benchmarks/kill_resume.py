"""Kills the real command again and again, and compares what it makes in the end with what it makes unharmed.

    make bench BENCH=kill_resume            100 kills, some 20 minutes on two cores
    python benchmarks/kill_resume.py --kills 8

Each kill is aimed at one of extraction, clustering, labelling and training, at a random moment of it, with SIGKILL,
SIGTERM or Ctrl-C, on one or two processes. After some kills the command is left alone; then every file of features,
codebook and labels must have the bytes of a run that was never killed. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
NUM_IMAGES, NUM_SHARDS = 600, 30
KILLS_PER_RUN = 8
TIMEOUT_S = 600

# What shows in the folder of a run that a stage has begun.
STAGES = {
    "extraction": "clusterfit/features/train/manifest.json",
    "clustering": "clusterfit/codebook/in_progress",
    "labelling": "clusterfit/labels/train",
    "training": "model_phase0.torch",
}
LONGEST_WAIT_S = {"extraction": 2.0, "clustering": 0.3, "labelling": 0.05, "training": 4.0}

SETTINGS = (
    "config=test/cpu_test/test_cpu_resnet_simclr",
    "+config/clusterfit=student",
    "config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP=4",
    "config.MULTI_PROCESSING_METHOD=fork",
    "config.DATA.TRAIN.DATA_SOURCES=[disk_folder]",
    "config.DATA.TRAIN.DATASET_NAMES=[noise]",
    "config.DATA.TRAIN.DATA_LIMIT=64",
    "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=16",
    "config.DATA.TRAIN.TRANSFORMS=[{name:RandomResizedCrop,size:32},{name:ToTensor}]",
    "config.OPTIMIZER.num_epochs=4",
    "config.OPTIMIZER.param_schedulers.lr={name:constant,value:0.01,update_interval:epoch,"
    "auto_lr_scaling:{auto_scale:false}}",
    "config.CHECKPOINT.OVERWRITE_EXISTING=false",
    "config.CHECKPOINT.AUTO_RESUME=true",
    "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1",
    "config.CLUSTERFIT.NUM_CLUSTERS=50",
    "config.CLUSTERFIT.NUM_ITER=40",
    "config.CLUSTERFIT.FEATURES.LAYER_NAME=res5",
    "config.CLUSTERFIT.FEATURES.BATCH_SIZE=5",
    f"config.CLUSTERFIT.FEATURES.SHARD_SIZE={NUM_IMAGES // NUM_SHARDS}",
    "config.CLUSTERFIT.FEATURES.TRANSFORMS=[{name:Resize,size:[32,32]},{name:ToTensor}]",
)


@dataclass
class Tally:
    """What happened."""

    kills: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    starts: int = 0
    runs: int = 0
    lost_shards: int = 0
    shards_in_work: int = 0
    differing_files: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


def main() -> int:
    """Runs the harness; the exit code is 1 where anything was lost or differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    dice = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        command = _command(base)
        started = time.monotonic()
        _finish(command, base / "unharmed", num_processes=1)
        print(f"An unharmed run takes {time.monotonic() - started:.0f} s.", flush=True)
        tally = Tally()
        while sum(tally.kills.values()) < arguments.kills and not tally.failures:
            _one_run(command, base, arguments.kills, dice, tally)
    print(json.dumps(_report(tally)))
    return 0 if not (tally.lost_shards or tally.differing_files or tally.failures) else 1


def _one_run(command: list[str], base: Path, wanted: int, dice: random.Random, tally: Tally) -> None:
    folder = base / "killed"
    shutil.rmtree(folder, ignore_errors=True)
    done: dict[str, bytes] = {}
    for stage in sorted(dice.choices(list(STAGES), k=KILLS_PER_RUN), key=list(STAGES).index):
        if sum(tally.kills.values()) >= wanted:
            break
        tally.starts += 1
        if _start_and_kill(command, folder, stage, dice):
            tally.kills[stage] += 1
        tally.shards_in_work += len(list(folder.glob("clusterfit/features/train/leases/*.json")))
        tally.lost_shards += sum(_shards(folder).get(name) != content for name, content in done.items())
        done = _shards(folder)
    try:
        tally.starts += 1
        _finish(command, folder, num_processes=dice.choice([1, 2]))
    except RuntimeError as error:
        tally.failures.append(str(error))
        return
    tally.runs += 1
    tally.differing_files += _differences(base / "unharmed" / "clusterfit", folder / "clusterfit")
    print(f"{sum(tally.kills.values())} kills in {tally.starts} starts: {tally.kills}", flush=True)


def _start(command: list[str], folder: Path, num_processes: int, log: Path) -> subprocess.Popen:
    overrides = [f"config.CHECKPOINT.DIR={folder}", f"config.DISTRIBUTED.NUM_PROC_PER_NODE={num_processes}"]
    with open(log, "a", encoding="utf-8") as output:
        return subprocess.Popen(
            [*command, *overrides],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )


def _start_and_kill(command: list[str], folder: Path, stage: str, dice: random.Random) -> bool:
    """Kills a run at a random moment of a stage; whether it was still running."""
    begun = folder / STAGES[stage]
    process = _start(command, folder, dice.choice([1, 2]), folder.with_suffix(".log"))
    deadline = time.monotonic() + TIMEOUT_S
    while not begun.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(dice.uniform(0, LONGEST_WAIT_S[stage]))
    running = process.poll() is None
    if running:
        os.killpg(process.pid, dice.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
        time.sleep(0.2)
    _end_group(process.pid)
    process.wait()
    return running


def _end_group(group: int) -> None:
    """Ends what the first signal left of the processes that this harness started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _finish(command: list[str], folder: Path, num_processes: int) -> None:
    log = folder.with_suffix(".log")
    process = _start(command, folder, num_processes, log)
    code = process.wait(timeout=TIMEOUT_S)
    if code:
        tail = "\n".join(log.read_text("utf-8").splitlines()[-20:])
        raise RuntimeError(f"the command ended with exit code {code}:\n{tail}")


def _shards(folder: Path) -> dict[str, bytes]:
    """The shards that are done, by the name of the file that says so."""
    return {file.name: file.read_bytes() for file in folder.glob("clusterfit/features/train/rows-*.json")}


def _differences(expected: Path, found: Path) -> list[str]:
    """Files of the artefacts that are not the same in both: the manifests, and what they name."""
    return sorted(
        str(file)
        for file in _artifact_files(expected) | _artifact_files(found)
        if not ((expected / file).is_file() and (found / file).is_file())
        or (expected / file).read_bytes() != (found / file).read_bytes()
    )


def _artifact_files(root: Path) -> set[Path]:
    files = set()
    for manifest in root.rglob("manifest.json"):
        named = [manifest, *(manifest.parent / name for name in json.loads(manifest.read_text("utf-8"))["sha256"])]
        files |= {path.relative_to(root) for path in named}
    return files


def _report(tally: Tally) -> dict:
    return {
        "benchmark": "kill_resume",
        "kills": sum(tally.kills.values()),
        "kills_by_stage": tally.kills,
        "starts": tally.starts,
        "finished_runs": tally.runs,
        "identical": not tally.differing_files and not tally.failures,
        "differing_files": tally.differing_files[:10],
        "lost_shards": tally.lost_shards,
        # The most that was done again: shards that somebody held when the run was killed, of all that were made.
        "redone_share": round(tally.shards_in_work / max(1, tally.runs * NUM_SHARDS), 3),
        "failures": tally.failures,
    }


def _command(base: Path) -> list[str]:
    """The real command, on images and a teacher that are made here."""
    rng = np.random.default_rng(0)
    for index in range(NUM_IMAGES):
        path = base / "images" / f"class{index % 3}" / f"{index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, size=(8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((40, 40)).save(path)
    return [
        sys.executable,
        str(REPOSITORY / "tools/run_distributed_engines.py"),
        *SETTINGS,
        f"config.DATA.TRAIN.DATA_PATHS=[{base / 'images'}]",
        f"config.CLUSTERFIT.TEACHER.WEIGHTS={_teacher(base)}",
    ]


def _teacher(base: Path) -> Path:
    from vissl_clusterfit.plugin import bootstrap  # noqa: F401  (repairs and registrations)

    # isort: split
    import torch
    from vissl.models import build_model

    from vissl_clusterfit.launch.compose.compose import compose

    torch.manual_seed(0)
    model = compose([*SETTINGS, f"config.CHECKPOINT.DIR={base / 'compose'}"])[2].MODEL
    torch.save(build_model(model, {}).trunk.state_dict(), base / "teacher.torch")
    return base / "teacher.torch"


if __name__ == "__main__":
    sys.exit(main())
