"""From JPEG files on disk to features on disk, against VISSL's way, the bare network and bare decoding.

    make bench BENCH=extraction
    python benchmarks/extraction.py --pairs 5 --networks resnet50 --images 1024

JPEG files of 500 x 375 pixels, as most of ImageNet's are, at 224 pixels. VISSL's way is the extraction of releases
before there was a choice: its data set and the forward pass of its trunk in float32, batch after batch, for some of
the images, as its rate is the same for few. Ours is the stage as a run has it, with ``COMPUTE`` at its defaults (auto,
which is measured before the clock runs), from the start of its processes to the manifest. The bare network is the same
function of images that ours computes with, on a batch that is in memory. Both build the network, ours while its first
images are read, as in a run; the bare one's memory is there before, as that of ours is after its first batch. Bare
decoding is reading all images with as many processes as ours, and throwing them away. ``steady`` is the rate of the
second half of the images: what ours takes for all, less what it takes for the first half alone, against the bare
network's passes without building it. Sides take turns in being first. Ratios are medians of pairs; ``of_bare`` and
``steady_of_bare`` are against the slower of the two bounds. ``processor`` has the same in seconds of processors, of
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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from decoding import write_images
from inputs import machine
from torch.utils.data import DataLoader, Subset

from vissl_clusterfit.plugin import bootstrap  # noqa: F401  (repairs; without them VISSL is not imported)

# isort: split
from vissl_clusterfit.compute.chosen import PLAIN, Compute
from vissl_clusterfit.compute.memory import all_freed_memory_kept
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.features.computing import measured_compute
from vissl_clusterfit.features.extract import extract_features
from vissl_clusterfit.features.sample_list import dataset_inputs
from vissl_clusterfit.images.pixels import Finish
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
    """The same images and network, each way for some number of the images, in seconds."""

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
        self.batch = torch.stack([self.images[number][0] for number in range(self.features.batch_size)])
        self._build, self.plain = build, build(PLAIN)
        self.building = 0.0, 0.0  # of the bare network, in seconds and in those of processors

    def _loader(self, number: int) -> DataLoader:
        some: Any = Subset(self.images, range(number))
        return DataLoader(some, batch_size=self.features.batch_size, num_workers=self.num_workers)

    def vissl(self, number: int) -> None:
        """VISSL's way."""
        rows = []
        with torch.inference_mode():
            for pixels, _ in self._loader(number):
                rows.append(self.plain(pixels).numpy())

    def ours(self, number: int) -> None:
        """The stage, to features on disk."""
        folder = self._scratch / "features"
        shutil.rmtree(folder, ignore_errors=True)
        images = First(self.images, number)
        inputs = {"dataset": dataset_inputs(images.samples)}
        extract_features(
            images, lambda: self._build(self.compute), folder, inputs, self.features, num_workers=self.num_workers
        )

    def network(self, number: int) -> None:
        """The forward pass alone, of a batch in memory, again and again."""
        begun = time.perf_counter(), _processor_seconds()
        encode = self._build(self.compute)
        self.building = time.perf_counter() - begun[0], _processor_seconds() - begun[1]
        for _ in range(number // len(self.batch)):
            encode(self.batch)

    def decoding(self, number: int) -> None:
        """Reading and decoding alone."""
        for _ in self._loader(number):
            pass

    @contextlib.contextmanager
    def ready(self, side: str) -> Iterator[None]:
        """What is not timed of a side: the bare network has the memory of a batch, as ours has after its first."""
        if side != "network":
            yield
            return
        with all_freed_memory_kept(), torch.inference_mode():
            self._build(self.compute)(self.batch)
            yield


class First:
    """The first images of a split."""

    def __init__(self, images: SplitImages, number: int) -> None:
        self._images, self.samples = images, images.samples[:number]
        self.name_of = images.name_of

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        return self._images[index]

    def unfinished(self) -> tuple[First, Finish] | None:
        """The same as pixels, as the split has it."""
        found = self._images.unfinished()
        return found and (First(found[0], len(self)), found[1])


def _processor_seconds() -> float:
    """Of this process, and of those that it has started and that have ended."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def measured(sides: Sides, num_pairs: int, num_of_vissl: int) -> dict[str, Any]:
    """Medians of rates and of ratios of pairs."""
    all_images = len(sides.images)
    turns = {
        "vissl": ("vissl", min(num_of_vissl, all_images)),
        "ours": ("ours", all_images),
        "half": ("ours", all_images // 2),
        "network": ("network", all_images),
        "decoding": ("decoding", all_images),
    }
    wall: dict[str, list[float]] = {name: [] for name in (*turns, "passes")}
    processor: dict[str, list[float]] = {name: [] for name in (*turns, "passes")}
    for pair in range(num_pairs):
        for name, (side, number) in [*turns.items()][:: 1 if pair % 2 else -1]:
            with sides.ready(side):
                begun, used = time.perf_counter(), _processor_seconds()
                getattr(sides, side)(number)
                wall[name].append(time.perf_counter() - begun)
                processor[name].append(_processor_seconds() - used)
            if name == "network":
                for seconds, building in zip((wall, processor), sides.building, strict=True):
                    seconds["passes"].append(seconds[name][-1] - building)
        print({name: (round(wall[name][-1], 2), round(processor[name][-1], 2)) for name in wall}, flush=True)
    numbers = {name: number for name, (_, number) in turns.items()}
    numbers["passes"] = all_images
    return {
        **_summary(wall, numbers),
        "processor": _summary(processor, numbers),
        "compute": dataclasses.asdict(sides.compute),
    }


def _summary(seconds: dict[str, list[float]], numbers: dict[str, int]) -> dict[str, Any]:
    rates = {name: [numbers[name] / each for each in seconds[name]] for name in seconds if name != "half"}
    second_half = zip(seconds["ours"], seconds["half"], strict=True)
    rates["steady"] = [(numbers["ours"] - numbers["half"]) / (whole - half) for whole, half in second_half]
    median = {name: statistics.median(each) for name, each in rates.items()}
    bound = min(("network", "decoding"), key=lambda name: median[name])

    def ratio(side: str, other: str) -> float:
        return statistics.median(one / two for one, two in zip(rates[side], rates[other], strict=True))

    return {
        "ratio": ratio("ours", "vissl"),
        "of_bare": ratio("ours", bound),
        "steady_of_bare": ratio("steady", "passes" if bound == "network" else bound),
        "bound": bound,
        "images_per_second": median,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--images", type=int, default=1024, help="whole batches of 64, twice")
    parser.add_argument("--images-of-vissl", type=int, default=128, help="that VISSL's way is measured with")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch) / "images"
        size = write_images(images / "all", options.images)
        for name in options.networks:
            found[name] = measured(
                Sides(name, images, Path(scratch), options.workers), options.pairs, options.images_of_vissl
            )
            print(name, json.dumps(found[name]), flush=True)
    report = {
        "benchmark": "extraction",
        "ratio": min(each["ratio"] for each in found.values()),
        "of_bare": min(each["of_bare"] for each in found.values()),
        "steady_of_bare": min(each["steady_of_bare"] for each in found.values()),
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
