"""VISSL's retrieval benchmarks on a student's checkpoint, through the real command, on data sets in their layouts."""

import json
import os
import pickle

import numpy as np
import pytest
import torch
from benchmark_data import write_copydays, write_revisited
from pickled_calls import Reduced
from PIL import Image, ImageFile
from results_file import rows_in
from torchvision.transforms import ToTensor
from vissl.utils.instance_retrieval_utils import data_util

from vissl_clusterfit.plugin.benchmarks.instance_retrieval import read_as_other_engines

CPU = (
    "config.MACHINE.DEVICE=cpu",
    "config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP=4",
    "config.IMG_RETRIEVAL.RESIZE_IMG=96",
    "config.IMG_RETRIEVAL.N_PCA=16",
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("retrieval")
    write_revisited(root, "roxford5k", seed=0)
    write_revisited(root, "rparis6k", seed=1)
    write_copydays(root, seed=2)
    return root


@pytest.fixture
def retrieval(run_command, data, teacher, tmp_path):
    def run(config: str, *overrides: str):
        return run_command(
            f"config=benchmark/instance_retrieval/{config}",
            *CPU,
            f"config.IMG_RETRIEVAL.DATASET_PATH={data}",
            f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={teacher}",
            f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
            *overrides,
            cwd=tmp_path,
        )

    return run


def scores(folder) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in rows_in(folder / "run")}


@pytest.mark.parametrize("config", ["eval_resnet_1gpu_roxford", "eval_resnet_1gpu_rparis"])
def test_revisited(retrieval, tmp_path, config):
    """The mean average precisions are those of the ranking that was saved, by the definition of the data set."""
    result = retrieval(config)
    assert result.returncode == 0, result.stderr
    assert "becomes 'clusterfit_retrieval'" in result.stdout
    found = scores(tmp_path)
    ranking = np.array(json.loads((tmp_path / "run/rankings.json").read_text()))
    assert ranking.shape == (4, 16)
    for level, wanted, ignored in (("easy", (0, 1), (2, 3)), ("medium", (0, 1, 2), (3,)), ("hard", (2,), (0, 1, 3))):
        precisions = []
        for scene, order in enumerate(ranking):
            kept = [image for image in order if image not in [4 * scene + view for view in ignored]]
            ranks = sorted(kept.index(4 * scene + view) for view in wanted)
            # Trapezoids between the precisions before and after each match.
            precisions.append(
                np.mean(
                    [((place / rank if rank else 1) + (place + 1) / (rank + 1)) / 2 for place, rank in enumerate(ranks)]
                )
            )
        assert found[f"mAP, {level}"] == pytest.approx(np.mean(precisions))
        assert {f"mP@{k}, {level}" for k in (1, 5, 10)} <= found.keys()
    assert found["mAP, easy"] > 0.5


def test_copydays(retrieval, tmp_path):
    """Five queries of each kind, the crops first; each has one match, after the five distractors in the data base."""
    result = retrieval("eval_resnet_1gpu_copydays")
    assert result.returncode == 0, result.stderr
    ranking = json.loads((tmp_path / "run/rankings.json").read_text())
    ranks = [order.index(5 + number % 5) for number, order in enumerate(ranking)]
    precisions = [((0 if rank else 1) + 1 / (rank + 1)) / 2 for rank in ranks]
    expected = {"mAP, jpegqual_3": np.mean(precisions[5:]), "mAP, crops_10": np.mean(precisions[:5])}
    assert scores(tmp_path) == pytest.approx(expected)


def test_gem_pooling_without_whitening(retrieval, tmp_path):
    overrides = ("config.IMG_RETRIEVAL.FEATS_PROCESSING_TYPE=gem", "config.IMG_RETRIEVAL.TRAIN_PCA_WHITENING=false")
    result = retrieval("eval_resnet_1gpu_roxford", *overrides, "config.IMG_RETRIEVAL.IMG_SCALINGS=[1,0.5]")
    assert result.returncode == 0, result.stderr
    assert len(scores(tmp_path)) == 12


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["config.IMG_RETRIEVAL.EVAL_DATASET_NAME=instre"], "EVAL_DATASET_NAME: found instre; allowed: roxford5k |"),
        (["config.IMG_RETRIEVAL.EVAL_DATASET_NAME=Oxford"], "are scored by a program of their authors"),
        (["config.IMG_RETRIEVAL.DATASET_PATH=nowhere"], "found nowhere, which has no folder r"),
        (["config.IMG_RETRIEVAL.N_PCA=4096"], "config.IMG_RETRIEVAL.N_PCA: found 4096; allowed: 1 to 2048"),
        (["config.IMG_RETRIEVAL.SPATIAL_LEVELS=0"], "VISSL refuses it: Spatial levels must be greater than 0"),
        (["config.MODEL.FEATURE_EVAL_SETTINGS.EVAL_MODE_ON=false"], "allowed: one layer, as"),
    ],
)
def test_mistakes_are_told_in_one_message(retrieval, tmp_path, overrides, message):
    result = retrieval("eval_resnet_1gpu_roxford", *overrides)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run/results.json").exists()


def test_a_ground_truth_that_runs_code_is_refused(retrieval, tmp_path):
    for name in ("roxford5k", "rparis6k"):
        write_revisited(tmp_path, name, seed=0)
    (tmp_path / "roxford5k/gnd_roxford5k.pkl").write_bytes(
        pickle.dumps(Reduced(os.mkdir, (str(tmp_path / "trapped"),)))
    )
    result = retrieval("eval_resnet_1gpu_roxford", f"config.IMG_RETRIEVAL.DATASET_PATH={tmp_path}")
    assert result.returncode == 2
    assert "cannot be read: no pickle of lists, texts and arrays of numbers: it asks for posix.mkdir" in result.stderr
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("reader", ["load_and_prepare_image", "load_and_prepare_revisited_image"])
def test_16_bits_of_grey_are_read_for_what_they_show(tmp_path, monkeypatch, reader):
    """Through VISSL's loader, as the engine sets it up."""
    monkeypatch.setattr(data_util, "Image", Image)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", False)  # VISSL's loader sets it for the process
    read_as_other_engines()
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(pixels).save(tmp_path / "deep.png")
    Image.fromarray((pixels >> 8).astype(np.uint8)).save(tmp_path / "shallow.png")
    loader = data_util.InstanceRetrievalImageLoader(S=8, transforms=ToTensor())
    deep, shallow = (getattr(loader, reader)(str(tmp_path / f"{name}.png")) for name in ("deep", "shallow"))
    assert torch.equal(deep, shallow)
    assert len(deep.unique()) == 64


def test_an_image_that_is_missing_is_named(retrieval, tmp_path):
    for name in ("roxford5k", "rparis6k"):
        write_revisited(tmp_path, name, seed=0)
    (tmp_path / "roxford5k/jpg/roxford5k_2_1.jpg").unlink()
    result = retrieval("eval_resnet_1gpu_roxford", f"config.IMG_RETRIEVAL.DATASET_PATH={tmp_path}")
    assert result.returncode == 2
    assert "roxford5k_2_1.jpg" in result.stderr
    assert "Traceback" not in result.stderr
