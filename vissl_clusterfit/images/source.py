"""Images with transforms, as the extraction reads them: without VISSL."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

from vissl_clusterfit.features.sample_list import dataset_inputs
from vissl_clusterfit.features.sample_names import NameList, list_samples
from vissl_clusterfit.images.base import Images
from vissl_clusterfit.images.pixels import Finish, unfinished

_GREY, _GREY_SIZE = (128, 128, 128), (224, 224)


class TransformedImages(Dataset):
    """A collection of images as :func:`vissl_clusterfit.features.extract.extract_features` reads it.

    Args:
        images: the collection.
        transform: from an image in RGB to a tensor (C, H, W) of the same shape for all.
        keep_names: keep the names of the samples for ``name_list``.

    Examples:
        >>> import numpy as np
        >>> from torchvision.transforms.v2.functional import pil_to_tensor
        >>> from vissl_clusterfit.images import TransformedImages, open_images
        >>> np.save("pictures.npy", np.zeros((5, 32, 32, 3), dtype=np.uint8))
        >>> images = TransformedImages(open_images("pictures.npy"), pil_to_tensor)
        >>> picture, why_unreadable = images[4]
        >>> picture.shape, why_unreadable, images.name_of(4)
        (torch.Size([3, 32, 32]), '', 'pictures.npy: 4')
    """

    def __init__(
        self, images: Images, transform: Callable[[Image.Image], torch.Tensor], *, keep_names: bool = True
    ) -> None:
        self.images, self._transform, self._keep_names = images, transform, keep_names

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        """The tensor of an image, and why it could not be read: "" if it could; then a grey one stands for it."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            return self._transform(self.images.read(index)), ""
        except Exception as error:  # damaged files make decoders raise nearly anything
            reason = f"{type(error).__name__}: {error}"
        return self._transform(Image.new("RGB", _GREY_SIZE, _GREY)), reason

    def unfinished(self) -> tuple[TransformedImages, Finish] | None:
        """The same images in 8 bits, and what is left to do to a batch of them; None where that is not known."""
        found = unfinished(getattr(self._transform, "transforms", ()))
        if found is None:
            return None
        steps, finish = found
        others = copy.copy(self)
        composed: Any = type(self._transform)
        others._transform = composed(steps)
        return others, finish

    @property
    def samples(self) -> np.ndarray:
        """The ordered sample list, uint64 (N,)."""
        return self._named_samples[0]

    @property
    def name_list(self) -> NameList | None:
        """The names to save beside the features; None to save none."""
        return self._named_samples[1]

    @functools.cached_property
    def _named_samples(self) -> tuple[np.ndarray, NameList | None]:
        return list_samples(self.images.identities(), keep_names=self._keep_names, with_sizes=True)

    def inputs(self) -> dict[str, Any]:
        """What identifies the data, for manifests."""
        return dataset_inputs(self.samples)

    def name_of(self, index: int) -> str:
        """Where a sample lies, for messages."""
        return self.images.where(index)
