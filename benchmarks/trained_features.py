"""Features of a network that was trained here: those of drawn features have another spectrum than a network's.

    python benchmarks/trained_features.py features.npy --pictures 30000

A ResNet-18 learns to tell drawn characters and the family of their font apart (130 classes), some minutes on two
cores; the file gets its features (N, 512) float32 of other pictures, scaled to unit norm.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
import torchvision

from vissl_clusterfit.datasets.synthetic.characters import FAMILIES, draw_characters

TRAINING_PICTURES, NUM_EPOCHS, BATCH_SIZE, LEARNING_RATE = 12_000, 4, 128, 0.05


def trained_features(num_pictures: int, seed: int = 0) -> tuple[np.ndarray, float]:
    """(N, 512) float32 of unit norm, and the share of the last epoch's pictures that were named rightly."""
    torch.manual_seed(seed)
    pictures, labels = drawn(TRAINING_PICTURES, seed)
    network = torchvision.models.resnet18(num_classes=int(labels.max()) + 1)
    optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, momentum=0.9, weight_decay=1e-4, nesterov=True)
    steps = NUM_EPOCHS * (len(pictures) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    for number in range(NUM_EPOCHS):
        right = 0
        for batch in torch.randperm(len(pictures)).split(BATCH_SIZE)[: len(pictures) // BATCH_SIZE]:
            scores = network(pictures[batch])
            right += int((scores.argmax(dim=1) == labels[batch]).sum())
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(scores, labels[batch]).backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {number + 1} of {NUM_EPOCHS}: {right / len(pictures):.3f} are named rightly", flush=True)
    network.fc = torch.nn.Identity()
    network.eval()
    features = []
    with torch.no_grad():
        for low in range(0, num_pictures, 5000):
            others, _ = drawn(min(5000, num_pictures - low), seed + 1 + low)
            features += [network(part) for part in others.split(500)]
    rows = torch.nn.functional.normalize(torch.cat(features)).numpy()
    return rows, right / len(pictures)


def drawn(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    pictures, labels = draw_characters(count, np.random.default_rng(seed))
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
    return pixels, torch.from_numpy(labels["character"] * len(FAMILIES) + labels["family"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--pictures", type=int, default=30_000)
    arguments = parser.parse_args()
    features, _ = trained_features(arguments.pictures)
    np.save(arguments.file, features)
    variance = np.linalg.eigvalsh(np.cov(features[:20_000].T))[::-1]
    half = int(np.searchsorted(np.cumsum(variance), 0.5 * variance.sum())) + 1
    print(f"{arguments.file}: {features.shape}, half of the variance in {half} dimensions")
    return 0


if __name__ == "__main__":
    sys.exit(main())
