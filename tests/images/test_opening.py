"""What lies at a place is found out; what is none of the kinds, or asks for what its kind has not, is refused."""

import doctest

import numpy as np
import pytest
from pictures import NAMES, write_pictures

from vissl_clusterfit.config.schema import read_settings
from vissl_clusterfit.errors import ConfigError, DataError
from vissl_clusterfit.images import opening, source
from vissl_clusterfit.images.names import PackedNames
from vissl_clusterfit.images.opening import ImageSettings, open_images


@pytest.mark.parametrize("module", [opening, source])
def test_the_examples_run(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(module)
    assert (result.attempted > 0, result.failed) == (True, 0)


@pytest.mark.parametrize("name", ["a.zip", "picture.png", "list.xlsx", "none"])
def test_other_files_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(DataError, match="allowed: a folder of images, or of tar files; a list"):
        open_images(tmp_path / name)


def test_a_folder_with_brackets_in_its_name_is_no_pattern(tmp_path):
    write_pictures(tmp_path / "a[1]{x,y}")
    assert len(open_images(tmp_path / "a[1]{x,y}")) == len(NAMES)


def test_columns_are_refused_where_there_are_none(tmp_path):
    write_pictures(tmp_path / "folder")
    for asked in ({"column": "path"}, {"labels": ("label",)}):
        with pytest.raises(DataError, match="for a folder of images, which has no columns"):
            open_images(tmp_path / "folder", **asked)


def test_other_file_systems_are_refused():
    with pytest.raises(DataError, match="allowed: a place on this machine"):
        open_images("https://example.org/images")


def test_relative_places_are_below_the_working_directory(tmp_path, monkeypatch):
    write_pictures(tmp_path / "folder")
    monkeypatch.chdir(tmp_path)
    for place in ("folder", "./folder/", "folder//", "."):
        assert len(open_images(place)) == len(NAMES)
    assert list(open_images("folder/").names) == sorted(NAMES)


def test_packed_names_are_a_sequence_of_texts():
    names = ["", "a", "höhle 洞穴", "\udcff.png", "a"]
    packed = PackedNames(names)
    assert list(packed) == names
    assert [packed[index] for index in (0, -1, np.int64(2))] == ["", "a", "höhle 洞穴"]
    assert packed[1:4] == names[1:4]
    assert (len(packed), "\udcff.png" in packed, packed.index("a")) == (5, True, 1)
    with pytest.raises(IndexError):
        packed[5]


def test_settings_name_texts():
    settings = read_settings(ImageSettings, {"LABELS": ["a", "b"], "EXIF": False}, "config.DATA.TRAIN.IMAGES")
    assert (settings.labels, settings.exif, settings.column) == (("a", "b"), False, "")
    with pytest.raises(ConfigError, match=r"config\.DATA\.TRAIN\.IMAGES: LABELS: found \[5\]"):
        read_settings(ImageSettings, {"LABELS": [5]}, "config.DATA.TRAIN.IMAGES")
    with pytest.raises(ConfigError, match=r"COLUM: found an unknown key.* Did you mean COLUMN"):
        read_settings(ImageSettings, {"COLUM": "x"}, "config.DATA.TRAIN.IMAGES")
