"""Which runs a study consists of, and which of them can start now.

    method, point, seed ─▶ training of each tuned value (tuning seed) ─▶ scores on validation ─▶ chosen value
                        ─▶ training with the chosen value (every seed) ─▶ scores on test

A run is known by its folder, and runs that differ in nothing are one: a teacher that does not depend on the point is
trained once per seed.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vissl_clusterfit.config.override_text import quoted
from vissl_clusterfit.report.results import ResultRow
from vissl_clusterfit.study.settings import POINT, MethodSettings, StudySettings, replaced

#: Whose score on validation decides what is chosen.
CHOSEN_BY = "linear"
_ALL_POINTS = "all"


@dataclass(frozen=True)
class StudyRun:
    """A command: the study's own, with these overrides after its own.

    Attributes:
        folder: its CHECKPOINT.DIR.
        overrides: these.
        num_epochs: of a training; 0 for an evaluation.
    """

    folder: Path
    overrides: tuple[str, ...]
    num_epochs: int = 0


@dataclass(frozen=True)
class Score:
    """One number of the study, with its place in it."""

    method: str
    point: str
    target: str
    row: ResultRow


class StudyPlan:
    """The runs of a study as far as they are known: what depends on a choice is known when it can be made.

    Args:
        settings: the block ``config.STUDY``.
        folder: of the study.
        num_epochs: of a training of length 1.
        is_finished: whether a run was done to its end.
        rows: the scores of an evaluation that is finished.
    """

    def __init__(
        self,
        settings: StudySettings,
        folder: Path,
        num_epochs: int,
        *,
        is_finished: Callable[[StudyRun], bool],
        rows: Callable[[StudyRun], Sequence[ResultRow]],
    ) -> None:
        self._settings = settings
        self._folder = folder
        self._num_epochs = num_epochs
        self._is_finished = is_finished
        self._rows = rows
        self._ready: dict[Path, StudyRun] = {}

    def ready(self) -> list[StudyRun]:
        """The runs that are not done and need none that is not, first those that others wait for."""
        self._ready = {}
        for method in self._settings.methods:
            for point in self._settings.named_points:
                self._choice(method, point)
                for seed in self._seeds(method):
                    self._scores(method, point, seed)
        return list(self._ready.values())

    def runs(self) -> list[StudyRun]:
        """All runs, done or not; whatever values will be chosen, they are as many and as long."""
        found = {}

        def done(run: StudyRun) -> bool:
            found[run.folder] = run
            return True

        row = ResultRow("any", CHOSEN_BY, "any", "any", "any", 0.0, "any", 0)
        StudyPlan(self._settings, self._folder, self._num_epochs, is_finished=done, rows=lambda _: [row]).ready()
        return [*found.values()]

    def scores(self) -> Iterator[Score]:
        """The scores on test of every method that is shown; complete when nothing is ready any more."""
        for name, method in self._settings.methods.items():
            if not method.shown:
                continue
            for point in self._settings.named_points:
                for seed in self._seeds(name):
                    for target, rows in (self._scores(name, point, seed) or {}).items():
                        yield from (Score(name, point, target, row) for row in rows)

    def trainings(self) -> Iterator[tuple[str, str, int, Path]]:
        """Method, point, seed and folder of each training with the chosen value, when nothing is ready any more."""
        for name in self.choices():
            for point in self._settings.named_points:
                for seed in self._seeds(name):
                    yield name, point, seed, self._place(name, point, seed, self._choice(name, point)) / "training"

    def choices(self) -> dict[str, dict[str, object]]:
        """The tuned value of each method at each point."""
        return {
            name: {point: self._choice(name, point) for point in self._settings.named_points}
            for name, method in self._settings.methods.items()
            if method.epochs and not method.weights
        }

    def validated(self) -> dict[str, float]:
        """The score on validation data of each method that was tuned, with its chosen values; the mean of points."""
        points = [self._settings.tuning.point] if self._settings.tuning.point else list(self._settings.named_points)
        found = {}
        for name in filter(self._is_tuned, self._settings.methods):
            best = [max(scores) for point in points if (scores := self._validation(name, point))]
            if len(best) == len(points):
                found[name] = statistics.fmean(best)
        return found

    def _seeds(self, name: str) -> list[int]:
        return self._settings.seeds[:1] if self._method(name).once else self._settings.seeds

    def _method(self, name: str) -> MethodSettings:
        return self._settings.methods[name]

    def _choice(self, name: str, point: str) -> object | None:
        """The value that is best on the validation data, the mean of all targets; None where that is not known yet."""
        values = self._settings.tuning.values
        if not self._is_tuned(name):
            return values[0]
        scores = self._validation(name, point)
        return None if scores is None else values[scores.index(max(scores))]

    def _is_tuned(self, name: str) -> bool:
        method = self._method(name)
        return self._settings.is_tuned and bool(method.epochs) and not method.weights

    def _validation(self, name: str, point: str) -> list[float] | None:
        """The score of each value on the validation data; None where not all are known yet."""
        tuning, scores = self._settings.tuning, []
        for value in tuning.values:
            of_targets = self._evaluated(name, tuning.point or point, tuning.seed, value, "validation")
            if of_targets is not None:
                found = [row for each in of_targets.values() for row in each if row.benchmark == CHOSEN_BY]
                scores.append(statistics.fmean(row.value for row in found))
        return scores if len(scores) == len(tuning.values) else None

    def _scores(self, name: str, point: str, seed: int) -> dict[str, Sequence[ResultRow]] | None:
        value = self._choice(name, point)
        return None if value is None else self._evaluated(name, point, seed, value, "test")

    def _evaluated(
        self, name: str, point: str, seed: int, value: object, split: str
    ) -> dict[str, Sequence[ResultRow]] | None:
        """The rows of each target; None, and the runs that are missing noted, where they are not all there."""
        weights = self._weights(name, point, seed, value)
        if weights is None:
            return None
        place = self._place(name, point, seed, value)
        network = self._with_names(self._method(name).network, point, seed)
        found = {}
        for target, of in self._settings.targets.items():
            scored = getattr(of, split)
            labels = {
                part: ("disk_filelist", f"{folder}.{of.labels}.npy") if of.labels else ("disk_folder", folder)
                for part, folder in (("TRAIN", of.train), ("TEST", scored))
            }
            run = StudyRun(
                place / f"{split} {target}".replace(" ", "_"),
                (
                    "engine_name=clusterfit_transfer",
                    *network,
                    f"config.SEED_VALUE={seed}",
                    f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={quoted(weights)}",
                    f"config.TRANSFER.MODEL_NAME={quoted(self._model_name(name, point))}",
                    f"config.TRANSFER.DATASET_NAME={quoted(target if split == 'test' else f'{target}, validation')}",
                    f"config.TRANSFER.FEATURES.PATH={quoted(str(place / f'features_{split}'))}",
                    *(
                        f"config.DATA.{part}.{key}=[{value}]"
                        for part, folder in (("TRAIN", of.train), ("TEST", scored))
                        for key, value in (
                            ("DATA_SOURCES", "disk_folder"),
                            ("DATA_PATHS", quoted(folder)),
                            ("LABEL_SOURCES", labels[part][0]),
                            ("LABEL_PATHS", quoted(labels[part][1])),
                        )
                    ),
                ),
            )
            if self._is_finished(run):
                found[target] = self._rows(run)
            else:
                self._ready[run.folder] = run
        return found if len(found) == len(self._settings.targets) else None

    def _weights(self, name: str, point: str, seed: int, value: object) -> str | None:
        """The checkpoint of a method, "" for a network that is not trained; None where it is not there yet."""
        method = self._method(name)
        if method.weights or not method.epochs:
            return method.weights
        names: dict[str, object] = {}
        for number, before in enumerate(method.after, 1):
            chosen = self._choice(before, point)
            weights = None if chosen is None else self._weights(before, point, seed, chosen)
            if weights is None:
                return None
            names[f"weights {number}"] = quoted(weights)
            names[f"run {number}"] = self._place(before, point, seed, chosen) / "training"
        num_epochs = max(1, round(method.epochs * self._num_epochs / method.more))
        run = StudyRun(
            self._place(name, point, seed, value) / "training",
            (
                "engine_name=train",
                *self._with_names(method.network, point, seed),
                f"config.OPTIMIZER.num_epochs={num_epochs}",
                *(self._wrong_labels(point, seed) if method.labelled else ()),
                *replaced(self._with_names(method.training, point, seed), names),
                f"{self._settings.tuning.key}={value}",
                f"config.SEED_VALUE={seed}",
                f"config.CLUSTERFIT.SEED={seed}",
            ),
            num_epochs,
        )
        if not self._is_finished(run):
            self._ready[run.folder] = run
            return None
        return str(run.folder / "checkpoint.torch")

    def _wrong_labels(self, point: str, seed: int) -> Iterator[str]:
        yield "config.DATA.TRAIN.LABEL_SOURCES=[disk_filelist]"
        yield f"config.DATA.TRAIN.LABEL_PATHS=[{quoted(str(self.labels_file(point, seed)))}]"

    def labels_file(self, point: str, seed: int) -> Path:
        """The file of labels of which a point's share is wrong."""
        share = self._settings.share_of_wrong_labels(point)
        return self._folder / "labels" / f"wrong={share:g},seed={seed}.npy"

    def _with_names(self, texts: list, point: str, seed: int) -> list[str]:
        return replaced(texts, {"point": self._settings.named_points[point], "seed": seed})

    def _place(self, name: str, point: str, seed: int, value: object) -> Path:
        method = self._method(name)
        at = _file_name(point if self._depends_on_point(name) else _ALL_POINTS)
        folder = self._folder / "runs" / _file_name(self._settings.shown_name(name)) / at
        if method.weights:
            return folder / "given"
        return folder / (f"seed={seed},value={value}" if method.epochs else f"seed={seed}")

    def _model_name(self, name: str, point: str) -> str:
        shown = self._settings.shown_name(name)
        return f"{shown} ({self._settings.axis} {point})" if self._depends_on_point(name) else shown

    def _depends_on_point(self, name: str) -> bool:
        method = self._method(name)
        texts = [*method.network, *method.training, *([self._settings.wrong_labels] if method.labelled else [])]
        return any(POINT in str(text) for text in texts) or any(map(self._depends_on_point, method.after))


def _file_name(text: str) -> str:
    return "".join(letter if letter.isalnum() or letter in ".=-" else "_" for letter in text)
