"""On a card: whether it gives what a processor gives, and which share of its rate of products each stage reaches.

    make bench BENCH=gpu                                  at most eight minutes
    python benchmarks/gpu.py --device cpu --tiny          runs through where there is no card; its figures say nothing

Extraction (pictures of 224 pixels in memory to features on disk) in float32 and in bfloat16 with channels last, steps
of a training under VISSL's trainer from JPEG files, labels, k-means, its passes over features that travel and that
stay, their sums and copies, and nearest neighbours, each on data of one run; and an iteration of flash-kmeans and of
faiss on a card where they are installed.
"share" of a figure is its operations per second over those of a product of two large matrices in bfloat16, measured
first. Labels, centers and predictions must be those of a processor to the bit, features near those in float32. A part
that does not fit into the time, or is not installed, is named in "left_out". The last line is one JSON object; the exit
code is 1 where a check fails.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gpu_passes
import numpy as np
import torch
import torchvision
from decoding import write_images
from inputs import labelled_features, machine
from random_pictures import Pictures
from torch.utils.flop_counter import FlopCounterMode
from training import NUM_CLASSES, PIXELS, STEPS, Side, overrides

from vissl_clusterfit import KMeans
from vissl_clusterfit.compute.chosen import PLAIN, Compute
from vissl_clusterfit.compute.inference import prepared
from vissl_clusterfit.config.features import EncodingSettings
from vissl_clusterfit.features.extract import extract_features
from vissl_clusterfit.features.sample_list import dataset_inputs
from vissl_clusterfit.images.pixels import Finish
from vissl_clusterfit.search.torch_search import TorchSearch
from vissl_clusterfit.transfer.knn import KnnSettings, knn_predict

LIMIT_S = 450.0
WAYS = {"float32": PLAIN, "bfloat16": Compute("bfloat16", channels_last=True)}
#: How far features may be from those of a processor in float32: the difference over the length, of the median row.
#: A card rounds what its convolutions take in float32 to 10 bits, unless it is told not to.
MAY_DIFFER = {"float32": 5e-3, "bfloat16": 0.05}


@dataclass(frozen=True)
class Sizes:
    """What is computed; and on a processor, which is what the results of a card are held against."""

    matrix: int
    network: str
    images: int
    batch: int
    workers: int
    training_batch: int
    training_pixels: int
    training_files: int
    features: int
    dim: int
    clusters: int
    iterations: int
    queries: int
    neighbors: int
    compared: int


LARGE = Sizes(8192, "resnet50", 32_768, 256, 8, 256, PIXELS, 512, 400_000, 768, 16_384, 10, 10_000, 20, 4096)
TINY = Sizes(256, "resnet18", 8, 4, 0, 2, 64, 4, 600, 32, 20, 3, 50, 5, 100)


class Card:
    """The device, its rate, and the parts of the benchmark; each gives figures and checks."""

    def __init__(self, device: str, sizes: Sizes, scratch: Path) -> None:
        self.device, self.sizes, self._scratch = torch.device(device), sizes, scratch
        self.absent: list[str] = []
        self.rate = self._matrix_rate()
        self.features, self.labels = labelled_features(sizes.features, sizes.dim)

    def synchronize(self) -> None:
        """Waits until the device has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any], rounds: int = 1) -> float:
        """Of work that was done once before; the mean of some rounds."""
        work()
        self.synchronize()
        begun = time.perf_counter()
        for _ in range(rounds):
            work()
        self.synchronize()
        return (time.perf_counter() - begun) / rounds

    def _matrix_rate(self) -> float:
        size = self.sizes.matrix
        # Of random numbers, as a network's are: a card multiplies ones faster, for less power.
        operand = torch.randn(size, size, device=self.device, dtype=torch.bfloat16)
        rounds = 20

        def products() -> None:
            for _ in range(rounds):
                operand @ operand

        return 2 * size**3 * rounds / min(self.seconds(products) for _ in range(3))

    def share(self, operations: float, seconds: float) -> dict[str, float]:
        """Of the rate."""
        return {"seconds": seconds, "share": operations / seconds / self.rate}

    def extraction(self) -> tuple[dict[str, Any], dict[str, bool]]:
        """From pixels to features on disk, and how far those of some pictures are from a processor's."""
        figures, checks = {}, {}
        images = Pictures(self.sizes.images, Finish([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        per_image = operations(self.sizes.network)
        some = torch.stack([images[number][0] for number in range(4)])
        network = self._network("cpu")
        with torch.inference_mode():
            expected = network(some)
        for name, way in WAYS.items():
            on_device = self._network(self.device)
            encode = prepared(lambda batch, run=on_device: run(batch).float(), on_device, self.device, way)
            with torch.inference_mode():
                found = encode(some).cpu()
                encode(some.repeat(self.sizes.batch // 4, 1, 1, 1))
            self.synchronize()
            apart = ((found - expected).norm(dim=1) / expected.norm(dim=1)).median()
            checks[f"features_in_{name}"] = float(apart) <= MAY_DIFFER[name]
            folder = self._scratch / name
            settings = EncodingSettings(batch_size=self.sizes.batch, shard_size=self.sizes.batch * 8)
            begun = time.perf_counter()
            extract_features(
                images,
                lambda encode=encode: encode,
                folder,
                {"dataset": dataset_inputs(images.samples), **way.inputs()},
                settings,
                num_workers=self.sizes.workers,
                device=self.device.type,
            )
            seconds = time.perf_counter() - begun
            with torch.inference_mode():
                batch = encode_input(some, self.sizes.batch, self.device)
                rounds = max(1, len(images) // self.sizes.batch // 4)  # one alone would be a moment's work
                bare = self.seconds(lambda encode=encode, batch=batch: encode(batch), rounds) / self.sizes.batch
            figures[f"extraction_in_{name}"] = {
                **self.share(per_image * len(images), seconds),
                "images_per_second": len(images) / seconds,
                "of_bare": bare * len(images) / seconds,
                "bare_share": per_image / bare / self.rate,
                "difference": float(apart),
            }
        return figures, checks

    def _network(self, device: Any) -> torch.nn.Module:
        torch.manual_seed(0)
        network = getattr(torchvision.models, self.sizes.network)()
        network.fc = torch.nn.Identity()
        return network.eval().requires_grad_(False).to(device)

    def training(self) -> tuple[dict[str, Any], dict[str, bool]]:
        """Steps of the command ``run`` with a ResNet-50, at auto."""
        images, folder = self._scratch / "images", self._scratch / "training"
        for number in range(NUM_CLASSES):
            write_images(images / f"class-{number}", self.sizes.training_files)
        batch, pixels = self.sizes.training_batch, self.sizes.training_pixels
        half = "[0.5,0.5,0.5]"
        steps = f"{{name:CenterCrop,size:{pixels}}},{{name:ToTensor}},{{name:Normalize,mean:{half},std:{half}}}"
        arguments = [
            *overrides("resnet50", batch, images, folder),
            f"config.DATA.TRAIN.TRANSFORMS=[{steps}]",
            f"config.DATA.NUM_DATALOADER_WORKERS={max(1, self.sizes.workers)}",
        ]
        if self.device.type == "cuda":
            arguments += ["config.MACHINE.DEVICE=gpu", "config.DISTRIBUTED.BACKEND=nccl", "config.DATA.PIN_MEMORY=true"]
        side = Side(["ours", *arguments], self._scratch / "training.log")
        try:
            side.seconds()
            seconds = min(side.step(STEPS["ours"])[0] for _ in range(3))
        finally:
            side.end()
        compute = json.loads((folder / "training.json").read_text()).get("compute", PLAIN.inputs())
        of_step = operations("resnet50", pixels, training=True) * batch
        figure = {**self.share(of_step, seconds), "images_per_second": batch / seconds, "compute": compute}
        return {"training": figure}, {}

    def assignment(self) -> tuple[dict[str, Any], dict[str, bool]]:
        """Labels of all features, on the device and in memory, and that those of some are a processor's."""
        centers = self.features[: self.sizes.clusters]
        search = TorchSearch(centers, device=self.device.type)
        there = torch.from_numpy(self.features).to(self.device)
        some = self.features[-self.sizes.compared :]
        same = np.array_equal(search.labels(some), TorchSearch(centers).labels(some))
        figures = {}
        for name, rows in (("assignment", there), ("assignment_in_memory", self.features)):
            seconds = self.seconds(functools.partial(search.labels, rows))
            figures[name] = {**self.share(self.products, seconds), "vectors_per_second": len(rows) / seconds}
        return figures, {"labels": same}

    @property
    def products(self) -> float:
        """Operations of a pass: all features with all centers."""
        return 2.0 * len(self.features) * self.sizes.clusters * self.sizes.dim

    def passes(self) -> tuple[dict[str, Any], dict[str, bool]]:
        """Passes of k-means, and what one is made of."""
        return gpu_passes.passes(self)

    def peers(self) -> tuple[dict[str, Any], dict[str, bool]]:
        """An iteration of flash-kmeans and of faiss's k-means on a card, where they are installed."""
        return gpu_passes.peers(self)

    def clustering(self) -> tuple[dict[str, Any], dict[str, bool]]:
        """k-means in which every iteration sees all features, and that a small one ends in a processor's centers."""

        def fit(device: str, features: np.ndarray, clusters: int, iterations: int) -> np.ndarray:
            estimator = KMeans(
                clusters,
                init=features[:clusters],
                max_iter=iterations,
                growing_sample=False,
                random_state=0,
                device=device,
            )
            return estimator.fit(features).cluster_centers_

        sizes = self.sizes
        begun = time.perf_counter()
        fit(self.device.type, self.features, sizes.clusters, sizes.iterations)
        seconds = time.perf_counter() - begun
        some = self.features[: 4 * sizes.compared]
        few = min(sizes.clusters, 200)
        ours, theirs = (fit(device, some, few, sizes.iterations) for device in (self.device.type, "cpu"))
        # One pass more gives the labels.
        passes = 2.0 * len(self.features) * sizes.clusters * sizes.dim * (sizes.iterations + 1)
        return {"kmeans": self.share(passes, seconds)}, {"centers": ours.tobytes() == theirs.tobytes()}

    def neighbors(self) -> tuple[dict[str, Any], dict[str, bool]]:
        """The weighted vote, and that predictions of some queries are a processor's."""
        sizes = self.sizes
        queries, gallery, labels = self.features[: sizes.queries], self.features[sizes.queries :], self.labels
        settings = KnnSettings(sizes.neighbors)

        def predict(number: int, device: torch.device) -> np.ndarray:
            return knn_predict(queries[:number], gallery, labels[sizes.queries :], settings, device=device)

        seconds = self.seconds(lambda: predict(sizes.queries, self.device))
        some = sizes.compared // 8
        same = np.array_equal(predict(some, self.device), predict(some, torch.device("cpu")))
        figure = {
            **self.share(2.0 * len(queries) * len(gallery) * sizes.dim, seconds),
            "queries_per_second": len(queries) / seconds,
        }
        return {"knn": figure}, {"predictions": same}


def encode_input(some: torch.Tensor, batch: int, device: torch.device) -> torch.Tensor:
    """A batch on the device."""
    return some.repeat(batch // len(some), 1, 1, 1).to(device)


def operations(network: str, pixels: int = PIXELS, *, training: bool = False) -> float:
    """Of the forward pass of one image, and of the backward pass besides: two for each multiplication."""
    with torch.device("meta"):
        model = getattr(torchvision.models, network)()
        batch = torch.empty(1, 3, pixels, pixels)
    model.train(training)
    with FlopCounterMode(display=False) as counter:
        outputs = model(batch.expand(2, -1, -1, -1))
        if training:
            outputs.sum().backward()
    return counter.get_total_flops() / 2


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that a processor does in half a minute")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --device cpu --tiny runs through without one")
    begun = time.monotonic()
    figures: dict[str, Any] = {}
    checks: dict[str, bool] = {}
    left_out: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        card = Card(options.device, TINY if options.tiny else LARGE, Path(scratch))
        for name in options.only:
            if time.monotonic() - begun > LIMIT_S - PARTS[name]:
                left_out.append(name)
                continue
            of_part, held = getattr(card, name)()
            figures |= of_part
            checks |= held
            print(json.dumps({**of_part, **held, "seconds_so_far": time.monotonic() - begun}), flush=True)
    report = {
        "benchmark": "gpu",
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu",
        "matrix_rate_tflops": card.rate / 1e12,
        "figures": figures,
        "checks": checks,
        "left_out": left_out + card.absent,
        "tiny": options.tiny,
        "seconds": time.monotonic() - begun,
        "machine": machine(),
    }
    print(json.dumps(report))
    return 0 if all(checks.values()) else 1


#: What a part takes at most on a card, in seconds, by estimate.
PARTS = {
    "extraction": 80,
    "assignment": 30,
    "passes": 50,
    "clustering": 60,
    "neighbors": 40,
    "training": 110,
    "peers": 60,
}


if __name__ == "__main__":
    sys.exit(main())
