"""Pictures of handwritten digits: what is written, that it is the same every time, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image
from tiny_store import contents

from vissl_clusterfit.datasets.synthetic.digits import DigitsSpec, write_digits
from vissl_clusterfit.datasets.synthetic.scans import PICTURE_PX, distractors, paste
from vissl_clusterfit.errors import ArtifactError, DataError

SMALL = DigitsSpec(num_scans=60, num_test_scans=20, train_drawings=2, test_drawings=1)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits") / "images"
    write_digits(folder, SMALL)
    return folder


def test_every_scan_is_drawn_as_often_as_asked_under_its_digit(digits):
    from sklearn.datasets import load_digits

    target = load_digits().target
    for split, scans, drawings in (("train", range(40), 2), ("test", range(40, 60), 1)):
        expected = {f"{target[scan]}/{scan:04d}_{drawing}.png" for scan in scans for drawing in range(drawings)}
        found = {file.relative_to(digits / split).as_posix() for file in (digits / split).rglob("*.png")}
        assert found == expected


def test_both_splits_have_the_ten_folders_that_number_the_classes(digits):
    for split in ("train", "test"):
        assert sorted(folder.name for folder in (digits / split).iterdir()) == list("0123456789")


def test_pictures_are_grey_and_of_one_size(digits):
    for file in digits.rglob("*.png"):
        with Image.open(file) as picture:
            assert (picture.mode, picture.size) == ("L", (PICTURE_PX, PICTURE_PX))


def test_drawings_of_one_scan_differ(digits):
    first, second = sorted((digits / "train").rglob("0007_*.png"))
    difference = np.asarray(Image.open(first), float) - np.asarray(Image.open(second), float)
    assert np.abs(difference).mean() > 5


@pytest.mark.parametrize("quarter_turns", [0, 1, 2, 3])
def test_a_scan_of_its_own_size_is_copied_to_its_place_and_turned(quarter_turns):
    scan = np.random.default_rng(0).random((1, 8, 8))
    angle = np.array([quarter_turns * np.pi / 2])
    ink = paste(scan, side=np.array([8.0]), centre=np.array([[10.0, 20.0]]), angle=angle)
    expected = np.zeros((1, PICTURE_PX, PICTURE_PX))
    expected[0, 6:14, 16:24] = np.rot90(scan[0], quarter_turns)
    np.testing.assert_allclose(ink, expected, atol=1e-12)


def test_a_larger_scan_has_as_many_times_the_ink():
    scan = np.random.default_rng(0).random((1, 8, 8))
    ink = paste(scan, side=np.array([24.0]), centre=np.full((1, 2), PICTURE_PX / 2), angle=np.zeros(1))
    assert ink.sum() == pytest.approx(9 * scan.sum(), rel=1e-6)


def test_a_scrap_is_one_square_of_one_scan():
    scans = np.arange(1, 3 * 64 + 1).reshape(3, 8, 8).astype(float)
    for scrap in distractors(scans, np.random.default_rng(0)):
        rows, columns = np.nonzero(scrap)
        assert (np.ptp(rows), np.ptp(columns), len(rows)) == (3, 3, 16)
        assert any((scrap == scan)[rows, columns].all() for scan in scans)


def test_the_same_bytes_at_every_call(digits, tmp_path):
    write_digits(tmp_path / "again", SMALL)
    assert contents(tmp_path / "again") == contents(digits)


def test_another_seed_draws_other_pictures(digits, tmp_path):
    write_digits(tmp_path / "other", DigitsSpec(60, 20, 2, 1, seed=1))
    ours, others = contents(digits), contents(tmp_path / "other")
    assert ours.keys() == others.keys()
    assert all(ours[name] != others[name] for name in ours)


def test_what_lies_there_complete_is_left_alone(digits):
    before = {file: file.stat().st_mtime_ns for file in digits.rglob("*")}
    write_digits(digits, SMALL)
    assert {file: file.stat().st_mtime_ns for file in digits.rglob("*")} == before


def test_nothing_else_is_left_beside_the_folder(digits):
    assert [file.name for file in digits.parent.iterdir()] == ["images"]


def test_the_manifest_counts_the_pictures(digits):
    manifest = json.loads((digits / "manifest.json").read_text("utf-8"))
    assert manifest["num_images"] == {"train": 80, "test": 20}


@pytest.fixture
def copy(tmp_path):
    write_digits(tmp_path / "images", SMALL)
    return tmp_path / "images"


def test_a_missing_picture_is_said(copy):
    next((copy / "train").rglob("*.png")).unlink()
    with pytest.raises(ArtifactError, match=r"changed or are incomplete\. Delete the folder"):
        write_digits(copy, SMALL)


def test_a_changed_picture_is_said(copy):
    next((copy / "test").rglob("*.png")).write_bytes(b"")
    with pytest.raises(ArtifactError, match="changed or are incomplete"):
        write_digits(copy, SMALL)


def test_pictures_of_another_spec_are_refused(copy):
    with pytest.raises(ArtifactError, match="train_drawings: it was made with 2, this run has 3"):
        write_digits(copy, DigitsSpec(60, 20, 3, 1))


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ArtifactError, match="not empty"):
        write_digits(tmp_path, SMALL)
    assert contents(tmp_path).keys() == {"thesis.txt"}


def test_an_empty_folder_is_filled(tmp_path):
    write_digits(tmp_path, SMALL)
    assert (tmp_path / "manifest.json").is_file()


def test_nothing_is_left_when_there_are_too_few_scans(tmp_path):
    with pytest.raises(DataError, match="num_scans: found 1798; allowed: at most 1797"):
        write_digits(tmp_path / "images", DigitsSpec(num_scans=1798))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_test_scans", [0, 60])
def test_both_splits_need_scans(num_test_scans):
    with pytest.raises(ValueError, match="num_test_scans must be 1 to num_scans - 1"):
        DigitsSpec(num_scans=60, num_test_scans=num_test_scans)


def test_both_splits_need_drawings():
    with pytest.raises(ValueError, match="must be at least 1, got 2 and 0"):
        DigitsSpec(60, 20, train_drawings=2, test_drawings=0)
