import logging
import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from vissl_clusterfit.config.schema import read_settings
from vissl_clusterfit.errors import ConfigError, DataError
from vissl_clusterfit.transfer.linear import LinearProbeSettings, linear_probe

SETTINGS = LinearProbeSettings(c_grid=(1e-3, 1e-2, 1e-1, 1.0), seed=3)


@pytest.fixture(scope="module")
def digits():
    """Training features and labels, test features and labels; noisy, so that C matters."""
    features, labels = load_digits(return_X_y=True)
    features = features + np.random.default_rng(0).normal(scale=6, size=features.shape)
    return features[:600], labels[:600], features[600:], labels[600:]


@pytest.fixture(scope="module")
def result(digits):
    return linear_probe(*digits, SETTINGS)


def test_agrees_with_a_grid_search_of_scikit_learn(digits, result):
    train_x, train_y, test_x, test_y = digits
    split = train_test_split(np.arange(600), test_size=0.2, stratify=train_y, random_state=3)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
        {"logisticregression__C": [1e-3, 1e-2, 1e-1, 1.0]},
        cv=[split],
    )
    search.fit(train_x, train_y)
    np.testing.assert_allclose(result.validation_accuracies, search.cv_results_["mean_test_score"], atol=1e-12)
    assert result.chosen_c == search.best_params_["logisticregression__C"]
    assert result.accuracy == pytest.approx(search.score(test_x, test_y), abs=1e-12)
    assert result.converged


def test_the_choice_matters_here_and_lies_inside_the_grid(result):
    assert len(set(result.validation_accuracies)) > 1
    assert result.chosen_c in (1e-2, 1e-1)


def test_same_input_gives_the_same_result(digits, result):
    assert linear_probe(*digits, SETTINGS) == result


def test_the_test_set_has_no_part_in_the_choice(digits, result):
    train_x, train_y, test_x, test_y = digits
    generator = np.random.default_rng(1)
    for other_x, other_y in [
        (test_x, generator.permutation(test_y)),
        (generator.normal(size=(7, 64)), test_y[:7]),
    ]:
        other = linear_probe(train_x, train_y, other_x, other_y, SETTINGS)
        assert other.chosen_c == result.chosen_c
        assert other.validation_accuracies == result.validation_accuracies
        assert other.accuracy < result.accuracy


def test_the_final_fit_uses_the_validation_samples_too(digits, result):
    # The same fit on all 600 samples; one on the 480 alone scores differently on 1,197 test samples.
    train_x, train_y, test_x, test_y = digits
    fit, _ = train_test_split(np.arange(600), test_size=0.2, stratify=train_y, random_state=3)
    scores = []
    for chosen in (np.arange(600), fit):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=result.chosen_c, max_iter=1000))
        scores.append(model.fit(train_x[chosen], train_y[chosen]).score(test_x, test_y))
    assert result.accuracy == pytest.approx(scores[0], abs=1e-12)
    assert scores[0] != scores[1]


def test_features_are_standardised_by_the_training_set(digits, result):
    train_x, train_y, test_x, test_y = digits
    scale, shift = np.geomspace(1e-3, 1e3, 64), np.linspace(-50, 50, 64)
    rescaled = linear_probe(train_x * scale + shift, train_y, test_x * scale + shift, test_y, SETTINGS)
    assert rescaled.chosen_c == result.chosen_c
    assert rescaled.accuracy == pytest.approx(result.accuracy, abs=2e-3)
    # A shift of the test set alone would go unnoticed, were it standardised by its own statistics.
    assert linear_probe(train_x, train_y, test_x + shift, test_y, SETTINGS).accuracy < result.accuracy - 0.1


def test_of_equally_good_values_the_smallest_is_chosen():
    features = np.repeat([[-1.0], [1.0]], 20, axis=0)
    labels = np.repeat([0, 1], 20)
    settings = LinearProbeSettings(c_grid=(10.0, 0.1, 1.0))
    result = linear_probe(features, labels, features, labels, settings)
    assert result.validation_accuracies == (1.0, 1.0, 1.0)
    assert result.chosen_c == 0.1
    assert result.accuracy == 1.0


def test_labels_need_not_be_consecutive_and_constant_features_do_no_harm():
    features = np.column_stack([np.repeat([-1.0, 0.0, 1.0], 20), np.full(60, 7.0)]).astype(np.float16)
    labels = np.repeat([5, 700, 10**10], 20)
    assert linear_probe(features, labels, features, labels, LinearProbeSettings()).accuracy == 1.0


def test_a_class_that_the_training_set_lacks_counts_as_wrong():
    features, labels = np.repeat([[-1.0], [1.0]], 20, axis=0), np.repeat([0, 1], 20)
    result = linear_probe(features, labels, np.array([[-1.0], [1.0]]), np.array([0, 2]), LinearProbeSettings())
    assert result.accuracy == 0.5


def test_fits_that_do_not_converge_are_said_once(digits, caplog):
    settings = LinearProbeSettings(c_grid=(1.0, 100.0), max_iter=3)
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        result = linear_probe(*digits, settings)
    assert not result.converged
    assert [record.getMessage() for record in caplog.records] == [
        "linear probe: max_iter = 3 was too few for C = 1, C = 100, the final fit. "
        "Raise it for scores that do not depend on it."
    ]


def test_fits_that_converge_are_not_warned_of(digits, caplog):
    with caplog.at_level(logging.WARNING):
        linear_probe(*digits, LinearProbeSettings(c_grid=(1e-3,)))
    assert not caplog.records


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0] * 10, "train_labels: found only class 0; allowed: at least two classes"),
        (
            [0] * 6 + [1] * 2 + [2, 3],
            r"train_labels: found one sample each of 2 of 4 classes \(2, 3\); allowed: at least two samples",
        ),
        (
            [0, 0, 1, 1, 2, 2, 3, 3, 4, 4],
            "validation_share: found 0.2, 2 of 10 training samples; allowed: a share",
        ),
        ([0] * 9 + [-1], "train_labels: found -1; allowed: numbers from 0"),
        ([0] * 9, r"train_labels: found shape \(9,\); allowed: \(10,\), one per sample"),
        ([0.5] * 10, "train_labels: found dtype float64; allowed: whole numbers"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(labels, message):
    features = np.random.default_rng(0).normal(size=(10, 3))
    with pytest.raises(DataError, match=message):
        linear_probe(features, np.array(labels), features, np.zeros(10, dtype=int), LinearProbeSettings())


def test_two_samples_per_class_are_enough_with_half_held_out():
    features, labels = np.eye(4).repeat(2, axis=0), np.arange(4).repeat(2)
    result = linear_probe(features, labels, features, labels, LinearProbeSettings(validation_share=0.5))
    assert result.accuracy == 1.0


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (
            np.ones((10, 3)),
            np.ones((0, 3)),
            r"test_features: found shape \(0, 3\); allowed: \(samples, dim\)",
        ),
        (np.ones((10, 3, 1)), np.ones((4, 3)), r"train_features: found shape \(10, 3, 1\)"),
        (
            np.ones((10, 3)),
            np.ones((4, 2)),
            "test_features: found 2 dimensions; allowed: 3, as in",
        ),
        (np.ones((10, 3)), np.full((4, 3), np.nan), "test_features: found NaN or infinity in row 0"),
        (np.diag([np.inf] * 3), np.ones((4, 3)), "train_features: found NaN or infinity in row 0"),
    ],
)
def test_features_that_cannot_be_used_are_refused(train, test, message):
    labels = [np.arange(len(features)) % 2 for features in (train, test)]
    with pytest.raises(DataError, match=message):
        linear_probe(train, labels[0], test, labels[1], LinearProbeSettings())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"C_GRID": []}, r"LINEAR\.C_GRID: found \[\]; allowed: one or more numbers above 0"),
        ({"C_GRID": [1.0, -1.0]}, r"C_GRID: found \[1.0, -1.0\]"),
        ({"C_GRID": [1.0, "1e-4"]}, r"C_GRID: found \[1.0, '1e-4'\]"),
        ({"C_GRID": [1.0, float("inf")]}, r"C_GRID: found \[1.0, inf\]"),
        ({"VALIDATION_SHARE": 0.0}, "VALIDATION_SHARE: found 0.0; allowed: above 0 and at most 0.5"),
        ({"VALIDATION_SHARE": 0.6}, "VALIDATION_SHARE: found 0.6"),
        ({"SEED": -1}, "SEED: found -1; allowed: at least 0 and at most 4294967295"),
        ({"MAX_ITER": 0}, "MAX_ITER: found 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        read_settings(LinearProbeSettings, settings, "config.TRANSFER.LINEAR")


def test_protocol_says_all_that_defines_the_figure():
    settings = LinearProbeSettings(c_grid=(0.001, 1.0), validation_share=0.25, seed=7, max_iter=50)
    assert settings.protocol() == (
        "multinomial logistic regression with L2 regularisation on frozen features, standardised by the "
        "samples fitted on (scikit-learn: StandardScaler, LogisticRegression with lbfgs, max_iter 50); C of "
        "{0.001, 1}, of equal ones the smallest, by accuracy on a share of 0.25 of the training split "
        "(StratifiedShuffleSplit, random_state 7); then fitted on the whole training split and scored once "
        "on the test split"
    )
