import contextlib
import json

import numpy as np
import pytest

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.labels import files
from vissl_clusterfit.labels.files import LabelFiles
from vissl_clusterfit.storage.artifacts import read_array

NUM_SAMPLES = 1000
LABELS = np.random.default_rng(0).integers(-1, 7, NUM_SAMPLES)
DISTANCES = np.where(LABELS >= 0, np.random.default_rng(1).random(NUM_SAMPLES), -1).astype(np.float32)
MARGINS = np.random.default_rng(2).random(NUM_SAMPLES).astype(np.float32)
ARRAYS = {"labels.npy": LABELS, "distances.npy": DISTANCES, "margins.npy": MARGINS}


@pytest.fixture(autouse=True)
def close_marks(monkeypatch):
    monkeypatch.setattr(files, "_ROWS_BETWEEN_MARKS", 200)


def append(files, stop, step=100):
    """Writes what is missing up to a sample."""
    for start in range(files.num_done, stop, step):
        part = slice(start, min(start + step, stop))
        files.append(LABELS[part], DISTANCES[part], MARGINS[part])


def stop_after(folder, num_rows, run="run"):
    """Writes the first rows and is stopped."""
    with contextlib.suppress(KeyboardInterrupt), LabelFiles(folder, NUM_SAMPLES, run) as files:
        append(files, num_rows)
        raise KeyboardInterrupt


def complete(folder, run="run"):
    """Writes the rest, checks all of it, and says where it began."""
    with LabelFiles(folder, NUM_SAMPLES, run) as files:
        began_at = files.num_done
        append(files, NUM_SAMPLES)
        files.complete()
    for name, expected in ARRAYS.items():
        found = read_array(folder / name)
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype
    return began_at


def test_arrays_are_plain_npy_files(tmp_path):
    assert complete(tmp_path) == 0
    for name, array in ARRAYS.items():
        np.save(tmp_path / f"plain-{name}", array)
        assert (tmp_path / name).read_bytes() == (tmp_path / f"plain-{name}").read_bytes()


@pytest.mark.parametrize(("written", "marked"), [(0, 0), (100, 0), (200, 200), (300, 200), (500, 400), (1000, 1000)])
def test_what_was_stopped_resumes_at_its_last_mark(tmp_path, written, marked):
    stop_after(tmp_path, written)
    assert complete(tmp_path) == marked


def test_labels_are_counted_as_they_are(tmp_path):
    with LabelFiles(tmp_path, NUM_SAMPLES, "run") as files:
        far = np.where(LABELS < 0, 9.0, DISTANCES).astype(np.float32)
        far[:50][LABELS[:50] < 0] = -1
        files.append(LABELS, far, MARGINS)
        files.complete()
        sizes, num_far = files.count(9)
    np.testing.assert_array_equal(sizes, [*np.bincount(LABELS[LABELS >= 0]), 0, 0])
    assert num_far == (LABELS[50:] < 0).sum()


def test_progress_of_another_run_is_written_over(tmp_path):
    stop_after(tmp_path, 600, "another run")
    assert complete(tmp_path) == 0


def test_progress_is_forgotten_when_asked(tmp_path):
    complete(tmp_path)
    with LabelFiles(tmp_path, NUM_SAMPLES, "run") as files:
        files.remove_progress()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(ARRAYS)


@pytest.mark.parametrize(
    "progress",
    [
        "",
        "[]",
        '{"run": "run"}',
        '{"run": "run", "num_done": "200"}',
        '{"run": "run", "num_done": null}',
        '{"run": "run", "num_done": -100}',
        '{"run": "run", "num_done": 1001}',
        '{"run": "run", "num_done": 0.5}',
        '{"num_done": 400}',
    ],
)
def test_progress_that_cannot_be_is_no_progress(tmp_path, progress):
    stop_after(tmp_path, 500)
    (tmp_path / "progress.json").write_text(progress)
    assert complete(tmp_path) == 0


@pytest.mark.parametrize("name", list(ARRAYS))
@pytest.mark.parametrize("damage", ["missing", "empty", "short", "header"])
def test_files_that_do_not_fit_the_progress_are_written_anew(tmp_path, name, damage):
    stop_after(tmp_path, 500)
    assert json.loads((tmp_path / "progress.json").read_text())["num_done"] == 400
    path = tmp_path / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "short": content[:1500], "header": b"?" + content[1:]}[damage])
    assert complete(tmp_path) == 0


def write_while(folder, others_write):
    """Writes all rows, while others do something in the same folder."""
    with LabelFiles(folder, NUM_SAMPLES, "run") as files:
        append(files, 100)
        others_write()
        append(files, NUM_SAMPLES)
        files.complete()


def test_one_who_was_overtaken_stops_and_harms_nothing(tmp_path):
    with pytest.raises(ArtifactError, match="is written by another run now; this one stops"):
        write_while(tmp_path, lambda: complete(tmp_path, "other run"))
    assert complete(tmp_path, "other run") == NUM_SAMPLES


def test_one_who_was_overtaken_makes_no_marks_for_the_other(tmp_path):
    """The other's files would seem to reach as far as its own, and what they lack be taken for label 0."""
    with pytest.raises(ArtifactError, match="this one stops"):
        write_while(tmp_path, lambda: stop_after(tmp_path, 100))
    assert complete(tmp_path) == 0


def test_one_whose_files_are_gone_stops(tmp_path):
    with pytest.raises(ArtifactError, match="this one stops"):
        write_while(tmp_path, (tmp_path / "margins.npy").unlink)


def test_two_that_resume_from_the_same_mark_write_the_same(tmp_path):
    stop_after(tmp_path, 400)
    with LabelFiles(tmp_path, NUM_SAMPLES, "run") as first:
        append(first, 500)
        assert complete(tmp_path) == 400
        append(first, NUM_SAMPLES)
        first.complete()
    assert complete(tmp_path) == NUM_SAMPLES


def test_less_than_all_is_not_complete(tmp_path):
    with LabelFiles(tmp_path, NUM_SAMPLES, "run") as files:
        append(files, 900)
        with pytest.raises(AssertionError, match="900 of 1000"):
            files.complete()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ArtifactError, match="labels cannot be written"),
        LabelFiles(tmp_path / "file" / "labels", 3, "run"),
    ):
        pass
