"""Linear probe: how well a linear classifier separates the classes on frozen features."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from vissl_clusterfit.config.schema import setting
from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.progress import DETAIL
from vissl_clusterfit.progress.step import Progress
from vissl_clusterfit.transfer.checks import check_features, validate_labels
from vissl_clusterfit.transfer.validation import hold_out

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LinearProbeSettings:
    """What defines the score. Runs that are compared should share all of it, the seed included."""

    #: The values of C, the inverse strength of the regularisation, to choose from.
    c_grid: tuple[float, ...] = setting((1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0), above=0)
    #: The share of the training samples on which C is chosen.
    validation_share: float = setting(0.2, above=0, at_most=0.5)
    #: Draws the validation samples.
    seed: int = setting(0, at_least=0, at_most=2**32 - 1)
    #: Iterations of L-BFGS per fit, at most.
    max_iter: int = setting(1000, at_least=1)

    def protocol(self) -> str:
        """The text by which someone else can compute the same number."""
        grid = ", ".join(f"{c:g}" for c in self.c_grid)
        return (
            "multinomial logistic regression with L2 regularisation on frozen features, standardised by the "
            "samples fitted on (scikit-learn: StandardScaler, LogisticRegression with lbfgs, max_iter "
            f"{self.max_iter}); C of {{{grid}}}, of equal ones the smallest, by accuracy on a share of "
            f"{self.validation_share:g} of the training split (StratifiedShuffleSplit, random_state "
            f"{self.seed}); then fitted on the whole training split and scored once on the test split"
        )


@dataclass(frozen=True)
class LinearProbeResult:
    """What came out.

    Attributes:
        accuracy: Top-1 accuracy on the test split, between 0 and 1.
        chosen_c: The chosen C.
        validation_accuracies: Accuracy on the validation samples for each C of the grid, in its order.
        converged: Whether the final fit reached its tolerance within ``max_iter``.
        classes: Those of the training samples, ascending, ``(num_classes,)``.
        probabilities: Of the test samples for each of ``classes``, ``(num_test, num_classes)``.
    """

    accuracy: float
    chosen_c: float
    validation_accuracies: tuple[float, ...]
    converged: bool
    classes: np.ndarray = field(compare=False)
    probabilities: np.ndarray = field(compare=False)


def linear_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    settings: LinearProbeSettings,
) -> LinearProbeResult:
    """Fits a linear classifier on the training features and scores it once on the test features.

    The classifier minimises, over weights W and biases b, the regularised cross-entropy ::

        C * sum_i -log softmax(W z_i + b)[y_i]  +  1/2 * ||W||^2

    on standardised features z, by scikit-learn's ``LogisticRegression`` (two classes: its binary form). C is
    the value of the grid with the best accuracy on samples held out from the training set, the smallest of
    equal ones; features are standardised by the statistics of the samples fitted on. Then the whole training
    set is fitted with that C. The test set takes no part before the final score; a test sample of a class
    that the training set lacks counts as wrong.

    The paper trains its linear layers by SGD over augmented images, as VISSL's linear benchmark does. This
    probe sees each feature once and needs no learning rate; its scores do not compare with the paper's.

    Args:
        train_features: ``(num_train, dim)``, any float dtype; copied to float64.
        train_labels: ``(num_train,)`` whole numbers, at least two classes of at least two samples each.
        test_features: ``(num_test, dim)``.
        test_labels: ``(num_test,)`` whole numbers.
        settings: What defines the score.

    Raises:
        DataError: features or labels that cannot be used, or too few samples to hold a validation split out.
    """
    check_features(train_features, "train_features", test_features, "test_features")
    train_x, test_x = finite_rows(train_features, "train_features"), finite_rows(test_features, "test_features")
    train_y = validate_labels(train_labels, len(train_x), "train_labels")
    test_y = validate_labels(test_labels, len(test_x), "test_labels")

    fit, validation = hold_out(train_y, settings.validation_share, settings.seed)
    unconverged: list[float] = []
    accuracies = []
    logger.info("linear probe: %d fits on %d x %d features", len(settings.c_grid) + 1, *train_x.shape)
    progress = Progress("Linear probe", len(settings.c_grid) + 1, "fits")
    for number, c in enumerate(settings.c_grid, 1):
        model, converged = fit_classifier(train_x[fit], train_y[fit], c, settings.max_iter)
        accuracies.append(float(model.score(train_x[validation], train_y[validation])))
        logger.info(
            "linear probe: C = %g, the %d. of %d: %.1f %% on held-out training samples",
            c,
            number,
            len(settings.c_grid),
            100 * accuracies[-1],
            extra=DETAIL,
        )
        progress.add(1)
        if not converged:
            unconverged.append(c)
    _, minus_c = max((accuracy, -c) for accuracy, c in zip(accuracies, settings.c_grid, strict=True))
    chosen = -minus_c

    model, converged = fit_classifier(train_x, train_y, chosen, settings.max_iter)
    progress.complete()
    progress.close()
    _report(settings, chosen, unconverged, converged)
    return LinearProbeResult(
        float(model.score(test_x, test_y)),
        chosen,
        tuple(accuracies),
        converged,
        model.classes_,
        model.predict_proba(test_x),
    )


def finite_rows(features: np.ndarray, name: str) -> np.ndarray:
    """Features as float64.

    Raises:
        DataError: one is not finite; ``name`` is what the message calls them.
    """
    features = np.asarray(features, dtype=np.float64)
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        found = f"NaN or infinity in row {int(np.argmin(finite))}"
        raise DataError(problem(name, found=found, allowed="finite features"))
    return features


def fit_classifier(features: np.ndarray, labels: np.ndarray, c: float, max_iter: int) -> tuple[Pipeline, bool]:
    """The fitted model, and whether it converged (instead of scikit-learn's warning, one per fit)."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=c, solver="lbfgs", max_iter=max_iter))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(features, labels)
    converged = True
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            converged = False
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    return model, converged


def _report(settings: LinearProbeSettings, chosen: float, unconverged: list[float], converged: bool) -> None:
    logger.info("linear probe: C = %g chosen from %s", chosen, settings.c_grid)
    if unconverged or not converged:
        fits = [f"C = {c:g}" for c in unconverged] + ["the final fit"] * (not converged)
        logger.warning(
            "linear probe: max_iter = %d was too few for %s. Raise it for scores that do not depend on it.",
            settings.max_iter,
            ", ".join(fits),
        )
