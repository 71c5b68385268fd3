"""Data and folders of no use: one message, exit code 2, and nothing on disk that looks done."""

import os
import pickle

import numpy as np
import pytest
from pickled_calls import Reduced
from refusals import require_refusal

#: What is wrong, and what the message says.
MISTAKES = {
    "a number as a path": (
        ["config.DATA.TRAIN.DATA_PATHS=[5]"],
        ["config.DATA.TRAIN.DATA_PATHS[0]: found 5; allowed: a value of type str"],
    ),
    "a parameter that the collator does not take": (
        ["config.DATA.TRAIN.COLLATE_FUNCTION=multicrop_collator", "+config.DATA.TRAIN.COLLATE_FUNCTION_PARAMS.mix=1"],
        ["config.DATA: COLLATE_FUNCTION_PARAMS of multicrop_collator: found mix"],
    ),
    "a folder of checkpoints below a file": (
        ["config.CHECKPOINT.DIR=empty.npy/run"],
        ["config.CHECKPOINT.DIR: found empty.npy/run, and ", "empty.npy is no folder; allowed: a folder"],
    ),
    "a folder of checkpoints with too long a name": (
        [f"config.CHECKPOINT.DIR={'x' * 300}"],
        ["config.CHECKPOINT.DIR: found 'xxx", "(File name too long); allowed: a folder"],
    ),
    "an empty folder": (
        ["config.DATA.TRAIN.DATA_PATHS=[empty]"],
        ["config.DATA.TRAIN: the data set cannot be opened: Couldn't find any class folder in empty"],
    ),
    "an empty list of files": (
        ["config.DATA.TRAIN.DATA_PATHS=[empty.npy]", "config.DATA.TRAIN.DATA_SOURCES=[disk_filelist]"],
        ["config.DATA.TRAIN: found an empty data set; allowed: one sample or more"],
    ),
    "no such folder": (
        ["config.DATA.TRAIN.DATA_PATHS=[missing]"],
        ["config.DATA.TRAIN: the data set cannot be opened: Directory missing does not exist"],
    ),
    "one of several label files that is none": (
        ["config.DATA.TRAIN.LABEL_PATHS=[[a.npy,5]]"],
        ["config.DATA.TRAIN.LABEL_PATHS[0]: found 5; allowed: a value of type str"],
    ),
    "a list that runs code": (
        ["config.DATA.TRAIN.DATA_PATHS=[trap.pkl]", "config.DATA.TRAIN.DATA_SOURCES=[disk_filelist]"],
        ["config.DATA.TRAIN.DATA_PATHS: found trap.pkl cannot be read", "it asks for posix.mkdir"],
    ),
    "data of torchvision by a name that it does not have": (
        ["config.DATA.TRAIN.DATA_SOURCES=[torchvision_dataset]"],
        [
            "config.DATA.TRAIN: the data set cannot be opened: torchvision_dataset reads CIFAR10, CIFAR100,",
            "not 'tiny'",
        ],
    ),
    "data of torchvision that are not there": (
        ["config.DATA.TRAIN.DATA_SOURCES=[torchvision_dataset]", "config.DATA.TRAIN.DATASET_NAMES=[CIFAR10]"],
        ["config.DATA.TRAIN: the data set cannot be opened: Dataset not found or corrupted"],
    ),
    "a data source whose library is not public": (
        ["config.DATA.TRAIN.DATA_SOURCES=[airstore]"],
        ["config.DATA.TRAIN: the data set cannot be opened: No module named 'airstore'"],
    ),
    "no data": (
        ["config.DATA.TRAIN.DATA_PATHS=[]"],
        ["config.DATA.TRAIN: the data set cannot be opened: Dataset 'tiny' is not registered", "DATA_PATHS"],
    ),
}


@pytest.mark.parametrize("overrides, fragments", list(MISTAKES.values()), ids=list(MISTAKES))
def test_a_mistake_gets_one_message(refuse, tmp_path, overrides, fragments):
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "empty.npy", np.array([], dtype=str))
    (tmp_path / "trap.pkl").write_bytes(pickle.dumps(Reduced(os.mkdir, ("trapped",))))
    require_refusal(refuse(*overrides), *fragments)
    assert not (tmp_path / "trapped").exists()
