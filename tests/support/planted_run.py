"""A run on pictures with planted defects: copies, a giant, an empty and a contaminated cluster, broken files, a name
that is markup. Its features are extracted, clustered and labelled as any.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vissl_clusterfit import embed, make_codebook, make_labels
from vissl_clusterfit.clustering.codebook import Codebook

HOSTILE = "<img src=x onerror=document.title='hacked'>.jpg"
COLORS = {
    "red": (210, 30, 30),
    "green": (30, 200, 40),
    "blue": (30, 40, 210),
    "yellow": (220, 210, 30),
    "grey": (110, 110, 110),
    "violet": (200, 30, 200),
}
GIANT, NUM_GIANT, NUM_EACH = "blue", 400, 30
COPIED, NUM_COPIES = "green", 9
NUM_INTRUDERS = 20
BROKEN = ("yellow/cut off.jpg", "yellow/text.jpg")
_SIDE = 32


@dataclass(frozen=True)
class PlantedRun:
    """Where it lies, and the number of the cluster of each colour; that of ``"empty"`` has no sample."""

    images: Path
    run: Path
    clusters: dict[str, int]


def pixels() -> torch.nn.Module:
    """A network that gives an image of a few pixels, as a vector."""
    return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten())


def write_images(folder: Path, seed: int = 0) -> None:
    """Files in a folder for each colour, and what is planted among them."""
    random = np.random.default_rng(seed)
    for color, rgb in COLORS.items():
        for number in range(NUM_GIANT if color == GIANT else NUM_EACH):
            _save(folder / color / f"{number:03}.jpg", _picture(rgb, random))
    for number in range(NUM_INTRUDERS):  # pictures of violet among those of grey: in one cluster are both folders
        _save(folder / "grey" / f"intruder {number:02}.jpg", _picture(COLORS["violet"], random))
    for number in range(NUM_COPIES):
        with Image.open(folder / COPIED / "000.jpg") as first:
            _save(folder / COPIED / f"copy {number}.jpg", first, quality=80 + number)
    _save(folder / "red" / HOSTILE, _picture(COLORS["red"], random))
    whole = (folder / "yellow/000.jpg").read_bytes()
    (folder / BROKEN[0]).write_bytes(whole[: len(whole) // 3])
    (folder / BROKEN[1]).write_text("this is no picture\n" * 20)


def _picture(rgb: tuple[int, int, int], random: np.random.Generator) -> Image.Image:
    noise = random.normal(0, 45, (4, 4, 3)).repeat(_SIDE // 4, axis=0).repeat(_SIDE // 4, axis=1)
    return Image.fromarray(np.clip(np.array(rgb) + noise, 0, 255).astype(np.uint8))


def _save(path: Path, picture: Image.Image, quality: int = 90) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, "JPEG", quality=quality)


def make(folder: Path, seed: int = 0) -> PlantedRun:
    """Writes the images and makes features, codebook and labels of them.

    k-means leaves no cluster empty: a centroid that is far from everything is added to those that it has found.
    """
    images, run = folder / "images", folder / "run"
    write_images(images)
    steps = [{"name": "Resize", "size": [_SIDE, _SIDE]}, {"name": "ToTensor"}]
    features = embed(images, "python:planted_run:pixels", run / "features", transforms=steps)
    unit = features.read(0, features.num_samples)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    is_of = [[name.startswith(f"{color}/") and "intruder" not in name for name in features.names] for color in COLORS]
    kept = np.setdiff1d(np.arange(len(unit)), features.unreadable)
    means = np.stack([unit[np.intersect1d(np.flatnonzero(of), kept)].mean(axis=0) for of in is_of])
    found = make_codebook(features, folder / "first", num_clusters=len(COLORS), seed=seed)
    start = Codebook.save(
        folder / "start", found.manifest["inputs"], means, found.counts, found.preprocessing, _facts(found)
    )
    settled = make_codebook(
        features, folder / "settled", num_clusters=len(COLORS), start=str(start.folder), seed=seed, num_iter=20
    )
    codebook = Codebook.save(
        run / "codebook",
        settled.manifest["inputs"],
        np.concatenate([settled.centroids, [np.full(settled.centroids.shape[1], -0.2, dtype=np.float32)]]),
        np.concatenate([settled.counts, [0]]),
        settled.preprocessing,
        _facts(settled),
    )
    make_labels(features, codebook, run / "labels")
    return PlantedRun(images, run, {name: number for number, name in enumerate([*COLORS, "empty"])})


def _facts(codebook: Codebook) -> dict:
    written = ("num_clusters", "dim", "num_points", "preprocessing", "sha256", "inputs", "kind", "format")
    return {key: value for key, value in codebook.manifest.items() if key not in written}
