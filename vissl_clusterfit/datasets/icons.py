"""Icon themes as a data set: the same icon drawn by several themes, in folders by what it is for.

    <folder>/<split>/<context>/<theme>_<name>.png   pretrain, train, validation and test; RGB, on white
    <folder>/<split>.{context,theme}.npy            int64, one label for each picture, in the order of the paths

Themes are folders with an ``index.theme`` (freedesktop.org, *Icon Theme Specification*), as Debian's packages have them
in ``/usr/share/icons``. An icon is all that bears one name. Names that a theme links, and names of equal pictures, are
one icon, and an icon is in one split. Of equal pictures the first is taken.
"""

from __future__ import annotations

import configparser
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vissl_clusterfit.datasets.synthetic.generated_folder import write_drawn_set
from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.storage.artifacts import read_manifest, write_array

#: Pixels of a side: what most themes have as PNG files.
SIZE = 32
#: The share of the pictures of each context.
SHARES = {"pretrain": 0.5, "train": 0.2, "validation": 0.1, "test": 0.2}
_KIND = "icons"
#: Contexts and themes with fewer pictures are left out.
_FEWEST = 40
_OTHER_NAMES = {"apps": "applications", "mimes": "mimetypes", "filesystems": "places"}


@dataclass(frozen=True)
class Icon:
    """A picture of a theme: uint8 pixels (SIZE, SIZE, 3), and its name, which those of other themes share."""

    theme: str
    context: str
    name: str
    pixels: np.ndarray


def prepare_icons(themes: Path, folder: Path) -> dict[str, Any]:
    """Makes the data set in ``folder`` from all themes below ``themes``, the same bytes at every call.

    Returns the manifest.

    Raises:
        DataError: there are fewer than two themes, or one cannot be read.
        ArtifactError: the folder holds something else.
    """
    icons, same = read_themes(themes)
    for part in ("theme", "context"):
        count = Counter(getattr(icon, part) for icon in icons)
        icons = [icon for icon in icons if count[getattr(icon, part)] >= _FEWEST]
    names = {part: sorted({getattr(icon, part) for icon in icons}) for part in ("context", "theme")}
    if len(names["theme"]) < 2 or len(names["context"]) < 2:
        found = f"{len(names['theme'])} themes and {len(names['context'])} contexts with {_FEWEST} pictures or more"
        allowed = f"two or more, as PNG files of {SIZE} pixels"
        raise DataError(problem(str(themes), found=found, allowed=allowed, remedy="See docs/datasets.md."))
    splits = split_by_icon(icons, same)
    pixels = hashlib.sha256(b"".join(icon.pixels.tobytes() for icon in icons)).hexdigest()

    def write(place: Path) -> Mapping[str, Any]:
        for split in SHARES:
            of_split = sorted(splits[split], key=lambda icon: (icon.context, f"{icon.theme}_{icon.name}.png"))
            for icon in of_split:
                file = place / split / icon.context / f"{icon.theme}_{icon.name}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(icon.pixels).save(file)
            for part, known in names.items():
                labels = np.array([known.index(getattr(icon, part)) for icon in of_split], dtype=np.int64)
                write_array(place / f"{split}.{part}.npy", labels)
        return {"num_images": {split: len(splits[split]) for split in SHARES}}

    write_drawn_set(folder, _KIND, {"size": SIZE, **names, "pixels": pixels}, write)
    return read_manifest(folder, _KIND)


def read_themes(folder: Path) -> tuple[list[Icon], list[tuple[str, str]]]:
    """The pictures of all themes, each once, in a fixed order; and pairs of names that are one icon."""
    icons: dict[bytes, Icon] = {}
    same: list[tuple[str, str]] = []
    for index in sorted(folder.glob("*/index.theme")):
        for context, file in _files(index):
            if file.is_symlink():
                same.append((file.stem, Path(file.readlink()).stem))
                continue
            pixels = _on_white(file)
            if pixels is None:
                continue
            icon = Icon(index.parent.name, context, file.stem, pixels)
            first = icons.setdefault(pixels.tobytes(), icon)
            same.append((icon.name, first.name))
    return [*icons.values()], same


def _files(index: Path) -> Iterator[tuple[str, Path]]:
    theme = configparser.ConfigParser(interpolation=None, strict=False, delimiters="=")
    try:
        theme.read(index, encoding="utf-8")
        listed = theme["Icon Theme"].get("Directories", "").split(",")
    except (configparser.Error, KeyError, UnicodeDecodeError) as error:
        raise DataError(f"{index} is no icon theme's: {error}.") from None
    for place in sorted({*map(str.strip, listed)} & {*theme.sections()}):
        is_below = (index.parent / place).resolve().is_relative_to(index.parent.resolve())
        if is_below and theme[place].get("Size") == str(SIZE) and theme[place].get("Scale", "1") == "1":
            context = theme[place].get("Context", "").strip().casefold()
            for file in sorted((index.parent / place).glob("*.png")):
                yield _OTHER_NAMES.get(context, context), file


def _on_white(file: Path) -> np.ndarray | None:
    try:
        with Image.open(file, formats=("PNG",)) as image:
            if image.size != (SIZE, SIZE):
                return None
            picture = image.convert("RGBA")
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{file} cannot be read as a PNG file: {error}.") from None
    return np.asarray(Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB"))


def split_by_icon(icons: Sequence[Icon], same: Sequence[tuple[str, str]]) -> dict[str, list[Icon]]:
    """The pictures of each split: all of an icon in one, and of each context as many as SHARES say, or nearly.

    Icons with more pictures come first, and each goes where most is missing. ``same`` has pairs of names of one icon.
    """
    above: dict[str, str] = {}

    def first_of(name: str) -> str:
        while (next_one := above.get(name, name)) != name:
            name = next_one
        return name

    for one, other in same:
        low, high = sorted((first_of(one), first_of(other)))
        above[high] = low
    groups = defaultdict(list)
    for icon in icons:
        groups[first_of(icon.name)].append(icon)
    total = Counter(icon.context for icon in icons)
    filled = {split: dict.fromkeys(total, 0.0) for split in SHARES}
    found: dict[str, list[Icon]] = {split: [] for split in SHARES}
    for group in sorted(groups.values(), key=lambda group: (-len(group), group[0].name)):
        context = min(Counter(icon.context for icon in group).items(), key=lambda item: (-item[1], item[0]))[0]
        split = min(SHARES, key=lambda split: filled[split][context] / SHARES[split])
        found[split] += group
        for icon in group:
            filled[split][icon.context] += 1
    return found
