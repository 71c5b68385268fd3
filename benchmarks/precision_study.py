"""A teacher and its student on drawn digits, in bfloat16 and in float32, over several seeds.

    make bench BENCH=precision_study                      some six minutes on one core
    python benchmarks/precision_study.py --seeds 5

For each seed and precision: a teacher learns by which quarter turn a picture was turned; its features are clustered; a
student of the same kind learns the clusters, from scratch. Training and features are computed as ``CLUSTERFIT.COMPUTE``
has them; the k-means is the same for both. Both precisions of a seed see the same weights at the start, batches and
views. What counts is the accuracy of a linear probe and of weighted nearest neighbours on drawings of other scans, and
for each the difference bfloat16 less float32 over the seeds, with its 95 % interval (Student's t). The last line is one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from typing import Any

import numpy as np
import torch
from inputs import machine
from precision import BATCH, CPU, drawings, features
from torch import nn

from vissl_clusterfit import KMeans
from vissl_clusterfit.compute.chosen import PLAIN, Compute
from vissl_clusterfit.report.intervals import student_interval
from vissl_clusterfit.transfer.knn import KnnSettings, knn_predict
from vissl_clusterfit.transfer.linear import LinearProbeSettings, linear_probe

WAYS = {"float32": PLAIN, "bfloat16": Compute("bfloat16", channels_last=True)}
WIDTHS = (16, 32, 64, 128)
#: A view is a crop of the picture, moved by so many pixels at most.
SHIFT = 4


def network(num_classes: int) -> nn.Sequential:
    """Four stages of two convolutions, as large as the quickstart's."""
    layers: list[nn.Module] = []
    width = 3
    for wider in WIDTHS:
        for stride in (2, 1):
            layers += [nn.Conv2d(width, wider, 3, stride, 1, bias=False), nn.BatchNorm2d(wider), nn.ReLU(inplace=True)]
            width = wider
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, num_classes))


def trained(images: torch.Tensor, labels: torch.Tensor | None, epochs: int, way: Compute, seed: int) -> nn.Module:
    """A trunk that has learnt labels (n,), or quarter turns."""
    torch.manual_seed(seed)
    model = network(4 if labels is None else int(labels.max()) + 1).train()
    way.arrange(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    steps = epochs * (len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images), generator=generator).split(BATCH)[: len(images) // BATCH]:
            across, down = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
            batch = images[chosen].roll((across, down), (2, 3))
            if labels is None:
                target = torch.randint(4, (len(batch),), generator=generator)
                batch = torch.stack(
                    [image.rot90(int(turns), (1, 2)) for image, turns in zip(batch, target, strict=True)]
                )
            else:
                target = labels[chosen]
            with way.autocast(CPU):
                logits = model(way.arranged(batch))
            loss = nn.functional.cross_entropy(logits.float(), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model[:-1].eval().requires_grad_(False)


def scores(rows: dict[str, np.ndarray], classes: dict[str, np.ndarray]) -> dict[str, float]:
    """Of features, in percent."""
    probe = linear_probe(
        rows["train"], classes["train"], rows["test"], classes["test"], LinearProbeSettings(c_grid=(0.001, 0.01, 0.1))
    )
    votes = knn_predict(rows["test"], rows["train"], classes["train"], KnnSettings(20))
    return {"linear": 100 * probe.accuracy, "knn": 100 * float(np.mean(votes == classes["test"]))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--train", type=int, default=2500)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--clusters", type=int, default=100)
    options = parser.parse_args()
    images, classes = {}, {}
    for number, (split, share) in enumerate({"train": (0.0, 0.72), "test": (0.72, 1.0)}.items()):
        images[split], labels = drawings(getattr(options, split), share, number)
        classes[split] = labels.numpy()
    found: dict[str, list[float]] = {}
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        for name, way in WAYS.items():
            teacher = trained(images["train"], None, options.epochs, way, seed)
            rows = {split: features(teacher, some, way) for split, some in images.items()}
            clusters = KMeans(options.clusters, random_state=seed).fit(rows["train"]).labels_
            student = trained(images["train"], torch.from_numpy(clusters), options.epochs, way, seed)
            of_student = {split: features(student, some, way) for split, some in images.items()}
            for model, of_model in {"teacher": rows, "student": of_student}.items():
                for kind, score in scores(of_model, classes).items():
                    found.setdefault(f"{model}, {kind}, {name}", []).append(score)
        print(json.dumps({"seed": seed, **{key: round(each[-1], 2) for key, each in found.items()}}), flush=True)
    rows_of_table = []
    for model in ("teacher", "student"):
        for kind in ("linear", "knn"):
            plain, lower = (found[f"{model}, {kind}, {name}"] for name in WAYS)
            apart = student_interval([low - high for low, high in zip(lower, plain, strict=True)])
            row: dict[str, Any] = {
                "model": model,
                "score": kind,
                "difference": apart.mean,
                "interval": apart.half_width,
            }
            row |= {"float32": statistics.fmean(plain), "bfloat16": statistics.fmean(lower)}
            rows_of_table.append(row | {"within_interval": not apart.excludes_zero})
    facts = {"seeds": options.seeds, "pictures": options.train, "epochs": options.epochs, "clusters": options.clusters}
    print(json.dumps({"benchmark": "precision_study", **facts, "rows": rows_of_table, "machine": machine()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
