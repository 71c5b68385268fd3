"""The configs of video, from the publishers' lists to a trained network, each run on clips of two cores' size."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_parts import network_of
from PIL import Image
from repository import ROOT
from results_file import rows_in
from vissl.config import AttrDict
from vissl.models import build_model

from vissl_clusterfit.datasets.synthetic.digits import DigitsSpec
from vissl_clusterfit.datasets.synthetic.moving_digits import MOTIONS, write_moving_digits
from vissl_clusterfit.datasets.video_lists import (
    hashtags,
    kinetics,
    something_something_v1,
    sports1m,
    write_lists,
)
from vissl_clusterfit.launch.compose.compose import compose

CONFIGS = ROOT / "configs/config/clusterfit/video"
# What any user without eight GPUs would set, and a network of a size for tests.
ON_THIS_MACHINE = (
    "config.MACHINE.DEVICE=cpu",
    "config.DISTRIBUTED.BACKEND=gloo",
    "config.DISTRIBUTED.NUM_PROC_PER_NODE=1",
    "config.MODEL.AMP_PARAMS.USE_AMP=false",
    "config.DATA.NUM_DATALOADER_WORKERS=0",
    "config.MODEL.TRUNK.NAME=r3d_18",
    "config.MODEL.TRUNK.VIDEO.WIDTH=8",
    "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=8",
    "config.DATA.TEST.BATCHSIZE_PER_REPLICA=8",
    "config.DATA.TRAIN.TRANSFORMS=[{name:ClipRandomCrop,size:32},{name:ClipToTensor}]",
    "config.DATA.TEST.TRANSFORMS=[{name:ClipCenterCrop,size:32},{name:ClipToTensor}]",
    "config.OPTIMIZER.num_epochs=1",
)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips") / "clips"
    write_moving_digits(folder, DigitsSpec(num_scans=30, num_test_scans=10, train_drawings=1, test_drawings=1))
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """An untrained network as a checkpoint of VISSL's, and the tensors of its trunk."""
    folder = tmp_path_factory.mktemp("network")
    model = compose(["config=clusterfit/video/linear", *ON_THIS_MACHINE, f"config.CHECKPOINT.DIR={folder}"])[2].MODEL
    model.FEATURE_EVAL_SETTINGS.EVAL_MODE_ON = False
    model.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP = []
    model.HEAD.PARAMS = []
    torch.manual_seed(0)
    state = build_model(model, AttrDict({})).get_classy_state()
    torch.save({"classy_state_dict": {"base_model": state}}, folder / "network.torch")
    return folder / "network.torch", state["model"]["trunk"]


def files(clips: Path, split: str) -> list[tuple[Path, str]]:
    return [(file, file.parent.name) for file in sorted((clips / split).rglob("*.mp4"))]


def lists_of_kinetics(clips: Path, folder: Path) -> None:
    (folder / "videos").mkdir()
    for split, name in (("train", "train.csv"), ("test", "validate.csv")):
        with open(folder / name, "w", newline="") as opened:
            rows = csv.writer(opened)
            rows.writerow(["label", "youtube_id", "time_start", "time_end", "split"])
            for file, motion in files(clips, split):
                rows.writerow([motion, f"{file.stem}abcde", 3, 13, split])
                (folder / f"videos/{file.stem}abcde_000003_000013.mp4").symlink_to(file)
    write_lists(kinetics(folder / "train.csv", folder / "validate.csv", folder / "videos"), folder / "lists")


def lists_of_sports1m(clips: Path, folder: Path) -> None:
    """Every third video has a second class."""
    (folder / "labels.txt").write_text("".join(f"{motion}\n" for motion in MOTIONS))
    for split in ("train", "test"):
        lines = []
        for number, (file, motion) in enumerate(files(clips, split)):
            label = list(MOTIONS).index(motion)
            more = f",{(label + 1) % 10}" if number % 3 == 0 else ""
            lines.append(f"https://www.youtube.com/watch?v={file.stem} {label}{more}\n")
        (folder / f"{split}.txt").write_text("".join(lines))
    write_lists(sports1m(folder / "train.txt", folder / "test.txt", folder / "labels.txt", clips), folder / "lists")


def lists_of_something_v1(clips: Path, folder: Path) -> None:
    rng = np.random.default_rng(0)
    (folder / "labels.csv").write_text("".join(f"{motion}\n" for motion in MOTIONS))
    number = 0
    for split in ("train", "test"):
        lines = []
        for _, motion in files(clips, split):
            number += 1
            (folder / f"frames/{number}").mkdir(parents=True)
            for frame in range(1, 21):
                picture = rng.integers(256, size=(40, 56, 3), dtype=np.uint8)
                Image.fromarray(picture).save(folder / f"frames/{number}/{frame:05d}.jpg")
            lines.append(f"{number};{motion}\n")
        (folder / f"{split}.csv").write_text("".join(lines))
    parts = (folder / name for name in ("train.csv", "test.csv", "labels.csv", "frames"))
    write_lists(something_something_v1(*parts), folder / "lists")


def lists_of_hashtags(clips: Path, folder: Path) -> None:
    (folder / "verbs.txt").write_text("".join(f"#{motion} #{motion}ing\n" for motion in MOTIONS))
    lines = [
        f"train/{motion}/{file.name}\t#{motion}ing #{motion} #up #love\n" for file, motion in files(clips, "train")
    ]
    (folder / "tags.txt").write_text("".join(lines))
    write_lists(hashtags(folder / "tags.txt", folder / "verbs.txt", clips), folder / "lists")


# Each target once; what its other config has is the other one's.
TARGETS = [
    ("kinetics400", "finetune", lists_of_kinetics),
    ("sports1m", "linear", lists_of_sports1m),
    ("something_v1", "finetune", lists_of_something_v1),
]


@pytest.fixture
def train(run_command, tmp_path):
    """Runs a config of video on the lists in ``lists`` and gives the network that it leaves."""

    def run(config: str, *overrides: str) -> dict:
        done = run_command(
            f"config=clusterfit/video/{config}",
            *ON_THIS_MACHINE,
            f"config.DATA.TRAIN.DATA_PATHS=[{tmp_path / 'lists/train.txt'}]",
            f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
            *overrides,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return network_of(torch.load(tmp_path / "run/checkpoint.torch"))

    return run


@pytest.mark.parametrize("target, how, write", TARGETS)
def test_a_target_of_the_paper(target, how, write, clips, network, train, run_command, tmp_path):
    write(clips, tmp_path)
    weights, before = network
    numbers = ["video.num_classes=10", "video.width=64"]
    after = train(f"{target}_{how}", *numbers, f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={weights}")
    assert after["heads"]["0.clf.0.weight"].shape == (10, 64)
    prefix = "base_model." if how == "linear" else ""
    kept = {name: torch.equal(after["trunk"][f"{prefix}{name}"], value) for name, value in before.items()}
    if how == "linear":
        assert all(kept.values())
    else:  # two steps from the network's weights, not from others
        weight = "_feature_blocks.layer4.1.conv2.0.weight"
        assert not kept[weight]
        assert (after["trunk"][weight] - before[weight]).norm() < 0.5 * before[weight].norm()

    done = run_command(
        f"config=clusterfit/video/{target}_{how}",
        *ON_THIS_MACHINE,
        *numbers,
        "engine_name=clusterfit_video_accuracy",
        f"config.DATA.TEST.DATA_PATHS=[{tmp_path / 'lists/test.txt'}]",
        f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = rows_in(tmp_path / "run")
    assert [row["metric"] for row in rows] == [f"{of} top-{k} accuracy" for k in (1, 5) for of in ("clip", "video")]
    assert all(0 <= row["value"] <= 1 for row in rows)
    scores = np.concatenate([np.load(file) for file in sorted((tmp_path / "run/scores").rglob("rows-*.npy"))])
    assert scores.shape == (10 * 10, 10)  # ten clips of ten videos
    np.testing.assert_allclose(scores.sum(axis=1), 1, rtol=1e-5)


def test_a_teacher_of_hashtags_then_its_student(clips, train, tmp_path, run_command):
    lists_of_hashtags(clips, tmp_path)
    head = "config.MODEL.HEAD.PARAMS=[[mlp,{dims:[64,10]}]]"
    train("hashtags_r2plus1d_34", "video.num_classes=10", head)
    clip = "[{name:ClipCenterCrop,size:32},{name:ClipToTensor}]"
    done = run_command(
        "config=clusterfit/video/clusterfit_r2plus1d_34",
        *ON_THIS_MACHINE,
        f"config.DATA.TRAIN.DATA_PATHS=[{tmp_path / 'lists/train.txt'}]",
        f"config.CHECKPOINT.DIR={tmp_path / 'student'}",
        f"config.CLUSTERFIT.TEACHER.WEIGHTS={tmp_path / 'run/checkpoint.torch'}",
        "config.CLUSTERFIT.TEACHER.MODEL.TRUNK.NAME=r3d_18",
        "config.MODEL.TRUNK.NAME=mc3_18",  # the student's is its own
        f"config.CLUSTERFIT.FEATURES.TRANSFORMS={clip}",
        "config.CLUSTERFIT.NUM_CLUSTERS=4",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    labels = np.load(tmp_path / "student/clusterfit/labels/train/labels.npy")
    assert labels.shape == (20,)
    assert set(labels) <= {0, 1, 2, 3}
    rows = np.concatenate([np.load(file) for file in sorted((tmp_path / "student").rglob("rows-*.npy"))])
    assert rows.shape == (20, 64)


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda file: str(file.relative_to(CONFIGS)))
def test_every_config_composes(file, tmp_path):
    name = file.relative_to(CONFIGS).with_suffix("")
    compose([f"config=clusterfit/video/{name}", "config.MACHINE.DEVICE=cpu", f"config.CHECKPOINT.DIR={tmp_path}"])
