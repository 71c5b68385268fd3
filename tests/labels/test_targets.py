"""Targets against plain NumPy, sample by sample: shares, temperature, margins, agreement of two codebooks."""

import dataclasses
import math

import numpy as np
import pytest
from tiny_store import save_codebook, save_store

from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.config.targets import TargetSettings
from vissl_clusterfit.errors import ArtifactError, ConfigError, DataError
from vissl_clusterfit.labels import targets
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.labels.targets import (
    Majorities,
    Targets,
    fitted_temperature,
    perplexity,
    relative_margins,
    shares_by_distance,
)

RNG = np.random.default_rng(0)
ROWS = RNG.standard_normal((700, 6)).astype(np.float32)
CENTROIDS = RNG.standard_normal((9, 6)).astype(np.float32)
OTHER_CENTROIDS = RNG.standard_normal((4, 6)).astype(np.float32)
UNREADABLE = [0, 13, 699]
READABLE = np.setdiff1d(np.arange(700), UNREADABLE)
DISTANCES = ((ROWS[:, None].astype(np.float64) - CENTROIDS[None]) ** 2).sum(axis=2)


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    store = save_store(folder / "features", ROWS, UNREADABLE)
    return label_store(store, save_codebook(folder / "codebook", CENTROIDS), "cpu", folder / "labels", top_clusters=6)


@pytest.fixture(scope="module")
def second(tmp_path_factory):
    folder = tmp_path_factory.mktemp("second")
    store = save_store(folder / "features", ROWS, UNREADABLE)
    return label_store(store, save_codebook(folder / "codebook", OTHER_CENTROIDS), "cpu", folder / "labels")


def plain_softmax(distances: list[float], temperature: float) -> list[float]:
    powers = [math.exp(-distance / temperature) for distance in distances]
    return [power / sum(powers) for power in powers]


def plain_perplexity(shares: list[float]) -> float:
    return 2 ** -sum(share * math.log2(share) for share in shares if share)


@pytest.mark.parametrize("temperature", [0.3, 2.0, 50.0])
def test_soft_shares_are_a_softmax_over_the_nearest(labels, temperature):
    rules = TargetSettings(kind="soft", num_nearest=4, temperature=temperature)
    clusters, shares, weights = Targets(labels, rules).of(READABLE)
    for sample, row, share in zip(READABLE, clusters, shares, strict=True):
        nearest = sorted(range(9), key=lambda cluster, sample=sample: DISTANCES[sample, cluster])[:4]
        assert row.tolist() == nearest
        np.testing.assert_allclose(share, plain_softmax(DISTANCES[sample, nearest].tolist(), temperature), rtol=1e-4)
    assert (weights == 1).all()
    assert (clusters.dtype, shares.dtype, weights.dtype) == (np.int64, np.float32, np.float32)


def test_soft_nested_targets_have_the_asked_perplexity_in_each_codebook(tmp_path):
    """With L = 5: of nine clusters the five nearest, of a coarser codebook all four."""
    store = save_store(tmp_path / "features", ROWS, UNREADABLE)
    settings = ClusterFitConfig.from_block(
        {
            "NUM_CLUSTERS": 9,
            "ALSO_NUM_CLUSTERS": [4],
            "TOP_CLUSTERS": 5,
            "TARGETS": {"KIND": "soft_nested", "NUM_NEAREST": 5, "PERPLEXITY": 3.0, "ALSO_PERPLEXITY": [1.5]},
        }
    )
    for head, centroids, most, wanted in zip(
        settings.heads, (CENTROIDS, OTHER_CENTROIDS), (5, 4), (3.0, 1.5), strict=True
    ):
        codebook = save_codebook(tmp_path / f"codebook_{most}", centroids)
        folder = tmp_path / f"labels_{most}"
        made = Targets(label_store(store, codebook, "cpu", folder, top_clusters=head.top_clusters), head.targets)
        clusters, shares, _ = made.of(READABLE)
        distances = ((ROWS[READABLE, None].astype(np.float64) - centroids[None]) ** 2).sum(axis=2)
        nearest = np.argsort(distances, axis=1)[:, :most]
        np.testing.assert_array_equal(clusters, nearest)
        rows = np.take_along_axis(distances, nearest, axis=1).tolist()
        plain = [plain_softmax(row, made.temperature) for row in rows]
        np.testing.assert_allclose(shares, plain, rtol=1e-4)
        assert np.mean([plain_perplexity(row) for row in plain]) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("wanted", [1.2, 2.5, 3.9])
def test_the_temperature_gives_the_mean_perplexity(labels, wanted):
    found = Targets(labels, TargetSettings(kind="soft", num_nearest=4, perplexity=wanted))
    nearest = np.sort(DISTANCES[READABLE], axis=1)[:, :4]
    each = [plain_perplexity(plain_softmax(row, found.temperature)) for row in nearest.tolist()]
    assert np.mean(each) == pytest.approx(wanted, rel=1e-5)


def test_perplexity_is_the_exponential_of_the_entropy():
    shares = np.array([[1.0, 0.0, 0.0, 0.0], [0.25] * 4, [0.5, 0.5, 0.0, 0.0], [0.7, 0.1, 0.1, 0.1]])
    np.testing.assert_allclose(perplexity(shares), [plain_perplexity(row) for row in shares.tolist()])


def test_the_temperature_of_many_samples_is_that_of_some_of_them(monkeypatch):
    distances = np.sort(RNG.random((1000, 5)), axis=1)
    monkeypatch.setattr(targets, "_FITTED_ON", 100)
    assert fitted_temperature(distances, 3.0) == fitted_temperature(distances[::10], 3.0)


def test_distances_may_be_as_large_and_as_small_as_they_are():
    for scale in (1e-30, 1e30):
        distances = scale * np.sort(RNG.random((50, 5)), axis=1)
        temperature = fitted_temperature(distances, 2.0)
        assert perplexity(shares_by_distance(distances, temperature)).mean() == pytest.approx(2.0)


@pytest.mark.parametrize("distances", [np.ones((5, 4)), np.full((3, 4), -1.0), np.array([[1.0, 1.0, 1.0, 1.1]])])
def test_where_clusters_are_equally_near_no_temperature_tells_them_apart(distances):
    with pytest.raises(DataError, match=r"TARGETS.PERPLEXITY: found 1.5 for"):
        fitted_temperature(distances, 1.5)


def test_top_l_has_the_nearest_alike(labels):
    clusters, shares, weights = Targets(labels, TargetSettings(kind="top_l", num_nearest=3)).of(READABLE)
    np.testing.assert_array_equal(clusters, np.argsort(DISTANCES[READABLE], axis=1)[:, :3])
    assert (shares == np.float32(1 / 3)).all()
    assert (weights == 1).all()


@pytest.mark.parametrize("kind", ["hard", "top_l", "soft"])
def test_samples_without_a_label_weigh_nothing(labels, kind):
    made = Targets(labels, TargetSettings(kind=kind, num_nearest=3, perplexity=2.0, margin_power=1.0))
    clusters, shares, weights = made.of(np.array([-1, 0, 13, 5, 699]))
    assert (weights > 0).tolist() == [False, False, False, True, False]
    assert ((clusters >= 0) & (clusters < 9)).all()
    assert np.isfinite(shares).all()


def test_relative_margins():
    distances, margins = [1.0, 0.0, 2.0, 3.0, 0.0], [1.0, 4.0, 0.0, np.inf, 0.0]
    np.testing.assert_array_equal(relative_margins(np.array(distances), np.array(margins)), [0.5, 1.0, 0.0, 1.0, 0.0])


@pytest.mark.parametrize(("least", "power"), [(0.0, 1.0), (0.2, 0.0), (0.2, 2.0)])
def test_ambiguous_samples_count_less_or_not_at_all(labels, least, power):
    first, next_one = np.sort(DISTANCES[READABLE], axis=1)[:, :2].T
    margins = (next_one - first) / next_one
    expected = np.where(margins >= least, margins**power, 0)
    expected /= expected[expected > 0].mean()
    made = Targets(labels, TargetSettings(min_margin=least, margin_power=power))
    _, _, weights = made.of(READABLE)
    np.testing.assert_allclose(weights, expected, rtol=1e-3, atol=1e-5)
    assert weights[weights > 0].mean() == pytest.approx(1.0, rel=1e-5)
    assert made.num_left_out == (expected == 0).sum()


def test_samples_on_which_two_codebooks_disagree_are_left_out(labels, second):
    own, other = labels.labels[READABLE], second.labels[READABLE]
    counts = np.zeros((9, 4), dtype=int)
    for pair in zip(own, other, strict=True):
        counts[pair] += 1
    agree = [counts[c].argmax() == e or counts[:, e].argmax() == c for c, e in zip(own, other, strict=True)]
    made = Targets(labels, TargetSettings(agrees_with=str(second.folder)), second)
    _, _, weights = made.of(READABLE)
    np.testing.assert_array_equal(weights, np.array(agree, dtype=np.float32))
    assert 0 < made.num_left_out == len(agree) - sum(agree)


def test_majorities_are_counted_in_parts_and_ties_go_to_the_lower_index(monkeypatch):
    first, second = np.array([0, 0, 0, 0, 1, 1, -1, 3]), np.array([2, 1, 1, 2, 0, -1, 0, 2])
    for rows in (2, 3, 100):
        monkeypatch.setattr(targets, "_ROWS", rows)
        found = Majorities.of(first, second, 5, 4)
        assert found.second_of_first.tolist() == [1, 0, -1, 2, -1]
        assert found.first_of_second.tolist() == [1, 0, 0, -1]
    assert found.agree(np.array([0, 0, 1, -1, 3]), np.array([1, 0, -1, 2, 2])).tolist() == [
        True,
        False,
        True,
        True,
        True,
    ]


def test_a_finer_codebook_within_a_coarse_one_disagrees_nowhere():
    fine = RNG.integers(0, 40, 1000)
    for first, second in ((fine // 10, fine), (fine, fine // 10)):
        assert Majorities.of(first, second, 40, 40).agree(first, second).all()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            {"kind": "soft", "num_nearest": 8},
            r"keep the 6 nearest .* allowed: .*TOP_CLUSTERS=8 or more, or NUM_NEAREST=6",
        ),
        ({"min_margin": 1.0}, "weights by which no sample is trained on"),
        (
            {"kind": "soft_nested", "num_nearest": 12, "perplexity": 9.0},
            r"keep the 6 nearest .* allowed: .*TOP_CLUSTERS=12 or more, or NUM_NEAREST=6",
        ),
        ({"kind": "soft", "num_nearest": 6, "perplexity": 9.0}, r"PERPLEXITY: found 9, and labels of 9 clusters in"),
    ],
)
def test_what_the_labels_do_not_have_is_refused(labels, rules, message):
    with pytest.raises((ArtifactError, DataError), match=message):
        Targets(labels, TargetSettings(**rules))


def test_labels_of_the_nearest_cluster_alone_are_refused_with_the_remedy(second):
    with pytest.raises(ArtifactError) as refused:
        Targets(second, TargetSettings(kind="soft", num_nearest=4))
    assert str(refused.value) == (
        f"config.CLUSTERFIT.TARGETS.KIND: found soft with NUM_NEAREST=4, and labels in {second.folder} that keep the "
        "nearest cluster of each sample alone (TOP_CLUSTERS=1); allowed: labels with TOP_CLUSTERS=4 or more, or "
        "KIND=hard. Name another config.CLUSTERFIT.OUTPUT_DIR, with FEATURES.PATH where the features are: they are "
        "used again."
    )


def test_margins_of_labels_from_elsewhere_are_not_known(labels):
    foreign = dataclasses.replace(labels, manifest={**labels.manifest, "has_distances": False})
    with pytest.raises(ArtifactError, match=r"MARGIN_POWER, MIN_MARGIN: found weights by margins"):
        Targets(foreign, TargetSettings(margin_power=1.0))


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (
            {"TARGETS": {"KIND": "softer"}},
            "TARGETS.KIND: found 'softer'; allowed: 'hard' | 'top_l' | 'soft' | 'nested' | 'soft_nested'",
        ),
        ({"TARGETS": {"KIND": "nested"}}, r"KIND: found nested with one .* For example .*ALSO_NUM_CLUSTERS=\[2\]"),
        ({"TARGETS": {"KIND": "top_l", "NUM_NEAREST": 21}}, "NUM_NEAREST: found 21; allowed: 2 to 20, .* NUM_CLUSTERS"),
        ({"TARGETS": {"KIND": "top_l"}, "TOP_CLUSTERS": 4}, "NUM_NEAREST: found 10; allowed: 2 to 4, .* TOP_CLUSTERS"),
        ({"TARGETS": {"KIND": "soft", "PERPLEXITY": 10.0}}, "PERPLEXITY: found 10.0; allowed: above 1 and below 10"),
        ({"TARGETS": {"KIND": "soft"}, "MAX_CLUSTER_SIZE": 2.0}, "KIND: found soft with MAX_CLUSTER_SIZE"),
        ({"TARGETS": {"KIND": "soft_nested"}}, "KIND: found soft_nested with one number"),
        (
            {"TARGETS": {"KIND": "soft_nested"}, "ALSO_NUM_CLUSTERS": [30, 5]},
            "ALSO_PERPLEXITY: found nothing, with PERPLEXITY=5; allowed: for each .* above 1 and below 10, 5. A target",
        ),
        (
            {"TARGETS": {"KIND": "soft_nested", "ALSO_PERPLEXITY": [2.0]}, "ALSO_NUM_CLUSTERS": [30, 5]},
            r"ALSO_PERPLEXITY: found \[2.0\]; allowed: for each of ALSO_NUM_CLUSTERS",
        ),
        (
            {"TARGETS": {"KIND": "soft_nested", "TEMPERATURE": 1.0}, "ALSO_NUM_CLUSTERS": [1]},
            r"ALSO_NUM_CLUSTERS: found \[1\]; allowed: 2 or more where targets are soft_nested",
        ),
        ({"TARGETS": {"KIND": "soft_nested"}, "ALSO_NUM_CLUSTERS": ["a"]}, "allowed: a list of whole numbers"),
        ({"TARGETS": {"MIN_MARGIN": 1.5}}, "MIN_MARGIN: found 1.5; allowed: at least 0.0 and at most 1.0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(block, message):
    with pytest.raises(ConfigError, match=message.replace("|", r"\|")):
        ClusterFitConfig.from_block({"NUM_CLUSTERS": 20, **block})


def test_hard_targets_leave_no_trace_in_what_a_training_is_made_from():
    assert TargetSettings().inputs() == {}
    assert TargetSettings(kind="soft", margin_power=2.0).inputs() == {
        "kind": "soft",
        "num_nearest": 10,
        "perplexity": 5.0,
        "margin_power": 2.0,
    }
    nested = TargetSettings(kind="soft_nested", temperature=2.0, also_perplexity=[3.0])
    assert nested.inputs() == {"kind": "soft_nested", "num_nearest": 10, "temperature": 2.0}
