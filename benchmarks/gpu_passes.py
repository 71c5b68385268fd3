"""Passes of k-means on a card, and its peers there: parts of ``gpu.py``."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import torch

from vissl_clusterfit.clustering.reproducible_sums import Accumulator
from vissl_clusterfit.clustering.sources import ArraySource
from vissl_clusterfit.search.torch_search import TorchSearch

if TYPE_CHECKING:
    from gpu import Card

#: Clusters for which a source is to leave room on a card, so that no features stay there.
NO_ROOM = 1 << 40


def passes(card: Card) -> tuple[dict[str, Any], dict[str, bool]]:
    """Passes of k-means: of features that are copied each time, in two types, and that stay; and what one is of."""
    sizes, halves = card.sizes, card.features.astype(np.float16)
    search = TorchSearch(card.features[: sizes.clusters], device=card.device.type)
    figures = {}
    for name, rows, stays in (
        ("pass_copied_float32", card.features, False),
        ("pass_copied_float16", halves, False),
        ("pass_on_device", card.features, True),
    ):
        source = ArraySource(rows, clusters_at_once=sizes.clusters if stays else NO_ROOM)
        source.accumulate(search)  # which looks at squares besides
        seconds = card.seconds(functools.partial(source.accumulate, search))
        travelled = 0 if stays else rows.nbytes
        figures[name] = {**card.share(card.products, seconds), "gigabytes_per_second": travelled / seconds / 1e9}
        del source
    there = torch.from_numpy(card.features).to(card.device)
    labels = search.labels(there)
    extent = ArraySource(card.features).extent
    sums = Accumulator(sizes.clusters, sizes.dim, extent, len(there), search.card)
    seconds = card.seconds(lambda: sums.add(there, labels))
    figures["sums"] = {**card.share(there.numel(), seconds), "gigabytes_per_second": 8e-9 * there.numel() / seconds}
    pinned = torch.empty(there.shape, pin_memory=card.device.type == "cuda").copy_(there)
    seconds = card.seconds(lambda: there.copy_(pinned, non_blocking=True))
    figures["copies"] = {"seconds": seconds, "gigabytes_per_second": 4e-9 * there.numel() / seconds}
    some, few = card.features[: 4 * sizes.compared], card.features[: min(sizes.clusters, 200)]
    found, expected = (
        ArraySource(some).accumulate(TorchSearch(few, device=device)) for device in (card.device.type, "cpu")
    )
    same = found.sums.tobytes() == expected.sums.tobytes() and found.squares == expected.squares
    return figures, {"sums": same and np.array_equal(found.counts, expected.counts)}


def peers(card: Card) -> tuple[dict[str, Any], dict[str, bool]]:
    """An iteration of flash-kmeans in float16 and of faiss's k-means on a card, where they are installed."""
    sizes, figures = card.sizes, {}
    centers = card.features[: sizes.clusters]
    for name, iterate in (("flash_kmeans", flash_kmeans), ("faiss", faiss_kmeans)):
        work = iterate(card.features, centers, card.device)
        if work is None:
            card.absent.append(name)
        else:
            few, many = (card.seconds(functools.partial(work, number)) for number in (1, 1 + sizes.iterations))
            figures[f"iteration_of_{name}"] = card.share(card.products, (many - few) / sizes.iterations)
    return figures, {}


def flash_kmeans(rows: np.ndarray, centers: np.ndarray, device: torch.device) -> Callable[[int], object] | None:
    """So many of its iterations; None where it is not installed, or there is no card."""
    if device.type != "cuda" or importlib.util.find_spec("flash_kmeans") is None:
        return None
    from flash_kmeans import batch_kmeans_Euclid

    there, first = (torch.from_numpy(values).to(device).half()[None] for values in (rows, centers))
    return lambda number: batch_kmeans_Euclid(
        there, n_clusters=len(centers), max_iters=number, tol=-1.0, init_centroids=first
    )


def faiss_kmeans(rows: np.ndarray, centers: np.ndarray, device: torch.device) -> Callable[[int], object] | None:
    """So many of its iterations; None where its build knows no card, or there is none."""
    if device.type != "cuda" or not faiss.get_num_gpus():
        return None

    def iterate(number: int) -> None:
        clustering = faiss.Kmeans(
            rows.shape[1], len(centers), niter=number, gpu=1, max_points_per_centroid=len(rows), seed=0
        )
        clustering.train(rows, init_centroids=centers)

    return iterate
