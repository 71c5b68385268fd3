"""The same pictures as every kind of collection of images, written by the real libraries."""

import io
import itertools
import os
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image


def files_below(folder: Path) -> list[Path]:
    """The image files of class folders, in the order of ``disk_folder``."""
    return sorted(folder.rglob("*.png"))


def as_folder(source: Path, goal: Path) -> Path:
    goal.symlink_to(source)
    return goal


def as_flat_folder(source: Path, goal: Path) -> Path:
    goal.mkdir()
    for file in files_below(source):
        os.link(file, goal / f"{file.parent.name} {file.name}")
    return goal


def as_list(source: Path, goal: Path) -> Path:
    path = goal.with_suffix(".csv")
    lines = [f"{file},{file.parent.name}" for file in files_below(source)]
    path.write_text("\n".join(["path,label", *lines]) + "\n", encoding="utf-8")
    return path


def as_array(source: Path, goal: Path) -> Path:
    path = goal.with_suffix(".npy")
    np.save(path, np.stack([np.asarray(Image.open(file)) for file in files_below(source)]))
    return path


def as_tars(source: Path, goal: Path) -> Path:
    """Three shards, the classes of the folders as numbers in ``.cls``."""
    goal.mkdir()
    files = files_below(source)
    classes = sorted({file.parent.name for file in files})
    bounds = np.linspace(0, len(files), 4).astype(int)
    for shard, (start, stop) in enumerate(itertools.pairwise(bounds)):
        with tarfile.open(goal / f"shard-{shard:03d}.tar", "w") as archive:
            for number in range(start, stop):
                for ending, content in (
                    (".png", files[number].read_bytes()),
                    (".cls", str(classes.index(files[number].parent.name)).encode()),
                ):
                    member = tarfile.TarInfo(f"{number:06d}{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return goal


def as_hugging_face(source: Path, goal: Path) -> Path:
    import datasets

    files = files_below(source)
    classes = sorted({file.parent.name for file in files})
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=classes)})
    rows = {"image": [str(file) for file in files], "label": [file.parent.name for file in files]}
    datasets.Dataset.from_dict(rows, features=kinds).save_to_disk(goal)
    return goal


def as_lmdb(source: Path, goal: Path) -> Path:
    import lmdb

    with lmdb.open(str(goal), map_size=1 << 26) as base, base.begin(write=True) as transaction:
        for number, file in enumerate(files_below(source)):
            transaction.put(f"{number:06d}".encode(), file.read_bytes())
    return goal


#: Each with whether it has labels.
WRITERS = {
    "folder": (as_folder, True),
    "flat folder": (as_flat_folder, False),
    "list": (as_list, True),
    "array": (as_array, False),
    "tars": (as_tars, True),
    "hugging face": (as_hugging_face, True),
    "lmdb": (as_lmdb, False),
}


def sources(*paths: Path, split: str = "TRAIN", source: str = "images") -> list[str]:
    """The overrides that make collections the views of a split."""
    number = len(paths)
    return [
        f"config.DATA.{split}.DATA_SOURCES=[{','.join([source] * number)}]",
        f"config.DATA.{split}.DATASET_NAMES=[{','.join(['tiny'] * number)}]",
        "config.DATA.{}.DATA_PATHS=[{}]".format(split, ",".join(f'"{path}"' for path in paths)),
    ]
