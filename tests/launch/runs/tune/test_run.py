"""Settings chosen on a validation split, the test split scored once: real trainings of VISSL, all tiny."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import watched_files
from benchmark_data import LAYERS
from checkpoint_parts import network_of
from following import run_next
from PIL import Image
from torchvision.transforms.functional import to_tensor
from tune_work import LINEAR, NUM_TEST
from vissl.config import AttrDict
from vissl.models import build_model

from vissl_clusterfit.report.results import read_results


@pytest.mark.slow
def test_a_tuning_that_is_killed_resumes_and_scores_the_test_split_once(start_watched, data, teacher, opened, tmp_path):
    """Killed in the second training, that of a rate at which the loss is soon no number."""
    run = tmp_path / "run"
    command = (*LINEAR, *data, f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={teacher}", f"config.CHECKPOINT.DIR={run}")
    command = (*command, "+config.TUNE.LEARNING_RATES=[0.05,1e38]")
    process = start_watched(*command, cwd=tmp_path)
    assert any("Training 2 of 2 without" in line for line in process.stdout), process.stderr.read()
    assert any("Starting phase 0 " in line for line in process.stdout), process.stderr.read()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    first = run / "tune/lr=0.05,wd=0.0005/model_final_checkpoint_phase3.torch"
    made = first.stat().st_mtime_ns
    assert not opened()
    assert not (run / "validation.json").exists()

    process = start_watched(*command, cwd=tmp_path)
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    assert first.stat().st_mtime_ns == made
    assert run_next(said) == ["table", str(run)]
    record = json.loads((run / "validation.json").read_text())
    assert record["tried"]["lr=1e+38,wd=0.0005"] == "diverged"
    assert record["chosen"] == {"layer res4": "lr=0.05,wd=0.0005", "layer res5": "lr=0.05,wd=0.0005"}
    assert "6 of 24 training samples (a share of 0.25" in record["validation"]
    # Every image of TEST once, and the choice was made before.
    assert sorted(map(len, opened().values())) == [1] * NUM_TEST
    assert min(min(times) for times in opened().values()) > (run / "validation.json").stat().st_mtime_ns
    rows = read_results(run)
    assert {(row.model, row.dataset, row.split, row.metric) for row in rows} == {
        ("mine", "colours", "test", "top-1 accuracy")
    }
    assert [row.benchmark for row in rows] == ["linear, res4", "linear, res5"]
    assert max(row.value for row in rows) > 0.5
    for part in ("lr=0.05,wd=0.0005 of [lr=0.05,wd=0.0005, lr=1e+38,wd=0.0005] by top-1", "6 of 24", "scored once"):
        assert part in rows[0].protocol

    files = {file: file.stat().st_mtime_ns for file in (run / "tune").rglob("*") if file.is_file()}
    process = start_watched(*command, cwd=tmp_path)
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "This tuning was finished before: nothing is trained or scored again." in said
    assert {file: file.stat().st_mtime_ns for file in (run / "tune").rglob("*") if file.is_file()} == files
    assert sorted(map(len, opened().values())) == [1] * NUM_TEST
    assert read_results(run) == rows


def write_finished_training(folder: Path, phase: int, **top_1: float) -> None:
    """What says of a training that it is finished, with the scores on the validation split that a test wants."""
    folder.mkdir(parents=True)
    state = {"phase_idx": phase, "classy_state_dict": {}}
    torch.save(state, folder / f"model_final_checkpoint_phase{phase}.torch")
    line = {"phase_idx": phase + 2, "train_phase_idx": phase, "test_accuracy_list_meter": {"top_1": top_1}}
    (folder / "metrics.json").write_text(json.dumps(line) + "\n")


def tensors_of(checkpoint: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The trunk and the heads of a checkpoint of VISSL's."""
    return network_of(torch.load(checkpoint, weights_only=True))


def accuracies(cfg: AttrDict, network: dict[str, dict[str, torch.Tensor]]) -> dict[str, float]:
    """What each head has right of TEST, without VISSL's training loop, meters and data sets."""
    model = build_model(cfg.MODEL, cfg.OPTIMIZER).eval()
    model.trunk.base_model.load_state_dict(network["trunk"])
    model.heads.load_state_dict(network["heads"])
    files = [file.removeprefix(watched_files.PREFIX) for file in np.load(cfg.DATA.TEST.DATA_PATHS[0])]
    with torch.no_grad():
        outputs = model(torch.stack([to_tensor(Image.open(file).convert("RGB")) for file in files]))
    labels = torch.from_numpy(np.load(cfg.DATA.TEST.LABEL_PATHS[0]))
    right = [(output.argmax(1) == labels).float().mean().item() for output in outputs]
    return {f"linear, {name}": share for (name, _), share in zip(LAYERS, right, strict=True)}


@pytest.mark.slow
def test_each_layer_is_trained_with_its_own_choice_and_scored_as_it_was_trained(
    start_watched, composed, data, teacher, opened, tmp_path
):
    """On two processes. The validation scores are made up so that the layers differ."""
    run = tmp_path / "run"
    for rate, res4, res5 in (("0.02", 50.0, 40.0), ("0.05", 30.0, 60.0), ("0.1", 50.0, 10.0)):
        write_finished_training(run / f"tune/lr={rate},wd=0.0005", 3, res4=res4, res5=res5)
    settings = ("+config.TUNE.LEARNING_RATES=[0.02,0.05,0.1]", "config.DISTRIBUTED.NUM_PROC_PER_NODE=2")
    weights, place = f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={teacher}", f"config.CHECKPOINT.DIR={run}"
    process = start_watched(*LINEAR, *data, weights, place, *settings, cwd=tmp_path)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    record = json.loads((run / "validation.json").read_text())
    assert record["chosen"] == {"layer res4": "lr=0.02,wd=0.0005", "layer res5": "lr=0.05,wd=0.0005"}
    assert sorted(map(len, opened().values())) == [1] * NUM_TEST
    finals = [run / f"tune/final,lr={rate},wd=0.0005" for rate in ("0.02", "0.05")]
    assert sorted((run / "tune").glob("final*")) == finals
    assert [file.name for file in finals[0].glob("model*")] == ["model_final_checkpoint_phase3.torch"]

    network = tensors_of(run / "tune/network.torch")
    heads = [tensors_of(folder / "model_final_checkpoint_phase3.torch")["heads"] for folder in finals]
    for number, trained in enumerate(heads):
        of_head = [name for name in network["heads"] if name.startswith(f"{number}.")]
        assert of_head
        assert all(torch.equal(network["heads"][name], trained[name]) for name in of_head)
        assert not all(torch.equal(network["heads"][name], heads[1 - number][name]) for name in of_head)
    rows = {row.benchmark: row for row in read_results(run)}
    expected = accuracies(composed(*LINEAR), network)
    assert {name: row.value for name, row in rows.items()} == pytest.approx(expected, abs=1e-4)
    for layer, values in (("res4", "0.04,0.004"), ("res5", "0.1,0.01")):  # two times six images in a step
        assert f'lr multistep {{"values":[{values}' in rows[f"linear, {layer}"].protocol
