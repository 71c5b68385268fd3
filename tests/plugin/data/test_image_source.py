"""The data source ``images``: any collection under every config, with what holds for folders."""

import copy
import shutil

import numpy as np
import pytest
import torch
from collections_on_disk import WRITERS, as_array, as_list, as_tars, files_below, sources
from pictures import turned
from tiny import STUDENT, write_images, write_labels
from torch.utils.data import DataLoader
from torchvision.transforms.v2.functional import pil_to_tensor
from vissl.config import AttrDict
from vissl.data import build_dataset

from vissl_clusterfit.errors import ConfigError, DataError
from vissl_clusterfit.features.sample_names import names_of
from vissl_clusterfit.images import TransformedImages, open_images
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.plugin.data.image_source import ImagesSource
from vissl_clusterfit.plugin.data.split_images import SplitImages
from vissl_clusterfit.plugin.data.true_labels import labels_of_both, require_labels, true_labels

COUNT = 24  # of the images in ``folder``
TO_TENSOR = [{"name": "Resize", "size": [8, 8]}, {"name": "ToTensor"}]


def composed(tmp_path, *overrides) -> AttrDict:
    cfg = compose([*STUDENT, f"config.CHECKPOINT.DIR={tmp_path / 'run'}", *overrides])[2]
    cfg.DATA.TRAIN.TRANSFORMS = [AttrDict(transform) for transform in TO_TENSOR]
    return cfg


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return composed(tmp_path_factory.mktemp("composed"))


@pytest.fixture
def config(template):
    """A config of data at some places; composed once, as that takes seconds."""

    def make(*places, source="images", **settings) -> AttrDict:
        cfg = copy.deepcopy(template)
        number = len(places)
        cfg.DATA.TRAIN.update(
            DATA_SOURCES=[source] * number,
            DATASET_NAMES=["tiny"] * number,
            DATA_PATHS=list(map(str, places)),
            LABEL_PATHS=[""] * number,
            **settings,
        )
        return cfg

    return make


def test_every_kind_gives_the_images_of_the_folder(config, tmp_path, folder, kind):
    place = WRITERS[kind][0](folder, tmp_path / "my images")
    images = SplitImages(config(place), "TRAIN", TO_TENSOR, keep_names=True)
    theirs = SplitImages(config(folder, source="disk_folder"), "TRAIN", TO_TENSOR)
    assert len(images) == len(theirs) == COUNT
    for (ours, reason), (expected, _) in zip(images, theirs, strict=True):
        assert reason == ""
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    assert images.have_files
    # Labels that were made without VISSL are of the same samples.
    np.testing.assert_array_equal(images.samples, TransformedImages(open_images(place), pil_to_tensor).samples)
    images.name_list.write(tmp_path / "names")
    np.save(tmp_path / "names/samples.npy", images.samples)
    assert names_of(tmp_path / "names") == list(images._sources[0].collection.names)


def test_every_kind_is_paired_with_pseudo_labels_and_subset_alike(tmp_path, folder, kind):
    place = WRITERS[kind][0](folder, tmp_path / "my images")
    limited = ["config.DATA.TRAIN.DATA_LIMIT=10", "config.CLUSTERFIT.NUM_CLUSTERS=1000"]
    cfg = composed(tmp_path, *sources(place), *limited)
    assert cfg.DATA.TRAIN.DATA_SOURCES == ["clusterfit_images"]
    write_labels(tmp_path / "run/clusterfit/labels/train", np.arange(COUNT), 1000)
    subset = build_dataset(cfg, "TRAIN")
    whole = SplitImages(cfg, "TRAIN", TO_TENSOR)
    places = []
    for index in range(10):
        sample = subset[index]
        places += sample["label"]
        torch.testing.assert_close(sample["data"][0], whole[sample["label"][0]][0])
    assert sorted(places) != list(range(10))


def test_labels_that_came_with_the_images(config, tmp_path, folder, kind):
    write, have_labels = WRITERS[kind]
    place = write(folder, tmp_path / "my images")
    cfg = config()
    with_labels(cfg, "TRAIN", place)
    if have_labels:
        expected = [int(file.parent.name[-1]) for file in files_below(folder)]
        assert true_labels(cfg, "TRAIN").tolist() == expected
        assert [build_dataset(cfg, "TRAIN")[index]["label"] for index in range(COUNT)] == [[each] for each in expected]
    else:
        with pytest.raises(
            DataError, match=r"config\.DATA\.TRAIN\.LABEL_SOURCES: found images, for an? .* without labels"
        ):
            require_labels(cfg)


def with_labels(cfg, split, place, source="images"):
    cfg.DATA[split].update(
        DATA_SOURCES=[source],
        LABEL_SOURCES=[source],
        DATA_PATHS=[str(place)],
        LABEL_PATHS=[str(place)],
        DATASET_NAMES=["tiny"],
        LABEL_TYPE="standard",
        DATA_LIMIT=-1,
        TRANSFORMS=[AttrDict(transform) for transform in TO_TENSOR],
    )


def test_classes_of_test_have_the_numbers_of_train(config, tmp_path, folder):
    """A class that TEST lacks shifts none of those that follow, whatever the other split is."""
    without = write_images(tmp_path / "test", 12)
    shutil.rmtree(without / "class1")
    for train, source in ((folder, "images"), (as_list(folder, tmp_path / "list"), "images"), (folder, "disk_folder")):
        for test in (without, as_list(without, tmp_path / "test")):
            cfg = config()
            with_labels(cfg, "TRAIN", train, source)
            with_labels(cfg, "TEST", test)
            assert set(labels_of_both(cfg)["TEST"].tolist()) == {0, 2}
    with_labels(cfg, "TRAIN", without)
    with_labels(cfg, "TEST", folder)
    with pytest.raises(DataError, match=r"config\.DATA\.TRAIN\.DATA_PATHS: found no label class1, which TEST has"):
        labels_of_both(cfg)


def test_labels_of_images_are_asked_of_images(config, tmp_path, folder):
    cfg = config()
    with_labels(cfg, "TRAIN", folder, "disk_folder")
    cfg.DATA.TRAIN.LABEL_SOURCES = ["images"]
    with pytest.raises(DataError, match="found images, where the data source is disk_folder"):
        true_labels(cfg, "TRAIN")


def test_settings_choose_columns(config, tmp_path, folder):
    pixels = np.load(as_array(folder, tmp_path / "images"))
    np.savez(tmp_path / "images.npz", x=pixels, y=np.arange(COUNT) % 5, other=pixels[:3])
    cfg = config()
    with_labels(cfg, "TRAIN", tmp_path / "images.npz")
    with pytest.raises(DataError, match=r"images\.npz: found 3 arrays: x, y, other"):
        true_labels(cfg, "TRAIN")
    cfg.DATA.TRAIN["IMAGES"] = AttrDict({"COLUMN": "x", "LABELS": ["y"]})
    assert true_labels(cfg, "TRAIN").tolist() == [number % 5 for number in range(COUNT)]
    cfg.DATA.TRAIN["IMAGES"] = AttrDict({"COLUMNS": "x"})
    with pytest.raises(ConfigError, match=r"config\.DATA\.TRAIN\.IMAGES\.COLUMNS: found an unknown key"):
        true_labels(cfg, "TRAIN")


def test_the_settings_are_keys_of_a_command(tmp_path, folder):
    place = as_list(folder, tmp_path / "list")
    cfg = composed(tmp_path, *sources(place), "+config.DATA.TRAIN.IMAGES={COLUMN:path,EXIF:false}")
    source = SplitImages(cfg, "TRAIN", TO_TENSOR)._sources[0]
    assert (source.collection.exif, source.collection.place) == (False, str(place))


def test_two_collections_are_views_of_the_same_samples(config, tmp_path, folder):
    places = [as_array(folder, tmp_path / "images"), as_tars(folder, tmp_path / "tars")]
    images = SplitImages(config(*places), "TRAIN", TO_TENSOR)
    both, _ = images[3]
    torch.testing.assert_close(both[0], both[1])
    assert both.shape == (2, 3, 8, 8)
    assert " | " in images.name_of(3)


def test_an_unreadable_image_is_told_with_its_reason(config, tmp_path):
    folder = write_images(tmp_path / "images", 6)
    victim = files_below(folder)[2]
    victim.write_bytes(victim.read_bytes()[:80])
    images = SplitImages(config(as_tars(folder, tmp_path / "tars")), "TRAIN", TO_TENSOR)
    reasons = [reason for _, reason in images]
    assert [index for index, reason in enumerate(reasons) if reason] == [2]
    assert "Error: " in reasons[2]
    assert images.name_of(2).endswith("tars: shard-001.tar/000002.png")


def test_processes_of_a_data_loader_read_every_kind(config, tmp_path, folder, kind):
    place = WRITERS[kind][0](folder, tmp_path / "my images")
    images = SplitImages(config(place), "TRAIN", TO_TENSOR)
    alone = torch.stack([image for image, _ in images])
    loader = DataLoader(images, batch_size=4, num_workers=2, multiprocessing_context="fork")
    torch.testing.assert_close(torch.cat([pixels for pixels, _ in loader]), alone, rtol=0, atol=0)


@pytest.mark.parametrize("source", ["images", "disk_folder", "disk_filelist"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_ignored_orientations_are_counted_in_all_processes(config, tmp_path, source, num_workers):
    place = tmp_path / "images"
    (place / "all").mkdir(parents=True)
    for number in range(9):
        (place / f"all/{number}.jpg").write_bytes(turned(number, 6 if number % 3 else 1))
    if source == "disk_filelist":
        np.save(tmp_path / "list.npy", np.array(sorted(map(str, place.rglob("*.jpg")))))
        place = tmp_path / "list.npy"
    ignoring = {"IMAGES": AttrDict({"EXIF": False})} if source == "images" else {}
    to_tensor = [{"name": "ToTensor"}]
    images = SplitImages(config(place, source=source, **ignoring), "TRAIN", to_tensor)
    for _ in range(2):
        shapes = [tuple(pixels.shape[2:]) for pixels, _ in DataLoader(images, batch_size=3, num_workers=num_workers)]
        assert set(shapes) == {(10, 20)}
    assert images.num_ignored_orientations == 6


def test_the_queue_of_vissl_is_refused(config, folder):
    cfg = config(folder)
    cfg.DATA.TRAIN.ENABLE_QUEUE_DATASET = True
    with pytest.raises(ConfigError, match="ENABLE_QUEUE_DATASET: found true for the source images"):
        ImagesSource(cfg, str(folder), "TRAIN", "tiny", "images")
