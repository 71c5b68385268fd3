"""Lists of images: texts, tables, Parquet, arrays of paths."""

import csv

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from pictures import NAMES, numbers_in, write_pictures

from vissl_clusterfit.errors import DataError
from vissl_clusterfit.images import open_images

ORDER = (3, 0, 2, 5, 4, 1)
PATHS = [f"images/{NAMES[number]}" for number in ORDER]
CLASSES = ["cat", "dog", "cat", "eel", "dog", "cat"]


@pytest.fixture
def folder(tmp_path):
    write_pictures(tmp_path / "images")
    return tmp_path


def write_table(path, header, *columns, delimiter=","):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([header] if header else [])
        writer.writerows(zip(*columns, strict=True))
    return path


def as_txt(folder):
    (folder / "list.txt").write_text("\n".join(PATHS) + "\n", encoding="utf-8")
    return folder / "list.txt"


def as_txt_of_windows(folder):
    (folder / "list.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(PATHS).encode())
    return folder / "list.txt"


def as_absolute_paths(folder):
    (folder / "list.txt").write_text("\n".join(str(folder / path) for path in PATHS), encoding="utf-8")
    return folder / "list.txt"


def as_npy(folder):
    np.save(folder / "list.npy", np.array(PATHS))
    return folder / "list.npy"


def as_csv(folder):
    return write_table(folder / "list.csv", ["id", "file_name", "score"], range(6), PATHS, range(6))


def as_bare_csv(folder):
    return write_table(folder / "list.csv", None, PATHS)


def as_tsv(folder):
    return write_table(folder / "list.TSV", ["only this"], PATHS, delimiter="\t")


def as_parquet(folder):
    pyarrow.parquet.write_table(pyarrow.table({"n": range(6), "path": PATHS}), folder / "list.parquet")
    return folder / "list.parquet"


@pytest.mark.parametrize(
    "write", [as_txt, as_txt_of_windows, as_absolute_paths, as_npy, as_csv, as_bare_csv, as_tsv, as_parquet]
)
def test_images_are_those_of_the_list_in_its_order(folder, write):
    images = open_images(write(folder))
    assert numbers_in(images) == list(ORDER)
    assert images.labels is None
    if write is not as_absolute_paths:
        assert list(images.names) == PATHS


@pytest.mark.parametrize("labels", [[4, 1, 4, 7, 1, 4], CLASSES, ["007", "7", "7", "1", "1", "1"]])
@pytest.mark.parametrize("kind", ["csv", "bare csv", "parquet"])
def test_labels_are_numbers_or_texts(folder, labels, kind):
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.table({"path": PATHS, "label": labels}), folder / "list.parquet")
    else:
        write_table(folder / "list.csv", None if kind == "bare csv" else ["Path", "Label"], PATHS, labels)
    images = open_images(folder / ("list.parquet" if kind == "parquet" else "list.csv"))
    assert images.labels.dtype.kind == ("i" if isinstance(labels[0], int) else "U")
    assert images.labels.tolist() == labels


def test_a_text_may_have_numbers_behind_the_paths(folder):
    lines = [f"{path} {label}" for path, label in zip(PATHS, range(6), strict=True)]
    (folder / "list.txt").write_text("\n".join(lines), encoding="utf-8")
    images = open_images(folder / "list.txt")
    assert numbers_in(images) == list(ORDER)
    assert images.labels.tolist() == list(range(6))


def test_columns_are_taken_by_name(folder):
    path = write_table(folder / "list.csv", ["path", "image", "coarse", "fine"], CLASSES, PATHS, range(6), range(6, 12))
    images = open_images(path, column="image", labels=("fine", "coarse"))
    assert numbers_in(images) == list(ORDER)
    np.testing.assert_array_equal(images.labels, np.column_stack([range(6, 12), range(6)]))
    assert open_images(path, column="image", labels=("path",)).labels.tolist() == CLASSES


@pytest.mark.parametrize(
    ("header", "columns", "asked", "message"),
    [
        (
            ["path", "image"],
            [PATHS, PATHS],
            {},
            r"IMAGES.COLUMN: found .* with the columns path, image; allowed: the n",
        ),
        (["where", "kind"], [PATHS, CLASSES], {}, "with the columns where, kind"),
        (["path", "kind"], [PATHS, CLASSES], {"column": "paths"}, r"found no column 'paths'; allowed: path \| kind"),
        (["path", "kind"], [PATHS, CLASSES], {"labels": ("label",)}, "found no column 'label'"),
        (["path", "label"], [PATHS, [*CLASSES[:5], ""]], {}, "labels for 5 of 6 samples; sample 5 has none"),
        (["path", "a", "b"], [PATHS, CLASSES, range(6)], {"labels": ("a", "b")}, "a: found texts, such as 'cat'"),
        (["path"], [[]], {}, "found no path"),
    ],
)
def test_columns_that_do_not_fit_are_refused(folder, header, columns, asked, message):
    with pytest.raises(DataError, match=message):
        open_images(write_table(folder / "list.csv", header, *columns), **asked)


def test_missing_files_are_counted_and_the_first_are_named(folder):
    lost = [f"lost {number}.png" for number in range(3)] + ["list.csv/x.png", "x" * 300]
    path = write_table(folder / "list.csv", ["path"], [*PATHS, *lost])
    with pytest.raises(DataError, match=r"5 of 11 files missing: 'lost 0.png', 'lost 1.png', 'lost 2.png', …") as error:
        open_images(path)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.csv", b"path,label\na.png,1\nb.png\n", "found 1 fields in line 3; allowed: 2"),
        ("list.csv", b'path\n"a.png\n', "cannot be read as a table"),
        ("list.parquet", b"PAR1 no table", "cannot be read as Parquet"),
        ("list.txt", b"", "found no path"),
        ("list.npy", b"\x93NUMPY cut off", "cannot be read as an array: a damaged NumPy array"),
        ("list.json", b"[]", "allowed: a folder of images"),
    ],
)
def test_damaged_lists_are_refused(folder, name, content, message):
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_images(folder / name)


def test_pictures_inside_a_table_are_refused_with_the_way_to_read_them(folder):
    table = pyarrow.table({"image": [{"bytes": b"1", "path": "a.png"}]})
    pyarrow.parquet.write_table(table, folder / "list.parquet")
    with pytest.raises(DataError, match="from_parquet"):
        open_images(folder / "list.parquet")
