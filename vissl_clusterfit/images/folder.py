"""A folder of images, flat or nested; the folders right in it are classes where no image lies beside them."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator

import numpy as np
from PIL import Image

from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.images.base import EXTENSIONS, Images, is_image, sizes_of
from vissl_clusterfit.images.decode import open_image
from vissl_clusterfit.images.names import PackedNames

logger = logging.getLogger(__name__)


class FolderImages(Images):
    """The images in a folder and below it, by their endings, in the order that ``disk_folder`` has.

    Links are followed, but none that leads to a folder that it is in. Hidden files and folders are left out.

    Raises:
        DataError: there are none, or a folder cannot be read.
    """

    kind = "a folder of images"

    def __init__(self, place: str, *, exif: bool = True) -> None:
        names, others = _scan(place)
        if not names:
            found = f"{place} without any image" + (f", but {_counted(others)}" if others else "")
            raise DataError(problem("The images", found=found, allowed=f"files that end in {', '.join(EXTENSIONS)}"))
        if others:
            logger.warning("%s: files that are no images by their ending are left out: %s.", place, _counted(others))
        super().__init__(place, PackedNames(names), exif=exif)
        tops = [name.partition("/")[0] if "/" in name else "" for name in names]
        if all(tops):
            self.labels = np.array(tops)

    def _open(self, index: int) -> Image.Image:
        return open_image(self.where(index))

    def _marks(self) -> Iterator[str]:
        return map(str, sizes_of([self.where(index) for index in range(len(self))]))

    def where(self, index: int) -> str:
        """The path of a sample's file."""
        return os.path.join(self.place, self.names[index])


def _scan(place: str) -> tuple[list[str], Counter[str]]:
    """Names of images relative to the folder, in order; and how many other files have which ending."""
    found: list[tuple[str, str, str]] = []
    others: Counter[str] = Counter()
    for folder, below, files in os.walk(place, onerror=_refuse, followlinks=True):
        here = os.path.realpath(folder)
        below[:] = [name for name in below if not _hidden(name) and not _encloses(os.path.join(folder, name), here)]
        inside = "" if folder == place else os.path.relpath(folder, place)
        top = inside.partition(os.sep)[0]
        for name in files:
            if is_image(name):
                found.append((top, inside, name))
            elif not _hidden(name):
                others[os.path.splitext(name)[1].lower() or "none"] += 1
    return [os.path.join(inside, name) for _, inside, name in sorted(found)], others


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _encloses(folder: str, here: str) -> bool:
    """Whether a folder is a link to one that ``here`` is in."""
    return os.path.islink(folder) and f"{here}{os.sep}".startswith(f"{os.path.realpath(folder).rstrip(os.sep)}{os.sep}")


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read: {error.strerror or error}.") from None


def _counted(endings: Counter[str]) -> str:
    return ", ".join(f"{count} with the ending {ending}" for ending, count in endings.most_common(3))
