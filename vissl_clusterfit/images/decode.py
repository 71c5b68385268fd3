"""An image file as the RGB picture that it shows: more than 8 bits, and the orientation of its EXIF data."""

from __future__ import annotations

import contextlib

import numpy as np
from PIL import Image

from vissl_clusterfit.storage.untrusted import require_regular

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadablePixels(ValueError):
    """The range of an image's pixels is not known."""


def open_image(path: str) -> Image.Image:
    """An image file as Pillow opens it.

    Raises:
        UnsafeFileError: it is a named pipe or a device, which would be waited for. Pillow raises nearly anything.
    """
    require_regular(path)
    return Image.open(path)


def as_rgb(image: Image.Image, *, exif: bool = True) -> tuple[Image.Image, bool]:
    """An image in RGB, and whether its EXIF data ask for an orientation that was ignored.

    Args:
        image: as ``PIL.Image.open`` gives it.
        exif: turn it as its EXIF data say.

    Raises:
        UnreadablePixels: the range of the pixels is not known. Decoders raise nearly anything.
    """
    turn = turn_of(image)
    rgb = in_8_bits(image).convert("RGB")
    if turn is None or not exif:
        return rgb, turn is not None
    return rgb.transpose(turn), False


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """How an image is to be turned to be upright; None if it is, or if Pillow turns it when it decodes it (TIFF)."""
    image.load()  # what Pillow turns by itself no longer says so afterwards
    orientation = None
    with contextlib.suppress(Exception):  # of many types, where these data are damaged
        orientation = image.getexif().get(_ORIENTATION)
    return _TURNS.get(orientation) if isinstance(orientation, int) else None


def in_8_bits(image: Image.Image) -> Image.Image:
    """An image whose ``convert("RGB")`` shows what it shows; the same one where it has 8 bits.

    Pillow makes 8 bits of more by cutting off what is above 255, so that a picture becomes white. Of 16 bits of grey
    the upper 8 are taken, as Pillow does it for 16 bits of each colour. What has a range that the file does not say (32
    bits, floating point) is not readable.

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
