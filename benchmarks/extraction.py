"""From JPEG files on disk to features on disk, against VISSL's way, the bare network and bare decoding.

    make bench BENCH=extraction
    python benchmarks/extraction.py --pairs 5 --networks resnet50 vit_s16 --images 256

JPEG files of 500 x 375 pixels, as most of ImageNet's are, at 224 pixels. VISSL's way is the extraction of releases
before there was a choice: its data set and the forward pass of its trunk in float32, batch after batch. Ours is the
stage as a run has it, with ``COMPUTE`` at its defaults (auto, which is measured before the clock runs). The bare
network is the same function of images that ours computes with, on batches that are in memory; bare decoding is reading
all images with as many processes as ours, and throwing them away. Sides take turns in being first. Ratios are medians
of pairs; ``of_bare`` is against the slower of the two bounds. ``processor`` has the same in seconds of processors, of
this process and those that it starts, which other work on the machine takes less of. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from decoding import write_images
from inputs import machine
from torch.utils.data import DataLoader

from vissl_clusterfit.plugin import bootstrap  # noqa: F401  (repairs; without them VISSL is not imported)

# isort: split
from vissl_clusterfit.compute.chosen import PLAIN, Compute
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.features.computing import measured_compute
from vissl_clusterfit.features.extract import extract_features
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.plugin.data.split_images import SplitImages
from vissl_clusterfit.plugin.models.encoder import build_encoder, untrained_teacher

CPU = torch.device("cpu")
NETWORKS = {
    "resnet50": ["config.MODEL.TRUNK.NAME=resnet", "config.MODEL.TRUNK.RESNETS.DEPTH=50"],
    "vit_s16": [
        "config.MODEL.TRUNK.NAME=vision_transformer",
        "config.MODEL.TRUNK.VISION_TRANSFORMERS.IMAGE_SIZE=224",
        "config.MODEL.TRUNK.VISION_TRANSFORMERS.PATCH_SIZE=16",
        "config.MODEL.TRUNK.VISION_TRANSFORMERS.HIDDEN_DIM=384",
        "config.MODEL.TRUNK.VISION_TRANSFORMERS.NUM_LAYERS=12",
        "config.MODEL.TRUNK.VISION_TRANSFORMERS.NUM_HEADS=6",
        "config.MODEL.TRUNK.VISION_TRANSFORMERS.MLP_DIM=1536",
    ],
}


def composed(name: str, images: Path, scratch: Path) -> Any:
    """VISSL's config of a run that extracts with a network."""
    overrides = [
        "config=test/cpu_test/test_cpu_resnet_simclr",
        "+config/clusterfit=student",
        "config.DATA.TRAIN.DATA_SOURCES=[disk_folder]",
        f"config.DATA.TRAIN.DATA_PATHS=[{images}]",
        "config.CLUSTERFIT.TEACHER.WEIGHTS=none",
        f"config.CHECKPOINT.DIR={scratch}/run",
        *NETWORKS[name],
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        return compose(overrides)[2]


class Sides:
    """The same images and network, four ways; each gives the seconds that it takes for all images."""

    def __init__(self, name: str, images: Path, scratch: Path, num_workers: int) -> None:
        self.cfg = composed(name, images, scratch)
        settings = ClusterFitConfig.from_config(self.cfg)
        self.features = settings.features
        self.images = SplitImages(self.cfg, "TRAIN", self.features.transforms)
        self.num_workers, self._scratch = num_workers, scratch
        spec = untrained_teacher(self.cfg.MODEL, settings.teacher, self.features)

        def build(compute: Compute) -> Callable[[torch.Tensor], torch.Tensor]:
            return build_encoder(spec, CPU, compute)

        self.compute, _ = measured_compute(settings.compute, self.images, build, CPU)
        self.plain, self.fast = build(PLAIN), build(self.compute)

    def _loader(self) -> DataLoader:
        return DataLoader(self.images, batch_size=self.features.batch_size, num_workers=self.num_workers)  # type: ignore[arg-type]

    def vissl(self) -> float:
        """VISSL's way."""
        begun, rows = time.perf_counter(), []
        with torch.inference_mode():
            for pixels, _ in self._loader():
                rows.append(self.plain(pixels).numpy())
        return time.perf_counter() - begun

    def ours(self) -> float:
        """The stage, to features on disk."""
        folder = self._scratch / "features"
        shutil.rmtree(folder, ignore_errors=True)
        begun = time.perf_counter()
        inputs = {"dataset": self.images.inputs()}
        extract_features(self.images, lambda: self.fast, folder, inputs, self.features, num_workers=self.num_workers)
        return time.perf_counter() - begun

    def network(self) -> float:
        """The forward pass alone, of a batch in memory, again and again."""
        pixels = torch.stack([self.images[number][0] for number in range(self.features.batch_size)])
        begun = time.perf_counter()
        with torch.inference_mode():
            for _ in range(len(self.images) // len(pixels)):
                self.fast(pixels)
        return time.perf_counter() - begun

    def decoding(self) -> float:
        """Reading and decoding alone."""
        begun = time.perf_counter()
        for _ in self._loader():
            pass
        return time.perf_counter() - begun


def _processor_seconds() -> float:
    """Of this process, and of those that it has started and that have ended."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def measured(sides: Sides, num_pairs: int) -> dict[str, Any]:
    """Medians of seconds and of ratios of pairs."""
    names = ["vissl", "ours", "network", "decoding"]
    sides.fast(torch.rand(sides.features.batch_size, 3, 224, 224))  # what is done at the first batch only
    wall: dict[str, list[float]] = {name: [] for name in names}
    processor: dict[str, list[float]] = {name: [] for name in names}
    for number in range(num_pairs):
        for name in names[:: 1 if number % 2 else -1]:
            begun = _processor_seconds()
            wall[name].append(getattr(sides, name)())
            processor[name].append(_processor_seconds() - begun)
        print({name: (round(wall[name][-1], 1), round(processor[name][-1], 1)) for name in names}, flush=True)
    return {
        **_summary(wall, len(sides.images)),
        "processor": _summary(processor, len(sides.images)),
        "compute": dataclasses.asdict(sides.compute),
    }


def _summary(seconds: dict[str, list[float]], num_images: int) -> dict[str, Any]:
    median = {name: statistics.median(each) for name, each in seconds.items()}
    bound = max(("network", "decoding"), key=lambda name: median[name])

    def ratio(side: str) -> float:
        return statistics.median(theirs / our for theirs, our in zip(seconds[side], seconds["ours"], strict=True))

    return {
        "ratio": ratio("vissl"),
        "of_bare": ratio(bound),
        "bound": bound,
        "images_per_second": {name: num_images / value for name, value in median.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--images", type=int, default=192, help="whole batches of 64")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch) / "images"
        size = write_images(images / "all", options.images)
        for name in options.networks:
            found[name] = measured(Sides(name, images, Path(scratch), options.workers), options.pairs)
            print(name, json.dumps(found[name]), flush=True)
    report = {
        "benchmark": "extraction",
        "ratio": min(each["ratio"] for each in found.values()),
        "of_bare": min(each["of_bare"] for each in found.values()),
        "networks": found,
        "pairs": options.pairs,
        "images": options.images,
        "workers": options.workers,
        "bytes_per_file": size,
        "machine": machine(),
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
