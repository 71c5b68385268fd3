"""Images per second from tar shards, against bare loops that read and decode the same bytes in their order.

    make bench BENCH=tar_images
    python benchmarks/tar_images.py --pairs 7

JPEG files of 500 x 375 pixels in three shards, on one thread. One loop reads by Python's ``tarfile``, as a stream; the
other one is told where the bytes of each image are. Ours reads by position with the index that is beside each shard.
The aim is 0.9 of the rate of a bare loop. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from decoding import HEIGHT, NUM_IMAGES, WIDTH, write_images
from inputs import machine
from pairs import in_pairs
from PIL import Image

from vissl_clusterfit.images import open_images

NUM_SHARDS = 3


def write_shards(images: Path, folder: Path) -> list[Path]:
    """The files of a folder in tar files."""
    folder.mkdir()
    files = sorted(images.iterdir())
    bounds = np.linspace(0, len(files), NUM_SHARDS + 1).astype(int)
    shards = [folder / f"shard-{number:03d}.tar" for number in range(NUM_SHARDS)]
    for shard, (start, stop) in zip(shards, itertools.pairwise(bounds), strict=True):
        with tarfile.open(shard, "w") as archive:
            for file in files[start:stop]:
                archive.add(file, file.name)
    return shards


def decoded(content: bytes) -> tuple[int, ...]:
    """One pixel of an image that was decoded whole."""
    with Image.open(io.BytesIO(content)) as image:
        return image.convert("RGB").getpixel((WIDTH // 2, HEIGHT // 2))


def ours(shards: Sequence[Path], places: object) -> np.ndarray:
    del places
    images = open_images(shards[0].parent)
    return np.array([images.read(index).getpixel((WIDTH // 2, HEIGHT // 2)) for index in range(len(images))])


def by_tarfile(shards: Sequence[Path], places: object) -> np.ndarray:
    del places
    pixels = []
    for shard in shards:
        with tarfile.open(shard, "r|") as archive:
            pixels += [decoded(archive.extractfile(member).read()) for member in archive]
    return np.array(pixels)


def by_place(shards: Sequence[Path], places: dict[Path, list[tuple[int, int]]]) -> np.ndarray:
    pixels = []
    for shard in shards:
        with shard.open("rb") as file:
            for offset, size in places[shard]:
                file.seek(offset)
                pixels.append(decoded(file.read(size)))
    return np.array(pixels)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    num_pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        size = write_images(Path(scratch) / "images")
        shards = write_shards(Path(scratch) / "images", Path(scratch) / "shards")
        places = {}
        for shard in shards:
            with tarfile.open(shard) as archive:
                places[shard] = [(member.offset_data, member.size) for member in archive]
        begun = time.perf_counter()
        open_images(shards[0].parent)
        index_seconds = time.perf_counter() - begun
        sides = {"tarfile": by_tarfile, "known places": by_place, "ours": ours}
        found, figures = in_pairs(sides, (shards, places), num_pairs, "tar_images")
    for side in sides:
        np.testing.assert_array_equal(found[side], found["ours"])
    report = {"benchmark": "tar_images", **figures, "images": NUM_IMAGES, "bytes_per_file": size}
    print(json.dumps({**report, "index_seconds": index_seconds, "pairs": num_pairs, "machine": machine()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
