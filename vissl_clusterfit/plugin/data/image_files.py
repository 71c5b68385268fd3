"""Image files as every data source of VISSL's reads them: 16 bits of grey for what they show, others not at all."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from iopath.common.file_io import g_pathmgr
from PIL import Image
from vissl.data.data_helper import get_mean_image

from vissl_clusterfit.images.base import shared_marks
from vissl_clusterfit.images.decode import in_8_bits, turn_of
from vissl_clusterfit.storage.untrusted import require_regular

logger = logging.getLogger(__name__)

#: Whether the image that is being read asks to be turned; None where nobody asks.
_turned: ContextVar[bool | None] = ContextVar("turned", default=None)


class ImageFiles:
    """Stands for ``PIL.Image`` in a module that opens image files.

    What Pillow makes of more than 8 bits is a white picture; see ``images/decode.py``.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(Image, name)

    @staticmethod
    def open(*args: Any, **kwargs: Any) -> Image.Image:
        """As ``PIL.Image.open``, with what is to be made of more than 8 bits made of it.

        Raises:
            UnreadablePixels: the range of the pixels is not known.
        """
        image = Image.open(*args, **kwargs)
        if _turned.get() is not None:
            _turned.set(turn_of(image) is not None)
        return in_8_bits(image)


def count_orientations(source: Any) -> None:
    """Has a ``DiskImageDataset`` count the images whose EXIF orientation it ignores, in all processes that read it."""
    source.ignored_orientations = shared_marks(len(source))


def refusing_pipes(opens: Callable[..., Any]) -> Callable[..., Any]:
    """A function that opens files by their path, which waits for no named pipe.

    Raises:
        UnsafeFileError: the path is that of a pipe, a socket or a device; to VISSL one more unreadable image.
    """

    @functools.wraps(opens)
    def opened(path: Any, *args: Any, **kwargs: Any) -> Any:
        require_regular(path)
        return opens(path, *args, **kwargs)

    return opened


class RegularFiles:
    """Stands for iopath's path manager in a module that opens image files."""

    open = staticmethod(refusing_pipes(g_pathmgr.open))

    def __getattr__(self, name: str) -> Any:
        return getattr(g_pathmgr, name)


def with_stand_ins(get_item: Callable[[Any, int], tuple[Any, bool]]) -> Callable[[Any, int], tuple[Any, bool]]:
    """VISSL's ``DiskImageDataset.__getitem__``, which ends a training at a damaged file of a folder, not of a list.

    A grey image stands for it, as for one of a list, and is said not to be valid. Images stay as VISSL reads them;
    those that their EXIF data would turn are counted where :func:`count_orientations` asks for it. Small ones are read
    once (``small_pictures.py``).
    """

    @functools.wraps(get_item)
    def get(source: Any, index: int) -> tuple[Any, bool]:
        kept = getattr(source, "small_pictures", None)
        if kept is not None and (picture := kept.get(index)) is not None:
            return picture, True
        counted = getattr(source, "ignored_orientations", None)
        before = _turned.set(None if counted is None else False)
        try:
            item = get_item(source, index)
            if counted is not None and _turned.get():
                counted[index] = 1
            if kept is not None and item[1]:
                kept.keep(index, item[0])
            return item
        except Exception as error:  # damaged files make decoders raise nearly anything
            if source.data_source != "disk_folder" or not source.is_initialized:
                raise
            name = source.image_dataset.samples[index][0]
            logger.warning("%s cannot be read: %s: %s", name, type(error).__name__, error)
            return get_mean_image(source.cfg["DATA"][source.split].DEFAULT_GRAY_IMG_SIZE), False
        finally:
            _turned.reset(before)

    return get
