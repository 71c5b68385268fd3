"""A video stored as a folder of pictures, one per frame, as some data sets are published."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from vissl_clusterfit.storage.untrusted import require_regular
from vissl_clusterfit.video.unreadable import UnreadableVideoError

_EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm")
#: Of Something-Something V1, which is published so.
_FPS = 12.0


class FrameFolder:
    """The frames of one folder: its pictures in the order of their names. The same calls as ``decode.VideoFile``.

    Raises:
        UnreadableVideoError: it holds none. So does ``frames``, of one that cannot be read.
    """

    def __init__(self, folder: str) -> None:
        self._files = sorted(entry.path for entry in os.scandir(folder) if entry.name.lower().endswith(_EXTENSIONS))
        if not self._files:
            raise UnreadableVideoError("the folder holds no picture")
        self.seconds = np.arange(len(self._files)) / _FPS

    def __enter__(self) -> FrameFolder:
        return self

    def __exit__(self, *error: object) -> None: ...

    def frames(self, numbers: np.ndarray) -> np.ndarray:
        """Pixels of some frames, uint8 (len(numbers), H, W, 3); all become as large as the first."""
        pixels: list[np.ndarray] = []
        for number in numbers:
            file = Path(self._files[number])
            try:
                require_regular(file)
                with Image.open(file) as picture:
                    rgb = picture.convert("RGB")
            except Exception as error:  # whatever a decoder may raise is the reason
                raise UnreadableVideoError(f"{file.name}: {type(error).__name__}: {error}") from None
            if pixels and rgb.size != pixels[0].shape[1::-1]:
                rgb = rgb.resize(pixels[0].shape[1::-1])
            pixels.append(np.asarray(rgb))
        return np.stack(pixels)
