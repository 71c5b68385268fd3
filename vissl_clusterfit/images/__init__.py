"""Collections of images as they lie on disk: folders, lists, arrays, tar shards, data sets of Hugging Face, LMDB."""

from vissl_clusterfit.images.base import Images
from vissl_clusterfit.images.opening import open_images
from vissl_clusterfit.images.source import TransformedImages

__all__ = ["Images", "TransformedImages", "open_images"]
