"""Trainings in lower precision: recorded, kept to, killed and resumed; and float32, which stays what it was."""

import contextlib
import copy
import json
import os
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import NO_CHANCE
from vissl.config import AttrDict

from vissl_clusterfit.compute.chosen import PLAIN, Compute
from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.plugin.training import compute as training_compute
from vissl_clusterfit.plugin.training.record import RECORD_NAME, recorded_compute

LOWER = "config.CLUSTERFIT.COMPUTE.PRECISION=bfloat16"


def weights_of(folder: Path, epochs: int = 1) -> dict[str, torch.Tensor]:
    """All tensors of the final checkpoint that a step changes: weights, statistics, momentum."""
    state = torch.load(folder / f"model_final_checkpoint_phase{epochs - 1}.torch")["classy_state_dict"]
    model = state["base_model"]["model"]
    found = {f"{part}.{name}": tensor for part in ("trunk", "heads") for name, tensor in model[part].items()}
    momentum = state["optimizer"]["optim"]["state"]
    return found | {f"momentum.{number}": each["momentum_buffer"] for number, each in momentum.items()}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    assert found.keys() == expected.keys()
    return all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


@pytest.fixture(scope="module")
def train(student_overrides, run_command):
    """Runs a training in a folder."""

    def run(folder: Path, *overrides: str, code: int = 0):
        done = run_command(*student_overrides, f"config.CHECKPOINT.DIR={folder}", *overrides, cwd=folder.parent)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def undisturbed(train, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    train(folder, LOWER, NO_CHANCE, "config.OPTIMIZER.num_epochs=4")
    return folder


def test_a_small_network_trains_in_float32_as_before(student_run, train, tmp_path):
    """What auto takes for it, and what is asked for, are the same bits as those of VISSL's own step."""
    assert recorded_compute(str(student_run)) == PLAIN
    asked = ("config.CLUSTERFIT.COMPUTE.PRECISION=float32", "config.CLUSTERFIT.COMPUTE.CHANNELS_LAST=false")
    train(tmp_path / "run", *asked)
    assert same(weights_of(tmp_path / "run"), weights_of(student_run))


def test_bfloat16_is_recorded_and_its_weights_are_float32(student_run, train, tmp_path):
    done = train(tmp_path / "run", LOWER)
    assert recorded_compute(str(tmp_path / "run")) == Compute("bfloat16", channels_last=True)
    found, plain = weights_of(tmp_path / "run"), weights_of(student_run)
    assert not same(found, plain)
    assert {name: tensor.dtype for name, tensor in found.items()} == {name: each.dtype for name, each in plain.items()}
    first = json.loads((tmp_path / "run/stdout.json").read_text().splitlines()[0])
    assert first["img/s"] > 0
    assert first["waiting"].endswith("%")
    stages = json.loads((tmp_path / "run/costs.json").read_text())["stages"]
    assert {*stages} == {"extract", "cluster", "label", "train"}
    assert stages["train"]["core_hours"] > 0
    assert re.search(r"Taken so far: .*train [\d.e-]+ core hours \(", done.stdout)


def test_another_precision_is_refused_and_auto_resumes_in_that_of_the_record(train, undisturbed):
    refused = train(
        undisturbed, "config.CLUSTERFIT.COMPUTE.PRECISION=float32", NO_CHANCE, "config.OPTIMIZER.num_epochs=4", code=2
    )
    assert "CLUSTERFIT.COMPUTE.PRECISION: it was made with" in refused.stderr
    assert '"bfloat16", this run has "float32"' in refused.stderr
    before = weights_of(undisturbed, 4)
    (undisturbed / "model_final_checkpoint_phase3.torch").unlink()
    resumed = train(undisturbed, NO_CHANCE, "config.OPTIMIZER.num_epochs=4")
    assert "The network computes in bfloat16, channels last, as this training began." in resumed.stdout
    assert same(weights_of(undisturbed, 4), before)


@pytest.mark.slow
def test_a_training_in_bfloat16_that_is_killed_ends_with_the_same_bytes(
    undisturbed, train, student_overrides, start_command, tmp_path
):
    folder = tmp_path / "run"
    settings = (LOWER, NO_CHANCE, "config.OPTIMIZER.num_epochs=4", "config.CHECKPOINT.CHECKPOINT_FREQUENCY=1")
    for phase in (0, 1):
        process = start_command(*student_overrides, f"config.CHECKPOINT.DIR={folder}", *settings, cwd=tmp_path)
        while not (folder / f"model_phase{phase}.torch").exists() and process.poll() is None:
            time.sleep(0.01)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, "it had ended before"
    train(folder, *settings)
    assert same(weights_of(folder, 4), weights_of(undisturbed, 4))


def test_a_record_of_before_the_choice_means_float32(train, tmp_path):
    """As version 0.1 wrote it: auto resumes in float32, and bfloat16 is refused."""
    folder = tmp_path / "run"
    train(folder, NO_CHANCE, "config.OPTIMIZER.num_epochs=2")
    expected = weights_of(folder, 2)
    record = json.loads((folder / RECORD_NAME).read_text())
    del record["compute"]
    (folder / RECORD_NAME).write_text(json.dumps(record))
    (folder / "model_final_checkpoint_phase1.torch").unlink()
    refused = train(folder, LOWER, NO_CHANCE, "config.OPTIMIZER.num_epochs=2", code=2)
    assert "CLUSTERFIT.COMPUTE.PRECISION" in refused.stderr
    train(folder, NO_CHANCE, "config.OPTIMIZER.num_epochs=2")
    assert same(weights_of(folder, 2), expected)


def test_the_outputs_of_a_network_are_float32_and_near():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.Flatten(), torch.nn.Linear(16 * 36, 5))
    batch = torch.randn(4, 3, 8, 8)
    expected = model(batch)
    task = SimpleNamespace(device=torch.device("cpu"), config=AttrDict({"TEST_ONLY": False}))
    training_compute._apply(Compute("bfloat16", channels_last=True), task, model)
    found = model(batch)
    assert found.dtype == torch.float32
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert 0 < (found - expected).norm() / expected.norm() < 0.02
    copied = copy.deepcopy(model)  # as a moving average is made
    with torch.no_grad():
        copied[2].weight.zero_()
    assert (copied(batch) == copied[2].bias.bfloat16().float()).all()
    assert torch.equal(model(batch), found)


def config(**keys):
    block = {"PRECISION": "auto", **keys}
    found = {"CLUSTERFIT": {"COMPUTE": block}, "MACHINE": {"DEVICE": "cpu"}, "TEST_ONLY": False}
    return AttrDict({**found, "MODEL": {"AMP_PARAMS": {"USE_AMP": False}}})


def test_vissls_own_mixed_precision_is_left_to_vissl():
    asked = config()
    assert training_compute.compute_settings(asked) is not None
    asked.MODEL.AMP_PARAMS.USE_AMP = True
    assert training_compute.compute_settings(asked) is None
    asked.CLUSTERFIT.COMPUTE.PRECISION = "bfloat16"
    with pytest.raises(ConfigError, match=r"USE_AMP=true; allowed: one of the two"):
        training_compute.compute_settings(asked)


def test_a_config_without_the_block_trains_as_vissl_does():
    assert training_compute.compute_settings(AttrDict({"CLUSTERFIT": {"NUM_CLUSTERS": 10}})) is None


def test_float16_is_not_trained_on_a_cpu():
    with pytest.raises(ConfigError, match="float16 for a training on the CPU"):
        training_compute.compute_settings(config(PRECISION="float16"))


def test_float16_is_vissls_and_its_scale_is_in_the_checkpoints():
    """Of a GPU, on the CPU: VISSL's step asks the task for the kind and the scaler."""
    scaler = SimpleNamespace(state_dict=lambda: {"scale": 2.0})
    task = SimpleNamespace(device=torch.device("cpu"), config=AttrDict({"TEST_ONLY": False}), amp_type=None)
    task.amp_grad_scaler = None
    task._init_pytorch_grad_scaler = lambda: setattr(task, "amp_grad_scaler", scaler)
    get_state = training_compute.with_scale(lambda _task: {"train": True})
    assert get_state(task) == {"train": True}
    training_compute._apply(Compute("float16", channels_last=True), task, torch.nn.Conv2d(3, 4, 1))
    assert task.amp_type.name == "PYTORCH"
    assert get_state(task) == {"train": True, "amp": {"scale": 2.0}}
