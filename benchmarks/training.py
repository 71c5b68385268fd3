"""Steps of a training: this package's, VISSL's way, and a bare loop of the same step.

    make bench BENCH=training
    python benchmarks/training.py --network vit_s16 --pairs 3

JPEG files of 500 x 375 pixels, 224 pixels of each, batches of 64, cross-entropy with the folder as the label. Ours is
the command ``run`` with ``CLUSTERFIT.COMPUTE`` at auto. VISSL's way is VISSL 0.1.6 with nothing but its repairs, in
float32. The bare loop has one batch in memory, in the precision that ours chose, and does forward pass, loss, backward
pass and SGD. Each is a process that does some steps when it is its turn, and is stopped while it is not. The last line
is one JSON object: "ratio" is VISSL's seconds over ours, "of_bare" ours in images per second over the bare loop's, and
"ratio_of_cores" and "of_bare_by_cores" the same of processor time, which other work disturbs less.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PIXELS = 224
NUM_CLASSES = 4
#: Steps in a turn: VISSL's take several times as long.
STEPS = {"vissl": 1, "bare": 2, "ours": 2}
WARM_UP = 2
NETWORKS = {
    "resnet50": ["config.MODEL.TRUNK.NAME=resnet", "config.MODEL.HEAD.PARAMS=[[mlp,{dims:[2048,1000]}]]"],
    "vit_s16": [
        "config.MODEL.TRUNK.NAME=vision_transformer",
        "config.MODEL.HEAD.PARAMS=[[mlp,{dims:[384,1000]}]]",
        *(
            f"config.MODEL.TRUNK.VISION_TRANSFORMERS.{name}={value}"
            for name, value in {
                "IMAGE_SIZE": 224,
                "PATCH_SIZE": 16,
                "NUM_LAYERS": 12,
                "NUM_HEADS": 6,
                "HIDDEN_DIM": 384,
                "MLP_DIM": 1536,
                "DROPOUT_RATE": 0,
                "ATTENTION_DROPOUT_RATE": 0,
                "CLASSIFIER": "token",
            }.items()
        ),
    ],
}


def overrides(network: str, batch: int, images: Path, folder: Path) -> list[str]:
    """Those of VISSL's supervised example, as far as a CPU and these images need others."""
    return [
        "config=pretrain/supervised/supervised_1gpu_resnet_example",
        *NETWORKS[network],
        f"config.DATA.TRAIN.DATA_PATHS=[{images}]",
        f"config.DATA.TRAIN.LABEL_PATHS=[{images}]",
        f"config.DATA.TRAIN.BATCHSIZE_PER_REPLICA={batch}",
        "config.DATA.NUM_DATALOADER_WORKERS=1",
        "config.DATA.PIN_MEMORY=false",
        "config.TEST_MODEL=false",
        "config.OPTIMIZER.num_epochs=1000",
        "config.OPTIMIZER.param_schedulers.lr.name=constant",
        "config.OPTIMIZER.param_schedulers.lr.value=0.01",
        "config.OPTIMIZER.param_schedulers.lr.auto_lr_scaling.auto_scale=false",
        "config.HOOKS.PERF_STATS.MONITOR_PERF_STATS=false",
        "config.DISTRIBUTED.BACKEND=gloo",
        "config.DISTRIBUTED.RUN_ID=auto",
        "config.MACHINE.DEVICE=cpu",
        "config.LOG_FREQUENCY=1",
        f"config.CHECKPOINT.DIR={folder}",
        "config.CHECKPOINT.CHECKPOINT_FREQUENCY=100000",
    ]


# ------------ in the processes of the sides


class Turns:
    """Does steps when it is told how many, and says how long they took."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what VISSL logs goes elsewhere
        self._begin(WARM_UP)

    def _begin(self, number: int) -> None:
        self._left, self._begun, self._cores = number, time.perf_counter(), time.process_time()

    def on_step(self, _task: Any = None) -> None:
        """Called after each step."""
        self._left -= 1
        if self._left:
            return
        _wait_for_card()
        taken = time.perf_counter() - self._begun, time.process_time() - self._cores
        print(*taken, file=self._answers, flush=True)
        line = sys.stdin.readline()
        if not line.strip():
            os._exit(0)
        self._begin(int(line))


def _wait_for_card() -> None:
    """A step ends when the backward pass and the update are done that it has a card begin."""
    torch = sys.modules["torch"]
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def hooks_with(turns: Turns, generate: Callable[[Any], list]) -> Callable[[Any], list]:
    """VISSL's hooks, and one that calls ``turns``."""

    def hooks(config: Any) -> list:
        from classy_vision.hooks import ClassyHook

        names = ("on_start", "on_phase_start", "on_forward", "on_loss_and_meter", "on_backward", "on_update")
        nothing = dict.fromkeys((*names, "on_phase_end", "on_end", "on_exception"), ClassyHook._noop)
        hook = type("TurnsHook", (ClassyHook,), {**nothing, "on_step": lambda _hook, task: turns.on_step(task)})
        return [*generate(config), hook()]

    return hooks


def ours(arguments: list[str]) -> None:
    turns = Turns()
    from vissl_clusterfit.launch.main import main
    from vissl_clusterfit.plugin import bootstrap  # noqa: F401

    # isort: split
    from vissl_clusterfit.launch.processes import worker

    worker.default_hook_generator = hooks_with(turns, worker.default_hook_generator)
    sys.exit(main([*arguments, "+config.CLUSTERFIT.COMPUTE.PRECISION=auto"]))


def vissl(arguments: list[str]) -> None:
    turns = Turns()
    from vissl_clusterfit import compat

    compat.apply()
    from vissl.hooks import default_hook_generator
    from vissl.utils.distributed_launcher import launch_distributed
    from vissl.utils.hydra_config import compose_hydra_configuration, convert_to_attrdict

    _, config = convert_to_attrdict(compose_hydra_configuration(arguments))
    launch_distributed(config, 0, "train", hooks_with(turns, default_hook_generator))


def bare(network: str, size: int, precision: str, channels_last: bool) -> None:
    turns = Turns()
    import torch

    if network == "resnet50":
        from torchvision.models import resnet50

        model = resnet50()
    else:
        from timm.models import create_model

        model = create_model("vit_small_patch16_224")
    batch, labels = torch.randn(size, 3, PIXELS, PIXELS), torch.randint(NUM_CLASSES, (size,))
    if channels_last:
        model, batch = model.to(memory_format=torch.channels_last), batch.contiguous(memory_format=torch.channels_last)
    dtype = getattr(torch, precision)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4, nesterov=True)
    while True:
        with torch.autocast("cpu", dtype=dtype, enabled=precision != "float32"):
            logits = model(batch)
        loss = torch.nn.functional.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        turns.on_step()


# ------------ in the process that compares


class Side:
    """A process of one side."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self._log = log.open("w")
        self._process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            start_new_session=True,
        )

    def seconds(self) -> tuple[float, float]:
        """Waits for the steps that were asked for, and stops the process; also of processors, without the reader's."""
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(Path(self._log.name).read_text()[-4000:])
        os.killpg(self._process.pid, signal.SIGSTOP)
        seconds, of_cores = map(float, line.split())
        return seconds, of_cores

    def step(self, number: int) -> tuple[float, float]:
        """Seconds of one step, of so many, and of processors."""
        os.killpg(self._process.pid, signal.SIGCONT)
        print(number, file=self._process.stdin, flush=True)
        seconds, of_cores = self.seconds()
        return seconds / number, of_cores / number

    def end(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=[*NETWORKS], default="resnet50")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    options = parser.parse_args()
    from decoding import HEIGHT, WIDTH, write_images
    from inputs import machine

    sides: dict[str, Side] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for number in range(NUM_CLASSES):
            write_images(folder / "images" / f"class-{number}")
        try:
            for side in ("ours", "vissl"):
                arguments = overrides(options.network, options.batch, folder / "images", folder / side)
                sides[side] = Side([side, *arguments], folder / f"{side}.log")
                sides[side].seconds()
            chosen = json.loads((folder / "ours" / "training.json").read_text())["compute"]
            precision, channels_last = chosen.get("precision", "float32"), chosen.get("channels_last", False)
            sides["bare"] = Side(
                ["bare", options.network, str(options.batch), precision, str(channels_last)], folder / "bare.log"
            )
            sides["bare"].seconds()
            taken: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
            for number in range(options.pairs):
                for side in list(STEPS)[:: 1 if number % 2 else -1]:
                    taken[side].append(sides[side].step(STEPS[side]))
                print("training", {side: each[-1] for side, each in taken.items()}, flush=True)
        finally:
            for side in sides.values():
                side.end()

    def ratio(side: str, clock: int = 0) -> float:
        pairs = zip(taken[side], taken["ours"], strict=True)
        return statistics.median(other[clock] / our[clock] for other, our in pairs)

    report = {
        "benchmark": "training",
        "network": options.network,
        "ratio": ratio("vissl"),
        "of_bare": ratio("bare"),
        "ratio_of_cores": ratio("vissl", 1),
        "of_bare_by_cores": ratio("bare", 1),
        "images_per_second": {
            side: options.batch / statistics.median(seconds for seconds, _ in each) for side, each in taken.items()
        },
        "precision": precision,
        "channels_last": channels_last,
        "batch": options.batch,
        "pixels": PIXELS,
        "files": f"{WIDTH} x {HEIGHT} JPEG",
        "pairs": options.pairs,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "vissl")},
        "machine": machine(),
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["ours", *arguments]:
            ours(arguments)
        case ["vissl", *arguments]:
            vissl(arguments)
        case ["bare", network, size, precision, channels_last]:
            bare(network, int(size), precision, channels_last == "True")
        case _:
            sys.exit(main())
