"""Data sets that Hugging Face's own library has written to the disk."""

import pickle

import datasets
import pytest
from pictures import NAMES, encoded, numbers_in, picture, turned, write_pictures

from vissl_clusterfit.errors import DataError, MissingDependencyError
from vissl_clusterfit.images import open_images

FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
LABELS = [0, 1, 1, 0, 1, 0]


@pytest.fixture
def of_files(tmp_path):
    """Six files, embedded as ``save_to_disk`` does it."""
    folder = write_pictures(tmp_path / "files")
    rows = {"image": [str(folder / name) for name in NAMES], "label": LABELS}
    data = datasets.Dataset.from_dict(rows, features=FEATURES)
    data.save_to_disk(tmp_path / "my data set", num_shards=2)
    return data, tmp_path / "my data set"


def test_rows_are_read_with_their_names_and_classes(of_files):
    images = open_images(of_files[1])
    assert list(images.names) == [f"{number}/{name}" for number, name in enumerate(NAMES)]
    assert numbers_in(images) == [0, 1, 2, 3, 4, 5]
    assert images.labels.tolist() == LABELS
    assert numbers_in(pickle.loads(pickle.dumps(images))) == [0, 1, 2, 3, 4, 5]


def test_pictures_in_the_memory_have_numbers_for_names(tmp_path):
    data = datasets.Dataset.from_dict({"img": [picture(number) for number in range(4)]})
    data.cast_column("img", datasets.Image()).save_to_disk(tmp_path / "data")
    images = open_images(tmp_path / "data")
    assert (list(images.names), numbers_in(images), images.labels) == (["0", "1", "2", "3"], [0, 1, 2, 3], None)


def test_a_part_in_another_order_is_read_in_that_order(of_files, tmp_path):
    of_files[0].select([4, 0, 2]).save_to_disk(tmp_path / "part")
    images = open_images(tmp_path / "part")
    assert numbers_in(images) == [4, 0, 2]
    assert images.labels.tolist() == [1, 0, 1]


def test_an_image_of_another_size_has_another_identity(tmp_path):
    before = [encoded(1), encoded(2)]
    for name, content in (("a", before), ("b", [encoded(1), encoded(2) + b" "])):
        rows = {"image": [{"bytes": each, "path": None} for each in content]}
        data = datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image()}))
        data.save_to_disk(tmp_path / name)
    first, second = (list(open_images(tmp_path / name).identities()) for name in "ab")
    assert first == [f"{number} {len(content)},upright" for number, content in enumerate(before)]
    assert [old == new for old, new in zip(first, second, strict=True)] == [True, False]


def test_exif_is_honoured_and_counted(tmp_path):
    rows = {"image": [{"bytes": turned(1, 6), "path": None}]}
    data = datasets.Dataset.from_dict(rows, features=datasets.Features({"image": datasets.Image()}))
    data.save_to_disk(tmp_path / "a")
    assert open_images(tmp_path / "a").read(0).size == (10, 20)
    as_stored = open_images(tmp_path / "a", exif=False)
    assert (as_stored.read(0).size, as_stored.num_ignored_orientations) == ((20, 10), 1)


def test_one_of_several_splits_is_named(of_files, tmp_path):
    datasets.DatasetDict({"train": of_files[0], "test": of_files[0]}).save_to_disk(tmp_path / "both")
    with pytest.raises(DataError, match=r"both: found 2 splits; allowed: .*both/train \| .*both/test"):
        open_images(tmp_path / "both")
    assert len(open_images(tmp_path / "both/train")) == 6


def test_one_of_several_columns_is_named(of_files, tmp_path):
    data = of_files[0].add_column("name", ["a", "b", "c", "d", "e", "f"])
    data = data.add_column("second", [{"bytes": encoded(9), "path": None}] * 6).cast_column("second", datasets.Image())
    data.save_to_disk(tmp_path / "two")
    with pytest.raises(DataError, match=r"found 2 columns of images; allowed: image \| second"):
        open_images(tmp_path / "two")
    with pytest.raises(DataError, match="found no column 'name' of images"):
        open_images(tmp_path / "two", column="name")
    images = open_images(tmp_path / "two", column="second", labels=("name",))
    assert numbers_in(images) == [9] * 6
    assert images.labels.tolist() == ["a", "b", "c", "d", "e", "f"]
    with pytest.raises(DataError, match="found no column 'kind'"):
        open_images(tmp_path / "two", column="second", labels=("kind",))


def test_a_data_set_without_images_is_refused(tmp_path):
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "texts")
    with pytest.raises(DataError, match=r"found 0 columns of images; allowed: a column of the type datasets\.Image"):
        open_images(tmp_path / "texts")


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json", "data-00000-of-00002.arrow"])
@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\x00\xff no file"])
def test_damaged_data_sets_are_refused(of_files, name, content):
    if (name, content) == ("dataset_info.json", b"{}"):
        pytest.skip("the types of columns are in the other files, too")
    (of_files[1] / name).write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read as a data set of Hugging Face's|columns of images"):
        open_images(of_files[1])


def test_without_the_library_the_command_is_said(of_files, monkeypatch):
    from vissl_clusterfit import dependencies

    monkeypatch.setattr(dependencies, "_is_installed", lambda name: name != "datasets")
    with pytest.raises(MissingDependencyError, match=r"Not installed: datasets[^$]*'vissl-clusterfit\[images\]'"):
        open_images(of_files[1])
