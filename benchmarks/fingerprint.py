"""What the fingerprint of a large data set costs: names of 10 million samples, and names and sizes of real files.

    make bench BENCH=fingerprint            half a minute on one core
    python benchmarks/fingerprint.py --samples 1000000 --files 10000

VISSL has no fingerprint, so there is nothing to compare with. The last line is one JSON object; times are in seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from vissl_clusterfit.features.sample_list import dataset_inputs, hash_samples, names_and_sizes

FILES_PER_FOLDER = 1000


def name(index: int) -> str:
    """A name as those of ImageNet's files."""
    return f"n{index // FILES_PER_FOLDER:08d}/n{index // FILES_PER_FOLDER:08d}_{index}.JPEG"


def make_files(folder: Path, count: int) -> list[str]:
    """Writes small files of several sizes."""
    files = [folder / name(index) for index in range(count)]
    for index, file in enumerate(files):
        if index % FILES_PER_FOLDER == 0:
            file.parent.mkdir()
        file.write_bytes(b"x" * (index % 50))
    return list(map(str, files))


def names_of(count: int) -> Iterator[str]:
    """As a list of files has them."""
    return (f"/datasets/images/train/{name(index)}" for index in range(count))


def seconds(work) -> float:
    """How long some work takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    """Measures, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=10_000_000, help="names to hash")
    parser.add_argument("--files", type=int, default=100_000, help="files to ask for their sizes")
    options = parser.parse_args()

    make_names_s = seconds(lambda: [None for _ in names_of(options.samples)])
    hash_s = seconds(lambda: dataset_inputs(hash_samples(names_of(options.samples)))) - make_names_s
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(Path(folder), options.files)
        files_s = seconds(lambda: dataset_inputs(hash_samples(names_and_sizes(files, folder))))
    figures = {
        "benchmark": "fingerprint",
        "samples": options.samples,
        "names_s": round(hash_s, 2),
        "files": options.files,
        "files_s": round(files_s, 3),
        "files_s_per_10_million": round(files_s / options.files * 10_000_000, 1),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "cores": os.cpu_count(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
