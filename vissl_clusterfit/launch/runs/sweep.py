"""Sweeps: ``a=1,2`` on the command line is a run for each value, and ``a=1,2 b=x,y`` one for each pair.

Each has a separate folder, ``<config.CHECKPOINT.DIR>/<what was swept>``.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
from collections.abc import Sequence

from vissl_clusterfit.config.override_text import as_override
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.launch.compose.overrides import compose_overrides
from vissl_clusterfit.launch.compose.parsed_overrides import parse_overrides
from vissl_clusterfit.launch.compose.vissl_keys import require_public_data
from vissl_clusterfit.launch.processes.torchrun import is_torchrun
from vissl_clusterfit.launch.runs.subprocess_runs import SubprocessRun

_FOLDER = "config.CHECKPOINT.DIR"
_LONGEST_NAME = 100


def sweep_runs(overrides: Sequence[str]) -> list[SubprocessRun]:
    """The runs of a sweep; none where nothing is swept, which is a single run.

    Raises:
        ConfigError: values that cannot be listed, or one of the runs has a config that cannot be composed.
    """
    parsed = parse_overrides(overrides)
    if not any(override.is_sweep_override() for override in parsed):
        return []
    if is_torchrun():
        allowed = "one value for each key under torchrun, which has started the processes of one run already"
        raise ConfigError(problem("The command", found="a sweep", allowed=allowed))
    choices = []
    for override in parsed:
        if not override.is_sweep_override():
            choices.append([(override.input_line, "")])
            continue
        if not override.is_discrete_sweep():
            allowed = "values with commas between them, which are tried one after the other"
            raise ConfigError(problem(override.input_line, found="a sweep without an end", allowed=allowed))
        lines = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        choices.append([(line, line) for line in lines])
    runs = []
    for chosen in itertools.product(*choices):
        lines = [line for line, _ in chosen]
        name = ",".join(swept for _, swept in chosen if swept)
        config = compose_overrides(lines)["config"]
        require_public_data(config)
        folder = f"{config['CHECKPOINT']['DIR']}/{safe_name(name)}"
        folder = folder if "://" in folder else os.path.abspath(folder)
        runs.append(SubprocessRun(name, (*lines, as_override(_FOLDER, folder)), folder, config["SLURM"]["USE_SLURM"]))
    return runs


def safe_name(name: str) -> str:
    """A text as the name of a folder; texts that differ get names that differ."""
    safe = re.sub(r"[^\w.=+,-]+", "_", name, flags=re.ASCII).strip("_")
    if safe == name and len(safe) <= _LONGEST_NAME:
        return safe
    return f"{safe[:_LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
