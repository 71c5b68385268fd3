"""The curve of a training, and where its data lie, from the files that VISSL leaves in its folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.storage.folders import names_in
from vissl_clusterfit.storage.untrusted import UnsafeFileError, json_in, require_regular

METRICS_NAME, CONFIG_NAME = "metrics.json", "train_config.yaml"
#: Which has each step once; VISSL's own log, in folders of before there was that, has some twice after a kill.
_STEPS = {"metrics.jsonl": "iteration", "stdout.json": "iter"}
_MOST_BYTES = 1 << 26
_LARGEST = 1e300
_FINAL = "model_final_checkpoint_phase"

Curve = tuple[list[float], list[float]]


@dataclass(frozen=True)
class Training:
    """What a training has done.

    Attributes:
        folder: ``CHECKPOINT.DIR``.
        loss: iterations and the loss at each that was logged.
        scores: of each score its name, and its epochs and values in percent.
        finished: whether its final checkpoint is there.
    """

    folder: Path
    loss: Curve
    scores: Mapping[str, Curve]
    finished: bool


def read_training(folder: Path) -> Training | None:
    """The training in a folder; None where there is none."""
    loss: Curve = ([], [])
    for name, iteration in _STEPS.items():
        for row in _lines(folder / name) if not loss[0] else ():
            if _is_number(row.get(iteration)) and _is_number(row.get("loss")):
                loss[0].append(row[iteration])
                loss[1].append(row["loss"])
    scores: dict[str, Curve] = {}
    for row in _lines(folder / METRICS_NAME):
        epoch = row.get("train_phase_idx", row.get("phase_idx"))
        if _is_number(epoch):
            for name, value in _scores(row):
                curve = scores.setdefault(name, ([], []))
                curve[0].append(epoch + 1)
                curve[1].append(value)
    if not loss[0] and not scores:
        return None
    finished = any(name.startswith(_FINAL) for name in names_in(folder))
    return Training(folder, loss, scores, finished)


def _scores(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """What meters said: ``train_accuracy_list_meter: {top_1: {clusters: 12.5}}``."""
    for meter, values in row.items():
        split = meter.partition("_")[0]
        if "accuracy" in meter and isinstance(values, Mapping):
            for kind, of_heads in values.items():
                for head, value in of_heads.items() if isinstance(of_heads, Mapping) else ():
                    if _is_number(value):
                        yield f"{split}, {kind} of {head}", float(value)


def _is_number(value: Any) -> bool:
    """Whether a value of a file is a number that can be drawn."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < _LARGEST


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The JSON objects of a file with one in each line; half lines of a training that runs are left out."""
    for line in _text(path).splitlines():
        try:
            row = json_in(line)
        except UnsafeFileError:
            continue
        if isinstance(row, Mapping):
            yield row


def _text(path: Path) -> bytes:
    try:
        require_regular(path)
        with path.open("rb") as file:
            return file.read(_MOST_BYTES)
    except (OSError, UnsafeFileError):
        return b""


@dataclass(frozen=True)
class DataPlace:
    """Where the samples of a split lie, as a training's config says.

    Attributes:
        source: ``DATA_SOURCES``, unpaired.
        path: ``DATA_PATHS``.
    """

    source: str
    path: str


def data_place(folder: Path, split: str) -> DataPlace | None:
    """The first data source of a split in the config that VISSL has left in a training's folder; None without one."""
    try:
        config = yaml.safe_load(_text(folder / CONFIG_NAME))
        data = config["DATA"][split.upper()]
        source, path = data["DATA_SOURCES"][0], data["DATA_PATHS"][0]
    except (yaml.YAMLError, KeyError, TypeError, IndexError, RecursionError, ValueError):
        return None
    if not isinstance(source, str) or not isinstance(path, str):
        return None
    return DataPlace(source.removeprefix("clusterfit_"), path)


def folder_of_training(artifact: Path, run: Path) -> Path | None:
    """The folder at or above an artefact, but not above the run, that a training has written into."""
    for place in (artifact, *artifact.parents):
        try:
            if any((place / name).is_file() for name in (METRICS_NAME, CONFIG_NAME)):
                return place
        except (OSError, ArtifactError):
            return None
        if place == run:
            return None
    return None
