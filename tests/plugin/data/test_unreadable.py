"""Images that cannot be read: no label, listed, and without a part in training."""

import json
import os
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import write_images
from vissl.config import AttrDict
from vissl.data import build_dataset
from vissl.models import build_model

from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.plugin.data.split_images import SplitImages
from vissl_clusterfit.plugin.training.loss import ClusterFitLoss
from vissl_clusterfit.storage.artifacts import read_array


def spoil(folder) -> list[int]:
    """Makes seven of the images under ``folder`` unreadable, each in its own way, and gives their indices."""
    files = sorted(folder.rglob("*.png"))
    indices = [0, 1, 250, 499, 500, 731, 999]
    victims = [files[index] for index in indices]
    victims[0].write_bytes(b"")
    victims[1].write_bytes(victims[1].read_bytes()[:200])
    Image.open(victims[2]).save(jpeg := victims[2].with_suffix(".jpg"))
    jpeg.rename(victims[2])
    victims[2].write_bytes(victims[2].read_bytes()[:300])
    victims[3].write_text("This is no picture.")
    victims[4].write_bytes(bytes(4096))
    victims[5].write_bytes(zlib.compress(victims[5].read_bytes()))
    whole = victims[6].read_bytes()
    victims[6].write_bytes(whole[:40] + bytes(len(whole) - 40))
    return indices


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    folder = write_images(tmp_path_factory.mktemp("thousand") / "images", 1000)
    return folder, spoil(folder)


@pytest.mark.slow
def test_seven_of_a_thousand(thousand, run_command, student_overrides, tmp_path):
    images, unreadable = thousand
    folder = tmp_path / "run"
    overrides = [
        *student_overrides,
        f"config.DATA.TRAIN.DATA_PATHS=[{images}]",
        "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=50",
        "config.CLUSTERFIT.FEATURES.BATCH_SIZE=50",
        "config.CLUSTERFIT.FEATURES.SHARD_SIZE=300",
        f"config.CHECKPOINT.DIR={folder}",
    ]
    result = run_command(*overrides, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    labels = read_array(folder / "clusterfit/labels/train/labels.npy")
    assert np.flatnonzero(labels == -1).tolist() == unreadable
    assert labels.max() == 3
    manifests = {
        kind: json.loads((folder / f"clusterfit/{kind}/train/manifest.json").read_text())
        for kind in ("labels", "features")
    }
    listed = manifests["labels"]["unreadable"]
    assert listed == manifests["features"]["unreadable"]
    assert [entry["index"] for entry in listed] == unreadable
    assert all("Error" in entry["reason"] for entry in listed)
    assert manifests["labels"]["num_unlabelled"] == 7
    assert "993 of 1000 samples are labelled; 7 could not be read and 0 are too far" in result.stdout
    assert "993 of 1000 samples have a label" in result.stdout
    checkpoint = torch.load(folder / "model_final_checkpoint_phase0.torch")
    losses = checkpoint["classy_state_dict"]["losses"]
    assert len(losses) == 20
    assert np.isfinite(losses).all()

    loss_and_gradient_are_those_of_the_readable(compose(overrides)[2], unreadable)


def loss_and_gradient_are_those_of_the_readable(cfg: AttrDict, unreadable: list[int]):
    """On a batch with all seven, as VISSL loads it."""
    dataset = build_dataset(cfg, "TRAIN")
    samples = [dataset[index] for index in [*range(0, 1000, 40), *unreadable[1:]]]
    [(images,), (targets,)] = (
        torch.utils.data.default_collate([sample[key] for sample in samples]) for key in ("data", "label")
    )
    kept = targets >= 0
    assert (~kept).sum() == 7
    model = build_model(cfg.MODEL, cfg.OPTIMIZER).eval()
    gradients = []
    for batch, target in ((images, targets), (images[kept], targets[kept])):
        model.zero_grad()
        ClusterFitLoss([4])(model(batch)[0], target).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_too_many_end_the_extraction(run_command, student_overrides, tmp_path):
    images = write_images(tmp_path / "images", 30)
    for file in sorted(images.rglob("*.png"))[:2]:
        file.write_bytes(b"")
    result = run_command(
        *student_overrides,
        f"config.DATA.TRAIN.DATA_PATHS=[{images}]",
        f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
        "engine_name=clusterfit_extract",
        cwd=tmp_path,
    )
    assert result.returncode == 2
    assert "MAX_UNREADABLE: found 2 of 30 samples unreadable (6.7%), among them " in result.stderr
    assert all(str(file) in result.stderr for file in sorted(images.rglob("*.png"))[:2])
    assert "; allowed: at most 5.0%" in result.stderr
    assert not json.loads((tmp_path / "run/clusterfit/features/train/manifest.json").read_text()).get("complete")


def test_the_name_of_a_damaged_file_may_be_no_text(run_command, student_overrides, tmp_path):
    """The log shows the bytes that are no UTF-8, and no error of the log itself."""
    images = write_images(tmp_path / "images", 12)
    damaged = sorted(images.rglob("*.png"))[0]
    damaged.write_bytes(b"")
    damaged.rename(damaged.with_name(os.fsdecode(b"na\xefve.png")))
    result = run_command(
        *student_overrides,
        f"config.DATA.TRAIN.DATA_PATHS=[{images}]",
        f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
        "config.CLUSTERFIT.FEATURES.MAX_UNREADABLE=0.1",
        "engine_name=clusterfit_extract",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    log = (tmp_path / "run/log.txt").read_text()
    assert "Traceback" not in log + result.stdout + result.stderr
    assert "Logging error" not in result.stderr
    assert "1 of 12 samples could not be read" in log


@pytest.mark.parametrize("kind", ["disk_folder", "disk_filelist"])
def test_each_source_says_what_it_cannot_read(tmp_path, student_overrides, kind):
    images = write_images(tmp_path / "images", 6)
    files = sorted(images.rglob("*.png"))
    files[4].write_bytes(files[4].read_bytes()[:300])
    np.save(tmp_path / "files.npy", np.array(list(map(str, files))))
    path = {"disk_folder": images, "disk_filelist": tmp_path / "files.npy"}[kind]
    cfg = compose(
        [
            *student_overrides,
            f"config.DATA.TRAIN.DATA_SOURCES=[{kind}]",
            f"config.DATA.TRAIN.DATA_PATHS=[{path}]",
            f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
        ]
    )[2]
    samples = list(SplitImages(cfg, "TRAIN", cfg.CLUSTERFIT.FEATURES.TRANSFORMS))
    assert [reason == "" for _, reason in samples] == [True] * 4 + [False, True]
    assert "truncated" in samples[4][1]
    assert {tuple(image.shape) for image, _ in samples} == {(3, 32, 32)}
