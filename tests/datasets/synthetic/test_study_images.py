"""The drawn pictures: the same every time, no scan in two splits, and labels that say what is drawn."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image
from tiny_store import contents

from vissl_clusterfit.datasets.synthetic.characters import FAMILIES, LETTERS, PICTURE_PX, _ink, draw_characters
from vissl_clusterfit.datasets.synthetic.digits import scan_labels
from vissl_clusterfit.datasets.synthetic.study_images import _SCANS, SPLITS, PicturesSettings, write_pictures
from vissl_clusterfit.errors import ArtifactError, MissingDependencyError

HAS_ALL_FONTS = (Path(matplotlib.get_data_path()) / "fonts/ttf/cmti10.ttf").is_file()
needs_all_fonts = pytest.mark.skipif(not HAS_ALL_FONTS, reason="this matplotlib has no cmti10")

SMALL = {"pretrain": 60, "train": 40, "validation": 20, "test": 30}


@pytest.fixture(scope="module", params=["digits", pytest.param("characters", marks=needs_all_fonts)])
def pictures(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "pictures"
    write_pictures(folder, PicturesSettings(request.param, **SMALL))
    return request.param, folder


def test_every_split_has_its_pictures_and_a_label_of_each_kind_for_each(pictures):
    kind, folder = pictures
    names = {"digits": {"style", "digit", "parity"}, "characters": {"letter", "character", "case", "family"}}[kind]
    for split in SPLITS:
        files = sorted((folder / split).rglob("*.bmp"))
        assert len(files) == SMALL[split]
        with Image.open(files[0]) as picture:
            assert picture.size == (24, 24)
        assert {file.name for file in folder.glob(f"{split}.*")} == {f"{split}.{name}.npy" for name in names}
        assert all(np.load(folder / f"{split}.{name}.npy").shape == (SMALL[split],) for name in names)


def test_the_same_bytes_at_every_call_and_none_where_they_lie(pictures, tmp_path):
    kind, folder = pictures
    write_pictures(tmp_path / "again", PicturesSettings(kind, **SMALL))
    assert contents(tmp_path / "again") == contents(folder)
    before = {file: file.stat().st_mtime_ns for file in folder.rglob("*")}
    write_pictures(folder, PicturesSettings(kind, **SMALL))
    assert {file: file.stat().st_mtime_ns for file in folder.rglob("*")} == before


def test_other_or_changed_pictures_are_refused(pictures, tmp_path):
    kind, _ = pictures
    settings = PicturesSettings(kind, **SMALL)
    write_pictures(tmp_path / "pictures", settings)
    with pytest.raises(ArtifactError, match="seed: it was made with 0, this run has 1"):
        write_pictures(tmp_path / "pictures", PicturesSettings(kind, **SMALL, seed=1))
    (tmp_path / "pictures/train/all/000003.bmp").unlink()
    with pytest.raises(ArtifactError, match="changed or are incomplete"):
        write_pictures(tmp_path / "pictures", settings)
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(ArtifactError, match="not empty"):
        write_pictures(tmp_path, settings)


def test_further_pictures_change_none_of_the_others(pictures, tmp_path):
    kind, folder = pictures
    write_pictures(tmp_path / "pictures", PicturesSettings(kind, **SMALL, more=0.5))
    made, others = contents(tmp_path / "pictures"), contents(folder)
    more = {path: made[path] for path in made if path.startswith("unlabelled/")}
    assert len(more) == 30
    assert all(made[path] == others[path] for path in others if path.endswith((".bmp", ".npy")))
    assert not {*more.values()} & {content for path, content in others.items() if path.endswith(".bmp")}


def test_no_scan_is_in_two_splits_and_none_is_left_out():
    parts = [_SCANS[split] for split in SPLITS]
    assert [first for first, _ in parts] == [0.0, *(last for _, last in parts[:-1])]
    assert parts[-1][1] == 1.0


def test_styles_are_three_ways_to_write_each_digit():
    digits, styles = scan_labels()
    np.testing.assert_array_equal(styles // 3, digits)
    assert set(styles) == {*range(30)}


@pytest.mark.skipif(HAS_ALL_FONTS, reason="this matplotlib has all fonts")
def test_a_font_that_is_missing_is_named(tmp_path):
    with pytest.raises(MissingDependencyError, match=r"matplotlib \S+ has no cmti10: pip install --upgrade"):
        write_pictures(tmp_path / "pictures", PicturesSettings("characters", **SMALL))


@needs_all_fonts
def test_the_labels_of_a_character_say_what_is_drawn():
    _, labels = draw_characters(400, np.random.default_rng(0))
    np.testing.assert_array_equal(labels["character"], 2 * labels["letter"] + labels["case"])
    assert set(labels["letter"]) == {*range(len(LETTERS))}
    assert set(labels["family"]) == {*range(len(FAMILIES))}


def test_the_cases_of_every_letter_differ_in_every_font():
    """By more than the same letter does between fonts of one family: a third of the ink."""
    middle = np.full(2, PICTURE_PX / 2)
    for letter in LETTERS:
        for fonts in FAMILIES.values():
            upper, lower = (
                _ink(c, fonts[0], height=14.0, angle=0.0, shear=0.0, centre=middle) for c in (letter, letter.lower())
            )
            assert min(upper.sum(), lower.sum()) > 10, f"{letter} is blank in {fonts[0]}"
            assert np.abs(upper - lower).sum() > (upper.sum() + lower.sum()) / 4, f"{letter} in {fonts[0]}"


def test_a_character_is_where_it_should_be_and_as_high():
    ink = _ink("H", "DejaVuSans", height=12.0, angle=0.0, shear=0.0, centre=np.array([9.0, 14.0]))
    rows, columns = np.nonzero(ink > 0.4)
    assert np.ptp(rows) + 1 == pytest.approx(12, abs=1)
    assert (rows.mean(), columns.mean()) == pytest.approx((13.5, 8.5), abs=0.6)
    turned = _ink("H", "DejaVuSans", height=12.0, angle=np.pi / 2, shear=0.0, centre=np.full(2, 12.0))
    upright = _ink("H", "DejaVuSans", height=12.0, angle=0.0, shear=0.0, centre=np.full(2, 12.0))
    assert min(np.abs(np.rot90(upright, k) - turned).mean() for k in (1, 3)) < 0.01
