"""What the page of a large run takes: from artefacts of 1.28 million samples in 16,000 clusters to one HTML file.

    make bench BENCH=report                 some minutes, nearly all of them for the artefacts
    python benchmarks/report.py --samples 100000 --clusters 1000 --folder /tmp/run

Features are drawn, two in a hundred are copies; 1,000 folders; the samples that the page shows have pictures of
500 x 375 pixels. Artefacts are kept in --folder and used again. Measured is the command itself, from its start to its
end. The last line is one JSON object; times are in seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from inputs import clustered_features, machine
from PIL import Image

from vissl_clusterfit import import_features, make_codebook, make_labels
from vissl_clusterfit.storage.artifacts import has_manifest

COPIED, FOLDERS = 0.02, 1000


def main() -> None:
    """Measures, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_280_000)
    parser.add_argument("--clusters", type=int, default=16_000)
    parser.add_argument("--dim", type=int, default=128, help="of the features")
    parser.add_argument("--folder", type=Path, help="of the artefacts, which are kept")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        make_run(folder / "run", options.samples, options.clusters, options.dim)
        command = [
            sys.executable,
            "-m",
            "vissl_clusterfit.commands.main",
            "report",
            str(folder / "run"),
            "--map",
            "pca",
        ]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        write_pictures(folder / "run/report.html", folder / "images")
        begun, busy = time.perf_counter(), busy_s()
        subprocess.run([*command, "--images", str(folder / "images")], stdout=subprocess.DEVNULL, check=True)
        page_s, busy = time.perf_counter() - begun, busy_s() - busy
        page = (folder / "run/report.html").read_bytes()
    figures = {
        "benchmark": "report",
        "samples": options.samples,
        "clusters": options.clusters,
        "dim": options.dim,
        "page_s": round(page_s, 1),
        "cpu_s": round(busy, 1),
        "page_mb": round(len(page) / 1e6, 1),
        "pictures": page.count(b'<img src="data:image/jpeg'),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        **machine(),
    }
    print(json.dumps(figures))


def busy_s() -> float:
    """What the commands so far have taken of the processors."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def make_run(run: Path, num_samples: int, num_clusters: int, dim: int) -> None:
    """Features, a codebook and labels, those that are not there yet."""
    if not has_manifest(run / "features"):
        rows = clustered_features(num_samples, dim)
        random = np.random.default_rng(1)
        copies = random.choice(num_samples, int(COPIED * num_samples), replace=False)
        rows[copies] = rows[random.integers(num_samples, size=len(copies))]
        names = [f"n{number % FOLDERS:08d}/n{number % FOLDERS:08d}_{number}.JPEG" for number in range(num_samples)]
        import_features(rows, run / "features", names=names)
    if not has_manifest(run / "codebook"):
        make_codebook(run / "features", run / "codebook", num_clusters, num_iter=2, start="random")
    make_labels(run / "features", run / "codebook", run / "labels")


def write_pictures(page: Path, images: Path) -> None:
    """Files for the samples that a page without pictures names, and for no other."""
    random = np.random.default_rng(2)
    small = Image.fromarray(random.integers(0, 255, (12, 16, 3)).astype(np.uint8))
    for name in set(re.findall(r'<div class="none"><span class="name">(.*?)</span>', page.read_text("utf-8"))):
        path = images / name
        path.parent.mkdir(parents=True, exist_ok=True)
        small.resize((500, 375), Image.Resampling.BICUBIC).save(path, "JPEG", quality=90)


if __name__ == "__main__":
    main()
