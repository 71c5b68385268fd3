"""Readers of publishers' archives, and of what is in them."""

from collections.abc import Callable
from pathlib import Path

import mutations
import publishers
from guarded_reading import Reader, new_folder, write_file

from vissl_clusterfit.datasets.archives import Sources
from vissl_clusterfit.datasets.catalogue import RECIPES
from vissl_clusterfit.datasets.preparation import prepare
from vissl_clusterfit.storage import artifacts

READERS: dict[str, Reader] = {}


def _publisher(name: str, file: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "archives").mkdir()
        publishers.WRITERS[name](folder / "archives")
        _prepared(name)(folder / "archives")
        return next(filter(Path.is_file, (folder / "data" / name).rglob(file)), folder / "archives" / file)

    return make


def _prepared(name: str) -> Callable[[Path], object]:
    def read(path: Path) -> None:
        root = next(above for above in path.parents if (above / "archives").is_dir())
        artifacts.remove_manifest(root / "data" / name)
        prepare(name, RECIPES[name], root / "archives", root / "data", subset=True)

    return read


for _name, _file, _inside in (
    ("cars", "cars_annos.mat", mutations.in_bytes),
    ("cifar100", "train", mutations.in_bytes),
    ("cifar100", "meta", mutations.in_bytes),
    ("flowers102", "setid.mat", mutations.in_bytes),
    ("flowers102", "imagelabels.mat", mutations.in_bytes),
    ("food101", "train.txt", mutations.in_bytes),
    ("imagenet1k", "meta.mat", mutations.in_bytes),
    ("imagenet1k", "ILSVRC2012_validation_ground_truth.txt", mutations.in_bytes),
    ("inat2018", "categories.json", mutations.in_json),
    ("inat2018", "train2018.json", mutations.in_json),
    ("inat2019", "val2019.json", mutations.in_json),
    ("places205", "train_places205.csv", mutations.in_bytes),
    ("places365", "categories_places365.txt", mutations.in_bytes),
    ("voc07", "bird_trainval.txt", mutations.in_bytes),
):
    READERS[f"{_name}, {_file}"] = Reader(
        _publisher(_name, _file), _prepared(_name), _inside, trusts_sizes=_file.endswith(".mat")
    )


FILES = {f"a/{number}.txt": b"content" * number for number in range(4)}


def _unpack(path: Path) -> None:
    with new_folder() as folder:
        Sources(path.parent, folder, {path.name: ""}, check_sums=False).folder(path.name, of_tars="tars" in path.name)


READERS["archive, .tar"] = Reader(write_file("files.tar", publishers.tar_bytes(FILES)), _unpack)
READERS["archive, .tar.gz"] = Reader(
    write_file("files.tar.gz", publishers.tar_bytes(FILES, "w:gz")), _unpack, mutations.in_gzip
)
READERS["archive of archives"] = Reader(
    write_file("tars.tar", publishers.tar_bytes({"n01.tar": publishers.tar_bytes(FILES)})), _unpack
)
