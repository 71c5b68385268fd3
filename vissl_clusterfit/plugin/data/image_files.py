"""Image files as every data source of VISSL's reads them: 16 bits of grey for what they show, others not at all."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image


class UnreadablePixels(ValueError):
    """The range of an image's pixels is not known."""


class ImageFiles:
    """Stands for ``PIL.Image`` in a module that opens image files.

    Pillow makes 8 bits of more by cutting off what is above 255, so that a picture becomes white. Of 16 bits of grey
    the upper 8 are taken, as Pillow does it for 16 bits of each colour. What has a range that the file does not say (32
    bits, floating point) is not readable.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(Image, name)

    @staticmethod
    def open(*args: Any, **kwargs: Any) -> Image.Image:
        """As ``PIL.Image.open``, with what is to be made of more than 8 bits made of it.

        Raises:
            UnreadablePixels: the range of the pixels is not known.
        """
        return in_8_bits(Image.open(*args, **kwargs))


def in_8_bits(image: Image.Image) -> Image.Image:
    """An image whose ``convert("RGB")`` shows what it shows; the same one where it has 8 bits.

    Raises:
        UnreadablePixels: the range of the pixels is not known.
    """
    # Older releases of Pillow open 16 bits of a PNG file in 32.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        reason = f"its pixels are of mode {image.mode}, whose range the file does not say: save it in 8 bits"
        raise UnreadablePixels(reason)
    return image
