"""Lists and labels as VISSL opens them: whatever the file, the split and the mode, no code of it runs."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from pickled_calls import Reduced
from vissl.config import AttrDict
from vissl.data import build_dataset

from vissl_clusterfit.errors import DataError
from vissl_clusterfit.plugin.data.named_files import require_data_files


def config(**train) -> AttrDict:
    split = {
        "BATCHSIZE_PER_REPLICA": 2,
        "DATA_SOURCES": ["disk_filelist"],
        "DATA_PATHS": ["list.npy"],
        "DATASET_NAMES": ["named"],
        "LABEL_SOURCES": ["disk_filelist"],
        "LABEL_PATHS": ["labels.npy"],
        "LABEL_TYPE": "standard",
        "DATA_LIMIT": -1,
        "TRANSFORMS": [],
        "MMAP_MODE": True,
        "COPY_TO_LOCAL_DISK": False,
        "REMOVE_IMG_PATH_PREFIX": "",
        "NEW_IMG_PATH_PREFIX": "",
        "ENABLE_QUEUE_DATASET": False,
        "DEFAULT_GRAY_IMG_SIZE": 8,
    }
    return AttrDict({"DATA": {"TRAIN": {**split, **train}, "TEST": {**split, **train}}})


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("list.npy", np.array(["a.png", "b.png"]))
    np.save("labels.npy", np.array([1, 0]))
    return tmp_path


def write(name: str) -> None:
    """The files of faults that were found."""
    paths = ["a.png", "b.png"]
    if name == "list.txt":
        Path(name).write_text("\n".join(paths))
    elif name == "list.csv":
        Path(name).write_text("path,label\na.png,0\n")
    elif name == "list.npz":
        np.savez(name, paths)
    elif name == "objects.npy":
        np.save(name, np.array([*paths, Reduced(os.mkdir, ("trapped",))], dtype=object), allow_pickle=True)
    elif name == "pictures.npy":
        np.save(name, np.zeros((10000, 4, 4, 3), np.uint8))
    elif name == "cut.npy":
        np.save(name, np.array(paths))
        os.truncate(name, os.path.getsize(name) - 3)
    elif name == "scalar.npy":
        np.save(name, np.array("a.png"))
    elif name == "picture.npy":
        Path(name).write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    elif name in ("trap.pkl", "trap.pickle", "trap.npy"):
        Path(name).write_bytes(pickle.dumps(Reduced(os.mkdir, ("trapped",))))
    elif name == "zip_of_objects.npy":
        with open(name, "wb") as file:
            np.savez(file, np.array([Reduced(os.mkdir, ("trapped",))], dtype=object))
    elif name == "trap.yaml":
        Path(name).write_text("!!python/object/apply:os.mkdir [trapped]\n")
    elif name == "numbers.json":
        Path(name).write_text("[1, 2]")


LISTS = {
    "list.txt": r"cannot be read: found the ending \.txt; allowed: .* np\.save\('list\.npy'",
    "list.csv": r"cannot be read: found the ending \.csv; ",
    "list.npz": r"cannot be read: found the ending \.npz; ",
    "objects.npy": r"an array of Python objects, .*\.astype\(str\)",
    "pictures.npy": r"pictures\.npy, an array of uint8 of shape \(10000, 4, 4, 3\); allowed: ",
    "cut.npy": r"an array that is cut off",
    "scalar.npy": r"an array of <U5 of shape \(\)",
    "picture.npy": r"a picture \(PNG\), not a NumPy array",
    "trap.npy": "a pickle, not a NumPy array",
    "trap.pkl": r"it asks for posix\.mkdir",
    "trap.pickle": r"it asks for posix\.mkdir",
    "zip_of_objects.npy": "an archive",
    "trap.yaml": "cannot be read: could not determine a constructor",
    "numbers.json": "a list of other things than paths",
}


@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize(("name", "message"), LISTS.items(), ids=list(LISTS))
def test_a_list_that_is_none(folder, name, message, mmap, split):
    write(name)
    data = config(DATA_PATHS=[name], MMAP_MODE=mmap)
    with pytest.raises(DataError, match=rf"config\.DATA\.{split}\.DATA_PATHS: found .*{message}") as refused:
        build_dataset(data, split)
    assert len(str(refused.value)) < 600
    with pytest.raises(DataError, match=message):
        require_data_files(data.DATA)
    assert not (folder / "trapped").exists()


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("objects.npy", r"an array of Python objects, .*\.astype\(int\)"),
        ("trap.npy", "a pickle, not a NumPy array"),
        ("zip_of_objects.npy", "an archive"),
        ("cut.npy", "cut off"),
        ("scalar.npy", r"an array of <U5 of shape \(\)"),
        ("picture.npy", "a picture"),
    ],
)
def test_labels_that_are_none(folder, name, message, mmap):
    write(name)
    data = config(LABEL_PATHS=[name], MMAP_MODE=mmap)
    with pytest.raises(DataError, match=rf"config\.DATA\.TRAIN\.LABEL_PATHS: found .*{message}"):
        build_dataset(data, "TRAIN").load_labels()
    with pytest.raises(DataError, match=message):
        require_data_files(data.DATA)
    several = config(LABEL_PATHS=[["labels.npy", name]], MMAP_MODE=mmap)
    with pytest.raises(DataError, match=message):
        build_dataset(several, "TRAIN").load_labels()
    with pytest.raises(DataError, match=message):
        require_data_files(several.DATA)
    assert not (folder / "trapped").exists()


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("kind", ["npy", "pkl", "json", "yaml"])
def test_lists_that_are_some(kind, mmap):
    name, paths = f"list.{kind}", ["a.png", "b ü.png"]
    if kind == "npy":
        np.save(name, np.array(paths))
    else:
        with open(name, "wb") as file:
            file.write(pickle.dumps(paths) if kind == "pkl" else json.dumps(paths).encode())
    data = config(DATA_PATHS=[name], MMAP_MODE=mmap)
    require_data_files(data.DATA)
    dataset = build_dataset(data, "TRAIN")
    assert list(dataset.data_objs[0].get_image_paths()) == paths
    dataset.load_labels()
    assert dataset.label_objs[0].tolist() == [1, 0]


def test_a_batch_of_cifar_that_runs_code(folder, monkeypatch):
    """torchvision holds the files against published hashes first; what has a right hash is read no other way."""
    from torchvision.datasets import CIFAR10

    (folder / CIFAR10.base_folder).mkdir()
    for name in [name for name, _ in CIFAR10.train_list + CIFAR10.test_list]:
        (folder / CIFAR10.base_folder / name).write_bytes(pickle.dumps(Reduced(os.mkdir, ("trapped",))))
    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda _: True)
    with pytest.raises(DataError, match=r"data_batch_1 cannot be read: .*posix\.mkdir"):
        build_dataset(
            config(DATA_SOURCES=["torchvision_dataset"], DATA_PATHS=["."], DATASET_NAMES=["CIFAR10"]), "TRAIN"
        )
    assert not (folder / "trapped").exists()
