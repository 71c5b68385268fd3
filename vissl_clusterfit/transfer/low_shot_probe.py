"""A linear probe on a few samples per class, over several draws of them, with C chosen without the test split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vissl_clusterfit.config.schema import setting
from vissl_clusterfit.progress.step import Progress
from vissl_clusterfit.report.intervals import Interval, student_interval
from vissl_clusterfit.transfer.checks import check_features, validate_labels
from vissl_clusterfit.transfer.linear import finite_rows, fit_classifier
from vissl_clusterfit.transfer.low_shot_svm import draw_samples
from vissl_clusterfit.transfer.validation import hold_out

_SETTING = "config.TRANSFER.LOW_SHOT.SHOTS"


@dataclass(frozen=True)
class LowShotProbeSettings:
    """What defines the scores."""

    #: How many samples per class; one score for each.
    shots: tuple[int, ...] = setting((1, 2, 4, 8, 16), at_least=1)
    #: How many times they are drawn; one draw says nothing of the spread.
    draws: int = setting(5, at_least=2)
    #: The values of C to choose from.
    c_grid: tuple[float, ...] = setting((1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0), above=0)
    #: The share of the training samples on which C is chosen; no draw takes one of them.
    validation_share: float = setting(0.2, above=0, at_most=0.5)
    #: Draws the validation samples and the shots.
    seed: int = setting(0, at_least=0, at_most=2**32 - 1)
    #: Iterations of L-BFGS per fit, at most.
    max_iter: int = setting(1000, at_least=1)

    def protocol(self, num_shots: int) -> str:
        """The text by which someone else can compute the same number."""
        grid = ", ".join(f"{c:g}" for c in self.c_grid)
        return (
            f"multinomial logistic regression on frozen features of k = {num_shots} samples of each class, "
            f"standardised by them (scikit-learn: StandardScaler, LogisticRegression with lbfgs, max_iter "
            f"{self.max_iter}); {self.draws} draws (NumPy default_rng([seed, draw, k]), seed {self.seed}) from the "
            f"training split without a share of {self.validation_share:g} of it (StratifiedShuffleSplit, random_state "
            f"{self.seed}), on which C of {{{grid}}} is chosen by the mean accuracy of the draws, of equal ones the "
            "smallest; test split scored once per draw; mean over draws, half-width of the 95 % t interval over draws"
        )


@dataclass(frozen=True)
class LowShotProbeResult:
    """What came out for one number of shots.

    Attributes:
        accuracies: Top-1 accuracy on the test split of each draw, between 0 and 1.
        interval: Their mean, and the 95 % t interval of it over draws.
        chosen_c: The chosen C.
    """

    accuracies: tuple[float, ...]
    interval: Interval
    chosen_c: float


def low_shot_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    num_shots: int,
    settings: LowShotProbeSettings,
) -> LowShotProbeResult:
    """Fits a linear classifier on k samples of each class, draw by draw; see ``linear_probe`` for the classifier.

    Low-shot classification is usually reported as the mean over draws (Goyal et al., ICCV 2019, section 5.2). There C
    is chosen by the mean on the test split; here by the mean on training samples that no draw takes.

    Args:
        train_features: ``(num_train, dim)``, any float dtype; copied to float64.
        train_labels: ``(num_train,)`` whole numbers.
        test_features: ``(num_test, dim)``.
        test_labels: ``(num_test,)`` whole numbers.
        num_shots: k.
        settings: What defines the score.

    Raises:
        DataError: features or labels that cannot be used, or a class with fewer than k samples.
    """
    check_features(train_features, "train_features", test_features, "test_features")
    train_x, test_x = finite_rows(train_features, "train_features"), finite_rows(test_features, "test_features")
    train_y = validate_labels(train_labels, len(train_x), "train_labels")
    test_y = validate_labels(test_labels, len(test_x), "test_labels")
    fit, validation = hold_out(train_y, settings.validation_share, settings.seed)
    models, accuracies = [], []
    progress = Progress(f"Low-shot probe, k = {num_shots}", settings.draws, "draws")
    for draw in range(settings.draws):
        seed = (settings.seed, draw, num_shots)
        drawn = fit[draw_samples(train_y[fit], num_shots, seed, setting=_SETTING)]
        models.append(
            [fit_classifier(train_x[drawn], train_y[drawn], c, settings.max_iter)[0] for c in settings.c_grid]
        )
        accuracies.append([model.score(train_x[validation], train_y[validation]) for model in models[-1]])
        progress.add(1)
    progress.close()
    means = np.mean(accuracies, axis=0)
    best = min(range(len(means)), key=lambda place: (-means[place], settings.c_grid[place]))
    found = tuple(float(of_draw[best].score(test_x, test_y)) for of_draw in models)
    return LowShotProbeResult(found, student_interval(found), settings.c_grid[best])
