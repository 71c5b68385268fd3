"""The pictures of the embedded study: drawn once, as image files, with labels of several granularities.

    <folder>/<split>/all/<number>.bmp     pretrain, train, validation and test, of one size; unlabelled
    <folder>/<split>.<labels>.npy         int64, one label for each picture of the split, in the order of the files

Networks are pre-trained on ``pretrain`` with one of the labels, and scored by others: fitted on ``train``, choices
made on ``validation``, scored on ``test``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from vissl_clusterfit.config.schema import setting
from vissl_clusterfit.datasets.synthetic.characters import draw_characters
from vissl_clusterfit.datasets.synthetic.digits import draw_scans, scan_labels
from vissl_clusterfit.datasets.synthetic.generated_folder import write_drawn_set
from vissl_clusterfit.storage.artifacts import write_array

SPLITS = ("pretrain", "train", "validation", "test")
#: More pictures like those of "pretrain", which no teacher sees.
UNLABELLED = "unlabelled"
_DIGIT_PX = 24
#: The part of the scans that a split is drawn from.
_SCANS = {"pretrain": (0.0, 0.45), "train": (0.45, 0.62), "validation": (0.62, 0.73), "test": (0.73, 1.0)}
_SCANS[UNLABELLED] = _SCANS["pretrain"]


@dataclass(frozen=True)
class PicturesSettings:
    """``STUDY.PICTURES``: what is drawn."""

    #: "digits", "characters", or "" where the study runs on data that are there.
    kind: str = setting("", choices=("", "digits", "characters"))
    #: Pictures to pre-train on, to fit probes on, to choose on, and to score.
    pretrain: int = setting(4000, at_least=1)
    train: int = setting(1500, at_least=1)
    validation: int = setting(600, at_least=1)
    test: int = setting(1500, at_least=1)
    #: Further pictures to cluster, whose labels nobody knows: so many times as many as PRETRAIN.
    more: float = setting(0.0, at_least=0.0, at_most=1000.0)
    #: Draws everything that is random. The study's own seeds change the trainings, not the pictures.
    seed: int = setting(0, at_least=0)

    @property
    def unlabelled(self) -> int:
        """How many further pictures there are."""
        return round(self.more * self.pretrain)


def write_pictures(folder: Path, settings: PicturesSettings) -> None:
    """Draws all splits, the same bytes at every call; where they exist already, checks them.

    Raises:
        ArtifactError: the folder holds other pictures, pictures that were changed, or something else.
        MissingDependencyError: what brings the fonts is not installed.
    """
    what, inputs = f"pictures of {settings.kind}", asdict(settings)
    del inputs["more"]
    if settings.unlabelled:
        inputs[UNLABELLED] = settings.unlabelled
    write_drawn_set(folder, what, inputs, lambda temporary: _write_splits(temporary, settings))


def _write_splits(folder: Path, settings: PicturesSettings) -> dict[str, dict[str, int]]:
    splits = [*SPLITS, *([UNLABELLED] if settings.unlabelled else [])]
    for split in splits:
        _write_split(folder, split, settings)
    return {"num_images": {split: getattr(settings, split) for split in splits}}


def _write_split(folder: Path, split: str, settings: PicturesSettings) -> None:
    rng = np.random.default_rng([settings.seed, (*SPLITS, UNLABELLED).index(split)])
    draw = {"digits": _draw_digits, "characters": _draw_characters}[settings.kind]
    pictures, labels = draw(split, getattr(settings, split), rng)
    files = folder / split / "all"  # VISSL's disk_folder wants a class folder
    files.mkdir(parents=True)
    for number, picture in enumerate(pictures):
        # Pillow opens a grey BMP at a third of the speed: it checks the palette in Python.
        Image.fromarray(picture).convert("RGB").save(files / f"{number:06d}.bmp")
    for name, values in labels.items():
        write_array(folder / f"{split}.{name}.npy", values)


def _draw_characters(_split: str, number: int, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    return draw_characters(number, rng)


def _draw_digits(split: str, number: int, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Digits of scans that no other split has. Their labels: the style (30 of them), the digit, its parity."""
    drawn, scans = draw_scans(number, _SCANS[split], rng)
    small = (_DIGIT_PX, _DIGIT_PX)
    pictures = [np.asarray(Image.fromarray(picture).resize(small, Image.Resampling.BOX)) for picture in drawn]
    digits, styles = scan_labels()
    return np.stack(pictures), {"style": styles[scans], "digit": digits[scans], "parity": digits[scans] % 2}
