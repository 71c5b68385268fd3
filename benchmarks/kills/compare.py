"""Whether a run that was killed again and again has made what one makes that nobody disturbs."""

from __future__ import annotations

import contextlib
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

#: They say when, how long and where, and a run that was started several times has more of it.
_LOGS = {"log.txt", "stdout.json", "output.txt", "costs.json"}
#: It names the folder of the run.
_UNREAD = {*_LOGS, "train_config.yaml", "study.png"}
#: Of a checkpoint: the run's folder, and how long things took.
_UNREAD_KEYS = {"config"}
#: Of a row of metrics.jsonl.
_TIMES = {"images/s", "waiting", "seconds_left", "time"}
_HALF_WRITTEN = (".tmp", ".saving", ".takeover", ".lease", "in_progress", "leases")


def is_log(path: Path) -> bool:
    """Whether nothing that is made depends on a file."""
    return path.name in _LOGS


def differences(expected: Path, found: Path, cut: set[Path]) -> list[str]:
    """What is not the same in both folders: files of one alone, and contents.

    Of a ``metrics.json`` that was cut, the rows that are left must be the same: VISSL appends them, and does no phase
    again for a row.
    """
    names = [{path.relative_to(root) for path in _files(root)} for root in (expected, found)]
    missing = [f"missing: {name}" for name in sorted(names[0] - names[1])]
    surplus = [f"surplus: {name}" for name in sorted(names[1] - names[0]) if not _is_half_written(name)]
    common = (name for name in sorted(names[0] & names[1]) if name.name not in _UNREAD)
    contents = (name for file in common for name in _content(expected, found, file, is_cut=found / file in cut))
    return [*missing, *surplus, *contents]


def leftovers(root: Path) -> list[str]:
    """What was written for a while, and should be gone."""
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if _is_half_written(path.relative_to(root)))


def _files(root: Path) -> Iterator[Path]:
    return (path for path in root.rglob("*") if path.is_file() or path.is_symlink())


def _is_half_written(name: Path) -> bool:
    return any(part.endswith(_HALF_WRITTEN) or ".saving" in part for part in name.parts)


def _content(expected: Path, found: Path, name: Path, *, is_cut: bool) -> Iterator[str]:
    one, other = expected / name, found / name
    if one.is_symlink() or other.is_symlink():
        if one.is_symlink() != other.is_symlink() or one.readlink().name != other.readlink().name:
            yield f"{name}: another link"
    elif name.suffix == ".torch":
        try:
            yield from (f"{name}{key}" for key in _different_keys(_load(one), _load(other)))
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
            yield f"{name}: {error}"
    elif name.name == "metrics.json":
        rows, wanted = _last_rows(other), _last_rows(one)
        if not (rows.items() <= wanted.items() if is_cut else rows == wanted):
            yield f"{name}: {', '.join(rows)}"
    elif name.name == "metrics.jsonl":
        steps, all_steps = _without_times(other), _without_times(one)
        if not (all(step in all_steps for step in steps) if is_cut else steps == all_steps):
            yield str(name)
    elif name.name == "study_run.json":
        if len(_overrides(one)) != len(_overrides(other)):
            yield str(name)
    elif one.read_bytes() != other.read_bytes():
        yield str(name)


def _load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=False)  # which this benchmark has made


def _different_keys(one: Any, other: Any, key: str = "") -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted(one.keys() | other.keys(), key=str):
            if name in _UNREAD_KEYS:
                continue
            if name not in one or name not in other:
                yield f"{key}.{name}"
            else:
                yield from _different_keys(one[name], other[name], f"{key}.{name}")
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        for number, pair in enumerate(zip(one, other, strict=True)):
            yield from _different_keys(*pair, f"{key}[{number}]")
    elif isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.dtype != other.dtype or not torch.equal(one, other):
            yield key
    elif type(one) is not type(other) or repr(one) != repr(other):
        yield key


def _last_rows(path: Path) -> dict[str, str]:
    """The row of each phase, by its number: one that was done again has two. Half a line is none."""
    rows = {}
    for line in path.read_text("utf-8").splitlines():
        with contextlib.suppress(ValueError):
            rows[f"phase {json.loads(line)['phase_idx']}"] = line
    return rows


def _without_times(path: Path) -> list[dict[str, Any]]:
    """The rows of a training, each of which must be whole and there once, without what another run has otherwise."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [{key: row[key] for key in row.keys() - _TIMES} for row in rows]


def _overrides(path: Path) -> list[str]:
    return json.loads(path.read_text("utf-8"))["overrides"]
