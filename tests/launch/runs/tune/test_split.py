"""The validation split of a tuning: drawn by class, or that of the publisher."""

from pathlib import Path

import numpy as np
import pytest
from tune_work import FINE_TUNING, LINEAR, NUM_TRAIN

from vissl_clusterfit.errors import DataError
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.launch.runs.tune.settings import TuneSettings
from vissl_clusterfit.launch.runs.tune.split import ValidationSplit
from vissl_clusterfit.launch.runs.tune.trainings import Trial, on_validation
from vissl_clusterfit.storage.artifacts import write_array, write_manifest


def test_train_is_split_by_class_into_lists_of_its_files(composed, tmp_path):
    config = composed(*LINEAR, "config.DATA.TEST.DROP_LAST=true")
    split = ValidationSplit(config, TuneSettings.from_config(config), np.arange(NUM_TRAIN) // 8)
    split.write(tmp_path)
    made = on_validation(config, Trial(0.01, 0.0), tmp_path / "x", tmp_path)
    parts = {}
    for name in ("TRAIN", "TEST"):
        data = made.DATA[name]
        assert data.DATA_SOURCES == data.LABEL_SOURCES == ["disk_filelist"]
        images, labels = np.load(data.DATA_PATHS[0]), np.load(data.LABEL_PATHS[0])
        assert [int(Path(file).parent.name[-1]) for file in images] == labels.tolist()
        parts[name] = set(images)
    assert np.bincount(labels).tolist() == [2, 2, 2]  # of each class a quarter
    assert len(parts["TRAIN"] | parts["TEST"]) == NUM_TRAIN
    assert not parts["TRAIN"] & parts["TEST"]
    assert made.DATA.TRAIN.TRANSFORMS == config.DATA.TRAIN.TRANSFORMS
    assert (made.TEST_MODEL, made.DATA.TEST.DROP_LAST) == (True, False)


def write_prepared(folder: Path, held_out: list[int]) -> list[str]:
    """The lists of a prepared data set; gives the overrides that read its TRAIN."""
    images = np.array([f"/images/{number}.jpg" for number in range(12)])
    for name, samples in (("trainval", [*range(12)]), ("val", held_out)):
        write_array(folder / f"{name}_images.npy", images[samples])
        write_array(folder / f"{name}_labels.npy", np.arange(12)[samples] % 3)
    write_manifest(folder, "data set", {}, {"validation": "the publisher's"})
    return [
        "config.DATA.TRAIN.DATA_SOURCES=[disk_filelist]",
        "config.DATA.TRAIN.LABEL_SOURCES=[disk_filelist]",
        f"config.DATA.TRAIN.DATA_PATHS=[{folder}/trainval_images.npy]",
        f"config.DATA.TRAIN.LABEL_PATHS=[{folder}/trainval_labels.npy]",
        "config.TUNE.VALIDATION=prepared",
    ]


def test_the_publishers_validation_split_is_taken(tmp_path):
    prepared = write_prepared(tmp_path / "flowers", [3, 4, 11])
    config = compose([*FINE_TUNING, *prepared, f"config.CHECKPOINT.DIR={tmp_path}"])[2]
    split = ValidationSplit(config, TuneSettings.from_config(config), np.arange(12) % 3)
    assert str(split) == "3 of 12 training samples (the publisher's)"
    split.write(tmp_path / "split")
    assert np.load(tmp_path / "split/validation_labels.npy").tolist() == [0, 1, 2]
    assert np.load(tmp_path / "split/fit_images.npy")[:4].tolist() == [f"/images/{n}.jpg" for n in (0, 1, 2, 5)]


def test_a_prepared_split_of_another_train_is_refused(tmp_path):
    prepared = write_prepared(tmp_path / "flowers", [3, 4, 11])
    write_array(tmp_path / "flowers/val_images.npy", np.array(["/images/3.jpg", "/elsewhere/4.jpg"]))
    config = compose([*FINE_TUNING, *prepared, f"config.CHECKPOINT.DIR={tmp_path}"])[2]
    with pytest.raises(DataError, match=r"found 2 images, 1 of them in TRAIN, which has 12; allowed: images of TRAIN"):
        ValidationSplit(config, TuneSettings.from_config(config), np.arange(12) % 3)
