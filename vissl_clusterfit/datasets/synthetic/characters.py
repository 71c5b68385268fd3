"""Pictures of characters: letters in the fonts that matplotlib ships, under random geometry, colour and clutter.

A picture has labels of several granularities: its letter (13, whatever the case), its character (26), its case (2)
and the family of its font (5). Letters whose two cases look alike (c, o, s, …) are left out.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from vissl_clusterfit.errors import MissingDependencyError

PICTURE_PX = 24
LETTERS = "ABDEFGHLMNQRT"
#: The files of each family, without their ending.
FAMILIES = {
    "DejaVu Sans": ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique"),
    "DejaVu Sans Mono": ("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique"),
    "DejaVu Serif": ("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic"),
    "STIX": ("STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic"),
    "Computer Modern": ("cmr10", "cmb10", "cmti10", "cmss10", "cmtt10"),
}

# How a character is drawn. Chosen on the training pictures of one seed, so that a small network can learn it and the
# nearest pictures by pixels are of other characters.
_MASTER_PX = 96
_MASTER_FONT_PX = 48
_CAPITAL_PX = 34.0
_HEIGHT_PX = (11.0, 15.0)
_TURN_DEG = 10.0
_SHEAR = 0.1
_REACH_PX = 3.5
_LEAST_CONTRAST = 0.35
_LUMINANCE = np.array([0.3, 0.59, 0.11])
_SCRAPS = 2
_SCRAP_PX = 8
_SCRAP_INK = 0.8
_GRADIENT = 0.15
_NOISE = 0.05


def draw_characters(num_pictures: int, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Pictures of random characters.

    Returns:
        Pictures (N, P, P, 3) uint8, and by name their labels (N,) int64: letter, character, case (1 for capitals) and
        family.

    Raises:
        MissingDependencyError: matplotlib is not installed, or is one that lacks a font.
    """
    letters = rng.integers(len(LETTERS), size=num_pictures)
    cases = rng.integers(2, size=num_pictures)
    families = rng.integers(len(FAMILIES), size=num_pictures)
    files = list(FAMILIES.values())
    pictures = np.empty((num_pictures, PICTURE_PX, PICTURE_PX, 3), np.uint8)
    for number, (letter, case, family) in enumerate(zip(letters, cases, families, strict=True)):
        text = LETTERS[letter] if case else LETTERS[letter].lower()
        pictures[number] = _picture(text, files[family][rng.integers(len(files[family]))], rng)
    labels = {"letter": letters, "character": 2 * letters + cases, "case": cases, "family": families}
    return pictures, {name: values.astype(np.int64) for name, values in labels.items()}


def _picture(text: str, font: str, rng: np.random.Generator) -> np.ndarray:
    ink = _ink(
        text,
        font,
        height=rng.uniform(*_HEIGHT_PX),
        angle=np.deg2rad(rng.uniform(-_TURN_DEG, _TURN_DEG)),
        shear=rng.uniform(-_SHEAR, _SHEAR),
        centre=PICTURE_PX / 2 + rng.uniform(-_REACH_PX, _REACH_PX, 2),
    )
    paper, colour = _colours(rng)
    down, right = np.mgrid[:PICTURE_PX, :PICTURE_PX] / PICTURE_PX - 0.5
    slope = rng.uniform(-_GRADIENT, _GRADIENT, 2)
    picture = paper + (slope[0] * down + slope[1] * right)[..., None]
    for _ in range(_SCRAPS):
        scrap = _SCRAP_INK * _scrap(rng)[..., None]
        picture = picture * (1 - scrap) + rng.uniform(0, 1, 3) * scrap
    picture = picture * (1 - ink[..., None]) + colour * ink[..., None]
    picture = picture + rng.normal(0, _NOISE, picture.shape)
    return (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)


def _colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Paper and ink, the ink brighter."""
    while True:
        paper, colour = rng.uniform(0, 0.6, 3), rng.uniform(0.2, 1, 3)
        if (colour - paper) @ _LUMINANCE >= _LEAST_CONTRAST:
            return paper, colour


def _scrap(rng: np.random.Generator) -> np.ndarray:
    """A square cut from a character at any place, turned by any angle."""
    text = LETTERS[rng.integers(len(LETTERS))]
    ink = _ink(
        text if rng.integers(2) else text.lower(),
        "DejaVuSans",
        height=rng.uniform(10, 22),
        angle=rng.uniform(0, 2 * np.pi),
        shear=0.0,
        centre=rng.uniform(0, PICTURE_PX, 2),
    )
    kept = np.zeros_like(ink)
    top, left = rng.integers(0, PICTURE_PX - _SCRAP_PX, 2)
    place = slice(top, top + _SCRAP_PX), slice(left, left + _SCRAP_PX)
    kept[place] = ink[place]
    return kept


def _ink(text: str, font: str, *, height: float, angle: float, shear: float, centre: np.ndarray) -> np.ndarray:
    """A character of 0 to 1 in (P, P): capitals ``height`` pixels high, turned by ``angle`` radians and sheared."""
    scale = _CAPITAL_PX / height
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    # Pillow wants, for a pixel of the picture, its place in the master.
    xx, xy, yx, yy = cos, shear * cos - sin, sin, shear * sin + cos
    middle, (x, y) = _MASTER_PX / 2, centre
    transform = (xx, xy, middle - xx * x - xy * y, yx, yy, middle - yx * x - yy * y)
    size = (PICTURE_PX, PICTURE_PX)
    blurred = _master(text, font).filter(ImageFilter.GaussianBlur(scale / 2))
    reduced = blurred.transform(size, Image.Transform.AFFINE, transform, Image.Resampling.BILINEAR)
    return np.asarray(reduced, float) / 255


@functools.lru_cache(maxsize=1024)
def _master(text: str, font: str) -> Image.Image:
    """A character, large, in the middle of its ink."""
    loaded = _font(font)
    left, top, right, bottom = loaded.getbbox(text)
    image = Image.new("L", (_MASTER_PX, _MASTER_PX))
    place = (_MASTER_PX - left - right) / 2, (_MASTER_PX - top - bottom) / 2
    ImageDraw.Draw(image).text(place, text, font=loaded, fill=255)
    return image


@functools.lru_cache(maxsize=64)
def _font(name: str) -> ImageFont.FreeTypeFont:
    try:
        import matplotlib
    except ImportError:
        raise MissingDependencyError(
            "The characters are drawn in the fonts of matplotlib, which is not installed: pip install matplotlib"
        ) from None
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    if not file.is_file():
        said = f"matplotlib {matplotlib.__version__} has no {name}: pip install --upgrade matplotlib"
        raise MissingDependencyError(f"The characters are drawn in the fonts of matplotlib, and {said}")
    return ImageFont.truetype(str(file), _MASTER_FONT_PX)
