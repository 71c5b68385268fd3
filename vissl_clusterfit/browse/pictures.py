"""The pictures of samples, read only where they are shown: of files by their names, of collections by their numbers."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.images.base import Images
from vissl_clusterfit.images.decode import as_rgb, open_image
from vissl_clusterfit.images.hugging_face import is_dataset
from vissl_clusterfit.images.lmdb_files import is_lmdb
from vissl_clusterfit.images.opening import open_images
from vissl_clusterfit.images.tar import tars_in
from vissl_clusterfit.video.file_lists import EXTENSIONS as VIDEO_EXTENSIONS
from vissl_clusterfit.video.read import open_video

_FRAMES = 4
_CLIP = re.compile(r"^(?P<name>.*?)(?: -?\d+)? clip (?P<clip>\d+)$", re.DOTALL)
# Behind the name of a file, where several data sources name a sample.
_SIZE = re.compile(r" -?\d+$")
_JPEG_QUALITY, _FULL_QUALITY = 72, 90
_LONGEST = 1600


class Pictures(Protocol):
    """Pictures of samples by their number."""

    def read(self, index: int) -> Image.Image:
        """The picture of a sample, in RGB; of a video some frames side by side.

        Raises:
            Exception: whatever a decoder raises, with the reason.
        """


class FilePictures:
    """Pictures, or videos, that are files in a folder, by the names of the samples; the folder is not gone through.

    Args:
        folder: which the names are relative to.
        names: of the samples.
        anywhere: whether a name may lead out of the folder, as those of a list may.
        clips: of each video, where a sample is a clip.
    """

    def __init__(self, folder: str, names: Sequence[str], *, anywhere: bool = False, clips: int = 1) -> None:
        self._folder, self._names, self._anywhere, self._clips = folder, names, anywhere, clips

    def path(self, index: int) -> tuple[str, int]:
        """The file of a sample, and which clip of it.

        Raises:
            DataError: the name leads out of the folder.
        """
        name, clip = self._names[index].partition("\0")[0], 0
        if self._clips > 1 and (found := _CLIP.match(name)):
            name, clip = found["name"], int(found["clip"])
        if not self._anywhere and (os.path.isabs(name) or ".." in Path(name).parts):
            raise DataError(f"the name leads out of {self._folder}")
        path = os.path.join(self._folder, name)
        if "\0" in self._names[index] and not os.path.exists(path):
            path = _SIZE.sub("", path)
        return path, clip

    def read(self, index: int) -> Image.Image:
        """See :class:`Pictures`."""
        path, clip = self.path(index)
        if _is_video(path):
            return strip(path, (clip / self._clips, (clip + 1) / self._clips))
        with open_image(path) as image:
            return as_rgb(image)[0]


class CollectionPictures:
    """Pictures of a collection that :func:`vissl_clusterfit.images.open_images` has opened.

    Args:
        images: the collection.
        names: of the samples, which must be those of the collection where they are known.
    """

    def __init__(self, images: Images, names: Sequence[str] | None) -> None:
        self._images, self._names = images, names

    def read(self, index: int) -> Image.Image:
        """See :class:`Pictures`."""
        if self._names is not None and self._names[index] != self._images.names[index]:
            raise DataError(f"another picture is there now: {self._images.names[index]!r}")
        return self._images.read(index)


def open_pictures(
    place: str, names: Sequence[str] | None, num_samples: int, *, clips: int = 1, setting: str = "--images"
) -> Pictures:
    """The pictures of samples at a place: a folder of files that have these names, or another collection.

    Args:
        place: a folder, or whatever :func:`~vissl_clusterfit.images.open_images` opens.
        names: of the samples; None where they were not kept: then the collection is gone through.
        num_samples: how many there are.
        clips: of each video, where a sample is a clip.
        setting: which names the place, for messages.

    Raises:
        ConfigError: another number of pictures is there.
        DataError: it cannot be opened.
    """
    if names is not None and os.path.isdir(place) and not (is_dataset(place) or is_lmdb(place) or tars_in(place)):
        return FilePictures(place, names, clips=clips)
    if names is not None and len(names) and os.path.isabs(names[0]):
        return FilePictures(place, names, anywhere=True, clips=clips)
    images = open_images(place)
    if len(images) != num_samples:
        found, allowed = f"{place} with {len(images)} pictures", f"the {num_samples} of the features, in their order"
        raise ConfigError(problem(setting, found=found, allowed=allowed))
    return CollectionPictures(images, names)


def _is_video(path: str) -> bool:
    """Whether a file is a video, or a folder of its frames; of a GIF the first frame is shown."""
    ending = os.path.splitext(path)[1].lower()
    return os.path.isdir(path) or (ending in VIDEO_EXTENSIONS and ending != ".gif")


def strip(path: str, part: tuple[float, float] = (0.0, 1.0)) -> Image.Image:
    """Some frames of a video, evenly spread, side by side.

    Args:
        path: of a video file, or of a folder of frames.
        part: of the video that is meant, from 0 to 1.

    Raises:
        UnreadableVideoError: it gives no frame.
    """
    with open_video(path) as video:
        last = len(video.seconds) - 1
        places = np.linspace(part[0], part[1], _FRAMES + 2)[1:-1]
        numbers = np.unique(np.round(places * last).astype(np.int64))
        frames = video.frames(numbers)
    return Image.fromarray(np.concatenate(list(frames), axis=1))


def thumbnail(image: Image.Image, height: int) -> tuple[bytes, tuple[int, int]]:
    """A small JPEG of a picture, and its width and height in pixels; a strip may be four times as wide as high."""
    small = image.copy()
    small.thumbnail((_FRAMES * height if image.width > 2 * image.height else height, height))
    return _jpeg(small, _JPEG_QUALITY), small.size


def full_picture(image: Image.Image) -> bytes:
    """A JPEG of a picture as it is, or of one that is very large made smaller."""
    large = image.copy()
    large.thumbnail((_LONGEST, _LONGEST))
    return _jpeg(large, _FULL_QUALITY)


def _jpeg(image: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=quality, optimize=True)
    return file.getvalue()
