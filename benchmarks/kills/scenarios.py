"""What is killed: commands on small data that between them run every stage, and how to see where they are."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

NUM_IMAGES, SHARD_SIZE = 240, 6

# 78 thousand weights, as in configs/config/clusterfit/study/embedded.yaml, and half of them.
_NETWORK = (
    "config.MODEL.TRUNK.NAME=regnet",
    "++config.MODEL.TRUNK.REGNET={name:anynet,stem_type:simple_stem_in,stem_width:8,block_type:res_basic_block,"
    "depths:[1,1,1],widths:[16,16,32],strides:[2,2,2],group_widths:[16,16,16],bottleneck_multipliers:[1.0,1.0,1.0],"
    "use_se:false}",
)
_PIPELINE = (
    "config=test/cpu_test/test_cpu_resnet_simclr",
    "+config/clusterfit=student",
    *_NETWORK,
    "config.DATA.TRAIN.DATA_SOURCES=[disk_folder]",
    "config.DATA.TRAIN.DATASET_NAMES=[noise]",
    "config.DATA.TRAIN.DATA_LIMIT=96",
    "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=16",
    "config.DATA.TRAIN.TRANSFORMS=[{name:Resize,size:[32,32]},{name:ToTensor}]",
    "config.OPTIMIZER.num_epochs=4",
    "config.OPTIMIZER.param_schedulers.lr={name:constant,value:0.01,update_interval:epoch,"
    "auto_lr_scaling:{auto_scale:false}}",
    "config.CHECKPOINT.OVERWRITE_EXISTING=false",
    "config.CHECKPOINT.AUTO_RESUME=true",
    "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1",
    "config.CLUSTERFIT.NUM_CLUSTERS=24",
    "config.CLUSTERFIT.NUM_ITER=40",
    "config.CLUSTERFIT.FEATURES.LAYER_NAME=flatten",
    "config.CLUSTERFIT.FEATURES.BATCH_SIZE=3",
    f"config.CLUSTERFIT.FEATURES.SHARD_SIZE={SHARD_SIZE}",
    "config.CLUSTERFIT.FEATURES.TRANSFORMS=[{name:Resize,size:[32,32]},{name:ToTensor}]",
)
_TRANSFER = (
    "config=clusterfit/transfer",
    *_NETWORK,
    "config.MACHINE.DEVICE=cpu",
    "config.DATA.NUM_DATALOADER_WORKERS=0",
    "config.TRANSFER.DATASET_NAME=noise",
    "config.TRANSFER.PROTOCOLS=[linear,knn,retrieval,low_shot]",
    "config.TRANSFER.FEATURES.LAYER_NAME=flatten",
    "config.TRANSFER.FEATURES.BATCH_SIZE=3",
    f"config.TRANSFER.FEATURES.SHARD_SIZE={SHARD_SIZE}",
    "config.TRANSFER.FEATURES.TRANSFORMS=[{name:Resize,size:[32,32]},{name:ToTensor}]",
    "config.TRANSFER.LINEAR.C_GRID=[0.01,1.0]",
    "config.TRANSFER.LOW_SHOT.C_GRID=[0.01,1.0]",
    "config.TRANSFER.LOW_SHOT.SHOTS=[1,4]",
    "config.TRANSFER.LOW_SHOT.DRAWS=3",
    "config.TRANSFER.KNN.NUM_NEIGHBORS=5",
)
_STUDY = (
    "config=clusterfit/study/label_noise",
    "config.STUDY.POINTS=[0.5]",
    "config.STUDY.SEEDS=[1]",
    "config.STUDY.TUNING.VALUES=[0.1]",
    *[f"config.STUDY.PICTURES.{split}=90" for split in ("PRETRAIN", "TRAIN", "VALIDATION", "TEST")],
    "config.OPTIMIZER.num_epochs=1",
    "config.CLUSTERFIT.NUM_CLUSTERS=5",
)


@dataclass(frozen=True)
class Stage:
    """A part of a run. It is the one at hand when it is the last that has written since the run was started."""

    name: str
    #: Patterns of what it writes.
    writes: tuple[str, ...]
    #: Patterns of what is there before it: then a word in the log is enough, as it does not write soon.
    after: tuple[str, ...] = ()


_EXTRACTION = Stage("extraction", ("clusterfit/features/*/rows-*", "clusterfit/features/*/leases/*"))
_LABELS = ("clusterfit/**/labels/**/*", "clusterfit/**/labels/*.lease")
_CODEBOOK = ("clusterfit/**/codebook/**/*", "clusterfit/**/codebook.lease")
_LABELLING = Stage("labelling", _LABELS)
_TRAINING = Stage("training", ("metrics.json", "*.torch"), after=("clusterfit/labels/train/manifest.json",))


def _pipeline(clustering: str) -> tuple[Stage, ...]:
    return _EXTRACTION, Stage(clustering, _CODEBOOK), _LABELLING, _TRAINING


@dataclass(frozen=True)
class Scenario:
    """A command, and how it may be killed."""

    name: str
    #: Of a thousand kills.
    share: int
    overrides: tuple[str, ...]
    stages: tuple[Stage, ...]
    num_processes: int = 1
    has_workers: bool = False
    is_study: bool = False

    def command(self, folder: Path, inputs: Path, dice: random.Random) -> list[str]:
        """One of the command lines that may be given for the same result.

        Args:
            folder: of the run.
            inputs: what :func:`write_inputs` wrote.
            dice: chooses what must not matter.
        """
        own: list[str] = []
        if self.is_study:
            return [*self.overrides, f"study.folder={folder}"]
        if self.has_workers:
            own = [
                f"config.DATA.NUM_DATALOADER_WORKERS={dice.choice([1, 2])}",
                f"config.MULTI_PROCESSING_METHOD={dice.choice(['fork', 'forkserver', 'spawn'])}",
            ]
        data = [f"config.DATA.{split}.DATA_PATHS=[{inputs / split.lower()}]" for split in ("TRAIN", "TEST")]
        if self.overrides[0].startswith("config=clusterfit/transfer"):
            data.append(f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={inputs / 'teacher.torch'}")
        else:
            data = [data[0], f"config.CLUSTERFIT.TEACHER.WEIGHTS={inputs / 'teacher.torch'}"]
        processes = f"config.DISTRIBUTED.NUM_PROC_PER_NODE={self.num_processes}"
        return [*self.overrides, *data, processes, *own, f"config.CHECKPOINT.DIR={folder}"]


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("flat", 220, (*_PIPELINE, "config.DATA.NUM_DATALOADER_WORKERS=0"), _pipeline("flat clustering")),
        Scenario(
            "two-level",
            140,
            (*_PIPELINE, "config.DATA.NUM_DATALOADER_WORKERS=0", "config.CLUSTERFIT.NUM_COARSE_CLUSTERS=6"),
            _pipeline("two-level clustering"),
        ),
        Scenario(
            "several",
            140,
            (
                *_PIPELINE,
                "engine_name=clusterfit_label",
                "config.DATA.NUM_DATALOADER_WORKERS=0",
                "config.CLUSTERFIT.ALSO_NUM_CLUSTERS=[7,40]",
                "config.CLUSTERFIT.MAX_CLUSTER_SIZE=1.2",
                "config.CLUSTERFIT.TOP_CLUSTERS=3",
            ),
            _pipeline("clustering of several K")[:3],
        ),
        Scenario("workers", 150, _PIPELINE, _pipeline("flat clustering"), has_workers=True),
        Scenario(
            "ranks",
            150,
            (*_PIPELINE, "config.CLUSTERFIT.MAX_CLUSTER_SIZE=1.5"),
            _pipeline("flat clustering"),
            num_processes=2,
            has_workers=True,
        ),
        Scenario(
            "transfer",
            120,
            _TRANSFER,
            (
                Stage("transfer features", ("features/*/rows-*", "features/*/leases/*")),
                Stage("transfer protocols", ("results.json", "figures/**/*"), after=("features/test/manifest.json",)),
            ),
        ),
        Scenario(
            "study",
            80,
            _STUDY,
            (Stage("study", ("pictures/**/*", "runs/**/*")), Stage("study report", ("results.json", "study.*"))),
            is_study=True,
        ),
    )
}


def write_inputs(folder: Path) -> Path:
    """Images of three classes, which differ in colour, as two splits; and a teacher that was not trained."""
    rng = np.random.default_rng(0)
    for split, number in (("train", NUM_IMAGES), ("test", NUM_IMAGES // 4)):
        for index in range(number):
            path = folder / split / f"class{index % 3}" / f"{index:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 200, size=(8, 8, 3), dtype=np.uint8)
            pixels[..., index % 3] += 50
            Image.fromarray(pixels).resize((40, 40)).save(path)
    _write_teacher(folder / "teacher.torch")
    return folder


def _write_teacher(path: Path) -> None:
    import torch
    from vissl.models import build_model

    from vissl_clusterfit.launch.compose.compose import compose

    torch.manual_seed(0)
    model = build_model(compose([*_PIPELINE, f"config.CHECKPOINT.DIR={path.parent}"])[2].MODEL, {})
    model.train()
    with torch.no_grad():
        for _ in range(5):
            model.trunk(torch.rand(16, 3, 32, 32), [])
    torch.save(model.trunk.state_dict(), path)
