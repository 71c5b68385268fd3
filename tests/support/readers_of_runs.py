"""Readers of weights and checkpoints, and of what trainings and evaluations leave beside them."""

import dataclasses
import json
from pathlib import Path

import mutations
import numpy as np
import safetensors.torch
import torch
from guarded_reading import Reader, torch_file, write_file
from vissl.config import AttrDict

from vissl_clusterfit.models.weight_files import load_state_dict
from vissl_clusterfit.plugin.training import checkpoints, progress, record
from vissl_clusterfit.report.results import ResultRow, append_results, read_results, read_runs
from vissl_clusterfit.storage.leases import Lease, is_held
from vissl_clusterfit.storage.result_cache import ResultCache

READERS: dict[str, Reader] = {}

# Weights and checkpoints.
STATE = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.zeros(2)}
VISSLS = {
    "classy_state_dict": {"base_model": {"model": {"trunk": STATE, "heads": {}}}},
    "phase_idx": 3,
    "config": AttrDict({"a": 1}),
    "loss": np.float64(0.5),
}


def _scripted(folder: Path) -> Path:
    torch.jit.script(torch.nn.Linear(2, 2)).save(folder / "weights.pt")
    return folder / "weights.pt"


def _weights(path: Path) -> None:
    load_state_dict(str(path))


def _checkpoint(path: Path) -> None:
    checkpoints._why_damaged.cache_clear()  # it knows a file by its time, of some milliseconds
    if not checkpoints.why_damaged(path):
        checkpoints.phase_of(str(path))


CHECKPOINT = "model_final_checkpoint_phase3.torch"
READERS["weights, .torch"] = Reader(torch_file("weights.torch", VISSLS), _weights, mutations.in_zip)
READERS["weights, .pth of before PyTorch 1.6"] = Reader(
    torch_file("weights.pth", STATE, _use_new_zipfile_serialization=False), _weights, trusts_sizes=True
)
READERS["weights, .safetensors"] = Reader(write_file("weights.safetensors", safetensors.torch.save(STATE)), _weights)
READERS["weights, TorchScript"] = Reader(_scripted, _weights, mutations.in_zip, readable=False)
READERS["checkpoint"] = Reader(torch_file(CHECKPOINT, VISSLS), _checkpoint, mutations.in_zip)
READERS["checkpoint of before PyTorch 1.6"] = Reader(
    torch_file(CHECKPOINT, VISSLS, _use_new_zipfile_serialization=False), _checkpoint, trusts_sizes=True
)

# What trainings, evaluations and begun work leave.
INPUTS = {"MODEL": {"TRUNK": {}}, "DATA": {"TRAIN": {}}, record._WEIGHTS: {"sha256": "0"}, "SEED_VALUE": 1}


def _training(folder: Path) -> Path:
    (folder / CHECKPOINT).touch()
    content = {"format": 1, "engine": "train", "weights": "", "inputs": INPUTS}
    (folder / record.RECORD_NAME).write_text(json.dumps(content))
    return folder / record.RECORD_NAME


def _record(path: Path) -> None:
    record.training_beside(str(path.parent / CHECKPOINT))
    config = AttrDict({"MODEL": {"WEIGHTS_INIT": {"PARAMS_FILE": ""}}})
    record.check_record(config, str(path.parent), INPUTS)


METRICS = [{"phase_idx": number, "train_accuracy_list_meter": {"top_1": {"0": 50.5}}} for number in range(3)]


def _metrics(path: Path) -> None:
    progress.read_metrics(str(path.parent))
    progress.forget_phases_after(str(path.parent), 1)


def _results(folder: Path) -> Path:
    row = ResultRow("a model", "linear", "CIFAR-100", "test", "top-1 accuracy", 0.5, "as published", 0)
    append_results(folder, [row, dataclasses.replace(row, seed=1)])
    return folder / "results.json"


def _rows_of_results(path: Path) -> None:
    read_runs([path])
    append_results(path.parent, read_results(path.parent)[:1])


def _lease(folder: Path) -> Path:
    lease = Lease(folder / "work.json")
    assert lease.acquire()
    content = lease.path.read_bytes()
    lease.release()
    return write_file("work.json", content)(folder)


def _held(path: Path) -> None:
    is_held(path)
    lease = Lease(path)
    lease.holder()
    lease.acquire()
    lease.release()


def _cached(path: Path) -> None:
    ResultCache(path.parent, {"data": "abc"}).get("piece", {"C": 1.0}, lambda: {"score": 0.5})


def _cache(folder: Path) -> Path:
    _cached(folder / "piece.json")
    return folder / "piece.json"


READERS["record of a training"] = Reader(_training, _record, mutations.in_json)
READERS["metrics of a training"] = Reader(
    write_file(progress.METRICS_NAME, b"".join(json.dumps(row).encode() + b"\n" for row in METRICS)),
    _metrics,
    mutations.in_json_lines,
)
READERS["results"] = Reader(_results, _rows_of_results, mutations.in_json)
READERS["lease"] = Reader(_lease, _held, mutations.in_json)
READERS["cached result"] = Reader(_cache, _cached, mutations.in_json)
