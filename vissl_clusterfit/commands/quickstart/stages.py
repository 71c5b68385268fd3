"""What the quickstarts share: stages run one after the other by the commands that they print, then a table."""

from __future__ import annotations

import contextlib
import importlib
import os
import shlex
import subprocess
import sys
import time
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from vissl_clusterfit.errors import ClusterFitError
from vissl_clusterfit.launch.runs.subprocess_runs import python_command
from vissl_clusterfit.progress.ending import ending
from vissl_clusterfit.progress.state import VARIABLE, duration
from vissl_clusterfit.progress.watch import watch
from vissl_clusterfit.report.results import append_results, read_results
from vissl_clusterfit.report.table import format_table

# Two threads of one process on two busy cores wait for each other; and with one, figures do not depend on the cores.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

#: Evaluations at the same time: each of them takes little more than one core.
NUM_EVALUATIONS = 2
#: The priority of one that others are not to wait for.
_LOW = 10
#: How long a stage may take to end after Ctrl-C.
_GRACE_S = 30
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

    all_stages, runs = [*stages, *evaluations], dict[int, _Run]()

    def start(number: int) -> None:
        stage = all_stages[number]
        runs[number] = _Run(folder / "logs" / logs[number], f"{group}/{stage.config}", folder, stage)

    def run(number: int) -> int:
        if number not in runs:
            start(number)
        return runs[number].to_end(f"{number + 1} of {len(logs)}: {all_stages[number].title}")

    # A model is evaluated while the next one is trained, which takes little more than one core and is waited for.
    pool, begun = ThreadPoolExecutor(NUM_EVALUATIONS), list[Future[int]]()
    try:
        start(0)
        draw()
        for num_done in range(len(stages) + 1):
            if num_done and (code := run(num_done - 1)):
                return code
            for number, needed in enumerate(after, len(stages)):
                if needed == num_done:
                    begun.append(pool.submit(run, number))
            # What is waited for next imports what it needs meanwhile.
            if num_done + 1 < len(stages):
                start(num_done + 1)
            elif num_done < len(stages):
                for number, needed in enumerate(after, len(stages)):
                    if needed == len(stages):
                        start(number)
        importlib.import_module("vissl_clusterfit.commands.reporting")  # with PyTorch, while the evaluations run
        if code := next(filter(None, (each.result() for each in begun)), 0):
            return code
    finally:
        pool.shutdown(cancel_futures=True)
        for each in runs.values():  # those that wait for their turn
            each.end()
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


class _Run:
    """One config in a separate process, its output in a log file; it imports what it needs and waits for its turn."""

    def __init__(self, log: Path, config: str, folder: Path, stage: Stage) -> None:
        self._stage, self._log, self._told = stage, log, log.with_suffix(".progress")
        self._command = [f"config={config}", f"quickstart.folder={folder}", *stage.overrides]
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "w", encoding="utf-8") as output:
            self._process = subprocess.Popen(
                [*python_command("vissl_clusterfit.launch.waiting", "main_when_told"), *self._command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **ENVIRONMENT, VARIABLE: str(self._told)},
            )
        assert self._process.stdin is not None
        self._stdin = self._process.stdin.fileno()

    def to_end(self, title: str) -> int:
        """Has it begin, shows how far it is, and returns its exit code."""
        before, started = self._stage.before, time.monotonic()
        tqdm.write(f"\n{title}\n    vissl-clusterfit {shlex.join(self._command)}")
        with contextlib.suppress(BrokenPipeError):  # it has ended
            os.write(self._stdin, b"\n")
        if self._stage.waits:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, self._process.pid, _LOW)
        try:
            code = watch(self._process, self._told, lambda line: tqdm.write(f"    {line}"), before)
        except KeyboardInterrupt:  # which the run has got from the terminal, too
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_GRACE_S)
            raise
        finally:
            self.end()
        outcome = "done" if code == 0 else f"failed with exit code {code}"
        tqdm.write(
            f"    {before}{outcome} in {time.monotonic() - started:.0f} s; log: {self._log}"
        )  # above the bars of others
        if code:
            print("\n".join(self._log.read_text("utf-8").splitlines()[-15:]), file=sys.stderr)
        return code

    def end(self) -> None:
        """Ends it, if it runs."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()  # type: ignore[union-attr]
