"""Folders of images: flat, nested, of classes, with links, odd names and other files."""

import os

import numpy as np
import pytest
from pictures import NAMES, encoded, numbers_in, picture, turned, write_pictures
from torchvision.datasets import ImageFolder

from vissl_clusterfit.errors import DataError
from vissl_clusterfit.features.sample_list import names_and_sizes
from vissl_clusterfit.images import open_images


def test_a_flat_folder_has_its_images_by_name_and_no_labels(tmp_path):
    images = open_images(write_pictures(tmp_path / "my photos"))
    assert list(images.names) == sorted(NAMES)
    assert numbers_in(images) == [NAMES.index(name) for name in sorted(NAMES)]
    assert images.labels is None
    assert images.where(0) == str(tmp_path / "my photos" / sorted(NAMES)[0])


def test_class_folders_are_ordered_as_those_of_torchvision(tmp_path):
    names = ("b/1.png", "b/deep/0.png", "b/deep/er/0.png", "a b/2.png", "a/3.png", "ä/4.png", "b/Z.png", "b-c/1.png")
    images = open_images(write_pictures(tmp_path, names))
    theirs = ImageFolder(tmp_path)
    assert [images.where(index) for index in range(len(images))] == [path for path, _ in theirs.samples]
    assert np.unique(images.labels, return_inverse=True)[1].tolist() == theirs.targets


def test_folders_beside_images_are_no_classes(tmp_path):
    images = open_images(write_pictures(tmp_path, ("2024/a.png", "b.png")))
    assert list(images.names) == ["b.png", "2024/a.png"]
    assert images.labels is None


def test_other_files_are_left_out_and_counted(tmp_path, caplog):
    write_pictures(tmp_path, ("a.png", ".hidden/b.png", "__MACOSX/c.png"))
    for name in ("._a.png", ".DS_Store", "notes.txt", "more.txt", "README"):
        (tmp_path / name).write_text("no picture")
    assert list(open_images(tmp_path).names) == ["a.png"]
    assert "left out: 2 with the ending .txt, 1 with the ending none" in caplog.text


def test_links_are_followed_but_not_in_circles(tmp_path):
    write_pictures(tmp_path / "elsewhere", ("x.png",))
    write_pictures(tmp_path / "here", ("a/1.png",))
    (tmp_path / "here/b").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here/a/up").symlink_to(tmp_path / "here")
    (tmp_path / "here/a/self").symlink_to(".")
    (tmp_path / "here/a/2.png").symlink_to(tmp_path / "elsewhere/x.png")
    (tmp_path / "here/a/dead.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "here/a/own.png").symlink_to("own.png")
    images = open_images(tmp_path / "here")
    assert list(images.names) == ["a/1.png", "a/2.png", "a/dead.png", "a/own.png", "b/x.png"]
    assert [identity.rpartition(" ")[2] for identity in images.identities()][2:4] == ["-1,upright"] * 2
    with pytest.raises(FileNotFoundError):
        images.read(2)


def test_identities_are_those_of_a_folder_of_vissl_where_exif_is_ignored(tmp_path):
    write_pictures(tmp_path)
    images = open_images(tmp_path, exif=False)
    files = [images.where(index) for index in range(len(images))]
    plain = list(images.identities())
    assert plain == list(names_and_sizes(files, str(tmp_path)))
    assert list(open_images(tmp_path).identities()) == [f"{identity},upright" for identity in plain]


def test_a_changed_size_and_a_new_name_change_the_identity(tmp_path):
    write_pictures(tmp_path)
    before = list(open_images(tmp_path).identities())
    (tmp_path / "plain.png").write_bytes(encoded(7) + b" ")
    os.rename(tmp_path / "z.tiff", tmp_path / "y.tiff")
    after = list(open_images(tmp_path).identities())
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 2


def test_names_that_are_no_unicode_stay(tmp_path):
    picture(5).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", os.fsencode(tmp_path) + b"/\xff\xfe.png")
    images = open_images(tmp_path)
    assert os.fsencode(images.names[0]) == b"\xff\xfe.png"
    assert numbers_in(images) == [5]


def test_images_are_upright_or_counted(tmp_path):
    for number, orientation in enumerate((1, 6, 3)):
        (tmp_path / f"{number}.jpg").write_bytes(turned(number, orientation))
    upright = open_images(tmp_path)
    assert [upright.read(index).size for index in range(3)] == [(20, 10), (10, 20), (20, 10)]
    assert np.asarray(upright.read(2))[-1, -1].min() > 240  # the white corner
    assert upright.num_ignored_orientations == 0
    as_stored = open_images(tmp_path, exif=False)
    assert [as_stored.read(index).size for index in (0, 1, 2, 2)] == [(20, 10)] * 4
    assert as_stored.num_ignored_orientations == 2


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_images_is_refused(tmp_path, exists):
    if exists:
        (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(DataError, match="found .*1 with the ending .txt" if exists else "which is not there"):
        open_images(tmp_path if exists else tmp_path / "nowhere")
