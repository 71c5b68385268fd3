"""Icon themes that a test makes, as a data set: splits by icon, labels, and what is no theme."""

import shutil

import numpy as np
import pytest
from icon_themes import write_theme, write_themes
from PIL import Image

from vissl_clusterfit.commands.main import main
from vissl_clusterfit.datasets.icons import SHARES, prepare_icons, read_themes
from vissl_clusterfit.errors import ArtifactError, DataError
from vissl_clusterfit.storage.artifacts import read_array


@pytest.fixture
def themes(tmp_path):
    return write_themes(tmp_path / "themes")


def prepare(themes, folder):
    return main(["prepare", "icons", "--archives", str(themes), "--output", str(folder)])


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pictures(folder, split):
    return sorted((folder / split).glob("*/*.png"))


def test_no_icon_is_in_two_splits_and_labels_are_those_of_the_files(themes, tmp_path, capsys):
    assert prepare(themes, tmp_path) == 0
    assert "2 contexts and 2 themes; images: pretrain 100, test 40, train 40, validation 20" in capsys.readouterr().out
    seen = {}
    for split, share in SHARES.items():
        files = pictures(tmp_path / "icons", split)
        assert len(files) == 200 * share
        expected = {
            "context": [("actions", "applications").index(file.parent.name) for file in files],
            "theme": [("Plain", "fancy").index(file.name.split("_")[0]) for file in files],
        }
        for part, labels in expected.items():
            assert read_array(tmp_path / f"icons/{split}.{part}.npy").tolist() == labels
            assert len({*labels}) == 2
        for file in files:
            assert seen.setdefault(file.stem.split("_")[1], split) == split
    assert len(seen) == 100


def test_it_is_the_same_to_the_byte_and_made_once(themes, tmp_path):
    for place in ("one", "two"):
        prepare_icons(themes, tmp_path / place)
    made = contents(tmp_path / "one")
    assert made == contents(tmp_path / "two")
    prepare_icons(themes, tmp_path / "one")
    assert contents(tmp_path / "one") == made
    (tmp_path / "one/test/actions").rename(tmp_path / "one/test/changed")
    with pytest.raises(ArtifactError, match="changed or are incomplete"):
        prepare_icons(themes, tmp_path / "one")


def test_linked_names_and_equal_pictures_are_one_icon(themes, tmp_path):
    """Of 100 icons all are one: each is linked, or is in the other theme the picture, of the one before."""
    plain, fancy = (themes / theme / "32x32/actions" for theme in ("Plain", "fancy"))
    for number in range(1, 50):
        before, own = f"actions-{number - 1}.png", f"actions-{number}.png"
        if number % 2:
            (plain / own).unlink()
            (plain / own).symlink_to(before)
        else:
            shutil.copy(plain / before, fancy / own)
    prepare_icons(themes, tmp_path / "icons")
    found = {split: pictures(tmp_path / "icons", split) for split in SHARES}
    assert [split for split, files in found.items() if any(file.parent.name == "actions" for file in files)] == [
        "pretrain"
    ]
    pixels = [file.read_bytes() for files in found.values() for file in files]
    assert len({*pixels}) == len(pixels)


def test_pictures_are_on_white(themes):
    icons, _ = read_themes(themes)
    first = icons[0]
    source = np.asarray(Image.open(themes / f"{first.theme}/32x32/{first.context}/{first.name}.png"))
    np.testing.assert_array_equal(first.pixels[:, :16], source[:, :16, :3])
    assert (first.pixels[:, 16:] == 255).all()


def test_other_sizes_and_what_is_outside_of_a_theme_are_left_out(themes):
    number = len(read_themes(themes)[0])
    write_theme(themes / "large", 2, {"apps": ["apps-1"]}, size=48)
    Image.new("RGBA", (16, 16)).save(themes / "Plain/32x32/apps/apps-0.png")
    index = themes / "fancy/index.theme"
    index.write_text(index.read_text() + "\n[../Plain/32x32/apps]\nSize=32\nContext=Actions\n")
    index.write_text(index.read_text().replace("Directories=", "Directories=../Plain/32x32/apps,"))
    assert len(read_themes(themes)[0]) == number - 1


@pytest.mark.parametrize(
    ("place", "content", "message"),
    [
        ("Plain/32x32/actions/actions-1.png", b"no picture", "actions-1.png cannot be read as a PNG file"),
        ("Plain/index.theme", b"Directories=32x32", "index.theme is no icon theme's"),
        ("Plain/index.theme", b"[Icon Theme]\nName=empty\n", "found 1 themes and 2 contexts with 40 pictures or more"),
    ],
)
def test_what_is_no_theme_is_refused_and_nothing_is_left(themes, tmp_path, place, content, message, capsys):
    (themes / place).write_bytes(content)
    with pytest.raises(DataError, match=message):
        prepare_icons(themes, tmp_path / "icons")
    assert prepare(themes, tmp_path) == 2
    assert message.split(" cannot")[0] in capsys.readouterr().err
    assert not (tmp_path / "icons").exists()
