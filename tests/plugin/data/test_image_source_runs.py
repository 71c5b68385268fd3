"""Runs on the data source ``images``: the labels and scores of a folder, resumed, and refused with one message."""

import os
import tarfile
import time

import numpy as np
import pytest
from collections_on_disk import WRITERS, as_tars, files_below, sources
from pictures import turned
from results_file import rows_in
from tiny_store import contents

from vissl_clusterfit.features.sample_names import names_of

pytestmark = pytest.mark.slow


def run(run_command, student_overrides, place, folder, *more):
    overrides = [*student_overrides, *sources(place), f"config.CHECKPOINT.DIR={folder}", *more]
    return run_command(*overrides, cwd=folder.parent)


def test_a_run_on_every_kind_makes_the_labels_of_the_folder(run_command, student_overrides, folder, tmp_path, kind):
    place = WRITERS[kind][0](folder, tmp_path / "my images")
    spawned = ["config.MULTI_PROCESSING_METHOD=spawn", "config.DATA.NUM_DATALOADER_WORKERS=1"] if kind == "tars" else []
    done = run(run_command, student_overrides, place, tmp_path / "run", *spawned)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/model_final_checkpoint_phase0.torch").is_file()
    plain = run(run_command, student_overrides, folder, tmp_path / "plain", "engine_name=clusterfit_label")
    assert plain.returncode == 0, plain.stderr
    labels = [np.load(tmp_path / name / "clusterfit/labels/train/labels.npy") for name in ("run", "plain")]
    np.testing.assert_array_equal(*labels)


def test_a_run_on_tars_that_is_killed_resumes_to_the_same_bytes(
    run_command, start_command, student_overrides, folder, tmp_path
):
    place = as_tars(folder, tmp_path / "tars")
    assert (
        run(run_command, student_overrides, place, tmp_path / "whole", "engine_name=clusterfit_label").returncode == 0
    )
    overrides = [*student_overrides, *sources(place), "engine_name=clusterfit_label"]
    killed = tmp_path / "killed"
    features = killed / "clusterfit/features/train"
    process = start_command(
        *overrides, f"config.CHECKPOINT.DIR={killed}", "config.DATA.NUM_DATALOADER_WORKERS=2", cwd=tmp_path
    )
    while not [*features.glob("rows-*.json")] and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert process.returncode < 0, process.stderr.read()
    for index in place.glob(".*.json"):  # also without it the bytes are the same
        os.remove(index)
    two = "config.DISTRIBUTED.NUM_PROC_PER_NODE=2"
    again = run_command(*overrides, f"config.CHECKPOINT.DIR={killed}", two, cwd=tmp_path)
    assert again.returncode == 0, again.stderr

    assert contents(killed / "clusterfit") == contents(tmp_path / "whole/clusterfit")


def test_labels_of_other_tars_are_refused_by_member(run_command, student_overrides, folder, tmp_path):
    place = as_tars(folder, tmp_path / "tars")
    done = run(run_command, student_overrides, place, tmp_path / "run", "engine_name=clusterfit_label")
    assert done.returncode == 0, done.stderr
    assert names_of(tmp_path / "run/clusterfit/labels/train")[0] == "shard-000.tar/000000.png"
    os.rename(place / "shard-002.tar", place / "shard-003.tar")
    done = run(run_command, student_overrides, place, tmp_path / "run", "engine_name=clusterfit_label")
    assert done.returncode == 2
    assert "8 of 24 samples differ" in done.stderr
    assert "shard-003.tar/000016.png" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_ignored_is_said_by_the_run(run_command, student_overrides, tmp_path):
    place = tmp_path / "images/all"
    place.mkdir(parents=True)
    for number in range(12):
        (place / f"{number}.jpg").write_bytes(turned(number, 6 if number % 4 == 1 else 1))
    more = ["engine_name=clusterfit_label", "config.DATA.TRAIN.DATA_SOURCES=[disk_folder]"]
    done = run(run_command, student_overrides, place.parent, tmp_path / "run", *more)
    assert done.returncode == 0, done.stderr
    assert "3 of the images that were read are not upright" in done.stdout


def test_transfer_scores_a_folder_and_its_tars_alike(run_command, folder, tmp_path):
    rows = {}
    for name, place in (("folder", folder), ("tars", as_tars(folder, tmp_path / "tars"))):
        done = run_command(
            "config=clusterfit/transfer",
            "config.MACHINE.DEVICE=cpu",
            "config.DATA.NUM_DATALOADER_WORKERS=0",
            "config.MODEL.TRUNK.NAME=raw_pixels",
            "config.TRANSFER.PROTOCOLS=[knn]",
            "config.TRANSFER.KNN.NUM_NEIGHBORS=5",
            "config.TRANSFER.FEATURES.TRANSFORMS=[{name:Resize,size:[32,32]},{name:ToTensor}]",
            *sources(place),
            *sources(place, split="TEST"),
            "config.DATA.TRAIN.LABEL_SOURCES=[images]",
            "config.DATA.TEST.LABEL_SOURCES=[images]",
            f"config.CHECKPOINT.DIR={tmp_path / name}",
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        rows[name] = rows_in(tmp_path / name)
    assert rows["folder"] == rows["tars"]


@pytest.mark.parametrize("case", ["missing", "several", "twice", "list", "none"])
def test_a_mistake_is_one_message(run_command, student_overrides, folder, tmp_path, case):
    place, told = tmp_path / "nowhere", "which is not there"
    if case == "several":
        place, told = tmp_path / "a.npz", "found 2 arrays: x, y"
        np.savez(place, x=np.zeros((5, 8, 8, 3), dtype=np.uint8), y=np.arange(5))
    elif case == "twice":
        place, told = as_tars(folder, tmp_path / "tars"), "two files of the same name: '000000.png'"
        with tarfile.open(place / "shard-000.tar", "a") as archive:
            archive.add(files_below(folder)[0], "000000.png")
    elif case == "list":
        place, told = tmp_path / "list.txt", "2 of 3 files missing: 'x.png', 'y.png'"
        place.write_text(f"x.png\n{files_below(folder)[0]}\ny.png\n")
    elif case == "none":
        place, told = tmp_path / "a.bin", "allowed: a folder of images"
        place.write_bytes(b"x")
    done = run(run_command, student_overrides, place, tmp_path / "run")
    assert done.returncode == 2, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run/clusterfit/features/train").exists()
