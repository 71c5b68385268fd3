"""From a command line to running processes, and from what happened to an exit code.

VISSL's launcher swallows Ctrl-C, takes any finished training in the folder for the end of any engine, and starts
processes that know no plugin; this one replaces it and uses VISSL's functions for the rest.

Exit codes: 0 the whole run was done; 2 a mistake that the user can fix, said in one message; 1 any other failure,
with its traceback; 130 Ctrl-C.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Sequence

from vissl_clusterfit import dependencies
from vissl_clusterfit.errors import mendable
from vissl_clusterfit.launch.processes.failures import (
    DONE,
    FAILED,
    INTERRUPTED,
    USER_ERROR,
    RankFailed,
    strip_worker_traceback,
)
from vissl_clusterfit.plugin.log_bridge import VERBOSE, without_secrets

_USAGE = """\
usage: vissl-clusterfit run [-v] config=NAME [KEY=VALUE ...]

Runs a config of VISSL or of this package, with overrides in Hydra's form; KEY=A,B runs a sweep. The word run may be
left out.

With -v, VISSL's own log comes to the screen, too; CHECKPOINT.DIR/log.txt has it always.

    vissl-clusterfit run config=clusterfit/quickstart/teacher
    vissl-clusterfit run config=pretrain/simclr/simclr_8node_resnet +config/clusterfit=student \\
        config.CLUSTERFIT.TEACHER.WEIGHTS=teacher.torch config.DATA.TRAIN.DATA_PATHS=[images]

Exit code 0; 2 for a mistake of the user, said in one message; 1 for any other failure; 130 after Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``config=<name> [overrides …]``, a sweep (``a=1,2``) run by run, and returns the exit code."""
    overrides = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & {*overrides}:
        print(_USAGE)  # noqa: T201  (this is the command line)
        return DONE
    if {"-v", "--verbose"} & {*overrides}:
        os.environ[VERBOSE] = "1"
        overrides = [word for word in overrides if word not in ("-v", "--verbose")]
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a file's name may be no text
    try:
        dependencies.require("torch", "vissl")
        return _run(overrides)
    except RankFailed as error:
        print(error, file=sys.stderr)  # noqa: T201  (this is the command line)
        return FAILED
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    except Exception as error:
        if mistake := mendable(error):
            print(f"error: {strip_worker_traceback(mistake)}", file=sys.stderr)  # noqa: T201
            return USER_ERROR
        print(without_secrets(traceback.format_exc()), end="", file=sys.stderr)  # noqa: T201
        return FAILED


def _run(overrides: list[str]) -> int:
    from vissl_clusterfit.launch.compose.early import compose_early
    from vissl_clusterfit.launch.compose.vissl_keys import require_public_data
    from vissl_clusterfit.launch.processes.torchrun import is_first_of_run, once_per_node, with_torchrun
    from vissl_clusterfit.launch.runs.subprocess_runs import run_all
    from vissl_clusterfit.launch.runs.sweep import sweep_runs

    with once_per_node():
        if runs := sweep_runs(overrides):
            return run_all(runs)
        completed = with_torchrun(overrides)
        early = compose_early(completed)
        require_public_data(early[0]["config"])
        # What takes seconds begins here: PyTorch, then VISSL, repaired, in every process.
        from vissl_clusterfit.plugin import bootstrap

        bootstrap.cover_children()
        from vissl_clusterfit.launch.compose.compose import compose
        from vissl_clusterfit.launch.runs.benchmark_suite import plan_suite
        from vissl_clusterfit.launch.runs.execute import execute, summarize

        engine, node_id, config = compose(completed, early)
        # Composed before the training: a mistake in one of them is not to be known days later.
        suite = [] if config.SLURM.USE_SLURM else [planned.run for planned in plan_suite(engine, config)]
    if engine == "clusterfit_study":
        from vissl_clusterfit.launch.runs.study import run_study

        return run_study(overrides, config, main)
    if config.SLURM.USE_SLURM:
        from vissl_clusterfit.launch.slurm.submit import submit

        submit(overrides, engine, config)
        return DONE
    is_first = is_first_of_run(node_id)
    execute(engine, node_id, config, in_subprocess=bool(suite))  # what a training leaves in memory, benchmarks may need
    if not is_first:
        return DONE
    print(summarize(engine, config, overrides))  # noqa: T201
    return run_all(suite, "benchmark") if suite else DONE
