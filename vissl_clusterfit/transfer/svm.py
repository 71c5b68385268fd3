"""One linear SVM per class on frozen features, scored by mean average precision: the benchmark on VOC07.

The protocol is that of Goyal et al., "Scaling and Benchmarking Self-Supervised Visual Representation Learning", ICCV
2019, as VISSL has it in ``SVMTrainer``.

Shapes in names: N samples, C classes, D feature dimensions.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vissl_clusterfit import distributed
from vissl_clusterfit.config.schema import setting
from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.progress.step import Progress
from vissl_clusterfit.transfer.checks import check_features
from vissl_clusterfit.transfer.metrics import average_precision

if TYPE_CHECKING:
    from sklearn.svm import LinearSVC

#: What a target says of a sample and a class.
PRESENT, ABSENT, IGNORED = 1, 0, -1


@dataclass(frozen=True)
class SvmSettings:
    """What defines the score."""

    #: The values of C to choose from.
    costs: tuple[float, ...] = setting((0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0), above=0)
    #: Divide every feature by its L2 norm (plus 1e-5).
    normalize: bool = setting(True)
    #: As liblinear has them, and only together as it solves them.
    loss: str = setting("squared_hinge", choices=("hinge", "squared_hinge"))
    penalty: str = setting("l2", choices=("l1", "l2"))
    #: Which form of the problem is solved.
    dual: bool = setting(True)
    #: Iterations of liblinear, at most.
    max_iter: int = setting(2000, at_least=1)
    #: Of the cross-validation that chooses the cost.
    folds: int = setting(3, at_least=2)
    #: The classes that are scored, by their numbers; all if empty.
    classes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuses a penalty, a loss and a form that do not go together.

        Raises:
            ConfigError: naming them.
        """
        allowed = {("l2", "squared_hinge", True), ("l2", "squared_hinge", False), ("l2", "hinge", True)}
        allowed.add(("l1", "squared_hinge", False))
        if (self.penalty, self.loss, self.dual) not in allowed:
            raise ConfigError(
                problem(
                    "penalty, loss, dual",
                    found=(self.penalty, self.loss, self.dual),
                    allowed="what liblinear solves: " + ", ".join(map(str, sorted(allowed))),
                )
            )

    def svm(self, cost: float) -> LinearSVC:
        """The classifier for one cost, as VISSL sets it up, but with its own seed."""
        from sklearn.svm import LinearSVC

        return LinearSVC(
            C=cost,
            penalty=self.penalty,
            loss=self.loss,
            dual=self.dual,
            tol=1e-4,
            intercept_scaling=1.0,
            class_weight={1: 2, -1: 1},
            max_iter=self.max_iter,
            random_state=0,
        )

    def describe_svm(self) -> str:
        """The part of a protocol that says what is fitted."""
        scaling = "divided by their L2 norm + 1e-5" if self.normalize else "as they are"
        return (
            f"one linear SVM per class on frozen features, {scaling} (scikit-learn LinearSVC: {self.penalty} penalty, "
            f"{self.loss} loss, dual={self.dual}, tol 1e-4, max_iter {self.max_iter}, positives weigh 2)"
        )

    def protocol(self) -> str:
        """The text by which someone else can compute the same number."""
        costs = ", ".join(f"{cost:g}" for cost in self.costs)
        return (
            f"{self.describe_svm()}; C of {{{costs}}}, of equal ones the first, for each class by the mean average "
            f"precision of {self.folds}-fold cross-validation on the training split, where targets -1 count as "
            "negatives; VOC average precision (all points) on the test split without its targets -1; mean over classes"
            + (f" {list(self.classes)}" if self.classes else "")
        )


@dataclass(frozen=True)
class SvmClassResult:
    """What came out for one class.

    Attributes:
        average_precision: On the test split, between 0 and 1.
        chosen_cost: The cost with the best cross-validation.
        validation: Mean average precision in cross-validation for each cost, in their order.
        converged: Whether liblinear reached its tolerance within ``max_iter``, with the chosen cost.
    """

    average_precision: float
    chosen_cost: float
    validation: tuple[float, ...]
    converged: bool


def score_svm_class(
    train_ND: np.ndarray,
    train_targets_N: np.ndarray,
    test_ND: np.ndarray,
    test_targets_N: np.ndarray,
    settings: SvmSettings,
) -> SvmClassResult:
    """Chooses the cost of one class by cross-validation, fits with it, and scores the test split once.

    As in VISSL, a training target of -1 counts as a negative here, and one of the test split is left out.

    Args:
        train_ND: Features, scaled by :func:`scaled` already.
        train_targets_N: 1 present, 0 absent, -1 ignored.
        test_ND: Features, scaled likewise.
        test_targets_N: As those of the training split.
        settings: What defines the score.
    """
    from sklearn.model_selection import cross_val_score

    labels_N = np.where(train_targets_N == PRESENT, 1, -1)
    validation = [
        float(
            cross_val_score(
                settings.svm(cost), train_ND, labels_N, cv=settings.folds, scoring="average_precision"
            ).mean()
        )
        for cost in settings.costs
    ]
    cost = settings.costs[int(np.argmax(validation))]
    svm = settings.svm(cost).fit(train_ND, labels_N)
    scored = test_targets_N != IGNORED
    found = average_precision(test_targets_N[scored] == PRESENT, svm.decision_function(test_ND)[scored])
    return SvmClassResult(found, cost, tuple(validation), bool(svm.n_iter_ < settings.max_iter))


def scaled(features: np.ndarray, settings: SvmSettings) -> np.ndarray:
    """Features as the SVM takes them, ``(num_samples, dim)``.

    Raises:
        DataError: one is not finite.
    """
    norms = np.linalg.norm(features, axis=1)
    if not np.isfinite(norms).all():
        row = int(np.argmin(np.isfinite(norms)))
        raise DataError(problem("features", found=f"NaN or infinity in row {row}", allowed="finite features"))
    return features / (norms + 1e-5)[:, np.newaxis] if settings.normalize else features


def check_targets(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], classes: Sequence[int], at_least: int
) -> None:
    """Refuses targets that give no score.

    Args:
        train: features ``(N, D)`` and targets ``(N, C)``.
        test: likewise.
        classes: that are to be scored.
        at_least: positives, and as many negatives, that a class needs in the training split.

    Raises:
        DataError: naming the split and the class.
    """
    check_features(train[0], "train features", test[0], "test features")
    for split, (features, targets) in (("training", train), ("test", test)):
        if targets.ndim != 2 or len(targets) != len(features):
            found = f"shape {targets.shape} for {len(features)} samples"
            raise DataError(problem(f"The targets of the {split} split", found=found, allowed="(samples, classes)"))
        unknown = sorted(set(np.unique(targets).tolist()) - {PRESENT, ABSENT, IGNORED})
        if unknown:
            allowed = "1 (present), 0 (absent), -1 (ignored)"
            raise DataError(problem(f"The targets of the {split} split", found=unknown, allowed=allowed))
    if train[1].shape[1] != test[1].shape[1]:
        found = f"{train[1].shape[1]} and {test[1].shape[1]} classes"
        raise DataError(problem("The targets", found=found, allowed="as many classes in both splits"))
    for number in classes:
        positives = int((train[1][:, number] == PRESENT).sum())
        found = f"{positives} positives and {len(train[1]) - positives} others for class {number}"
        if min(positives, len(train[1]) - positives) < at_least:
            raise DataError(problem("The training split", found=found, allowed=f"at least {at_least} of each"))
        if not (test[1][:, number] == PRESENT).any():
            found = f"no positive of class {number}"
            raise DataError(problem("The test split", found=found, allowed="one positive of each class, or more"))


def by_all_processes(work: Sequence[Callable[[], Any]], unit: str) -> list[Any]:
    """The results of ``work``, in its order, on every process; each does its part, in threads: liblinear allows them.

    Args:
        work: the same on all.
        unit: what one call does, in the plural, for the screen.

    Raises:
        ClusterFitError: what one of the calls raises, on every process.
    """
    rank, processes = distributed.rank(), distributed.world_size()
    mine: list[Any] = []
    threads = ThreadPoolExecutor(max(1, torch.get_num_threads()))
    with distributed.errors_shared(), _unconverged_fits_are_in_the_results(), threads as pool:
        own = work[rank::processes]
        with Progress("SVM", len(own), unit) as progress:
            for result in pool.map(lambda call: call(), own):
                mine.append(result)
                progress.add(1)
    parts = distributed.gather(mine)
    return [parts[place % processes][place // processes] for place in range(len(work))]


@contextmanager
def _unconverged_fits_are_in_the_results() -> Iterator[None]:
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
