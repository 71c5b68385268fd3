"""The labels that data came with: of what type, how many, and numbered alike in both splits, by one rule everywhere."""

import numpy as np
import pytest
from tiny import write_images
from vissl.config import AttrDict
from vissl.data import build_dataset

from vissl_clusterfit.errors import ConfigError, DataError
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.plugin.data.true_labels import labels_of_both, require_labels, true_labels


@pytest.fixture
def cfg_of(tmp_path):
    """A function from the labels of both splits, arrays for a list of files or None for folders, to a config."""

    def make(**labels) -> AttrDict:
        cfg = compose(["config=test/cpu_test/test_cpu_resnet_simclr", f"config.CHECKPOINT.DIR={tmp_path / 'run'}"])[2]
        for split in ("TRAIN", "TEST"):
            folder = write_images(tmp_path / split, 12)
            data = cfg.DATA[split]
            data.update(DATA_LIMIT=-1, DATASET_NAMES=["imagenet1k_folder"], TRANSFORMS=[])
            if labels.get(split) is None:
                sources, paths = ["disk_folder"], [str(folder)]
                data.update(DATA_SOURCES=sources, LABEL_SOURCES=sources, DATA_PATHS=paths, LABEL_PATHS=paths)
                continue
            np.save(tmp_path / f"{split}_files.npy", np.array(sorted(map(str, folder.rglob("*.png")))))
            np.save(tmp_path / f"{split}_labels.npy", labels[split])
            data.update(
                DATA_SOURCES=["disk_filelist"],
                LABEL_SOURCES=["disk_filelist"],
                DATA_PATHS=[str(tmp_path / f"{split}_files.npy")],
                LABEL_PATHS=[str(tmp_path / f"{split}_labels.npy")],
            )
        return cfg

    return make


_REFUSED = r"TRAIN\.LABEL_PATHS: found (labels of type|.*, an array of) .*; allowed: "
NAMES = np.array(["ant", "bee", "cat", "dog"] * 3)


def test_a_folder_gives_the_numbers_of_its_classes(cfg_of):
    labels = labels_of_both(cfg_of())
    assert {split: array.tolist() for split, array in labels.items()} == {
        "TRAIN": np.repeat([0, 1, 2], 4).tolist(),
        "TEST": np.repeat([0, 1, 2], 4).tolist(),
    }


def test_names_are_numbered_as_those_of_the_training_split(cfg_of):
    """VISSL numbers each split alone: without bees in TEST, its cats would be the bees of TRAIN."""
    test = np.array(["dog", "cat", "ant"] * 4)
    cfg = cfg_of(TRAIN=NAMES, TEST=test)
    labels = labels_of_both(cfg)
    assert labels["TRAIN"].tolist() == [0, 1, 2, 3] * 3
    assert labels["TEST"].tolist() == [3, 2, 0] * 4
    # What VISSL's own trainings and linear evaluations read.
    dataset = build_dataset(cfg, "TEST")
    assert [int(dataset[index]["label"][0]) for index in range(3)] == [3, 2, 0]


def test_names_of_a_list_are_numbered_as_the_folders_of_the_training_split(cfg_of):
    labels = labels_of_both(cfg_of(TEST=np.array(["class2", "class0"] * 6)))
    assert labels["TEST"].tolist() == [2, 0] * 6


def test_a_name_that_the_training_split_lacks_is_refused(cfg_of):
    cfg = cfg_of(TRAIN=NAMES, TEST=np.where(NAMES == "bee", "elk", NAMES))
    with pytest.raises(DataError, match=r"config\.DATA\.TRAIN\.LABEL_PATHS: found no label elk, which TEST has"):
        labels_of_both(cfg)
    cfg.TEST_MODEL = True
    with pytest.raises(DataError, match="found no label elk"):
        require_labels(cfg)
    with pytest.raises(DataError, match=r"found the labels elk, which TRAIN lacks; allowed: those of TRAIN: ant, bee"):
        true_labels(cfg, "TEST")


@pytest.mark.parametrize("split, other", [("TEST", "TRAIN"), ("TRAIN", "TEST")])
def test_other_class_folders_are_refused(cfg_of, tmp_path, split, other):
    cfg = cfg_of()
    for file in (tmp_path / split / "class1").iterdir():
        file.unlink()
    (tmp_path / split / "class1").rmdir()
    with pytest.raises(DataError, match=rf"DATA\.{split}\.DATA_PATHS: found no folder class1, which {other} has"):
        labels_of_both(cfg)
    cfg.TEST_MODEL = True
    with pytest.raises(DataError, match="found no folder class1"):
        require_labels(cfg)
    cfg.TEST_MODEL = False
    require_labels(cfg)  # a training that is never tested


@pytest.mark.parametrize(
    "labels",
    [
        np.linspace(0, 3, 12),
        np.arange(12).astype(np.float32),
        np.full(12, np.nan),
        np.arange(12) * 1j,
        np.array(["2020-01-01"] * 12, dtype="datetime64[D]"),
        np.array([["ant"]] * 12),
    ],
    ids=["fractions", "whole floats", "nan", "complex", "dates", "a column of names"],
)
def test_other_types_are_refused(cfg_of, labels):
    cfg = cfg_of(TRAIN=labels, TEST=np.arange(12))
    with pytest.raises(DataError, match=_REFUSED):
        labels_of_both(cfg)
    with pytest.raises(DataError, match=_REFUSED):
        require_labels(cfg)


def test_shares_of_several_classes_are_targets_of_a_training_and_of_no_evaluation(cfg_of):
    shares = np.full((12, 4), 0.25, dtype=np.float32)
    cfg = cfg_of(TRAIN=shares, TEST=shares)
    require_labels(cfg)
    with pytest.raises(DataError, match="found labels of type float32"):
        true_labels(cfg, "TRAIN")


@pytest.mark.parametrize("count", [0, 11, 13])
def test_another_number_of_labels_is_refused(cfg_of, count):
    cfg = cfg_of(TRAIN=np.arange(12), TEST=np.arange(count))
    message = rf"config\.DATA\.TEST: found {count} labels for 12 samples"
    for refuse in (labels_of_both, require_labels):
        cfg.TEST_MODEL = True
        with pytest.raises(DataError, match=message):
            refuse(cfg)
    dataset = build_dataset(cfg, "TEST")
    for _ in range(2):  # whoever asks again is refused again
        with pytest.raises(DataError, match=message):
            dataset[0]


def test_classes_and_targets_are_not_mixed(cfg_of):
    with pytest.raises(DataError, match=r"DATA\.TEST: found labels of shape \(12, 2\), and of \(12,\) in TRAIN"):
        labels_of_both(cfg_of(TRAIN=np.arange(12), TEST=np.zeros((12, 2), int)))


def test_a_split_without_labels_is_refused(cfg_of):
    cfg = cfg_of()
    cfg.DATA.TRAIN.LABEL_SOURCES = []
    with pytest.raises(ConfigError, match="LABEL_SOURCES: found none"):
        true_labels(cfg, "TRAIN")
