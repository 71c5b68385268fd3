"""Icon themes in the layout of freedesktop.org's specification."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

CONTEXTS = {"actions": "Actions", "apps": "Applications"}


def write_theme(folder: Path, seed: int, names: Mapping[str, list[str]], size: int = 32) -> Path:
    """A theme with a random picture, half of it transparent, for each name of each context."""
    rng = np.random.default_rng(seed)
    places = [f"{size}x{size}/{context}" for context in names]
    lines = ["[Icon Theme]", f"Name={folder.name}", f"Directories={','.join(places)}"]
    for place, context in zip(places, names, strict=True):
        lines += ["", f"[{place}]", f"Size={size}", f"Context={CONTEXTS[context]}", "Type=Fixed"]
        (folder / place).mkdir(parents=True)
        for name in names[context]:
            pixels = rng.integers(0, 256, (size, size, 4), dtype=np.uint8)
            pixels[..., 3] = 255 * (np.arange(size) < size // 2)
            Image.fromarray(pixels).save(folder / place / f"{name}.png")
    (folder / "index.theme").write_text("\n".join(lines) + "\n")
    return folder


def write_themes(folder: Path, number: int = 50) -> Path:
    """Two themes that draw the same icons."""
    names = {context: [f"{context}-{icon}" for icon in range(number)] for context in CONTEXTS}
    for seed, theme in enumerate(("Plain", "fancy")):
        write_theme(folder / theme, seed, names)
    return folder
