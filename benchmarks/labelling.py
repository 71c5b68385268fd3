"""Labelling by two processes against one, a thread each: the exact nearest centroids of features on disk.

    make bench BENCH=labelling
    python benchmarks/labelling.py --size 20000x128x100 --pairs 1

Processes of both sides live for one pair, and label once before they are timed; each pair has the median of three
turns. Labels of both sides must be the same bytes. The last line is one JSON object; ``ratio`` is the seconds of one
process over those of two.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from inputs import clustered_features, machine, write_store

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.clustering.fit import fit_codebook
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.config.features import FeatureSettings
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels

TURNS = 3


def write_inputs(base: Path, num_samples: int, dim: int, num_clusters: int) -> None:
    """Features, and a codebook of few iterations."""
    features = clustered_features(num_samples, dim)
    shard_size = -(-num_samples // 10)
    write_store(base / "store", num_samples, shard_size, "float32", lambda low, high: features[low:high])
    settings = ClusterFitConfig(num_clusters=num_clusters, num_iter=4, features=FeatureSettings(test_partition=""))
    fit_codebook(FeatureStore.open(base / "store"), settings, "cpu", base / "codebook")


def label(rank: int, num_processes: int, base: Path, results: Any) -> None:
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    if num_processes > 1:
        dist.init_process_group("gloo", init_method=f"file://{base}/meeting", rank=rank, world_size=num_processes)
    folder, seconds = base / f"labels_{num_processes}", []
    for _ in range(1 + TURNS):
        if rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
        store, codebook = FeatureStore.open(base / "store"), Codebook.open(base / "codebook")
        if num_processes > 1:
            dist.barrier()
        begun = time.perf_counter()
        label_store(store, codebook, "cpu", folder)
        if num_processes > 1:
            dist.barrier()
        seconds.append(time.perf_counter() - begun)
    if rank == 0:
        results.put(statistics.median(seconds[1:]))


def seconds_of(num_processes: int, base: Path) -> float:
    context = multiprocessing.get_context("forkserver")  # which imports once for all
    (base / "meeting").unlink(missing_ok=True)
    results = context.Queue()
    processes = [
        context.Process(target=label, args=(rank, num_processes, base, results)) for rank in range(num_processes)
    ]
    for process in processes:
        process.start()
    seconds = results.get()
    for process in processes:
        process.join()
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="100000x512x1000", help="NxDxK")
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    ratios = []
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        write_inputs(base, *map(int, arguments.size.split("x")))
        for number in range(arguments.pairs):
            seconds = {count: seconds_of(count, base) for count in (1, 2)[:: 1 if number % 2 else -1]}
            ratios.append(seconds[1] / seconds[2])
            print({f"of {count}": round(taken, 3) for count, taken in sorted(seconds.items())}, flush=True)
        one, two = (PseudoLabels.open(base / f"labels_{count}") for count in (1, 2))
        same = bool(np.array_equal(one.labels, two.labels))
    report = {"benchmark": "labelling", "ratio": statistics.median(ratios), "same_labels": same}
    print(json.dumps({**report, "size": arguments.size, "pairs": arguments.pairs, "machine": machine()}))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
