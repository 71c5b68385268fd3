"""Features of images as they lie, by a network of another library: without VISSL."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from vissl_clusterfit.compute.chosen import PLAIN, Compute
from vissl_clusterfit.config.compute import AUTO, ComputeSettings
from vissl_clusterfit.config.features import EncodingSettings
from vissl_clusterfit.config.schema import read_settings
from vissl_clusterfit.errors import ConfigError, naming_settings, problem
from vissl_clusterfit.features.batches import Encoder
from vissl_clusterfit.features.computing import chosen_compute, measured_compute
from vissl_clusterfit.features.extract import extract_features
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.images import Images, TransformedImages, open_images
from vissl_clusterfit.models import describe, load
from vissl_clusterfit.models.image_transforms import build_transform, in_words
from vissl_clusterfit.storage.paths import artifact_path

logger = logging.getLogger(__name__)

# Of the random start of a network without weights.
_SEED = 0
# Libraries whose networks have one; others' own code may bring weights.
_UNTRAINED = ("timm", "torchvision", "transformers")
# What a setting of a run is called here.
_NAMES = {
    r"config\.DATA\b": "images",
    r"FEATURES\.BATCH_SIZE": "batch_size",
    r"FEATURES\.DTYPE": "dtype",
    r"FEATURES\.TRANSFORMS": "transforms",
    r"FEATURES\.MAX_UNREADABLE": "max_unreadable",
    r"(config\.CLUSTERFIT\.)?COMPUTE\.PRECISION": "precision",
    r"COMPUTE\.CHANNELS_LAST": "channels_last",
    r"COMPUTE\.COMPILE": "compile",
    r"CLUSTERFIT\.OUTPUT_DIR, CLUSTERFIT\.FEATURES\.PATH": "folder",
    r"Check DATA_PATHS\.": "Name another place.",
}


def embed(
    images: Images | str | Path,
    model: str,
    folder: str | Path,
    *,
    weights: str = "",
    layer: str = "",
    pooling: str = "",
    transforms: Sequence[Mapping[str, Any]] | None = None,
    size: int | None = None,
    arguments: Mapping[str, Any] | None = None,
    key: str = "",
    prefix: str = "",
    trust: bool = False,
    column: str = "",
    batch_size: int | str = 64,
    dtype: str = "float32",
    max_unreadable: float = 0.05,
    keep_names: bool = True,
    num_workers: int | str = 0,
    device: str = "cpu",
    precision: str = AUTO,
    channels_last: str | bool = AUTO,
    compile: bool = False,
) -> FeatureStore:
    """Extracts features of images by a network of torchvision, timm, transformers, or of one's own.

    One that was stopped goes on where it was; several processes that call it on one folder share the work. Batches
    never cross the end of a shard, so all of them give the same bytes.

    Args:
        images: a folder, list, array, tar file, data set of Hugging Face or LMDB, as
            :func:`vissl_clusterfit.images.open_images` takes it; or what that has opened.
        model: ``torchvision:<model>``, ``timm:<model>``, ``transformers:<folder or name>``, ``hub:<repository>`` or
            ``python:<module>:<function>``.
        folder: of the feature store.
        weights: a file; "library" for what the library brings; "" for a random start, always the same one.
        layer: a submodule; "" for what the library itself gives as features.
        pooling: how tokens or maps become a vector: avg (also ""), max, flatten, class_token, patch_mean.
        transforms: from a picture to the input, in the form of a config's TRANSFORMS; None for those that the library
            has for these weights. They are logged.
        size: in pixels, to which these resize and crop instead of their own.
        arguments: of the network's constructor.
        key: where the network's weights are in a file with several, as :func:`vissl_clusterfit.models.load` takes it.
        prefix: with which their names begin there, likewise.
        trust: whether the file may run code, likewise.
        column: of a list with several, that with the paths or images.
        batch_size: images in one pass. It is part of what features are made from, as kernels differ in their last bits.
            "auto" is 64 on a processor, and what measures fastest on a GPU.
        dtype: of the features on disk, "float32" or "float16".
        max_unreadable: the share of images that may be unreadable; they get no label.
        keep_names: keep the names of the images, so that labels have them.
        num_workers: processes that read images; 0 for none, "auto" for as many as measure to be enough for the network.
        device: "cpu" or "cuda".
        precision: float32, bfloat16 or float16; "auto" for what features in the folder have, or else what is fastest
            on this device, within 5 % of those in float32. It is said in the log and in the manifest.
        channels_last: the memory format; "auto" as above.
        compile: the network, with torch.compile.

    Returns:
        The feature store.

    Raises:
        ConfigError, TeacherError: the name, the weights or the layer are not what they must be.
        DataError: the images are none, or too many cannot be read.
        ArtifactError: the folder holds features of other images or another network.
        MissingDependencyError: a library is not installed; the message has the command.

    Examples:
        >>> import numpy as np
        >>> from vissl_clusterfit import embed
        >>> np.save("pictures.npy", np.zeros((5, 32, 32, 3), dtype=np.uint8))
        >>> features = embed("pictures.npy", "torchvision:resnet18", "run/features", size=32)
        >>> features.num_samples, features.dim, features.names[4]
        (5, 512, '4')
    """
    if device not in ("cpu", "cuda") or (device == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(problem("device", found=device, allowed="cpu, or cuda on a machine that has a GPU"))
    if num_workers != AUTO and (isinstance(num_workers, str) or num_workers < 0):
        raise ConfigError(problem("num_workers", found=num_workers, allowed="auto, or 0 or more"))
    place = artifact_path(str(folder), "folder")
    opened = images if isinstance(images, Images) else open_images(images, column=column)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)  # what was stopped, and all that share the work, have the same random start
        network = load(model, weights, arguments=arguments, transforms=transforms, key=key, prefix=prefix, trust=trust)
    if not weights and model.partition(":")[0] in _UNTRAINED:
        logger.warning("%s has a random start: no weights were given.", model)
    steps = network.transforms if size is None else _at_size(network.transforms, size)
    encode = network.encoder(layer, pooling, device)
    source = TransformedImages(opened, build_transform(steps), keep_names=keep_names)
    block = {"TRANSFORMS": steps, "BATCH_SIZE": batch_size, "DTYPE": dtype, "MAX_UNREADABLE": max_unreadable}
    teacher = describe(model, weights, arguments=arguments, trust=trust)
    chosen = {name: value for name, value in (("key", key), ("prefix", prefix)) if value}
    described = {"teacher": {**teacher, "layer": layer, "pooling": pooling or "avg", **chosen}}

    def build(compute: Compute) -> Encoder:
        if compute == PLAIN:  # which leaves the network as it is
            return encode
        return copy.deepcopy(network).encoder(layer, pooling, device, compute)

    inputs = {
        "dataset": source.inputs(),
        **described,
        "transforms": steps,
        "dtype": dtype,
        "batch_size": batch_size,
    }
    with naming_settings(_NAMES):
        encoding = read_settings(EncodingSettings, block, "FEATURES")
        how = {"PRECISION": precision, "CHANNELS_LAST": channels_last, "COMPILE": compile}
        settings = read_settings(ComputeSettings, how, "COMPUTE")
        compute = chosen_compute(
            settings,
            lambda: described,
            [place],
            lambda: measured_compute(settings, source, build, torch.device(device)),
        )
        logger.info("%d images of %s, by %s: %s", len(opened), opened.place, model, in_words(steps))
        store = extract_features(
            source,
            lambda: build(compute),
            place,
            {**inputs, **compute.inputs()},
            encoding,
            num_workers=None if num_workers == AUTO else int(num_workers),
            names=source.name_list,
            device=device,
        )
    if number := opened.num_ignored_orientations:
        logger.warning("%d images have an EXIF orientation, which was ignored, as the images were opened so.", number)
    return store


def _at_size(transforms: Sequence[Mapping[str, Any]], size: int) -> list[dict[str, Any]]:
    """The same transforms with another size wherever they resize and crop.

    Raises:
        ConfigError: they do neither, as an image processor's, which are one step.
    """
    if size < 1 or not any("size" in step for step in transforms):
        names = ", ".join(str(step["name"]) for step in transforms)
        found = f"{size} for transforms that are {names}"
        allowed = "1 pixel or more, for transforms with a size: name the others yourself"
        raise ConfigError(problem("size", found=found, allowed=allowed))
    return [{**step, "size": size} if "size" in step else dict(step) for step in transforms]
