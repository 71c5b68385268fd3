"""Pictures in the memory and on the disk, each of a colour of its own, for tests of collections of images."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

#: Names with what names have: blanks, letters of other scripts, a comma, quotation marks, a dot, capitals.
NAMES = ("plain.png", "two words.png", "höhle 洞穴.jpg", 'a, "b".png', "v1.2 final.JPEG", "z.tiff")


def picture(number: int) -> Image.Image:
    """20 x 10 pixels, of one colour that says its number, with the upper left corner in white."""
    pixels = np.full((10, 20, 3), (10 * number % 250, 100, 200), dtype=np.uint8)
    pixels[:5, :5] = 255
    return Image.fromarray(pixels)


def encoded(number: int, kind: str = "PNG", **options: object) -> bytes:
    """The bytes of a file with a picture."""
    file = io.BytesIO()
    picture(number).save(file, kind, **options)
    return file.getvalue()


def turned(number: int, orientation: int, kind: str = "JPEG") -> bytes:
    """A file whose EXIF data ask for an orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(number, kind, exif=exif, **({"quality": 95} if kind == "JPEG" else {}))


def write_pictures(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    """A file for each name, number by number."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(path)
    return folder


def numbers_in(images) -> list[int]:
    """Which pictures a collection has, by the colours that it reads."""
    return [round(np.asarray(images.read(index))[-1, -1, 0] / 10) for index in range(len(images))]
