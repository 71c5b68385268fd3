"""The scans of handwritten digits that scikit-learn ships, and how they are drawn into larger pictures."""

from __future__ import annotations

import numpy as np

from vissl_clusterfit.errors import DataError, problem

#: Height and width of a picture that a scan is drawn into.
PICTURE_PX = 40
_SCAN_PX = 8
_SCRAP_PX = 4


def load_scans(split: str, num_scans: int, num_test_scans: int) -> tuple[np.ndarray, np.ndarray, int]:
    """A part of the scans, the last ``num_test_scans`` of the first ``num_scans`` being the test split.

    Returns:
        Scans (N, 8, 8) with ink from 0 to 1, their digits (N,), and the number of the first in the file.

    Raises:
        DataError: the file has fewer scans.
    """
    from sklearn.datasets import load_digits

    data = load_digits()
    if num_scans > len(data.images):
        raise DataError(
            problem("num_scans", found=num_scans, allowed=f"at most {len(data.images)}, as many as there are")
        )
    first_test = num_scans - num_test_scans
    part = slice(0, first_test) if split == "train" else slice(first_test, num_scans)
    return data.images[part] / 16.0, data.target[part], part.start


def distractors(scans: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A square cut from a random scan for each of the scans (N, 8, 8), the rest of it blank."""
    num = len(scans)
    others = scans[rng.integers(num, size=num)]
    top, left = rng.integers(0, _SCAN_PX - _SCRAP_PX + 1, (2, num))
    pixel = np.arange(_SCAN_PX)
    rows = (pixel >= top[:, None]) & (pixel < top[:, None] + _SCRAP_PX)
    columns = (pixel >= left[:, None]) & (pixel < left[:, None] + _SCRAP_PX)
    return others * (rows[:, :, None] & columns[:, None, :])


def paste(scans: np.ndarray, side: np.ndarray, centre: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Scans (N, 8, 8) drawn into pictures (N, P, P): ``side`` pixels wide, turned by ``angle`` radians; bilinear."""
    pixel = np.arange(PICTURE_PX) + 0.5
    down = pixel[None, :, None] - centre[:, 0, None, None]
    right = pixel[None, None, :] - centre[:, 1, None, None]
    cos, sin = np.cos(angle)[:, None, None], np.sin(angle)[:, None, None]
    step = (_SCAN_PX / side)[:, None, None]
    # A blank frame of two pixels: what is read beyond the scan is blank, and so is what is between.
    framed = np.pad(scans, ((0, 0), (2, 2), (2, 2)))
    offset = _SCAN_PX / 2 - 0.5 + 2
    y = np.clip((cos * down + sin * right) * step + offset, 0, _SCAN_PX + 2.999)
    x = np.clip((cos * right - sin * down) * step + offset, 0, _SCAN_PX + 2.999)
    y0, x0 = y.astype(int), x.astype(int)
    fy, fx = y - y0, x - x0
    each = np.arange(len(scans))[:, None, None]
    upper = framed[each, y0, x0] * (1 - fx) + framed[each, y0, x0 + 1] * fx
    lower = framed[each, y0 + 1, x0] * (1 - fx) + framed[each, y0 + 1, x0 + 1] * fx
    return upper * (1 - fy) + lower * fy
