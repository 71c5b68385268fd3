"""How many runs a study has, how long they will take, and how much of that is left, from those that have ended."""

from __future__ import annotations

from collections.abc import Collection

from vissl_clusterfit.progress.state import duration
from vissl_clusterfit.study.plan import StudyRun


class Forecast:
    """What is left of a study. A training takes as long as it has epochs, an evaluation as long as the others.

    Args:
        runs: all of the study.
        num_parallel: how many are run at a time.
    """

    def __init__(self, runs: Collection[StudyRun], num_parallel: int) -> None:
        self._num_parallel = num_parallel
        self.num_trainings = sum(run.num_epochs > 0 for run in runs)
        self.num_evaluations = len(runs) - self.num_trainings
        self._epochs_left = sum(run.num_epochs for run in runs)
        self._evaluations_left = self.num_evaluations
        self._trained = _Rate()
        self._evaluated = _Rate()
        self.num_done = 0

    def done(self, run: StudyRun, seconds: float | None = None) -> None:
        """Counts a run that has ended, and how long it took, where that is known."""
        self.num_done += 1
        if run.num_epochs:
            self._epochs_left -= run.num_epochs
            self._trained.add(run.num_epochs, seconds)
        else:
            self._evaluations_left -= 1
            self._evaluated.add(1, seconds)

    def seconds_left(self) -> float | None:
        """None before a training has ended; without the evaluations, before one of these has."""
        if not self._trained.amount:
            return None
        left = self._epochs_left * self._trained.seconds / self._trained.amount
        if self._evaluated.amount:
            left += self._evaluations_left * self._evaluated.seconds / self._evaluated.amount
        return left / self._num_parallel

    def beginning(self) -> str:
        """What a study says before its first run."""
        what = f"{self.num_trainings} trainings and {self.num_evaluations} evaluations"
        at_a_time = f"{self._num_parallel} at a time" if self._num_parallel > 1 else "one after the other"
        done = f"; {self.num_done} of them are done" if self.num_done else ""
        left = self.seconds_left()
        known = "How long they take is told when the first training has ended"
        if left is not None:
            known = f"By the times of these, the rest takes {duration(left)}"
        return f"This study has {what}, {at_a_time}{done}. {known}."

    def left(self) -> str:
        """How long what is left will take, in words; empty before that is known."""
        left = self.seconds_left()
        return "" if left is None else f"{duration(left)} left"


class _Rate:
    def __init__(self) -> None:
        self.amount, self.seconds = 0, 0.0

    def add(self, amount: int, seconds: float | None) -> None:
        if seconds is not None:
            self.amount, self.seconds = self.amount + amount, self.seconds + seconds
