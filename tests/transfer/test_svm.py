"""VISSL's SVM benchmarks as pure functions: equal to what VISSL's trainers write, on the same features and targets."""

import numpy as np
import pytest

from vissl_clusterfit.compat import repairs
from vissl_clusterfit.config.schema import read_settings
from vissl_clusterfit.errors import ConfigError, DataError
from vissl_clusterfit.transfer import low_shot_svm, svm
from vissl_clusterfit.transfer.metrics import average_precision
from vissl_clusterfit.transfer.svm import SvmSettings

repairs.apply()


@pytest.fixture(scope="module")
def data():
    """Features of two splits and targets of four classes, a tenth of them -1; no class is easy."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(4, 10))
    splits = {}
    for name, count in (("train", 160), ("test", 90)):
        features = rng.normal(size=(count, 10)).astype(np.float32)
        targets = (features @ directions.T + 4 * rng.normal(size=(count, 4)) > 2).astype(np.int32)
        targets[rng.random(targets.shape) < 0.1] = -1
        splits[name] = features, targets
    return splits


def vissl_block(settings: SvmSettings, **low_shot_settings):
    from vissl.config import AttrDict

    return AttrDict(
        {
            "normalize": settings.normalize,
            "cls_list": [],
            "loss": settings.loss,
            "penalty": settings.penalty,
            "dual": settings.dual,
            "max_iter": settings.max_iter,
            "cross_val_folds": settings.folds,
            "costs": {"costs_list": list(settings.costs), "base": -1.0, "power_range": [4, 20]},
            "force_retrain": False,
            "low_shot": {"dataset_name": "voc", **low_shot_settings},
        }
    )


# The primal solver draws nothing, so that both give the same SVMs; the dual one draws the order of the samples.
@pytest.mark.parametrize("dual, tolerance", [(False, 1e-12), (True, 2e-3)])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_benchmark_is_vissls(data, tmp_path, dual, tolerance, normalize):
    from vissl_svm import SVMTrainer

    settings = SvmSettings(costs=(0.01, 0.1, 1.0), dual=dual, normalize=normalize)
    trainer = SVMTrainer(vissl_block(settings), layer="res5", output_dir=str(tmp_path))
    trainer.train(*data["train"])
    trainer.test(*data["test"])
    theirs = {name: np.load(tmp_path / f"res5/{name}.npy") for name in ("test_ap", "chosen_cost", "crossval_ap")}

    (train, train_targets), (test, test_targets) = (
        (svm.scaled(features, settings), targets) for features, targets in (data["train"], data["test"])
    )
    svm.check_targets((train, train_targets), (test, test_targets), range(4), settings.folds)
    ours = [
        svm.score_svm_class(train, train_targets[:, number], test, test_targets[:, number], settings)
        for number in range(4)
    ]
    np.testing.assert_allclose([result.validation for result in ours], theirs["crossval_ap"], atol=tolerance)
    assert [result.chosen_cost for result in ours] == theirs["chosen_cost"].tolist()
    np.testing.assert_allclose([result.average_precision for result in ours], theirs["test_ap"][:, 0], atol=tolerance)
    assert 0.3 < np.mean(theirs["test_ap"]) < 0.95
    assert all(result.converged for result in ours)


def test_the_low_shot_benchmark_is_vissls(data, tmp_path):
    """On the same draws: VISSL's trainer takes ours. Its script cannot draw any, as it calls its function wrongly."""
    from vissl_svm import SVMLowShotTrainer

    settings = SvmSettings(costs=(0.1, 1.0, 10.0), dual=False)
    trainer = SVMLowShotTrainer(vissl_block(settings), layer="res5", output_dir=str(tmp_path))
    (train, train_targets), (test, test_targets) = data["train"], data["test"]
    scaled = [svm.scaled(features, settings) for features in (train, test)]
    scores = []
    for draw in (1, 2, 3):
        targets = low_shot_svm.draw_targets(train_targets, 4, (0, draw, 4))
        trainer.train(train, targets, draw, 4)
        trainer.test(test, test_targets, draw, 4)
        scores.append(low_shot_svm.score_draw(scaled[0], targets, scaled[1], test_targets, settings))
        theirs = np.load(tmp_path / f"res5/test_ap_sample{draw}_k4.npy")
        np.testing.assert_allclose(scores[-1], theirs[0], atol=1e-12)
    ours = low_shot_svm.summarize_draws(np.stack(scores), settings)
    assert {
        "mean": round(100 * ours.mean, 2),
        "min": round(100 * ours.least, 2),
        "max": round(100 * ours.greatest, 2),
        "std": round(100 * ours.deviation, 2),
    } == trainer.aggregate_stats([4], [1, 2, 3])["k=4"]
    assert ours.least < ours.mean < ours.greatest


def test_low_shot_of_one_class_each_is_vissls(tmp_path):
    from vissl_svm import SVMLowShotTrainer

    rng = np.random.default_rng(3)
    labels, test_labels = np.arange(90) % 3, np.arange(60) % 3
    train, test = (
        (rng.normal(size=(len(wanted), 8)) + np.eye(8)[wanted]).astype(np.float32) for wanted in (labels, test_labels)
    )
    settings = SvmSettings(costs=(0.1, 10.0), dual=False)
    trainer = SVMLowShotTrainer(vissl_block(settings, dataset_name="places205"), layer="l", output_dir=str(tmp_path))
    drawn = low_shot_svm.draw_samples(labels, 5, (0, 1, 5))
    assert np.bincount(labels[drawn]).tolist() == [5, 5, 5]
    trainer.train(train[drawn], labels[drawn, None], 1, 5)
    trainer.test(test, test_labels[:, None], 1, 5)
    scaled = [svm.scaled(features, settings) for features in (train[drawn], test)]
    targets = [low_shot_svm.one_hot_targets(wanted, 3) for wanted in (labels[drawn], test_labels)]
    ours = low_shot_svm.score_draw(scaled[0], targets[0], scaled[1], targets[1], settings)
    np.testing.assert_allclose(ours, np.load(tmp_path / "l/test_ap_sample1_k5.npy")[0], atol=1e-12)


def test_draws_have_as_many_as_vissls(data):
    targets = data["train"][1]
    drawn = low_shot_svm.draw_targets(targets, 4, (0, 1, 4))
    kept = drawn != -1
    assert (drawn[kept] == targets[kept]).all()
    assert ((drawn == 1).sum(axis=0) == 4).all()
    assert ((drawn == 0).sum(axis=0) == 12).all()
    assert (low_shot_svm.draw_targets(targets, 4, (0, 1, 4)) == drawn).all()
    assert (low_shot_svm.draw_targets(targets, 4, (0, 2, 4)) != drawn).any()


def test_average_precision_by_hand():
    # In descending order: hit, miss, hit, miss, hit. The precisions at the hits are 1, 2/3, 3/5.
    assert average_precision(np.array([0, 1, 1, 0, 1]), np.array([4, 5, 3, 2, 1])) == pytest.approx(
        (1 + 2 / 3 + 3 / 5) / 3
    )
    # A later, better precision counts for earlier recalls: miss, hit, hit gives 2/3 twice.
    assert average_precision(np.array([0, 1, 1]), np.array([3, 2, 1])) == pytest.approx(2 / 3)


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_vissls(seed):
    from vissl.utils.svm_utils.evaluate import get_precision_recall

    rng = np.random.default_rng(seed)
    targets, scores = rng.choice([-1, 1], size=70, p=[0.8, 0.2]), rng.normal(size=70)
    *_, theirs = get_precision_recall(targets, scores)
    assert average_precision(targets == 1, scores) == pytest.approx(float(np.ravel(theirs)[0]), abs=1e-12)


@pytest.mark.parametrize(
    "values, message",
    [
        ({"COSTS": []}, r"SVM\.COSTS: found \[\]; allowed: one or more numbers above 0"),
        ({"COSTS": [1.0, -1.0]}, r"SVM\.COSTS: found \[1.0, -1.0\]"),
        ({"FOLDS": 1}, r"SVM\.FOLDS: found 1; allowed: at least 2"),
        ({"MAX_ITER": 0}, r"SVM\.MAX_ITER: found 0"),
        ({"PENALTY": "l1"}, r"SVM: penalty, loss, dual: found \('l1', 'squared_hinge', True\)"),
    ],
)
def test_bad_settings_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        read_settings(SvmSettings, values, "config.TRANSFER.SVM")


def with_targets(data, split: str, **changes):
    train, test = data["train"], data["test"]
    changed = {"train": train[1].copy(), "test": test[1].copy()}
    for place, value in changes.items():
        changed[split][:, int(place[1:])] = value
    return (train[0], changed["train"]), (test[0], changed["test"])


@pytest.mark.parametrize(
    "split, changes, message",
    [
        ("train", {"c2": 0}, "training split: found 0 positives and 160 others for class 2; allowed: at least 3"),
        ("train", {"c1": 1}, "found 160 positives and 0 others for class 1"),
        ("test", {"c3": -1}, "The test split: found no positive of class 3"),
        ("test", {"c0": 7}, r"targets of the test split: found \[7\]; allowed: 1 \(present\)"),
    ],
)
def test_targets_without_a_figure_are_refused(data, split, changes, message):
    with pytest.raises(DataError, match=message):
        svm.check_targets(*with_targets(data, split, **changes), range(4), 3)


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="features: found NaN or infinity in row 1"):
        svm.scaled(np.array([[1.0, 2.0], [np.nan, 1.0]]), SvmSettings())


def test_a_class_with_too_few_for_k_is_named(data):
    with pytest.raises(DataError, match=r"k_values: found 99, and class 0 has \d+ targets 1 in the training split"):
        low_shot_svm.draw_targets(data["train"][1], 99, (0,))
    with pytest.raises(DataError, match="found 3, and class 1 has 2 samples"):
        low_shot_svm.draw_samples(np.array([0, 0, 0, 1, 1]), 3, (0,))
