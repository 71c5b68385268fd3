"""Handwritten digits as image files: the data of the quickstart, made from the scans that scikit-learn ships.

The scans (8 x 8 pixels, centred, alone) are so easy that raw pixels are enough to tell them apart: their nearest
neighbours name 97 % of them rightly, and a comparison of networks would say nothing. So each is drawn several
times into a larger picture: at a random place, size, slant, brightness and contrast, among distractors of other
scans and noise. What has to be recognised is still handwriting.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vissl_clusterfit.datasets.synthetic.generated_folder import write_drawn_set
from vissl_clusterfit.datasets.synthetic.scans import PICTURE_PX, distractors, load_scans, paste

_KIND = "handwritten digits"

# How a scan is drawn. Chosen on the training scans alone: the last 300 of them were scored, no test scan.
_SIDE_PX = (20.0, 28.0)
_SLANT_DEG = 10.0
_CONTRAST = (0.5, 0.9)
_NUM_DISTRACTORS = 2
_SCRAP_INK = 0.8
_NOISE = 0.05


@dataclass(frozen=True)
class DigitsSpec:
    """Which scans are drawn, and how often. The split is by scan: no scan is drawn in both.

    Attributes:
        num_scans: How many scans are used, the first of the file; it holds 1,797.
        num_test_scans: The last so many of them make the test split, the others the training split.
        train_drawings: Pictures per training scan.
        test_drawings: Pictures per test scan.
        seed: Draws everything that is random.
    """

    num_scans: int = 1797
    num_test_scans: int = 500
    train_drawings: int = 4
    test_drawings: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses what leaves a split empty.

        Raises:
            ValueError: naming the argument.
        """
        if not 0 < self.num_test_scans < self.num_scans:
            allowed = f"1 to num_scans - 1 ({self.num_scans - 1})"
            raise ValueError(f"num_test_scans must be {allowed}, got {self.num_test_scans}.")
        if self.train_drawings < 1 or self.test_drawings < 1:
            found = f"{self.train_drawings} and {self.test_drawings}"
            raise ValueError(f"train_drawings and test_drawings must be at least 1, got {found}.")


def write_digits(folder: Path, spec: DigitsSpec = DigitsSpec()) -> None:
    """Writes ``folder/{train,test}/<digit>/<scan>_<drawing>.png``, grey, the same bytes at every call.

    The folder appears whole or not at all. Where the same pictures already are, nothing is written.

    Args:
        folder: Made by this function; its parents, too.
        spec: Which scans are drawn, and how often.

    Raises:
        ArtifactError: the folder holds other pictures, pictures that were changed, or something else.
        DataError: the file has fewer scans than ``spec.num_scans``.
    """
    write_drawn_set(folder, _KIND, asdict(spec), lambda temporary: _write_splits(temporary, spec))


def draw_scans(number: int, share: tuple[float, float], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of scans of a part of the file, for other sets than that of the quickstart, with a scrap each.

    Args:
        number: How many pictures; a scan is drawn as often as another, or once more.
        share: The part of the file, from and to, of 1. Parts that do not overlap share no scan.
        rng: Draws which scans, and how.

    Returns:
        Pictures (number, P, P) uint8, grey, and the place of the scan of each in the file, int64 (number,).
    """
    from sklearn.datasets import load_digits

    images = load_digits().images / 16.0
    first, last = (round(part * len(images)) for part in share)
    chosen = first + rng.permutation(np.arange(number) % (last - first))
    return _draw(images[chosen], rng, num_distractors=1), chosen


def scan_labels() -> tuple[np.ndarray, np.ndarray]:
    """Of every scan of the file: its digit, and its style, one of three ways to write that digit, both int64 (N,).

    The styles of a digit are the clusters of its scans by scikit-learn's k-means; they are numbered through, 0 to 29.
    """
    from sklearn.cluster import KMeans
    from sklearn.datasets import load_digits

    data = load_digits()
    styles = np.empty(len(data.target), np.int64)
    for digit in range(10):
        scans = data.data[data.target == digit]
        styles[data.target == digit] = 3 * digit + KMeans(3, n_init=4, random_state=0).fit_predict(scans)
    return data.target.astype(np.int64), styles


def _write_splits(folder: Path, spec: DigitsSpec) -> dict[str, dict[str, int]]:
    return {"num_images": {split: _write_split(folder / split, split, spec) for split in ("train", "test")}}


def _write_split(folder: Path, split: str, spec: DigitsSpec) -> int:
    scans, digits, first = load_scans(split, spec.num_scans, spec.num_test_scans)
    for digit in range(10):
        (folder / str(digit)).mkdir(parents=True)
    count = 0
    for drawing, pictures in enumerate(_drawings(scans, split, spec)):
        for number, (picture, digit) in enumerate(zip(pictures, digits, strict=True), start=first):
            Image.fromarray(picture).save(folder / str(digit) / f"{number:04d}_{drawing}.png")
            count += 1
    return count


def _drawings(scans: np.ndarray, split: str, spec: DigitsSpec) -> Iterator[np.ndarray]:
    """One picture of every scan, uint8 (N, P, P), as often as the spec says."""
    number = {"train": spec.train_drawings, "test": spec.test_drawings}[split]
    for drawing in range(number):
        yield _draw(scans, np.random.default_rng([spec.seed, ("train", "test").index(split), drawing]))


def _draw(scans: np.ndarray, rng: np.random.Generator, num_distractors: int = _NUM_DISTRACTORS) -> np.ndarray:
    num = len(scans)
    side = rng.uniform(*_SIDE_PX, num)
    # The centre moves as far as leaves the scan inside the picture, and one pixel more.
    reach = ((PICTURE_PX - side) / 2 + 1)[:, None]
    centre = PICTURE_PX / 2 + rng.uniform(-1, 1, (num, 2)) * reach
    ink = paste(scans, side, centre, np.deg2rad(rng.uniform(-_SLANT_DEG, _SLANT_DEG, num)))
    for _ in range(num_distractors):
        others = distractors(scans, rng)
        scrap_ink = paste(
            others,
            side=rng.uniform(*_SIDE_PX, num),
            centre=rng.uniform(0, PICTURE_PX, (num, 2)),
            angle=rng.uniform(0, 2 * np.pi, num),
        )
        ink = np.maximum(ink, _SCRAP_INK * scrap_ink)
    contrast = rng.uniform(*_CONTRAST, num)[:, None, None]
    paper = rng.uniform(0, 1, num)[:, None, None] * (1 - contrast)
    pictures = paper + contrast * ink + rng.normal(0, _NOISE, ink.shape)
    return (np.clip(pictures, 0, 1) * 255).round().astype(np.uint8)
