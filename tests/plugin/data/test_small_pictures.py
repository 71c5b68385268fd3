import multiprocessing
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tiny import write_images
from vissl.config import AttrDict
from vissl.data.disk_dataset import DiskImageDataset

from vissl_clusterfit.plugin.data import small_pictures
from vissl_clusterfit.plugin.data.small_pictures import SmallPictures, keep_small_pictures


def picture(value: int, size: tuple[int, int] = (4, 3)) -> Image.Image:
    return Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8))


def test_what_a_forked_process_keeps_is_there_for_all():
    kept = SmallPictures(3, (4, 3))
    child = multiprocessing.get_context("fork").Process(target=kept.keep, args=(1, picture(7)))
    child.start()
    child.join()
    assert kept.get(0) is None
    assert np.array_equal(kept.get(1), picture(7))
    assert pickle.loads(pickle.dumps(kept)) is None


@pytest.mark.parametrize("other", [picture(7, (5, 3)), picture(7).convert("L")])
def test_a_picture_of_another_kind_is_not_kept(other):
    kept = SmallPictures(3, (4, 3))
    kept.keep(0, other)
    assert kept.get(0) is None


@pytest.fixture
def source(tmp_path):
    folder = write_images(tmp_path / "pictures", 6)
    split = {
        "BATCHSIZE_PER_REPLICA": 2,
        "REMOVE_IMG_PATH_PREFIX": "",
        "NEW_IMG_PATH_PREFIX": "",
        "ENABLE_QUEUE_DATASET": False,
        "DEFAULT_GRAY_IMG_SIZE": 8,
    }
    return DiskImageDataset(AttrDict({"DATA": {"TRAIN": split}}), "disk_folder", str(folder), "TRAIN", "tiny")


def of(source, method: str = "fork") -> SimpleNamespace:
    return SimpleNamespace(cfg={"MULTI_PROCESSING_METHOD": method}, data_objs=[SimpleNamespace(images=source)])


def test_pictures_of_a_folder_are_read_once(source):
    paths = [path for path, _ in source.image_dataset.samples]
    expected = [np.array(source[index][0]) for index in range(6)]
    keep_small_pictures(of(source))
    first = [np.array(source[index][0]) for index in range(5)]
    for path in paths:
        open(path, "w").close()
    again = [source[index] for index in range(6)]
    assert [valid for _, valid in again] == [True] * 5 + [False]  # the last was not read in time
    for one, two, (three, _) in zip(expected, first, again, strict=False):
        np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(one, three)


def test_what_is_too_much_or_for_processes_that_are_not_forked_is_read_again(source, monkeypatch):
    keep_small_pictures(of(source, "forkserver"))
    assert not hasattr(source, "small_pictures")
    monkeypatch.setattr(small_pictures, "_MOST_BYTES", 100)
    keep_small_pictures(of(source))
    assert not hasattr(source, "small_pictures")
