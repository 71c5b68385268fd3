"""Makes the pictures of docs/report.md: a run on scikit-learn's handwritten digits, its page, in a browser.

    python docs/screenshots.py              some 20 seconds; Debian's chromium is needed: make browser

The digits lie in a folder for each class. As in a collection of one's own, some files are broken, some are copies, and
some lie in the wrong folder.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "docs"), str(ROOT / "tests/support")]

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
NUM_CLUSTERS, SIDE = 30, 96
NUM_COPIES, NUM_MISPLACED = 40, 25
#: Of each picture its name, what is scrolled to the top, and the height of the window.
SHOTS = (("warnings", "body", 1000), ("samples", "#samples", 900))
WIDTH, QUALITY = 980, 82


def pixels() -> torch.nn.Module:
    """A network that gives the picture itself, as a vector."""
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(8), torch.nn.Flatten())


def write_digits(folder: Path) -> None:
    """A JPEG of each digit, copies, misplaced ones, and two that are broken."""
    from sklearn.datasets import load_digits

    digits, random = load_digits(), np.random.default_rng(0)
    places = [folder / NAMES[label] / f"{number:04}.jpg" for number, label in enumerate(digits.target)]
    for number in random.choice(len(places), NUM_MISPLACED, replace=False):
        places[number] = folder / str(random.choice(NAMES)) / places[number].name
    for number, (place, values) in enumerate(zip(places, digits.images, strict=True)):
        place.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((255 - values * 15.9).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        picture.save(place, quality=92)
        if number % (len(places) // NUM_COPIES) == 0:
            picture.save(place.with_name(f"copy of {place.name}"), quality=70)
    (folder / "zero/half.jpg").write_bytes(places[0].read_bytes()[:500])
    (folder / "nine/note.jpg").write_text("see the other folder")


def make_page() -> Path:
    """The page of a run on the digits, in the working directory."""
    from vissl_clusterfit import embed, make_codebook, make_labels
    from vissl_clusterfit.commands.main import main

    write_digits(Path("digits"))
    steps = [{"name": "Resize", "size": [32, 32]}, {"name": "ToTensor"}]
    features = embed("digits", "python:screenshots:pixels", "run/features", transforms=steps)
    make_labels(features, make_codebook(features, "run/codebook", NUM_CLUSTERS), "run/labels")
    assert main(["report", "run", "--images", "digits", "--map", "pca"]) == 0
    return Path("run/report.html")


def shoot(page: Path) -> None:
    """Writes ``docs/report_<name>.webp`` of each part of the page."""
    from browser import started

    with started((WIDTH, max(height for _, _, height in SHOTS))) as browser:
        browser.open(page)
        browser.load_pictures()
        for name, selector, height in SHOTS:
            browser.emulate(
                "Emulation.setDeviceMetricsOverride", width=WIDTH, height=height, deviceScaleFactor=1, mobile=False
            )
            browser.driver.execute_script("document.querySelector(arguments[0]).scrollIntoView()", selector)
            with Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())) as picture:
                file = ROOT / f"docs/report_{name}.webp"
                picture.convert("RGB").save(file, quality=QUALITY, method=6)
            print(f"{file.relative_to(ROOT)}: {file.stat().st_size // 1000} kB")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        shoot(make_page())
