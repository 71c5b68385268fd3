import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vissl_clusterfit.errors import DataError
from vissl_clusterfit.transfer.low_shot_probe import LowShotProbeSettings, low_shot_probe

SETTINGS = LowShotProbeSettings(draws=4, c_grid=(1e-3, 1.0), seed=3)


def blobs(count, seed):
    labels = np.arange(count) % 3
    centres = np.random.default_rng(0).normal(size=(3, 6))
    return centres[labels] + 1.2 * np.random.default_rng(seed).normal(size=(count, 6)), labels


def test_more_shots_are_better_and_the_interval_is_students():
    train, test = blobs(150, 1), blobs(300, 2)
    few, many = (low_shot_probe(*train, *test, k, SETTINGS) for k in (1, 16))
    assert 1 / 3 < few.interval.mean < many.interval.mean < 1
    assert few.interval.half_width > many.interval.half_width > 0
    assert many.interval.mean == pytest.approx(np.mean(many.accuracies))
    assert many.interval.half_width == pytest.approx(3.1824463 * np.std(many.accuracies, ddof=1) / 2)
    assert low_shot_probe(*train, *test, 16, SETTINGS) == many


def test_the_figures_are_those_that_the_protocol_describes():
    """By scikit-learn alone: draws, choice and final scores."""
    (train_x, train_y), (test_x, test_y), k = blobs(150, 1), blobs(300, 2), 4
    splitter = StratifiedShuffleSplit(n_splits=1, test_size=0.2, random_state=SETTINGS.seed)
    fit, validation = next(splitter.split(train_x, train_y))
    models = []
    for draw in range(SETTINGS.draws):
        rng = np.random.default_rng([SETTINGS.seed, draw, k])
        drawn = [fit[rng.choice(np.flatnonzero(train_y[fit] == label), k, replace=False)] for label in range(3)]
        drawn = np.sort(np.concatenate(drawn))
        models.append(
            [
                make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)).fit(
                    train_x[drawn], train_y[drawn]
                )
                for c in SETTINGS.c_grid
            ]
        )
    chosen = np.mean(
        [[m.score(train_x[validation], train_y[validation]) for m in of] for of in models], axis=0
    ).argmax()
    expected = [of_draw[chosen].score(test_x, test_y) for of_draw in models]
    found = low_shot_probe(train_x, train_y, test_x, test_y, k, SETTINGS)
    assert found.accuracies == pytest.approx(expected, abs=1e-12)
    assert found.chosen_c == SETTINGS.c_grid[chosen]
    low, high = scipy.stats.t.interval(0.95, 3, np.mean(expected), scipy.stats.sem(expected))
    assert found.interval.half_width == pytest.approx((high - low) / 2)


def test_the_test_split_chooses_nothing():
    """With wrong labels there, other scores come out, and the same C."""
    train, test = blobs(150, 1), blobs(300, 2)
    right = low_shot_probe(*train, *test, 4, SETTINGS)
    wrong = low_shot_probe(*train, test[0], (test[1] + 1) % 3, 4, SETTINGS)
    assert right.chosen_c == wrong.chosen_c
    assert wrong.interval.mean < 1 / 3 < right.interval.mean


def test_more_shots_than_samples_are_refused():
    message = r"config.TRANSFER.LOW_SHOT.SHOTS: found 41, and class 0 has 40 samples in the training split"
    with pytest.raises(DataError, match=message):
        low_shot_probe(*blobs(150, 1), *blobs(30, 2), 41, SETTINGS)
