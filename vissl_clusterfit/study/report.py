"""The report of a study: ``study.md`` has its tables, ``study.csv`` every score, ``study.png`` the curves."""

from __future__ import annotations

import csv
import io
import logging
import statistics
from collections.abc import Callable, Mapping, Sequence

from vissl_clusterfit.report.intervals import Interval, student_interval
from vissl_clusterfit.study.marks import as_table, plain, signed
from vissl_clusterfit.study.plan import Score
from vissl_clusterfit.study.settings import StudySettings

logger = logging.getLogger(__name__)

#: In the place of a target: the mean of all, seed by seed.
ALL_TARGETS = "all targets"


class Report:
    """The scores of a study by benchmark, target, method and point.

    Args:
        settings: of the study.
        scores: complete, in percent nowhere: values are fractions.
        choices: the tuned value of each method at each point.
        information: by method and point, for each seed, what the labels of a training say of the true ones, of 1.
    """

    def __init__(
        self,
        settings: StudySettings,
        scores: Sequence[Score],
        choices: Mapping[str, Mapping[str, object]],
        information: Mapping[str, Mapping[str, Sequence[float]]],
    ) -> None:
        self.settings = settings
        self.choices = choices
        self.information = information
        self.benchmarks = list(dict.fromkeys(score.row.benchmark for score in scores))
        self.methods = list(dict.fromkeys(score.method for score in scores))
        self.targets = [ALL_TARGETS, *settings.targets] if len(settings.targets) > 1 else list(settings.targets)
        self._scores = scores
        self._values: dict[tuple[str, str, str, str], dict[int, float]] = {}
        for score in scores:
            key = (score.row.benchmark, score.target, score.method, score.point)
            self._values.setdefault(key, {})[score.row.seed] = score.row.value

    def shown(self, method: str) -> str:
        """What a method is called."""
        return self.settings.shown_name(method)

    def values(self, benchmark: str, target: str, method: str, point: str) -> dict[int, float]:
        """Accuracy by seed, as fractions."""
        if target != ALL_TARGETS:
            return self._values[benchmark, target, method, point]
        of_targets = [self._values[benchmark, each, method, point] for each in self.settings.targets]
        return {seed: statistics.fmean(of[seed] for of in of_targets) for seed in of_targets[0]}

    def interval(self, benchmark: str, target: str, method: str, point: str) -> Interval:
        """The accuracy of a method over its seeds."""
        return student_interval([*self.values(benchmark, target, method, point).values()])

    def lead(self, benchmark: str, target: str, method: str, point: str, over: str = "") -> Interval:
        """How far a method is ahead of another one, or of the baseline, seed by seed.

        Of what has one score for all seeds, that one counts for each.
        """
        of_method = self.values(benchmark, target, method, point)
        of_other = self.values(benchmark, target, over or self.settings.baseline, point)
        seeds = max(of_method, of_other, key=len)
        return student_interval([_at(of_method, seed) - _at(of_other, seed) for seed in seeds])

    def markdown(self, answer: Sequence[str] = ()) -> str:
        """The answer, whose parts ``study/answer.py`` gives, then the tables of every benchmark and target."""
        settings, baseline = self.settings, self.settings.shown_name(self.settings.baseline)
        seeds = len(settings.seeds)
        parts = [
            f"# {settings.name}",
            f"Top-1 accuracy on frozen features, in %, with 95 % intervals (Student's t over {seeds} seeds). A lead is "
            f"the difference from **{baseline}** of the same seed; it is in bold where its interval excludes zero.",
            *answer,
        ]
        for benchmark in self.benchmarks:
            for target in self.targets:
                parts.append(f"## {benchmark}, {target}")
                parts.append(self._table(lambda *place: plain(self.interval(*place)), benchmark, target, self.methods))
                others = [method for method in self.methods if method != settings.baseline]
                parts.append(f"Lead over {baseline}, in points:")
                parts.append(self._table(lambda *place: signed(self.lead(*place)), benchmark, target, others))
        if self.information:
            parts += ["## What the labels say", self._information()]
        if settings.is_tuned:
            parts += ["## What was tuned", self._tuned()]
        return "\n\n".join(parts) + "\n"

    def _table(self, cell: Callable[..., str], benchmark: str, target: str, methods: Sequence[str]) -> str:
        rows = [
            [self.shown(name), *(cell(benchmark, target, name, point) for point in self.settings.named_points)]
            for name in methods
        ]
        return as_table([[self.settings.axis or "method", *self.settings.named_points], *rows])

    def _information(self) -> str:
        text = (
            "Adjusted mutual information of the labels that a method is trained on, given ones or clusters, with the "
            "true labels of the pre-training, in %: 100 where they tell them, 0 as by chance."
        )
        rows = [
            [self.shown(name), *(plain(student_interval([*of_points[point]])) for point in self.settings.named_points)]
            for name, of_points in self.information.items()
        ]
        return text + "\n\n" + as_table([[self.settings.axis or "method", *self.settings.named_points], *rows])

    def _tuned(self) -> str:
        tuning = self.settings.tuning
        text = (
            f"`{tuning.key}` of each method, chosen at {tuning.point or 'each point'}: the value of {tuning.values} "
            "with the best linear probe on the validation data, the mean of all targets, of a training with seed "
            f"{tuning.seed}."
        )
        rows = [[self.shown(name), *map(str, of_points.values())] for name, of_points in self.choices.items()]
        return text + "\n\n" + as_table([[self.settings.axis or "method", *self.settings.named_points], *rows])

    def csv(self) -> str:
        """Every score, a line each."""
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(["method", "point", "seed", "benchmark", "target", "metric", "value"])
        for score in self._scores:
            row = score.row
            place = [self.shown(score.method), score.point, row.seed, row.benchmark, score.target]
            lines.writerow([*place, row.metric, repr(row.value)])
        return text.getvalue()


def _at(by_seed: Mapping[int, float], seed: int) -> float:
    return by_seed[seed] if len(by_seed) > 1 else next(iter(by_seed.values()))
