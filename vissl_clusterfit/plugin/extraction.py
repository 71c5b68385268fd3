"""The features of one split of ``config.DATA``, and their provenance: the one place that says what made them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from vissl.config import AttrDict

from vissl_clusterfit import distributed
from vissl_clusterfit.config.clusterfit import EncodingSettings
from vissl_clusterfit.features.extract import Encoder, ImageSource, extract_features
from vissl_clusterfit.features.sample_list import dataset_inputs
from vissl_clusterfit.features.sample_names import NameList
from vissl_clusterfit.features.store import FeatureStore

logger = logging.getLogger(__name__)


class SplitSource(ImageSource, Protocol):
    """The images of a split, or some of them."""

    @property
    def clips(self) -> Mapping[str, Any] | None:
        """Which frames are clips; None for images."""

    @property
    def num_ignored_orientations(self) -> int:
        """How many of the images that were read are to be turned by their EXIF data, and were not."""

    @property
    def name_list(self) -> NameList | None:
        """The names to save beside the features; None to save none."""


def feature_provenance(
    images: SplitSource, network: Callable[[], Mapping[str, Any]], encoding: EncodingSettings
) -> dict[str, Any]:
    """What features are made from, as their manifest records it. Called by all processes together.

    Args:
        images: of which they are.
        network: gives the inputs of the network under its role, ``{"teacher": …}`` or ``{"encoder": …}``; called on the
            primary process, as it may hash the file of the weights.
        encoding: transforms, dtype and batch size. The batch size is an input as kernels differ in their last bits.
    """
    return distributed.on_primary(
        lambda: {
            "dataset": dataset_inputs(images.samples),
            **network(),
            "transforms": encoding.transforms,
            "dtype": encoding.dtype,
            "batch_size": encoding.batch_size,
            **({} if images.clips is None else {"clips": images.clips}),
        }
    )


def extract_split(
    cfg: AttrDict,
    images: SplitSource,
    network: Callable[[], Mapping[str, Any]],
    build: Callable[[], Encoder],
    encoding: EncodingSettings,
    folder: Path,
) -> FeatureStore:
    """The features of a split, extracted unless they are in ``folder`` already. Called by all processes together.

    Args:
        cfg: VISSL's ``config``.
        images: of which they are.
        network: as in :func:`feature_provenance`.
        build: gives the function from a batch of images to features (B, D); called only if some are missing.
        encoding: how images become features.
        folder: of the store.

    Raises:
        ArtifactError: the store is of other inputs.
        DataError: too many images cannot be read.
    """
    store = extract_features(
        images,
        build,
        folder,
        feature_provenance(images, network, encoding),
        encoding,
        num_workers=cfg.DATA.NUM_DATALOADER_WORKERS,
        names=images.name_list,
    )
    ignored = sum(distributed.gather(images.num_ignored_orientations))
    if ignored and distributed.is_primary():
        logger.warning(
            "%d of the images that were read are not upright: the orientation in their EXIF data is ignored. The data "
            "source images turns them (docs/images.md).",
            ignored,
        )
    return store
