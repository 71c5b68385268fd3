"""What the quickstarts share: stages run one after the other by the commands that they print, then a table."""

from __future__ import annotations

import contextlib
import importlib
import os
import shlex
import sys
import time
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from vissl_clusterfit.errors import ClusterFitError
from vissl_clusterfit.launch.main import main
from vissl_clusterfit.launch.runs.process_pool import Processes, processes
from vissl_clusterfit.launch.runs.subprocess_runs import stopped_as_interrupted
from vissl_clusterfit.progress.ending import ending
from vissl_clusterfit.progress.state import VARIABLE, duration
from vissl_clusterfit.progress.watch import watch
from vissl_clusterfit.report.results import append_results, read_results
from vissl_clusterfit.report.table import format_table

# Two threads of one process on two busy cores wait for each other; and with one, figures do not depend on the cores.
NUM_THREADS = 1

#: Evaluations at the same time: each of them takes little more than one core.
NUM_EVALUATIONS = 2
#: The priority of one that others are not to wait for.
_LOW = 10
#: What makes a training of a small quickstart.
SMALL_TRAINING = ("config.OPTIMIZER.num_epochs=1",)
_CONTROL = "teacher_twice_as_long"


@dataclass(frozen=True)
class Stage:
    """One run of a config.

    Attributes:
        title: printed above it.
        config: its name.
        overrides: of it.
        before: stands in front of its progress, where others run at the same time.
        waits: whether it takes what others leave of the cores.
    """

    title: str
    config: str
    overrides: Sequence[str] = ()
    before: str = ""
    waits: bool = False


def control_stage(training: Sequence[str]) -> Stage:
    """The training of a teacher for as long as teacher and student together."""
    return Stage("For comparison: a teacher trained twice as long", _CONTROL, training)


def weights_of(folder: Path, config: str) -> list[str]:
    """What makes the network of a stage the one that is evaluated."""
    return [f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={folder}/{config}/checkpoint.torch"]


def teacher_and_student(folder: Path, *, control: bool) -> dict[str, Sequence[str]]:
    """The last models of the table: teacher, control where there is one, and student."""
    return {
        "teacher": weights_of(folder, "teacher"),
        **({"teacher, twice as long": weights_of(folder, _CONTROL)} if control else {}),
        "student": weights_of(folder, "clusterfit"),
    }


def run_stages(
    folder: Path,
    group: str,
    stages: Sequence[Stage],
    models: Mapping[str, Sequence[str]],
    *,
    draw: Callable[[], object],
    started: float,
    open_page: bool,
) -> int:
    """Draws the data, runs the stages, evaluates the models, prints their table and writes the page of the clusters.

    Args:
        folder: where everything is kept; the configs know it as ``quickstart.folder``.
        group: where the configs lie.
        stages: what makes the models, in order.
        models: each model of the table, and what makes ``config=<group>/evaluate`` the evaluation of it.
        draw: writes the data.
        started: when the quickstart did, by ``time.monotonic``.
        open_page: whether the page is opened in the browser.

    Returns:
        The exit code of the stage that failed, or 0.
    """
    folders = {model: folder / "evaluation" / _file_name(model) for model in models}
    evaluations = []
    for model, overrides in models.items():
        named = [f'config.TRANSFER.MODEL_NAME="{model}"', f"config.CHECKPOINT.DIR={folders[model]}"]
        beside = _number_of_stages(folder, stages, overrides) < len(stages)
        evaluations.append(
            Stage(f"Evaluating: {model}", "evaluate", [*overrides, *named], before=f"{model}: ", waits=beside)
        )
    logs = [f"{stage.config}.log" for stage in stages] + [f"evaluate_{_file_name(model)}.log" for model in models]
    after = [_number_of_stages(folder, stages, overrides) for overrides in models.values()]

    all_stages = [*stages, *evaluations]

    def run(number: int) -> int:
        stage = all_stages[number]
        title = f"{number + 1} of {len(logs)}: {stage.title}"
        return _run(running, stage, title, f"{group}/{stage.config}", folder, folder / "logs" / logs[number])

    # A model is evaluated while the next one is trained, which takes little more than one core and is waited for.
    pool, begun = ThreadPoolExecutor(NUM_EVALUATIONS), list[Future[int]]()
    with stopped_as_interrupted(), processes(NUM_THREADS, main) as running:
        try:
            running.prepare()
            draw()
            for num_done in range(len(stages) + 1):
                if num_done and (code := run(num_done - 1)):
                    return code
                for number, needed in enumerate(after, len(stages)):
                    if needed == num_done:
                        begun.append(pool.submit(run, number))
            importlib.import_module("vissl_clusterfit.commands.reporting")  # with PyTorch, while the evaluations run
            if code := next(filter(None, (each.result() for each in begun)), 0):
                return code
        finally:
            running.stop()
            pool.shutdown(cancel_futures=True)
    rows = [row for of_model in folders.values() for row in read_results(of_model)]
    append_results(folder, rows)
    print(f"\n{format_table(rows)}\n")
    made: dict[str, object] = {"scores, with their protocols": folder / "results.json"}
    with_page, note = _show_clusters(folder, open_page=open_page)
    note = note or "With your own images: docs/tutorial.md begins with"
    done = f"Done in {duration(time.monotonic() - started)}."
    print(ending(done, made | with_page, [note], then=["embed", "--help"]))
    return 0


def _show_clusters(run: Path, *, open_page: bool) -> tuple[dict[str, object], str]:
    """Where the page is, or why there is none: then the models are trained and measured all the same."""
    from vissl_clusterfit.commands.reporting import report  # which needs PyTorch

    try:
        _, page = report(run)
    except ClusterFitError as error:
        return {}, f"No page of the clusters: {error}"
    if open_page:
        webbrowser.open(page.resolve().as_uri())
    return {"the clusters, to look at": page}, ""


def _number_of_stages(folder: Path, stages: Sequence[Stage], overrides: Sequence[str]) -> int:
    """How many stages are to be done before the weights are there that the overrides name."""
    needed = (number for number, stage in enumerate(stages, 1) if {*weights_of(folder, stage.config)} <= {*overrides})
    return max(needed, default=0)


def _file_name(title: str) -> str:
    return title.replace(",", "").replace(" ", "_")


def _run(running: Processes, stage: Stage, title: str, config: str, folder: Path, log: Path) -> int:
    """Runs one config in a separate process, its output in a log file, shows how far it is; its exit code."""
    before, started, told = stage.before, time.monotonic(), log.with_suffix(".progress")
    command = [f"config={config}", f"quickstart.folder={folder}", *stage.overrides]
    # No bar is there, and a Ctrl-C in what tqdm writes ends in a traceback of its lock.
    print(f"\n{title}\n    vissl-clusterfit {shlex.join(command)}", flush=True)
    process = running.begin(log, command, {VARIABLE: str(told)})
    if stage.waits:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, _LOW)

    def code_within(seconds: float) -> int | None:
        process.join(seconds)
        return process.exitcode

    code = watch(code_within, told, lambda line: tqdm.write(f"    {line}"), before)
    outcome = "done" if code == 0 else f"failed with exit code {code}"
    tqdm.write(f"    {before}{outcome} in {time.monotonic() - started:.0f} s; log: {log}")  # above the bars of others
    if code:
        print("\n".join(log.read_text("utf-8").splitlines()[-15:]), file=sys.stderr)
    return code
