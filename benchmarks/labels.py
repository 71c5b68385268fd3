"""Features on disk to labels on disk: against VISSL's own cluster_features, in pairs, each in a process of its own.

    make bench BENCH=labels

100,000 features of dimension 512 in 10 shards, K = 1,000, 20 iterations, every feature used. Both sides normalise,
cluster and label them and write what they write. Memory is counted above the resident memory of the idle process after
the same imports. The objective of both is measured by one exact search. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import pickle
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from inputs import clustered_features, machine, objective, write_store
from processes import in_own_process, measured

from vissl_clusterfit.plugin import bootstrap  # noqa: F401  (repairs; without them the peer does not run)

# isort: split
import faiss  # noqa: F401  (both sides have the same imports)
from vissl.config import AttrDict
from vissl.utils.hydra_config import compose_hydra_configuration, convert_to_attrdict

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.clustering.fit import fit_codebook
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.config.features import FeatureSettings
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.assign import label_store

NUM_SAMPLES, DIM, NUM_CLUSTERS, NUM_ITER, NUM_SHARDS = 100_000, 512, 1000, 20, 10
LAYER = "heads"


def write_inputs(base: Path) -> np.ndarray:
    """The same features as both sides have them."""
    features = clustered_features(NUM_SAMPLES, DIM) * np.float32(3)
    shard_size = NUM_SAMPLES // NUM_SHARDS
    write_store(base / "store", NUM_SAMPLES, shard_size, "float32", lambda low, high: features[low:high])
    (base / "shards").mkdir()
    for number in range(NUM_SHARDS):
        indices = np.arange(number * shard_size, (number + 1) * shard_size)
        for name, array in (("features", features[indices]), ("targets", indices[:, None] * 0), ("inds", indices)):
            np.save(base / "shards" / f"rank0_chunk{number}_train_{LAYER}_{name}.npy", array)
    np.save(base / "images.npy", np.array([f"{index}.jpg" for index in range(NUM_SAMPLES)]))
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def ours(base: Path) -> None:
    store = FeatureStore.open(base / "store")
    settings = ClusterFitConfig(
        num_clusters=NUM_CLUSTERS, num_iter=NUM_ITER, features=FeatureSettings(normalize=True, test_partition="")
    )
    codebook = fit_codebook(store, settings, "cpu", base / "ours" / "codebook")
    label_store(store, codebook, "cpu", base / "ours" / "labels")


def theirs(base: Path) -> None:
    cluster_features, cfg = _peer(base)
    with contextlib.redirect_stdout(io.StringIO()):
        cluster_features(cfg)


def _peer(base: Path) -> tuple:
    # A namesake of our folder of tools: it is found beside the installed VISSL.
    import vissl

    sys.path.insert(0, str(Path(vissl.__file__).parents[1]))
    from tools.cluster_features_and_label import cluster_features

    overrides = [
        "config=test/cpu_test/test_cpu_resnet_simclr",
        "config.DATA.TRAIN.DATA_SOURCES=[disk_filelist]",
        f"config.DATA.TRAIN.DATA_PATHS=[{base / 'images.npy'}]",
        f"config.DATA.TRAIN.LABEL_PATHS=[{base / 'images.npy'}]",
        "config.DATA.TRAIN.DATA_LIMIT=-1",
        f"config.CHECKPOINT.DIR={base}",
    ]
    cfg: AttrDict = convert_to_attrdict(compose_hydra_configuration(overrides))[1]
    cfg.CLUSTERFIT.update(NUM_CLUSTERS=NUM_CLUSTERS, NUM_ITER=NUM_ITER, OUTPUT_DIR=str(base / "theirs"), DATA_LIMIT=-1)
    cfg.CLUSTERFIT.FEATURES.update(
        PATH=str(base / "shards"), LAYER_NAME=LAYER, DATA_PARTITION="TRAIN", TEST_PARTITION="", DATASET_NAME="made"
    )
    return cluster_features, cfg


def centroids(base: Path, side: str) -> np.ndarray:
    if side == "ours":
        return Codebook.open(base / "ours" / "codebook").centroids
    (path,) = (base / "theirs").glob("*.pkl")
    return pickle.loads(path.read_bytes())["centroids"]  # which was written a moment ago


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.disable(logging.INFO)
    if arguments.side:
        _peer(arguments.folder)
        measured(lambda: {"ours": ours, "theirs": theirs}[arguments.side](arguments.folder))
        return 0
    pairs = []
    with tempfile.TemporaryDirectory() as scratch:
        features = write_inputs(Path(scratch))
        for number in range(arguments.pairs):
            pair = {}
            for side in ("ours", "theirs")[:: 1 if number % 2 else -1]:
                for made in (Path(scratch) / side).rglob("*.*"):
                    made.unlink()
                pair[side] = in_own_process(__file__, "--side", side, "--folder", scratch)
                pair[side]["objective"] = objective(features, centroids(Path(scratch), side))
            pairs.append(pair)
            print(pair, flush=True)
    ratio, memory_ratio, objective_ratio = (
        statistics.median(pair[over][field] / pair[under][field] for pair in pairs)
        for field, over, under in (
            ("seconds", "theirs", "ours"),
            ("mebibytes", "ours", "theirs"),
            ("objective", "ours", "theirs"),
        )
    )
    report = {
        "benchmark": "labels",
        "ratio": ratio,
        "memory_ratio": memory_ratio,
        "objective_ratio": objective_ratio,
        **{
            f"{whose}_{field}": statistics.median(pair[side][field] for pair in pairs)
            for whose, side in (("our", "ours"), ("their", "theirs"))
            for field in ("seconds", "mebibytes", "objective", "idle_mebibytes")
        },
        "size": f"{NUM_SAMPLES}x{DIM}x{NUM_CLUSTERS}",
        "iterations": NUM_ITER,
        "pairs": len(pairs),
        "machine": machine(),
    }
    print(json.dumps(report))
    return 0 if objective_ratio <= 1.001 else 1


if __name__ == "__main__":
    sys.exit(main())
