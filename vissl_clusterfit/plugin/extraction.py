"""The features of one split of ``config.DATA``, and their provenance: the one place that says what made them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from vissl.config import AttrDict

from vissl_clusterfit import distributed
from vissl_clusterfit.compute.chosen import Compute
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.config.compute import AUTO, READERS_BY_RATE
from vissl_clusterfit.config.features import EncodingSettings
from vissl_clusterfit.features.batches import Encoder, ImageSource
from vissl_clusterfit.features.computing import chosen_compute, measured_compute, stores_beside
from vissl_clusterfit.features.extract import extract_features
from vissl_clusterfit.features.sample_list import dataset_inputs
from vissl_clusterfit.features.sample_names import NameList
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.plugin.device import run_device

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
    images: SplitSource, network: Callable[[], Mapping[str, Any]], encoding: EncodingSettings, compute: Compute
) -> dict[str, Any]:
    """What features are made from, as their manifest records it. Called by all processes together.

    Args:
        images: of which they are.
        network: gives the inputs of the network under its role, ``{"teacher": …}`` or ``{"encoder": …}``; called on the
            primary process, as it may hash the file of the weights.
        encoding: transforms, dtype and batch size. The batch size is an input as kernels differ in their last bits.
        compute: how the network computes. Features in lower precision are those of another teacher.
    """
    return distributed.on_primary(
        lambda: {
            "dataset": dataset_inputs(images.samples),
            **network(),
            "transforms": encoding.transforms,
            "dtype": encoding.dtype,
            "batch_size": encoding.batch_size or AUTO,
            **({} if images.clips is None else {"clips": images.clips}),
            **compute.inputs(),
        }
    )


def compute_of_run(
    cfg: AttrDict,
    images: SplitSource,
    network: Callable[[], Mapping[str, Any]],
    build: Callable[[Compute], Encoder],
    made: Iterable[Path],
    note: Path | None = None,
) -> Compute:
    """How the networks of a run compute that only give features. Called by all processes together.

    Args:
        cfg: VISSL's ``config``.
        images, network, build: as in :func:`extract_split`.
        made: artefacts that may be there, and say how they were computed.
        note: a file that keeps what is measured until there is one.
    """
    settings = ClusterFitConfig.from_config(cfg).compute

    def measure() -> tuple[Compute, bool]:
        return measured_compute(settings, images, build, run_device(cfg))

    return chosen_compute(settings, network, made, measure, note)


def extract_split(
    cfg: AttrDict,
    images: SplitSource,
    network: Callable[[], Mapping[str, Any]],
    build: Callable[[Compute], Encoder],
    encoding: EncodingSettings,
    folder: Path,
    compute: Compute | None = None,
) -> FeatureStore:
    """The features of a split, extracted unless they are in ``folder`` already. Called by all processes together.

    Args:
        cfg: VISSL's ``config``.
        images: of which they are.
        network: as in :func:`feature_provenance`.
        build: gives the function from a batch of images to features (B, D) that computes so; called only if some are
            missing, or where it is to be measured.
        encoding: how images become features.
        folder: of the store.
        compute: how the network computes; None for what stores in the same folder say, or what is fastest.

    Raises:
        ArtifactError: the store is of other inputs.
        DataError: too many images cannot be read.
    """
    if compute is None:
        compute = compute_of_run(cfg, images, network, build, stores_beside(folder))
    chosen = compute
    store = extract_features(
        images,
        lambda: build(chosen),
        folder,
        feature_provenance(images, network, encoding, chosen),
        encoding,
        num_workers=None if cfg.DATA.get(READERS_BY_RATE) else cfg.DATA.NUM_DATALOADER_WORKERS,
        processes=cfg.DISTRIBUTED.NUM_PROC_PER_NODE,
        names=images.name_list,
        device="cuda" if cfg.MACHINE.DEVICE == "gpu" else "cpu",
    )
    ignored = sum(distributed.gather(images.num_ignored_orientations))
    if ignored and distributed.is_primary():
        logger.warning(
            "%d of the images that were read are not upright: the orientation in their EXIF data is ignored. The data "
            "source images turns them (docs/images.md).",
            ignored,
        )
    return store
