"""Images per second that one core reads, decodes and prepares for a teacher: what extraction takes besides the network.

    make bench BENCH=decoding

JPEG files of 500 x 375 pixels, as most of ImageNet's are, through VISSL's ``disk_folder`` and the transforms of
``clusterfit/defaults``. Seconds are those of the processor. The last line is one JSON object.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from inputs import machine
from PIL import Image

from vissl_clusterfit.plugin import bootstrap  # noqa: F401  (repairs; without them VISSL is not imported)

# isort: split
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.plugin.data.split_images import SplitImages

NUM_IMAGES, WIDTH, HEIGHT, QUALITY = 300, 500, 375, 90
REPEATS = 3


def write_images(folder: Path, num_images: int = NUM_IMAGES) -> int:
    """Pictures of blurred blocks with some noise; the mean size of a file, in bytes."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(num_images):
        blocks = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8))
        picture = np.asarray(blocks.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(int)
        picture += rng.integers(-12, 12, picture.shape)
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg", quality=QUALITY)
    return sum(file.stat().st_size for file in folder.iterdir()) // num_images


def main() -> int:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        size = write_images(Path(scratch) / "images" / "all")
        overrides = [
            "config=test/cpu_test/test_cpu_resnet_simclr",
            "+config/clusterfit=student",
            "config.DATA.TRAIN.DATA_SOURCES=[disk_folder]",
            f"config.DATA.TRAIN.DATA_PATHS=[{scratch}/images]",
            "config.CLUSTERFIT.TEACHER.WEIGHTS=none",
            f"config.CHECKPOINT.DIR={scratch}/run",
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            _, _, config = compose(overrides)
        images = SplitImages(config, "TRAIN", config.CLUSTERFIT.FEATURES.TRANSFORMS)
        rates = []
        for _ in range(REPEATS):
            begun = time.process_time()
            for index in range(NUM_IMAGES):
                images[index]
            rates.append(NUM_IMAGES / (time.process_time() - begun))
    report = {"benchmark": "decoding", "images_per_core_second": sorted(rates)[REPEATS // 2], "bytes_per_file": size}
    print(json.dumps({**report, "pixels": [WIDTH, HEIGHT], "machine": machine()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
