"""How many labels differ where features are computed in bfloat16 instead of float32.

    make bench BENCH=precision

A ResNet-18 learns drawn digits for a few epochs; its features of other drawings are computed both ways and clustered
in float32, and both get their labels from that codebook. The margin of a sample is how much further, in distance, its
second nearest centroid is than its nearest, as a share of the nearest; it is tiny below 1 %. The last line is one JSON
object.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys

import numpy as np
import torch
from inputs import machine
from torch import nn
from torchvision.models import resnet18

from vissl_clusterfit import KMeans
from vissl_clusterfit.compute.chosen import PLAIN, Compute
from vissl_clusterfit.compute.inference import prepared
from vissl_clusterfit.datasets.synthetic.digits import draw_scans, scan_labels
from vissl_clusterfit.search.torch_search import TorchSearch

CPU, BATCH = torch.device("cpu"), 64
TINY = 0.01


def drawings(number: int, share: tuple[float, float], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (n, 3, 32, 32) of drawn digits, and their classes."""
    pictures, scans = draw_scans(number, share, np.random.default_rng(seed))
    classes = scan_labels()[0][scans]
    images = torch.from_numpy(np.asarray(pictures, dtype=np.float32) / 255)
    return images[:, None].expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(classes)


def trained(images: torch.Tensor, classes: torch.Tensor, epochs: int) -> nn.Module:
    """A ResNet-18 after some epochs."""
    torch.manual_seed(0)
    network = resnet18(num_classes=10).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    for epoch in range(epochs):
        for batch in torch.randperm(len(images)).split(BATCH):
            loss = nn.functional.cross_entropy(network(images[batch]), classes[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch}: loss {loss:.3f}", flush=True)
    network.fc = nn.Identity()
    return network.eval().requires_grad_(False)


def features(network: nn.Module, images: torch.Tensor, compute: Compute) -> np.ndarray:
    """Of unit norm, as they are clustered."""
    own = copy.deepcopy(network)
    encode = prepared(lambda batch: own(batch).float(), own, CPU, compute)
    with torch.inference_mode():
        rows = torch.cat([encode(batch) for batch in images.split(BATCH)])
    return nn.functional.normalize(rows).numpy()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=int, default=3000)
    parser.add_argument("--images", type=int, default=6000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--clusters", type=int, nargs="+", default=[10, 100, 1000])
    options = parser.parse_args()
    network = trained(*drawings(options.train, (0.0, 0.7), 0), options.epochs)
    images, _ = drawings(options.images, (0.7, 1.0), 1)
    exact, lower = (features(network, images, way) for way in (PLAIN, Compute("bfloat16", channels_last=True)))
    rows = []
    for number in options.clusters:
        codebook = KMeans(n_clusters=number, random_state=0).fit(exact).cluster_centers_
        nearest, squared = TorchSearch(codebook).nearest(exact, 2)
        distances = np.sqrt(squared)
        margins = distances[:, 1] / np.maximum(distances[:, 0], 1e-12) - 1
        same, is_clear = nearest[:, 0] == TorchSearch(codebook).labels(lower), margins >= TINY
        rows.append(
            {
                "clusters": number,
                "agree": float(same.mean()),
                "agree_unless_tiny": float(same[is_clear].mean()),
                "tiny": float(1 - is_clear.mean()),
            }
        )
        print(rows[-1], flush=True)
    apart = np.linalg.norm(exact - lower, axis=1)
    report = {"benchmark": "precision", "difference": float(np.median(apart)), "labels": rows, "images": len(images)}
    print(json.dumps({**report, "margin": TINY, "machine": machine()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
