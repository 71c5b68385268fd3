"""One training per folder, held against what it was made from, from the last checkpoint that is whole."""

import contextlib
import copy
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from benchmark_data import ON_THIS_MACHINE, write_classes
from suite import linear_on
from tiny import STUDENT, write_images
from vissl.utils.checkpoint import CheckpointWriter

from vissl_clusterfit.errors import ArtifactError, ConfigError
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.plugin.training.start import LEASE_NAME, begin_training
from vissl_clusterfit.report.results import read_results
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.leases import Lease


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two splits of three classes, and a second one for TRAIN with the same names."""
    folder = tmp_path_factory.mktemp("data")
    return {name: write_classes(folder / name, 12, 3, seed) for seed, name in enumerate(("train", "test", "other"))}


@pytest.fixture(scope="module")
def linear(data, teacher):
    """Overrides of a linear evaluation of one epoch."""
    [*overrides] = linear_on(data["train"], data["test"])["OVERRIDES"]
    config = linear_on(data["train"], data["test"])["CONFIG"]
    weights = f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={teacher}"
    return [f"config={config}", *ON_THIS_MACHINE, *overrides, weights, "config.OPTIMIZER.num_epochs=1"]


@pytest.fixture(scope="module")
def other_weights(teacher, tmp_path_factory):
    """Another network's, under the same name in another folder."""
    state = torch.load(teacher)
    trunk = state["classy_state_dict"]["base_model"]["model"]["trunk"]
    for name in trunk:
        if name.endswith("conv3.weight"):
            trunk[name] += 0.1
    folder = tmp_path_factory.mktemp("other_teacher")
    torch.save(state, folder / "teacher.torch")
    return folder / "teacher.torch"


@pytest.fixture(scope="module")
def evaluated(linear, run_command, tmp_path_factory):
    """The folder of a finished linear evaluation, which a test copies."""
    folder = tmp_path_factory.mktemp("evaluated")
    result = run_command(*linear, cwd=folder)  # without CHECKPOINT.DIR: VISSL's "."
    assert result.returncode == 0, result.stderr
    assert len(read_results(folder)) == 1
    return folder


def test_a_finished_evaluation_gives_no_row_to_another_network(
    evaluated, linear, run_command, other_weights, data, tmp_path
):
    folder = shutil.copytree(evaluated, tmp_path / "run", symlinks=True)
    before = (folder / "results.json").read_bytes()
    other_data = f"config.DATA.TRAIN.DATA_PATHS=[{data['other']}]"
    for change, named in (
        (f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={other_weights}", "MODEL.WEIGHTS_INIT.PARAMS_FILE.sha256: "),
        (other_data, "DATA.TRAIN.fingerprint: "),
        ("config.SEED_VALUE=7", "SEED_VALUE: it was made with 1, this run has 7"),
        (
            "config.OPTIMIZER.param_schedulers.lr.value=0.5",
            "OPTIMIZER.param_schedulers.lr.value: it was made with 0.05",
        ),
    ):
        name = "++config.BENCHMARK.MODEL_NAME=another"
        result = run_command(*linear, name, change, cwd=folder)
        assert result.returncode == 2, result.stdout
        assert named in result.stderr
        assert "name another config.CHECKPOINT.DIR" in result.stderr
        assert "Traceback" not in result.stderr
        assert (folder / "results.json").read_bytes() == before
    # What changes nothing in the outcome is none of it: the same weights and data elsewhere, workers, logs.
    moved = shutil.copytree(data["train"], tmp_path / "moved")
    same = [f"config.DATA.TRAIN.DATA_PATHS=[{moved}]", "config.LOG_FREQUENCY=3", "config.DATA.NUM_DATALOADER_WORKERS=1"]
    result = run_command(*linear, *same, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "This training is finished" in result.stdout


def test_a_folder_of_the_version_before_goes_on_and_gets_its_record(evaluated, linear, run_command, tmp_path):
    folder = shutil.copytree(evaluated, tmp_path / "run", symlinks=True)
    record = (folder / "training.json").read_bytes()
    (folder / "training.json").unlink()
    result = run_command(*linear, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "has no training.json" in result.stdout
    assert (folder / "training.json").read_bytes() == record


def test_a_mistake_that_is_mended_blocks_nothing(linear, run_command, tmp_path):
    wrong = run_command(*linear, "config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP=8", cwd=tmp_path)
    assert wrong.returncode == 2, wrong.stderr
    assert (tmp_path / "training.json").is_file()
    assert run_command(*linear, cwd=tmp_path).returncode == 0


@pytest.fixture(scope="module")
def config(images, teacher, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compose")
    weights = f"config.CLUSTERFIT.TEACHER.WEIGHTS={teacher}"
    overrides = [f"config.DATA.TRAIN.DATA_PATHS=[{images}]", weights, f"config.CHECKPOINT.DIR={folder}"]
    return compose([*STUDENT, *overrides, "config.OPTIMIZER.num_epochs=4"])[2]


@pytest.fixture
def begin(config, tmp_path):
    """``begin({name: value})``: what a start of the student in the folder ``run`` finds, with other settings."""

    def begin(changes=(), hold=None):
        changed = copy.deepcopy(config)
        changed.CHECKPOINT.DIR = str(tmp_path / "run")
        for name, value in dict(changes).items():
            *blocks, last = name.split(".")
            functools.reduce(getattr, blocks, changed)[last] = value
        (tmp_path / "run").mkdir(exist_ok=True)
        with contextlib.ExitStack() as stack:
            return begin_training(changed, str(tmp_path / "run"), hold or stack)

    return begin


def save(folder, mode="phase", number=0, final=False):
    """A checkpoint by VISSL's own writer."""
    folder.mkdir(exist_ok=True)
    writer = CheckpointWriter(str(folder), final, mode, number, "disk")
    writer.save_consolidated_checkpoint({"phase_idx": number, "weights": torch.arange(5000.0)})
    return folder / writer.get_checkpoint_name()


@pytest.mark.parametrize("damage", ["half", "empty", "a byte", "text"])
@pytest.mark.parametrize("by_link", [False, True])
@pytest.mark.parametrize("mode", ["phase", "iteration"])
def test_the_last_whole_checkpoint_is_taken(begin, tmp_path, capsys, damage, by_link, mode):
    folder = tmp_path / "run"
    settings = {"CHECKPOINT.USE_SYMLINK_CHECKPOINT_FOR_RESUME": by_link}
    settings |= {"CHECKPOINT.CHECKPOINT_ITER_FREQUENCY": 1} if mode == "iteration" else {}
    files = [save(folder, mode, number) for number in range(3)]
    assert begin(settings) == (False, str(files[2]))
    content = files[2].read_bytes()
    changed = content[:-9000] + bytes([content[-9000] ^ 1]) + content[-8999:]
    files[2].write_bytes({"half": content[: len(content) // 2], "empty": b"", "a byte": changed, "text": b"x"}[damage])
    capsys.readouterr()
    assert begin(settings) == (False, str(files[1]))
    said = capsys.readouterr().out
    assert said.count(f"{files[2]} is damaged") == 1
    files[0].write_bytes(b"")
    files[1].write_bytes(b"")
    assert begin(settings) == (False, None)


def test_a_damaged_final_checkpoint_is_made_again(begin, tmp_path):
    before, final = save(tmp_path / "run", number=2), save(tmp_path / "run", number=3, final=True)
    assert begin() == (True, None)
    final.write_bytes(final.read_bytes()[:3000])
    assert begin() == (False, str(before))


def test_a_checkpoint_that_runs_code_is_refused(begin, tmp_path):
    place = save(tmp_path / "run")
    torch.save({"phase_idx": 0, "code": subprocess.Popen}, place)
    with pytest.raises(ArtifactError, match="runs code when it is opened"):
        begin()


def test_a_folder_that_is_moved_or_copied_has_its_own_checkpoint(begin, tmp_path):
    folder, settings = tmp_path / "run", {"CHECKPOINT.USE_SYMLINK_CHECKPOINT_FOR_RESUME": True}
    save(folder)
    assert os.readlink(folder / "checkpoint.torch") == "model_phase0.torch"
    shutil.move(folder, tmp_path / "aside")
    save(folder, number=1)  # another run in its place
    assert torch.load(tmp_path / "aside/checkpoint.torch")["phase_idx"] == 0
    assert begin(settings) == (False, f"{folder}/model_phase1.torch")


def test_links_of_the_version_before_lead_nowhere_else(begin, tmp_path, capsys):
    """They are absolute: a copy of a folder would go on from the checkpoint of the original, or of what replaced it."""
    folder, settings = tmp_path / "run", {"CHECKPOINT.USE_SYMLINK_CHECKPOINT_FOR_RESUME": True}
    mine, foreign = save(folder), save(tmp_path / "other", number=1)
    link = folder / "checkpoint.torch"
    for target, expected in ((tmp_path / "other/model_phase0.torch", mine), (foreign, mine), ("gone.torch", mine)):
        link.unlink()
        link.symlink_to(target)
        assert begin(settings) == (False, str(expected))
    assert f"which is not of this folder; {mine.name} of this folder is taken" in capsys.readouterr().out
    link.unlink()
    shutil.copy(mine, link)  # as a copy that follows links
    assert begin(settings) == (False, str(link))


def test_lines_of_phases_that_are_done_again_are_taken_out(begin, tmp_path):
    save(tmp_path / "run", number=1)
    metrics = tmp_path / "run/metrics.json"
    lines = [json.dumps({"phase_idx": phase, "train_phase_idx": phase}) for phase in range(3)]
    metrics.write_text("\n".join(lines) + '\n{"phase_idx": 3, "trai')
    begin()
    assert metrics.read_text().splitlines() == lines[:2]


def test_a_training_of_other_settings_is_refused_before_and_after_its_end(begin, tmp_path):
    begin()
    first = {"OPTIMIZER.weight_decay": 0.5}
    begin(first)  # nothing was made yet
    save(tmp_path / "run")
    small = [{"name": "RandomResizedCrop", "size": 40}, {"name": "ToTensor"}]
    for change, named in (
        ({"OPTIMIZER.num_epochs": 5}, "OPTIMIZER.num_epochs: it was made with 4, this run has 5"),
        ({"MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP": 8}, "MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP: it was made with 4"),
        ({"CLUSTERFIT.NUM_ITER": 6}, "CLUSTERFIT.TRAIN.codebook.settings.num_iter: it was made with 5"),
        ({"DATA.TRAIN.BATCHSIZE_PER_REPLICA": 5}, "DATA.TRAIN.BATCHSIZE_PER_REPLICA: it was made with 8"),
        ({"DATA.TRAIN.TRANSFORMS": small}, r"DATA.TRAIN.TRANSFORMS\[0\].size: it was made with 32, this run has 40"),
    ):
        with pytest.raises(ArtifactError, match=named):
            begin(first | change)
    with pytest.raises(ConfigError, match="TEST_ONLY: found true, and a training in"):
        begin(first | {"TEST_ONLY": True})
    assert begin(first | {"CLUSTERFIT.FEATURES.SHARD_SIZE": 3, "DATA.NUM_DATALOADER_WORKERS": 3})[1]


def test_what_is_replaced_on_purpose_is_moved_aside(begin, tmp_path):
    folder = tmp_path / "run"
    begin()
    save(folder)
    (folder / "mine.txt").write_text("of the user")
    (folder / "export").mkdir()
    (folder / "export/card.json").write_text("{}")
    for name in ("metrics.jsonl", "loggers.json"):
        (folder / name).write_text("{}\n")
    assert begin({"CHECKPOINT.OVERWRITE_EXISTING": True, "CHECKPOINT.AUTO_RESUME": False, "SEED_VALUE": 5}) == (
        False,
        None,
    )
    aside = {file.name for file in (folder / "replaced-1").iterdir()}
    of_the_training = {"model_phase0.torch", "checkpoint.torch", "training.json", "metrics.jsonl", "loggers.json"}
    assert aside == of_the_training | {"export"}
    assert (folder / "mine.txt").read_text() == "of the user"
    assert artifacts.read_json(folder / "training.json")["inputs"]["SEED_VALUE"] == 5


HOLDER = """
import sys, time
from pathlib import Path
from vissl_clusterfit.storage.atomic import temporary_path
from vissl_clusterfit.storage.leases import Lease
assert Lease(Path(sys.argv[1])).acquire()
temporary_path(Path(sys.argv[1])).touch()
print("held", flush=True)
time.sleep(600)
"""


def test_a_second_training_waits_for_the_first_and_takes_over_from_the_dead(begin, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run" / LEASE_NAME)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        killer = subprocess.Popen(["sh", "-c", f"sleep 3; kill -{int(signal.SIGKILL)} {holder.pid}"])
        start = time.monotonic()
        with contextlib.ExitStack() as hold:
            assert begin(hold=hold) == (False, None)
            assert time.monotonic() - start > 2
            assert not Lease(tmp_path / "run" / LEASE_NAME).acquire()
        killer.wait()
    assert f"Process {holder.pid} on " in capsys.readouterr().out
    assert not (tmp_path / "run" / LEASE_NAME).exists()


def test_what_one_left_that_was_killed_at_the_very_end_is_removed(begin, tmp_path):
    folder = tmp_path / "run"
    save(folder, number=3, final=True)
    command = [sys.executable, "-c", HOLDER, str(folder / LEASE_NAME)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        left = {LEASE_NAME, *(path.name for path in folder.glob(".*.tmp"))}
        assert len(left) == 2
        assert begin() == (True, None)
        assert {path.name for path in folder.iterdir()} >= left  # as it lives
        holder.kill()
    assert begin() == (True, None)
    assert not {path.name for path in folder.iterdir()} & left


def test_a_folder_below_a_file_is_the_users_mistake(run_command, tmp_path):
    (tmp_path / "file").write_text("")
    images = write_images(tmp_path / "images", 3)
    overrides = [*STUDENT, f"config.DATA.TRAIN.DATA_PATHS=[{images}]", f"config.CHECKPOINT.DIR={tmp_path}/file/run"]
    result = run_command(*overrides, cwd=tmp_path)
    assert result.returncode == 2
    assert "config.CHECKPOINT.DIR" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_training_that_diverges_says_so_and_leaves_no_such_state(linear, run_command, tmp_path, num_processes):
    overrides = ["config.OPTIMIZER.param_schedulers.lr.value=1e38", "config.OPTIMIZER.num_epochs=2"]
    processes = f"config.DISTRIBUTED.NUM_PROC_PER_NODE={num_processes}"
    result = run_command(*linear, *overrides, processes, cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert "param_schedulers.lr: found " in result.stderr
    assert "which is NaN or infinite; allowed: rates with which loss and output stay finite" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.glob("model_iteration*")) + list(tmp_path.glob("rank*.pth"))


def test_a_checkpoint_of_another_network_without_a_record(linear, run_command, evaluated, tmp_path):
    """As the version before left it, whose training had ended after its first epoch."""
    shutil.copy(evaluated / "model_final_checkpoint_phase0.torch", tmp_path / "model_phase0.torch")
    other = "config.MODEL.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP=[[res4,[AvgPool2d,[[1,1],1,0]]]]"
    head = "config.MODEL.HEAD.PARAMS=[[eval_mlp,{in_channels:1024,dims:[1024,3]}]]"
    result = run_command(*linear, other, head, "config.OPTIMIZER.num_epochs=2", cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert "model_phase0.torch does not fit this training" in result.stderr
    assert "Traceback" not in result.stderr[result.stderr.rindex("error: ") :]
