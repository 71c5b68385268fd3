"""What the benchmarks on features share: features with clusters, in memory and on disk, a fair judge, the machine."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import faiss
import numpy as np
import torch

from vissl_clusterfit.features.sample_list import dataset_inputs, hash_samples
from vissl_clusterfit.features.writer import FeatureStoreWriter
from vissl_clusterfit.search.torch_search import TorchSearch, fast_product_type

_LATENT_DIM, _NUM_GROUPS, _NUM_KINDS, _NUM_CLASSES = 64, 200, 4000, 1000


def clustered_features(num_samples: int, dim: int, seed: int = 0) -> np.ndarray:
    """The features of :func:`labelled_features`, (N, D) float32."""
    return labelled_features(num_samples, dim, seed)[0]


def labelled_features(num_samples: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features as a trained network gives them: unit norm, few directions, clusters of many sizes within groups.

    Points of a low-dimensional mixture (200 groups of 4,000 kinds whose sizes follow a power law) go through a random
    layer and a ReLU, get some noise in every dimension, and are scaled to unit norm.

    Returns:
        Features (N, D) float32, and the class of each, (N,) int64: 1,000 of four kinds each, whatever their groups.
    """
    rng = np.random.default_rng(seed)
    groups = rng.standard_normal((_NUM_GROUPS, _LATENT_DIM), dtype=np.float32)
    kinds = groups[rng.integers(_NUM_GROUPS, size=_NUM_KINDS)]
    kinds += 0.45 * rng.standard_normal(kinds.shape, dtype=np.float32)
    weights = 1 / np.sqrt(np.arange(1, _NUM_KINDS + 1))
    layer = rng.standard_normal((_LATENT_DIM, dim), dtype=np.float32) / np.float32(math.sqrt(_LATENT_DIM))
    features = np.empty((num_samples, dim), dtype=np.float32)
    labels = np.empty(num_samples, dtype=np.int64)
    for low in range(0, num_samples, 10_000):
        rows = features[low : low + 10_000]
        drawn = rng.choice(_NUM_KINDS, size=len(rows), p=weights / weights.sum())
        labels[low : low + 10_000] = drawn % _NUM_CLASSES
        points = kinds[drawn]
        points = points + 0.35 * rng.standard_normal(points.shape, dtype=np.float32)
        np.maximum(points @ layer, 0, out=rows)
        rows += 0.02 * rng.standard_normal(rows.shape, dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return features, labels


def write_store(
    folder: Path, num_samples: int, shard_size: int, dtype: str, rows: Callable[[int, int], np.ndarray]
) -> None:
    """A store of features on disk, of samples named by their numbers; `rows` gives those from one number to another."""
    samples = hash_samples(map(str, range(num_samples)))
    inputs = {"dataset": dataset_inputs(samples)}
    writer = FeatureStoreWriter(folder, inputs, samples, shard_size=shard_size, dtype=dtype)
    writer.begin()
    for shard in writer.missing():
        writer.write(shard, rows(shard.start, shard.stop), {})
    writer.finish()


def objective(features: np.ndarray, centroids: np.ndarray) -> float:
    """The mean squared distance of all features to their nearest centroid, exactly: the judge of both sides."""
    search = TorchSearch(centroids)
    parts = range(0, len(features), 8192)
    return sum(float(search.nearest(features[low : low + 8192])[1].sum(dtype=np.float64)) for low in parts) / len(
        features
    )


def geometric_mean(values: Sequence[float]) -> float:
    """Of ratios."""
    return math.exp(statistics.fmean(map(math.log, values)))


def machine() -> dict[str, object]:
    """What the figures depend on."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        lines = dict(line.split(":", 1) for line in file.read().split("\n\n")[0].splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in lines.items()}
    units = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in facts.get("flags", "").split()]
    return {
        "processor": facts.get("model name", platform.processor()),
        "units": units,
        "product_type": str(fast_product_type("cpu")).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "faiss": faiss.__version__,
        "numpy": np.__version__,
    }
