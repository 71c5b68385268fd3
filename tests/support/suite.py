"""Benchmarks that follow a small training: a linear probe and neighbours of ours, a linear head of VISSL's."""

from __future__ import annotations

from pathlib import Path

from benchmark_data import SMALL_IMAGES

from vissl_clusterfit.config.override_text import as_override

LINEAR = "benchmark/linear_image_classification/imagenet1k/eval_resnet_8gpu_transfer_in1k_linear"
#: VISSL's linear benchmark of one layer, on three classes.
_SMALL_LINEAR = (
    *SMALL_IMAGES,
    "config.OPTIMIZER.num_epochs=2",
    "config.DATA.NUM_DATALOADER_WORKERS=0",
    "config.MODEL.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP=[[res5,[AvgPool2d,[[1,1],1,0]]]]",
    "config.MODEL.HEAD.PARAMS=[[eval_mlp,{in_channels:2048,dims:[2048,3]}]]",
    "config.METERS.accuracy_list_meter={num_meters:1,topk_values:[1]}",
    "config.OPTIMIZER.param_schedulers.lr={name:constant,value:0.05,auto_lr_scaling:{auto_scale:false}}",
    *[
        f"config.DATA.{split}.{setting}"
        for split in ("TRAIN", "TEST")
        for setting in ("BATCHSIZE_PER_REPLICA=8", "DATASET_NAMES=[colours]")
    ],
)
_SMALL_TRANSFER = (
    "config.TRANSFER.FEATURES.TRANSFORMS=[{name:Resize,size:[32,32]},{name:ToTensor}]",
    "config.TRANSFER.LINEAR.C_GRID=[0.01,1.0]",
    "config.TRANSFER.KNN.NUM_NEIGHBORS=5",
    "config.DATA.NUM_DATALOADER_WORKERS=0",
)


def transfer_on(train: Path, test: Path, **keys: str) -> dict:
    """An entry of ``BENCHMARKS.RUN``."""
    return {"CONFIG": "clusterfit/transfer", "OVERRIDES": [*_paths(train, test), *_SMALL_TRANSFER], **keys}


def linear_on(train: Path, test: Path, *overrides: str, **keys: str) -> dict:
    """An entry of ``BENCHMARKS.RUN``."""
    return {"CONFIG": LINEAR, "OVERRIDES": [*_paths(train, test), *_SMALL_LINEAR, *overrides], **keys}


def benchmarks(*entries: dict) -> str:
    """The override that names them."""
    return as_override("config.CLUSTERFIT.BENCHMARKS.RUN", list(entries))


def _paths(train: Path, test: Path) -> list[str]:
    return [f"config.DATA.TRAIN.DATA_PATHS=[{train}]", f"config.DATA.TEST.DATA_PATHS=[{test}]"]
