"""A clustering in a fresh process that says what it took: ``python plan_work.py STORE FOLDER SETTINGS``."""

import json
import re
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from vissl_clusterfit.clustering.fit import fit_codebook
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.config.schema import read_settings
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.planner import announce as announcing


def status(name: str) -> int:
    """Bytes of a line of the process's status."""
    return int(re.search(rf"^{name}:\s*(\d+)", Path("/proc/self/status").read_text(), re.MULTILINE)[1]) * 1024


def main() -> None:
    store, folder, settings = sys.argv[1:]
    announcing._WORTH_MEASURING = 0
    config = read_settings(ClusterFitConfig, json.loads(settings), "config.CLUSTERFIT")
    torch.ones(64, 64) @ torch.ones(64, 64)
    features = FeatureStore.open(Path(store))
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    begun = time.perf_counter()
    config = replace(config, output_dir=folder)
    plan = announcing.announce_clustering(features, config, "cpu")
    planned = time.perf_counter()
    fit_codebook(features, config, "cpu", config.paths.codebook)
    ended = time.perf_counter()
    print(  # noqa: T201  (the answer)
        json.dumps(
            {
                "plan": plan.as_json(),
                "clustering_seconds": plan.clustering_seconds,
                "peak": status("VmHWM") - before,
                "planning_seconds": planned - begun,
                "seconds": ended - planned,
            }
        )
    )


if __name__ == "__main__":
    main()
