"""``engine_name: clusterfit_study``: a comparison of methods, made of real runs, and its report.

The study is no engine inside a run: as a sweep, it is a launcher of runs. Each is the study's own command with a few
overrides more, in a separate process and folder. What has finished is not run again.
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vissl_clusterfit.config.override_text import quoted
from vissl_clusterfit.datasets.synthetic.study_images import write_pictures
from vissl_clusterfit.errors import ArtifactError, ConfigError, problem, with_remedy
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.labels.quality import adjusted_mutual_information
from vissl_clusterfit.launch.processes.failures import DONE, INTERRUPTED
from vissl_clusterfit.launch.runs.process_pool import OUTPUT_NAME, processes
from vissl_clusterfit.launch.runs.subprocess_runs import stopped_as_interrupted
from vissl_clusterfit.plugin.data.true_labels import true_labels
from vissl_clusterfit.plugin.screen import show_lines
from vissl_clusterfit.progress.display import Display
from vissl_clusterfit.progress.ending import ending
from vissl_clusterfit.progress.state import ProgressState
from vissl_clusterfit.report.costs import read_costs
from vissl_clusterfit.report.results import RESULTS_NAME, ResultRow, append_results, read_results
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.study.answer import answer, mean_costs
from vissl_clusterfit.study.label_noise import wrong_labels
from vissl_clusterfit.study.output import write_report
from vissl_clusterfit.study.plan import StudyPlan, StudyRun
from vissl_clusterfit.study.progress import Forecast
from vissl_clusterfit.study.report import Report
from vissl_clusterfit.study.settings import StudySettings

ENGINE = "clusterfit_study"
_RECORD_NAME = "study_run.json"
#: Overrides that say what the study is made of and not what a run does.
_OF_THE_STUDY = re.compile(r"\+*(config\.STUDY\.|engine_name=|config\.CHECKPOINT\.DIR=)")


def run_study(overrides: Sequence[str], config: Any, main: Callable[[list[str]], int]) -> int:
    """Does the runs that are not done, writes the report, and returns the exit code.

    Args:
        overrides: of the study, as on the command line.
        config: VISSL's, as they give it.
        main: the command itself, for the runs of the study.

    Raises:
        ConfigError: bad settings, or a study that is to be submitted as a job.
        ArtifactError: the folder has runs of other settings.
    """
    settings = StudySettings.from_config(config.get("STUDY"))
    if config.SLURM.USE_SLURM:
        raise ConfigError(
            problem(
                "config.SLURM.USE_SLURM",
                found="true for a study",
                allowed="false: a study starts its runs on this machine, STUDY.NUM_PARALLEL at a time",
            )
        )
    folder = artifact_path(config.CHECKPOINT.DIR, "config.CHECKPOINT.DIR")
    if not isinstance(folder, Path):
        allowed = "a folder of this machine's file system for a study"
        raise ConfigError(problem("config.CHECKPOINT.DIR", found=str(folder), allowed=allowed))
    show_lines()
    if settings.pictures.kind:
        _say(f"Pictures: {folder / 'pictures'}")
        write_pictures(folder / "pictures", settings.pictures)
    study = _Study(settings, folder, overrides, config)
    study.write_labels(config)
    code = study.run(main)
    if code == DONE:
        print(study.report())  # noqa: T201
    return code


class _Study:
    """The runs of one study on this machine."""

    def __init__(self, settings: StudySettings, folder: Path, overrides: Sequence[str], config: Any) -> None:
        self._settings = settings
        self._folder = folder
        self._overrides = [override for override in overrides if not _OF_THE_STUDY.match(override)]
        #: What is done, and how long it took, where its record says so.
        self._finished: dict[Path, tuple[StudyRun, float | None]] = {}
        self._true_labels: np.ndarray | None = None
        self._plan = StudyPlan(
            settings,
            folder,
            config.OPTIMIZER.num_epochs,
            is_finished=self._is_finished,
            rows=_rows,
        )

    def write_labels(self, config: Any) -> None:
        """The labels that are wrong to the share of each point, where a method is trained on labels."""
        if not any(method.labelled and not method.weights for method in self._settings.methods.values()):
            return
        self._true_labels = true = true_labels(config, "TRAIN")
        tuned = [self._settings.tuning.seed] if self._settings.is_tuned else []
        for point in self._settings.named_points:
            for seed in [*self._settings.seeds, *tuned]:
                share = self._settings.share_of_wrong_labels(point)
                file = self._plan.labels_file(point, seed)
                wrong = wrong_labels(true, share, seed)
                if file.exists() and not np.array_equal(artifacts.read_array(file), wrong):
                    raise ArtifactError(f"{file} has labels of other data. Name another config.CHECKPOINT.DIR.")
                artifacts.write_array(file, wrong)

    def run(self, main: Callable[[list[str]], int]) -> int:
        """Runs what is missing. A run that fails ends the study, as others need it."""
        started, runs, on_terminal = time.monotonic(), self._plan.runs(), sys.stderr.isatty()
        forecast = Forecast(runs, self._settings.num_parallel)
        ready = self._plan.ready()
        for run, seconds in self._finished.values():
            forecast.done(run, seconds)
        _say(forecast.beginning())
        begun: dict[Path, tuple[StudyRun, float]] = {}
        with (
            contextlib.closing(Display(_say)) as display,
            stopped_as_interrupted(),
            processes(self._settings.num_threads, main) as running,
        ):
            while True:
                ready = [run for run in ready if run.folder not in running.folders]
                for run in ready[: self._settings.num_parallel - len(running.folders)]:
                    begun[run.folder] = (run, time.monotonic())
                    running.start(run.folder, self._command(run))
                if not running.folders:
                    return DONE
                if on_terminal:
                    display.show(self._state(forecast.num_done, len(runs), running.folders, forecast.left()))
                folder, command, code = running.wait_for_one()
                name = folder.relative_to(self._folder / "runs")
                if code == INTERRUPTED:
                    raise KeyboardInterrupt
                if code != DONE:
                    print(f"{_end_of(folder / OUTPUT_NAME)}\nFAILED with exit code {code}: {name}")  # noqa: T201
                    return code
                run, since = begun.pop(folder)
                seconds = time.monotonic() - since
                artifacts.write_json(folder / _RECORD_NAME, {"overrides": command, "seconds": round(seconds, 3)})
                self._finished[folder] = (run, seconds)
                forecast.done(run, seconds)
                if not on_terminal:
                    progress = f"{forecast.num_done:4d} of {len(runs)} done"
                    _say(f"{time.monotonic() - started:6.0f} s  {progress}  {forecast.left():>14}  {name}")
                ready = self._plan.ready()

    def _state(self, num_done: int, num_runs: int, folders: Collection[Path], left: str) -> ProgressState:
        """What a terminal shows: a study takes its time left from :class:`Forecast`, as its runs are not alike."""
        now = sorted(str(folder.relative_to(self._folder / "runs")) for folder in folders)
        note = ", ".join([*filter(None, [left]), f"now {' and '.join(now)}"])
        return ProgressState("Study", num_done, num_runs, "runs", note=note)

    def report(self) -> str:
        """Writes rows and report, and returns what the user may look for."""
        scores = list(self._plan.scores())
        append_results(self._folder, [score.row for score in scores])
        report = Report(self._settings, scores, self._plan.choices(), self._information())
        text = report.markdown(answer(report, self._plan.validated(), self._costs()))
        files = [self._folder / RESULTS_NAME, *write_report(self._folder, report, text)]
        places = {file.name: file for file in files}
        return f"{text}\n{ending('This study is finished.', places, then=['table', self._folder])}"

    def _information(self) -> dict[str, dict[str, list[float]]]:
        """By method and point, what the labels of each seed's training say of the true ones, where these are known."""
        found: dict[str, dict[str, list[float]]] = {}
        if (true := self._true_labels) is None:
            return found
        for name, point, seed, training in self._plan.trainings():
            if self._settings.methods[name].labelled:
                labels = artifacts.read_array(self._plan.labels_file(point, seed))
            elif self._settings.methods[name].on_other_data:
                continue
            elif (folder := training / "clusterfit" / "labels" / "train").is_dir():
                labels = PseudoLabels.open(folder).labels
            else:
                continue
            found.setdefault(name, {}).setdefault(point, []).append(adjusted_mutual_information(labels, true))
        return found

    def _costs(self) -> dict[str, dict[str, float]]:
        """By method, what a training took on average."""
        of_runs: dict[str, list[dict[str, dict[str, float]]]] = {}
        for name, _, _, training in self._plan.trainings():
            of_runs.setdefault(name, []).append(read_costs(training))
        return mean_costs(of_runs)

    def _command(self, run: StudyRun) -> list[str]:
        return [*self._overrides, *run.overrides, f"config.CHECKPOINT.DIR={quoted(str(run.folder))}"]

    def _is_finished(self, run: StudyRun) -> bool:
        if run.folder in self._finished:
            return True
        record = run.folder / _RECORD_NAME
        if not record.is_file():
            return False
        found = artifacts.read_json(record, "overrides")
        before, now = found["overrides"], self._command(run)
        if before != now:
            differ = ", ".join(sorted({*before} ^ {*now}))
            raise ArtifactError(
                f"{run.folder} holds a run with other overrides: {differ}. Name another folder for this study, or "
                "delete that run."
            )
        seconds = found.get("seconds")
        self._finished[run.folder] = (run, seconds if isinstance(seconds, (int, float)) else None)
        return True


def _rows(run: StudyRun) -> list[ResultRow]:
    """The scores of an evaluation that is finished."""
    with with_remedy(f"Delete {run.folder} to have the study evaluate again."):
        return read_results(run.folder)


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def _end_of(output: Path) -> str:
    return "\n".join(output.read_text("utf-8", "replace").splitlines()[-15:])
