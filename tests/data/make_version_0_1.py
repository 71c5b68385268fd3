"""Made the artefacts in ``version_0_1.tar.xz``, with the code of that version: ``python make_version_0_1.py FOLDER``.

Run in a checkout of commit 68f79b1, with ``tests/support`` on the path. What was stopped half-way was killed there.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import stage_work
from processes import outcome
from tiny import STUDENT, write_images
from tiny_run import make_run
from tiny_store import save_store

from vissl_clusterfit.clustering.fit import fit_codebook
from vissl_clusterfit.config import ClusterFitConfig

#: A network of a few thousand weights.
TRUNK = (
    "config.MODEL.TRUNK.NAME=regnet",
    "++config.MODEL.TRUNK.REGNET={name:anynet,stem_type:simple_stem_in,stem_width:8,block_type:res_basic_block,"
    "depths:[1,1,1,1],widths:[8,8,8,8],strides:[1,2,2,2],group_widths:[8,8,8,8],bottleneck_multipliers:[1.0,1.0,1.0,1.0],use_se:false}",
)


def command(folder: Path, *overrides: str) -> list[str]:
    return [
        sys.executable,
        "tools/run_distributed_engines.py",
        *STUDENT,
        *TRUNK,
        "config.CLUSTERFIT.FEATURES.LAYER_NAME=flatten",
        "config.DATA.TRAIN.TRANSFORMS=[{name:Resize,size:[32,32]},{name:ToTensor}]",
        f"config.DATA.TRAIN.DATA_PATHS=[{folder / 'images'}]",
        f"config.CLUSTERFIT.TEACHER.WEIGHTS={folder / 'teacher/teacher.torch'}",
        *overrides,
    ]


def save_teacher(folder: Path) -> None:
    """A checkpoint as VISSL writes it, of an untrained network with statistics of its own."""
    from vissl_clusterfit import compat, plugin

    compat.apply()
    plugin.register()
    import torch
    from classy_vision.generic.util import save_checkpoint
    from vissl.config import AttrDict
    from vissl.models import build_model
    from vissl_clusterfit.adapters.launch import compose

    config = compose([*STUDENT, *TRUNK, f"config.CHECKPOINT.DIR={folder}"])[2].MODEL
    torch.manual_seed(1)
    model = build_model(AttrDict(config), AttrDict({}))
    model.train()
    with torch.no_grad():
        for _ in range(20):
            model.trunk(torch.rand(16, 3, 32, 32), [])
    folder.mkdir(exist_ok=True)
    state = {"classy_state_dict": {"base_model": model.get_classy_state()}, "config": config, "phase_idx": 0}
    save_checkpoint(str(folder), state, checkpoint_file="teacher.torch")


def trainings(folder: Path) -> None:
    """A teacher; a student to its end, and one that was killed after its first epoch; scores of the teacher."""
    write_images(folder / "images", 30)
    save_teacher(folder / "teacher")
    two = ("config.OPTIMIZER.num_epochs=4", "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1")
    subprocess.run(command(folder, *two, f"config.CHECKPOINT.DIR={folder / 'student'}"), check=True)
    process = subprocess.Popen(
        command(folder, *two, f"config.CHECKPOINT.DIR={folder / 'stopped'}"), start_new_session=True
    )
    while not (folder / "stopped/model_phase1.torch").exists():
        assert process.poll() is None
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list((folder / "stopped").glob("model_final*")), "it was too late"
    subprocess.run(
        [
            sys.executable,
            "tools/run_distributed_engines.py",
            "config=clusterfit/transfer",
            *TRUNK,
            "config.MACHINE.DEVICE=cpu",
            "config.DATA.NUM_DATALOADER_WORKERS=0",
            f"config.DATA.TRAIN.DATA_PATHS=[{folder / 'images'}]",
            f"config.DATA.TEST.DATA_PATHS=[{folder / 'images'}]",
            "config.TRANSFER.FEATURES.TRANSFORMS=[{name:Resize,size:[32,32]},{name:ToTensor}]",
            "config.TRANSFER.PROTOCOLS=[knn]",
            "config.TRANSFER.KNN.NUM_NEIGHBORS=5",
            f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={folder / 'student/model_final_checkpoint_phase3.torch'}",
            f"config.CHECKPOINT.DIR={folder / 'transfer'}",
        ],
        check=True,
    )


def artefacts(folder: Path) -> None:
    """Every kind of store, codebook and labels, whole; then each stage as a kill leaves it."""
    kinds = {
        "plain": {},
        "half": {"dtype": "float16"},
        "cosine": {"metric": "cosine"},
        "whitened": {"dimensionality_reduction": 4, "whiten": True},
        "two_levels": {"num_clusters": 20, "num_coarse_clusters": 4},
        "top": {"top_clusters": 3},
        "far": {"max_distance": 5.0},
    }
    for name, settings in kinds.items():
        make_run(folder / "whole" / name, **settings)
    rows = np.random.default_rng(1).standard_normal((3000, 8)).astype(np.float32)
    for kind in stage_work.CLUSTERINGS:
        base = folder / "stopped_clustering" / kind.replace(" ", "_")
        store = save_store(base / "features", rows, [5], shard_size=1000)
        work, options = (stage_work.cluster, store.folder), {"num_iter": 14 if kind == "in parts" else 6}
        assert outcome(*work, base / "undisturbed", kind, **options) == 0
        assert outcome(*work, base / "codebook", kind, dies_at=(16, True), **options) == -signal.SIGKILL
    base = folder / "stopped_labels"
    store = save_store(base / "features", rows, [5], shard_size=1000)
    codebook = fit_codebook(store, ClusterFitConfig(num_clusters=12, num_iter=6), "cpu", base / "codebook")
    work = (stage_work.label, store.folder, codebook.folder)
    for name, bound in (("nearest", 0.0), ("bounded", 1.2)):
        assert outcome(*work, base / name / "undisturbed", max_cluster_size=bound) == 0
        died = outcome(*work, base / name / "labels", max_cluster_size=bound, dies_at=(3, True))
        assert died == -signal.SIGKILL
    base = folder / "stopped_extraction"
    assert outcome(stage_work.extract, base / "undisturbed", 45) == 0
    died = outcome(stage_work.extract, base / "features", 45, dies_at=(7, True))
    assert died == -signal.SIGKILL, died


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    made = Path(sys.argv[1]).resolve()
    if not (made / "whole").exists():
        artefacts(made)
    trainings(made)
