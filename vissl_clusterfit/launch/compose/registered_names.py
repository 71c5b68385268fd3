"""What the registries of VISSL, Classy Vision and this package hold, by name, without importing any of them.

An import of VISSL takes seconds, and an unknown name is to be refused at once. Decorators name what they
register in the text of the source, so the text is searched. A test compares with the registries themselves.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from vissl_clusterfit.dependencies import user_modules

_CLASSES = r"__all__ = \[([^\]]*)\]"


@dataclass(frozen=True)
class Registry:
    """Where the names of one kind come from.

    Attributes:
        place: Of the registry: ``<module>:<attribute>``.
        folders: Of VISSL and Classy Vision, below which ``@register_<…>("<name>")`` is looked for.
        decorator: The end of its name; empty where ``names`` has all.
        names: Those that no decorator names, ours among them.
        fallback: Files whose ``__all__`` VISSL looks a name up in that is not in the registry.
    """

    place: str
    folders: tuple[str, ...] = ()
    decorator: str = ""
    names: tuple[str, ...] = ()
    fallback: tuple[str, ...] = ()


_SOURCES = ("airstore", "disk_filelist", "disk_folder", "synthetic", "torchvision_dataset")
_OUR_SOURCES = ("images", "video_folder", "video_filelist")

REGISTRIES = {
    "engine": Registry(
        "vissl.engines.engine_registry:_ENGINE_REGISTRY",
        ("vissl/engines",),
        "engine",
        (
            "clusterfit_assign",
            "clusterfit_cluster",
            "clusterfit_extract",
            "clusterfit_label",
            "clusterfit_low_shot_svm",
            "clusterfit_nearest_neighbor",
            "clusterfit_retrieval",
            "clusterfit_svm",
            "clusterfit_transfer",
            "clusterfit_tune",
            "clusterfit_video_accuracy",
        ),
    ),
    "loss": Registry(
        "classy_vision.losses:LOSS_REGISTRY",
        ("vissl/losses", "classy_vision/losses"),
        "loss",
        ("clusterfit_distillation_loss", "clusterfit_loss"),
        ("torch/nn/modules/loss.py",),
    ),
    "head": Registry(
        "vissl.models.heads:MODEL_HEADS_REGISTRY",
        ("vissl/models/heads",),
        "model_head",
        ("clusterfit_head", "clusterfit_partial_head"),
    ),
    "trunk": Registry(
        "vissl.models.trunks:MODEL_TRUNKS_REGISTRY",
        ("vissl/models/trunks",),
        "model_trunk",
        (
            "library_network",
            "mc3_18",
            "mvit_v1_b",
            "mvit_v2_s",
            "r2plus1d_18",
            "r2plus1d_34",
            "r3d_18",
            "raw_pixels",
            "resnext3d",
            "s3d",
        ),
    ),
    "meter": Registry(
        "classy_vision.meters:METER_REGISTRY",
        ("vissl/meters", "classy_vision/meters"),
        "meter",
        ("clusterfit_accuracy_meter",),
    ),
    "optimizer": Registry(
        "classy_vision.optim:OPTIMIZER_REGISTRY", ("vissl/optimizers", "classy_vision/optim"), "optimizer"
    ),
    "scheduler": Registry(
        "classy_vision.optim.param_scheduler:PARAM_SCHEDULER_REGISTRY",
        ("vissl/optimizers", "classy_vision/optim"),
        "param_scheduler",
        ("constant", "cosine", "linear", "multistep", "polynomial", "step", "step_with_fixed_gamma"),
    ),
    "transform": Registry(
        "classy_vision.dataset.transforms:TRANSFORM_REGISTRY",
        ("vissl/data/ssl_transforms", "classy_vision/dataset/transforms"),
        "transform",
        (
            "ClipCenterCrop",
            "ClipColorJitter",
            "ClipCrops",
            "ClipGaussianBlur",
            "ClipRandAugment",
            "ClipRandomCrop",
            "ClipRandomHorizontalFlip",
            "ClipRandomResizedCrop",
            "ClipRandomShortestSize",
            "ClipResize",
            "ClipToTensor",
            "ClipsToViews",
            "ImageProcessor",
        ),
        ("torchvision/transforms/transforms.py", "torchvision/transforms/_transforms_video.py"),
    ),
    "collator": Registry(
        "vissl.data.collators:COLLATOR_REGISTRY",
        ("vissl/data/collators",),
        "collator",
        ("clusterfit_mix_collator", "multi_label_collator"),
    ),
    "data source": Registry(
        "vissl.data:DATASET_SOURCE_MAP",
        names=(
            *_SOURCES,
            *_OUR_SOURCES,
            *(f"{kind}_{source}" for kind in ("clusterfit", "tolerant") for source in (*_SOURCES, *_OUR_SOURCES)),
        ),
    ),
    "task": Registry("classy_vision.tasks:TASK_REGISTRY", ("vissl/trainer", "classy_vision/tasks"), "task"),
    "train step": Registry(
        "vissl.trainer.train_steps:TRAIN_STEP_REGISTRY", ("vissl/trainer/train_steps",), "train_step"
    ),
}


def registered_names(kind: str) -> frozenset[str]:
    """All names of a kind that a config may have.

    The registry itself is asked where it is imported already, or where a module of the user's may register names.
    """
    is_live = "classy_vision" in sys.modules or user_modules()
    return (live_names if is_live else read_names)(kind) | _of_classes(kind)


@functools.cache
def read_names(kind: str) -> frozenset[str]:
    """The names that a registry has when VISSL and this package are imported, from the text of their source."""
    registry = REGISTRIES[kind]
    names = set(registry.names)
    if registry.decorator:
        decorated = re.compile(rf'^@register_{registry.decorator}\(\s*"([^"]+)"', re.MULTILINE)
        for folder in registry.folders:
            for file in _place(folder).rglob("*.py"):
                names.update(decorated.findall(file.read_text(encoding="utf-8")))
    return frozenset(names)


def live_names(kind: str) -> frozenset[str]:
    """The names that a registry has, which imports VISSL and all that is registered."""
    importlib.import_module("vissl_clusterfit.plugin.bootstrap")
    module, _, attribute = REGISTRIES[kind].place.partition(":")
    return frozenset(getattr(importlib.import_module(module), attribute))


@functools.cache
def _of_classes(kind: str) -> frozenset[str]:
    names: set[str] = set()
    for file in REGISTRIES[kind].fallback:
        for listed in re.findall(_CLASSES, _place(file).read_text(encoding="utf-8")):
            names.update(re.findall(r'"([^"]+)"', listed))
    return frozenset(names)


def _place(path: str) -> Path:
    package, _, below = path.partition("/")
    spec = importlib.util.find_spec(package)
    assert spec, f"{package} is required before this is called"
    assert spec.origin, f"{package} is a package of its own"
    return Path(spec.origin).parent / below
