"""Linear SVMs on a few samples per class, over several draws of them: the low-shot benchmarks of VOC07 and Places205.

The protocol is that of Goyal et al., ICCV 2019, section 5.2, as VISSL has it in ``SVMLowShotTrainer`` and in
``create_low_shot_samples``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.report.intervals import student_interval
from vissl_clusterfit.transfer.metrics import average_precision
from vissl_clusterfit.transfer.svm import ABSENT, IGNORED, PRESENT, SvmSettings

_VISSLS_SETTING = "config.SVM.low_shot.k_values"


@dataclass(frozen=True)
class LowShotResult:
    """Over the draws, for the cost with the greatest mean, as fractions.

    Attributes:
        cost: That cost. VISSL chooses it by the mean on the test split, so the score is an optimistic one.
        mean: The mean of the draws' mean average precisions.
        least: The least of them.
        greatest: The greatest.
        deviation: Their standard deviation, dividing by their number.
        half_width: Of the 95 % t interval of the mean, over draws; None with a single one.
    """

    cost: float
    mean: float
    least: float
    greatest: float
    deviation: float
    half_width: float | None


def draw_targets(targets: np.ndarray, num_shots: int, seed: tuple[int, ...]) -> np.ndarray:
    """Targets of which few are kept: for each class k positives and (C - 1) * k negatives; the rest becomes -1.

    Args:
        targets: ``(num_samples, num_classes)``, 1, 0 or -1.
        num_shots: k.
        seed: Draws them; give each draw another one.

    Raises:
        DataError: a class has too few of either.
    """
    rng = np.random.default_rng(seed)
    drawn = np.full_like(targets, IGNORED)
    num_classes = targets.shape[1]
    for number in range(num_classes):
        for symbol, count in ((PRESENT, num_shots), (ABSENT, (num_classes - 1) * num_shots)):
            candidates = np.flatnonzero(targets[:, number] == symbol)
            if len(candidates) < count:
                raise DataError(_too_few(number, num_shots, f"{len(candidates)} targets {symbol}", count))
            drawn[rng.choice(candidates, count, replace=False), number] = symbol
    return drawn


def draw_samples(
    labels: np.ndarray, num_shots: int, seed: tuple[int, ...], *, setting: str = _VISSLS_SETTING
) -> np.ndarray:
    """The indices, ascending, of k samples of each class; a label of -1 is no class.

    Args:
        labels: ``(num_samples,)`` whole numbers.
        num_shots: k.
        seed: Draws them.
        setting: That gives k, for the message.

    Raises:
        DataError: a class has fewer.
    """
    rng = np.random.default_rng(seed)
    drawn = []
    for number in np.unique(labels[labels >= 0]):
        candidates = np.flatnonzero(labels == number)
        if len(candidates) < num_shots:
            raise DataError(_too_few(int(number), num_shots, f"{len(candidates)} samples", num_shots, setting))
        drawn.append(rng.choice(candidates, num_shots, replace=False))
    return np.sort(np.concatenate(drawn)) if drawn else np.empty(0, dtype=np.int64)


def one_hot_targets(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Targets ``(num_samples, num_classes)`` of samples of one class each; where the label is -1 all are ignored."""
    targets = (labels[:, np.newaxis] == np.arange(num_classes)).astype(np.int64)
    targets[labels < 0] = IGNORED
    return targets


def score_draw(
    train: np.ndarray,
    train_targets: np.ndarray,
    test: np.ndarray,
    test_targets: np.ndarray,
    settings: SvmSettings,
) -> np.ndarray:
    """Mean average precision over the classes for each cost, ``(num_costs,)``, from the samples of one draw.

    Unlike the full benchmark, this leaves a training target of -1 out.

    Args:
        train: Features ``(num_train, dim)``, scaled by ``svm.scaled`` already.
        train_targets: ``(num_train, num_classes)``, of one draw.
        test: Features ``(num_test, dim)``, scaled likewise.
        test_targets: ``(num_test, num_classes)``.
        settings: What defines the score; no cross-validation takes place.
    """
    found = np.zeros((train_targets.shape[1], len(settings.costs)))
    for number, (kept, scored) in enumerate(
        zip((train_targets != IGNORED).T, (test_targets != IGNORED).T, strict=True)
    ):
        samples, labels = train[kept], np.where(train_targets[kept, number] == PRESENT, 1, -1)
        relevant = test_targets[scored, number] == PRESENT
        for place, cost in enumerate(settings.costs):
            svm = settings.svm(cost).fit(samples, labels)
            found[number, place] = average_precision(relevant, svm.decision_function(test[scored]))
    return found.mean(axis=0)


def summarize_draws(scores: np.ndarray, settings: SvmSettings) -> LowShotResult:
    """From ``(num_draws, num_costs)`` to what is reported, as VISSL's ``aggregate_stats`` does."""
    best = int(np.argmax(scores.mean(axis=0)))
    draws = scores[:, best]
    return LowShotResult(
        cost=settings.costs[best],
        mean=float(draws.mean()),
        least=float(draws.min()),
        greatest=float(draws.max()),
        deviation=float(draws.std()),
        half_width=student_interval(draws.tolist()).half_width if len(draws) > 1 else None,
    )


def low_shot_protocol(settings: SvmSettings, num_shots: int, num_draws: int, drawn: str) -> str:
    """The text by which someone else can compute the same number; ``drawn``: what a draw takes for each class."""
    costs = ", ".join(f"{cost:g}" for cost in settings.costs)
    return (
        f"{settings.describe_svm()}, k = {num_shots}: {drawn}; {num_draws} draws (NumPy default_rng([seed, draw, k])); "
        "mean over classes of VOC average precision (all points) on the test split without its targets -1; "
        f"C of {{{costs}}} with the greatest mean over the draws on the test split, as VISSL chooses it"
    )


def _too_few(number: int, num_shots: int, found: str, needed: int, setting: str = _VISSLS_SETTING) -> str:
    return problem(
        setting,
        found=f"{num_shots}, and class {number} has {found} in the training split",
        allowed=f"values for which it has enough (here {needed})",
        remedy="Lower it, or add samples.",
    )
