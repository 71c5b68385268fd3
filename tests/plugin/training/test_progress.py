"""What a finished run says, and that a training is finished when its last figures are there."""

import json
import shlex
import shutil
import signal

import pytest
from following import run_next
from tiny import write_images

from vissl_clusterfit.commands import main as commands
from vissl_clusterfit.launch import main


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


@pytest.fixture(scope="module")
def tested(student_overrides, tmp_path_factory):
    """Overrides of a training of one epoch, with a test phase of some length after it."""
    held_out = write_images(tmp_path_factory.mktemp("held_out"), 60, seed=1)
    return [
        *student_overrides,
        "config.CLUSTERFIT.FEATURES.TEST_PARTITION=TEST",
        "config.TEST_MODEL=true",
        "config.DATA.TEST.DATA_SOURCES=[disk_folder]",
        "config.DATA.TEST.DATASET_NAMES=[tiny]",
        f"config.DATA.TEST.DATA_PATHS=[{held_out}]",
        "config.DATA.TEST.BATCHSIZE_PER_REPLICA=2",
        "config.DATA.TEST.TRANSFORMS=[{name:Resize,size:[32,32]},{name:ToTensor}]",
    ]


@pytest.fixture(scope="module")
def undisturbed(tested, run_command, tmp_path_factory):
    """The folder of a run that was left alone, and what it said. Tests leave it as it is."""
    folder = tmp_path_factory.mktemp("undisturbed")
    result = run_command(*tested, "config.CLUSTERFIT.EXPORT=true", f"config.CHECKPOINT.DIR={folder}", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert [row["phase_idx"] for row in metrics(folder)] == [0, 1]
    return folder, result.stdout


def test_a_finished_training_says_so_and_where_its_results_are(undisturbed):
    folder, said = undisturbed
    *lines, taken, following = said.splitlines()
    assert lines[-3:] == [
        f"This training is finished; its checkpoints and scores are in {folder}.",
        f"  checkpoint: {folder}/model_final_checkpoint_phase0.torch",
        f"  scores: {folder}/metrics.json; export: {folder}/export/card.json; "
        f"labels of TRAIN: {folder}/clusterfit/labels/train; labels of TEST: {folder}/clusterfit/labels/test",
    ]
    assert taken.startswith("Taken so far: extract ")
    assert taken.endswith(f" core hours ({folder}/costs.json).")
    assert following == f"next: vissl-clusterfit report {folder}"
    assert run_next(said) == ["report", str(folder)]


@pytest.mark.slow
def test_a_training_ends_well_beside_damaged_costs(run_command, student_overrides, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "costs.json").write_text("{")
    done = run_command(*student_overrides, f"config.CHECKPOINT.DIR={folder}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "What this stage took (train) is not counted" in done.stdout
    assert "What this run took is not known" in done.stdout.splitlines()[-2]
    assert (folder / "costs.json").read_text() == "{"


@pytest.mark.slow
def test_a_last_test_phase_that_was_killed_is_done_on_the_next_start(
    start_command, run_command, undisturbed, tested, tmp_path
):
    killed, folder = tmp_path / "killed", tmp_path / "run"
    shutil.copytree(undisturbed[0] / "clusterfit", folder / "clusterfit")
    command = [*tested, f"config.CHECKPOINT.DIR={folder}"]
    process = start_command(*command, cwd=tmp_path)
    assert any("Starting phase 1 [test]" in line for line in process.stdout), process.stderr.read()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert (folder / "model_final_checkpoint_phase0.torch").is_file()
    assert [row["phase_idx"] for row in metrics(folder)] == [0]
    shutil.copytree(folder, killed, symlinks=True)

    for auto_resume in (True, False):
        again = run_command(*command, f"config.CHECKPOINT.AUTO_RESUME={auto_resume}", cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        assert "Starting phase 1 [test]" in again.stdout
        assert "Starting phase 0 [train]" not in again.stdout
        assert metrics(folder) == metrics(undisturbed[0])
        assert f"This training is finished; its checkpoints and scores are in {folder}." in again.stdout
        once_more = run_command(*command, cwd=tmp_path)
        assert once_more.returncode == 0, once_more.stderr
        assert "Starting phase" not in once_more.stdout
        assert "This training is finished" in once_more.stdout
        assert metrics(folder) == metrics(undisturbed[0])
        shutil.rmtree(folder)
        shutil.copytree(killed, folder, symlinks=True)


def test_a_finished_training_is_not_taken_for_one_of_another_length(undisturbed, tested, run_command, tmp_path):
    command = [*tested, f"config.CHECKPOINT.DIR={undisturbed[0]}", "config.OPTIMIZER.num_epochs=3"]
    result = run_command(*command, cwd=tmp_path)
    assert result.returncode == main.USER_ERROR
    assert "num_epochs: found 3 training phases, and a finished training of 1 in" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_test_is_not_taken_for_the_training_in_its_folder(undisturbed, tested, run_command, tmp_path):
    command = [*tested, f"config.CHECKPOINT.DIR={undisturbed[0]}", "config.TEST_ONLY=true"]
    result = run_command(*command, cwd=tmp_path)
    assert result.returncode == main.USER_ERROR
    assert "config.TEST_ONLY: found true, and a finished training in" in result.stderr


def test_each_stage_says_where_its_artefacts_are(undisturbed, tested, run_command, tmp_path):
    made = undisturbed[0] / "clusterfit"
    command = [*tested, "engine_name=clusterfit_extract", f"config.CLUSTERFIT.OUTPUT_DIR={made}"]
    command.append(f"config.CHECKPOINT.DIR={tmp_path}")
    for engine, expected in (
        (
            "clusterfit_extract",
            [f"features of TRAIN: {made}/features/train", f"features of TEST: {made}/features/test"],
        ),
        ("clusterfit_cluster", [f"codebook of 4: {made}/codebook"]),
        ("clusterfit_label", [f"labels of TRAIN, 4 clusters: {made}/labels/train"]),
    ):
        result = run_command(*command, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        said = result.stdout.partition(f"This run of {engine} is finished; its log is in {tmp_path}.\n")[2]
        assert [f"  {line}" in said.splitlines() for line in expected] == [True] * len(expected), said
        assert len(said.splitlines()) <= 4
        program, kind, *command = shlex.split(said.splitlines()[-1].removeprefix("next: "))
        assert (program, kind) == ("vissl-clusterfit", "report" if engine == "clusterfit_label" else "run")
    assert commands.main([kind, *command]) == 0
