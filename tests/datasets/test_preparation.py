"""The archives of every publisher, as stand-ins in the real layout, through the real tool."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import publishers
import pytest
from PIL import Image
from publishers import LABELS, WRITERS, write_tar
from repository import ROOT

from vissl_clusterfit.datasets import archives
from vissl_clusterfit.datasets.catalogue import RECIPES
from vissl_clusterfit.datasets.preparation import KIND, held_out_samples, prepare
from vissl_clusterfit.errors import DataError
from vissl_clusterfit.storage.artifacts import read_array, read_manifest

TOOL = ROOT / "tools/prepare_data.py"


@pytest.fixture
def archives_of(tmp_path):
    def write(name: str, **kinds: object) -> Path:
        folder = tmp_path / "archives" / name
        folder.mkdir(parents=True)
        WRITERS[name](folder, **kinds)
        return folder

    return write


def run(name: str, folder: Path, root: Path, *, subset: bool = True) -> dict:
    return prepare(name, RECIPES[name], folder, root, subset=subset)


def lists(folder: Path, split: str) -> tuple[list[Path], np.ndarray]:
    images = [Path(path) for path in read_array(folder / f"{split}_images.npy")]
    return images, read_array(folder / f"{split}_labels.npy")


def seen_class(path: Path) -> int:
    """The class of a picture by its colour."""
    return int(np.asarray(Image.open(path).convert("RGB"), dtype=float).mean(axis=(0, 1)).argmax())


def test_every_data_set_has_a_stand_in():
    assert WRITERS.keys() == RECIPES.keys()


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_images_and_labels_belong_together(name, archives_of, tmp_path):
    manifest = run(name, archives_of(name), tmp_path / "data")
    folder = tmp_path / "data" / name
    assert manifest["num_classes"] == len(json.loads((folder / "classes.json").read_text())) == 3
    assert manifest["inputs"]["subset"] is True
    found = {split: lists(folder, split) for split in ("trainval", "train", "val", "test")}
    for split, (images, labels) in found.items():
        assert manifest["num_images"][split] == len(images) == len(labels) > 0
        classes = [seen_class(path) for path in images]
        if name == "voc07":
            assert [int(np.flatnonzero(row == 1)[0]) for row in labels] == classes
        else:
            assert labels.tolist() == classes
    trainval, train, val, test = (found[split][0] for split in ("trainval", "train", "val", "test"))
    assert sorted([*train, *val]) == sorted(trainval)
    assert not {*trainval} & {*test}
    if name != "imagenet9k":  # whose test split is drawn
        assert (len(trainval), len(test)) == (len(LABELS["trainval"]), len(LABELS["test"]))


def test_difficult_objects_are_neither_present_nor_absent(archives_of, tmp_path):
    run("voc07", archives_of("voc07"), tmp_path)
    assert lists(tmp_path / "voc07", "test")[1].tolist()[0] == [1, 0, -1]


def test_a_publishers_validation_split_is_kept(archives_of, tmp_path):
    assert run("flowers102", archives_of("flowers102"), tmp_path)["validation"] == "the publisher's"
    images, _ = lists(tmp_path / "flowers102", "val")
    assert [path.name for path in images[:2]] == ["image_00002.jpg", "image_00004.jpg"]


def test_a_tenth_of_each_class_is_held_out():
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [1, 2, 20, 100]))
    held_out = held_out_samples(labels)
    assert np.bincount(labels[held_out], minlength=4).tolist() == [0, 1, 2, 10]
    assert held_out.tolist() == held_out_samples(labels).tolist() == sorted(set(held_out.tolist()))


def test_the_taxonomy_of_inaturalist_2018(archives_of, tmp_path):
    run("inat2018", archives_of("inat2018"), tmp_path)
    taxonomy = json.loads((tmp_path / "inat2018/taxonomy.json").read_text())
    assert taxonomy["levels"] == [*publishers.LEVELS, "species"]
    assert [(names[0], names[-1]) for names in taxonomy["classes"]] == [
        ("Plantae", "Quercus robur"),
        ("Animalia", "Parus major"),
        ("Animalia", "Parus minor"),
    ]


def test_superclasses_of_cifar(archives_of, tmp_path):
    run("cifar100", archives_of("cifar100"), tmp_path)
    taxonomy = json.loads((tmp_path / "cifar100/taxonomy.json").read_text())
    assert taxonomy["classes"] == [["things", "apple"], ["animals", "bear"], ["things", "cup"]]


def test_the_tool(archives_of, tmp_path):
    def tool(*arguments: object) -> subprocess.CompletedProcess:
        command = [sys.executable, TOOL, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    folder = archives_of("food101")
    done = tool("food101", "--archives", folder, "--output", "data", "--subset")
    assert (done.returncode, done.stderr) == (0, "next: vissl-clusterfit list configs transfer/food101\n")
    assert done.stdout == "data/food101: 3 classes; images: test 6, train 15, trainval 18, val 3\n"
    (folder / "food-101.tar.gz").unlink()
    missing = tool("food101", "--archives", folder, "--output", "data", "--subset")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.startswith(f"error: {folder}: food-101.tar.gz missing; expected there")


def test_stand_ins_are_no_published_data(archives_of, tmp_path):
    folder = archives_of("cars")  # no sums are published
    with pytest.raises(
        DataError, match=r"Stanford Cars, classes: found 3; allowed: the 196 that are published\. .*--subs"
    ):
        run("cars", folder, tmp_path / "data", subset=False)
    assert not (tmp_path / "data/cars/manifest.json").exists()
    with pytest.raises(
        DataError, match=r"food-101.tar.gz: found the MD5 sum .*; expected: 85eeb15f3717b99a5da872d97d91"
    ):
        run("food101", archives_of("food101"), tmp_path / "data", subset=False)


def test_a_killed_run_resumes(archives_of, tmp_path, monkeypatch):
    folder, extract = archives_of("food101"), archives.tarfile.TarFile.extract
    unpacked = []

    def killed(self, member, *arguments, **kinds):
        if len(unpacked) == 5:
            (tmp_path / "data/food101/unpacked/food-101" / member.name).write_bytes(b"hal")
            raise KeyboardInterrupt
        unpacked.append(member.name)
        return extract(self, member, *arguments, **kinds)

    monkeypatch.setattr(archives.tarfile.TarFile, "extract", killed)
    with pytest.raises(KeyboardInterrupt):
        run("food101", folder, tmp_path / "data")
    again = []
    monkeypatch.setattr(
        archives.tarfile.TarFile,
        "extract",
        lambda self, member, *arguments, **kinds: (
            again.append(member.name),
            extract(self, member, *arguments, **kinds),
        ),
    )
    run("food101", folder, tmp_path / "data")
    assert not {*again} & {*unpacked}
    assert len(again) + 5 == len(LABELS["trainval"]) + len(LABELS["test"]) + 3
    assert [seen_class(path) for path in lists(tmp_path / "data/food101", "trainval")[0]] == LABELS["trainval"].tolist()


def test_what_is_there_is_not_made_again(archives_of, tmp_path):
    folder = archives_of("cifar100")
    made = run("cifar100", folder, tmp_path)
    before = os.stat(tmp_path / "cifar100/test_images.npy").st_mtime_ns
    assert run("cifar100", folder, tmp_path) == made == read_manifest(tmp_path / "cifar100", KIND)
    assert os.stat(tmp_path / "cifar100/test_images.npy").st_mtime_ns == before


def test_a_folder_that_was_moved_gets_new_lists(archives_of, tmp_path):
    folder = archives_of("food101")
    run("food101", folder, tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    run("food101", folder, tmp_path / "there")
    assert all(path.is_file() for path in lists(tmp_path / "there/food101", "trainval")[0])


# --- what bad input gets: one fault each ----------------------------------------------------------


def refused(name: str, folder: Path, tmp_path: Path, message: str) -> None:
    with pytest.raises(DataError, match=message):
        run(name, folder, tmp_path / "data")
    assert not (tmp_path / "data" / name / "manifest.json").exists()


def rewritten(folder: Path, archive: str, change) -> None:
    """Writes an archive again with ``change(its files)``."""
    import tarfile

    with tarfile.open(folder / archive) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar if member.isreg()}
    write_tar(folder / archive, change(files))


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_missing_archive_is_named(name, archives_of, tmp_path):
    folder = archives_of(name)
    first = next(iter(RECIPES[name].archives))
    (folder / first).unlink()
    refused(name, folder, tmp_path, f"{first} missing; expected there, as the publisher ships them: {first}")


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"imagenet9k"}))
def test_another_layout_is_told(name, archives_of, tmp_path):
    """The images' archive holds something else: what was expected is named."""
    folder = archives_of(name)
    first = next(iter(RECIPES[name].archives))
    write_tar(folder / first, {"readme.txt": b"moved"})
    refused(name, folder, tmp_path, "found no .*; expected: .*publisher|images missing, .* first|without images")


def test_a_class_without_images(archives_of, tmp_path):
    folder = archives_of("food101")

    def without(files):
        name = "food-101/meta/test.txt"
        return files | {name: b"\n".join(line for line in files[name].split() if not line.startswith(b"baklava"))}

    rewritten(folder, "food-101.tar.gz", without)
    refused("food101", folder, tmp_path, "split test: found 1 classes without images, baklava; allowed: at least one")


def test_an_image_that_a_list_names_and_no_archive_has(archives_of, tmp_path):
    folder = archives_of("voc07")
    gone = "VOCdevkit/VOC2007/JPEGImages/000003.jpg"
    rewritten(folder, "VOCtrainval_06-Nov-2007.tar", lambda files: {n: c for n, c in files.items() if n != gone})
    refused("voc07", folder, tmp_path, "found 1 images missing, .*000003.jpg first")


def test_a_tar_of_a_synset_that_is_missing(archives_of, tmp_path):
    folder = archives_of("imagenet9k")
    (folder / "n00006484.tar").unlink()
    refused(
        "imagenet9k", folder, tmp_path, "1 tars missing, n00006484.tar first; expected there: one for each of the 3"
    )


def test_a_taxonomy_without_a_level(archives_of, tmp_path):
    folder = archives_of("inat2018", lacking="family")
    refused(
        "inat2018", folder, tmp_path, "found category 0 without family; expected: a taxonomy with the levels kingdom"
    )


def test_a_damaged_archive(archives_of, tmp_path):
    folder = archives_of("places205")
    path = folder / "imagesPlaces205_resize.tar.gz"
    path.write_bytes(path.read_bytes()[:2000])
    refused("places205", folder, tmp_path, "imagesPlaces205_resize.tar.gz cannot be unpacked: .*Get the file again")


def test_members_stay_inside(archives_of, tmp_path):
    folder = archives_of("food101")
    rewritten(folder, "food-101.tar.gz", lambda files: {"../../../escaped.txt": b"out", **files})
    refused("food101", folder, tmp_path, "food-101.tar.gz cannot be unpacked: .*outside the destination")
    assert not list(tmp_path.rglob("escaped.txt"))


def test_a_pickle_that_would_run_code(archives_of, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    folder = archives_of("cifar100")
    rewritten(folder, "cifar-100-python.tar.gz", lambda files: files | {"cifar-100-python/train": pickle.dumps(Evil())})
    refused("cifar100", folder, tmp_path, "train cannot be read: no pickle of lists, .*: it asks for posix.mkdir")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_that_would_lay_an_array_over_memory(archives_of, tmp_path):
    """``numpy.ndarray((2,), 'O', bytes)`` ends the process at an address that the file has chosen."""

    class Evil:
        def __reduce__(self):
            return np.ndarray, ((2,), "O", b"A" * 16)

    folder = archives_of("cifar100")
    rewritten(folder, "cifar-100-python.tar.gz", lambda files: files | {"cifar-100-python/meta": pickle.dumps(Evil())})
    refused("cifar100", folder, tmp_path, "meta cannot be read: .*it calls numpy.ndarray")
