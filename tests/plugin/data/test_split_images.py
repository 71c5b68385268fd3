"""Images and labels together, from every kind of VISSL data source, through VISSL's own data set."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from tiny import write_images, write_labels
from vissl.config import AttrDict
from vissl.data import build_dataset

from vissl_clusterfit.errors import ArtifactError, DataError
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.plugin.data.split_images import SplitImages

TO_TENSOR = [{"name": "Resize", "size": [8, 8]}, {"name": "ToTensor"}]


def write_cifar10(folder: Path) -> Path:
    """CIFAR-10's own file layout with 10 images per batch; image i is of brightness i."""
    base = folder / "cifar-10-batches-py"
    base.mkdir()
    for name, offset in [*((f"data_batch_{k + 1}", 10 * k) for k in range(5)), ("test_batch", 100)]:
        pixels = np.repeat(np.arange(offset, offset + 10, dtype=np.uint8)[:, None], 3072, axis=1)
        (base / name).write_bytes(pickle.dumps({"data": pixels, "labels": [k % 10 for k in range(10)]}))
    (base / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(k) for k in range(10)]}))
    return folder


def config(tmp_path, source: str, path: str, **train) -> AttrDict:
    config = compose(
        [
            "config=test/cpu_test/test_cpu_resnet_simclr",
            "+config/clusterfit=student",
            f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
            f"config.DATA.TRAIN.DATA_SOURCES=[{source}]",
            *([f"config.DATA.TRAIN.DATA_PATHS=[{path}]"] if path else []),
            "config.DATA.TRAIN.DATA_LIMIT=-1",
            "config.CLUSTERFIT.NUM_CLUSTERS=1000",
        ]
    )[2]
    config.DATA.TRAIN.TRANSFORMS = [AttrDict(transform) for transform in TO_TENSOR]
    config.DATA.TRAIN.update(train)
    return config


@pytest.fixture
def sources(tmp_path, monkeypatch):
    """For each kind: its path, its name in the config, how many samples it has."""
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(CIFAR10, "_load_meta", lambda self: None)
    folder = write_images(tmp_path / "images", 30)
    files = sorted(map(str, folder.rglob("*.png")))
    np.save(tmp_path / "files.npy", np.array(files[::-1]))
    (tmp_path / "cifar").mkdir()
    return {
        "disk_folder": (str(folder), "tiny", 30),
        "disk_filelist": (str(tmp_path / "files.npy"), "tiny", 30),
        "torchvision_dataset": (str(write_cifar10(tmp_path / "cifar")), "CIFAR10", 50),
        "synthetic": ("", "tiny", 50_000),
    }


KINDS = ["disk_folder", "disk_filelist", "torchvision_dataset", "synthetic"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_source_is_paired_and_subset_alike(tmp_path, sources, kind):
    """With DATA_LIMIT, image i and label i must be those of the same sample of the whole split."""
    path, name, count = sources[kind]
    cfg = config(tmp_path, kind, path, DATASET_NAMES=[name], DATA_LIMIT=20)
    assert [f"clusterfit_{kind}"] == cfg.DATA.TRAIN.DATA_SOURCES
    write_labels(tmp_path / "run/clusterfit/labels/train", np.arange(count) % 1000, 1000)
    subset = build_dataset(cfg, "TRAIN")
    assert len(subset) == 20
    whole = build_dataset(
        AttrDict({**cfg, "DATA": {**cfg.DATA, "TRAIN": {**cfg.DATA.TRAIN, "DATA_LIMIT": -1}}}), "TRAIN"
    )
    positions = []
    for index in range(20):
        sample = subset[index]
        position = int(subset.image_and_label_subset[index])
        positions.append(position)
        assert sample["label"] == [position % 1000]
        np.testing.assert_array_equal(sample["data"][0], whole[position]["data"][0])
    assert positions != list(range(20))  # VISSL draws the subset; it is not the first 20


def test_labels_need_not_exist_before_the_first_sample(tmp_path, sources):
    cfg = config(tmp_path, "disk_folder", sources["disk_folder"][0], DATASET_NAMES=["tiny"])
    dataset = build_dataset(cfg, "TRAIN")
    with pytest.raises(ArtifactError, match="holds no pseudo_labels"):
        dataset[0]
    write_labels(tmp_path / "run/clusterfit/labels/train", np.arange(30), 1000)
    assert dataset[7]["label"] == [7]


def test_labels_for_another_number_of_samples_are_refused(tmp_path, sources):
    cfg = config(tmp_path, "disk_folder", sources["disk_folder"][0], DATASET_NAMES=["tiny"])
    write_labels(tmp_path / "run/clusterfit/labels/train", np.arange(29), 1000)
    with pytest.raises(DataError, match="holds 29 labels, the TRAIN split has 30 samples"):
        build_dataset(cfg, "TRAIN")[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_whole_split_is_extracted_in_its_order(tmp_path, sources, kind):
    path, name, count = sources[kind]
    cfg = config(tmp_path, kind, path, DATASET_NAMES=[name], DATA_LIMIT=20)
    images = SplitImages(cfg, "TRAIN", TO_TENSOR)
    assert len(images) == count
    image, reason = images[count - 1]
    assert reason == ""
    assert image.shape == (3, 8, 8)
    assert images.inputs()["num_samples"] == count
    if kind == "torchvision_dataset":
        assert image.mean() * 255 == pytest.approx(49)


def fingerprint(tmp_path, folder, source="disk_folder", **train) -> str:
    return SplitImages(config(tmp_path, source, str(folder), **train), "TRAIN", TO_TENSOR).inputs()["fingerprint"]


def test_the_fingerprint_follows_the_data_and_nothing_else(tmp_path):
    folder = write_images(tmp_path / "images", 12)
    first = fingerprint(tmp_path, folder)
    assert fingerprint(tmp_path, folder, DATA_LIMIT=5) == first
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    assert fingerprint(tmp_path, moved) == first
    file = moved / "class0" / "00000.png"
    file.write_bytes(file.read_bytes() + b"\0")
    resized = fingerprint(tmp_path, moved)
    file.rename(file.with_name("renamed.png"))
    renamed = fingerprint(tmp_path, moved)
    (moved / "class0" / "renamed.png").unlink()
    removed = fingerprint(tmp_path, moved)
    assert len({first, resized, renamed, removed}) == 4


def test_the_fingerprint_of_a_list_follows_its_order(tmp_path):
    files = sorted(map(str, write_images(tmp_path / "images", 6).rglob("*.png")))
    np.save(tmp_path / "one.npy", np.array(files))
    np.save(tmp_path / "two.npy", np.array(files[::-1]))
    one, two = (fingerprint(tmp_path, tmp_path / f"{name}.npy", "disk_filelist") for name in ("one", "two"))
    assert one != two


def test_transforms_without_to_tensor_are_refused(tmp_path, sources):
    cfg = config(tmp_path, "disk_folder", sources["disk_folder"][0])
    with pytest.raises(
        DataError, match=r"FEATURES\.TRANSFORMS: found transforms that give \['Image'\] for a sample; .* Add ToTensor"
    ):
        SplitImages(cfg, "TRAIN", [{"name": "Resize", "size": 8}])[0]
