"""A clustering in a fresh process that says what it took: ``python plan_work.py STORE FOLDER SETTINGS``."""

import json
import re
import sys
import time
from pathlib import Path

import torch

from vissl_clusterfit.clustering import fit
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
    plans = []
    announcing._WORTH_MEASURING = 0
    # What is planned in the run itself, with the time when the plan was there.
    fit.announce = lambda *given: plans.append((announcing.announce(*given), time.perf_counter()))
    config = read_settings(ClusterFitConfig, json.loads(settings), "config.CLUSTERFIT")
    torch.ones(64, 64) @ torch.ones(64, 64)
    features = FeatureStore.open(Path(store))
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    begun = time.perf_counter()
    fit_codebook(features, config, "cpu", Path(folder))
    ended = time.perf_counter()
    plan, planned = plans[0]
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
