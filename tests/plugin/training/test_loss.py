import numpy as np
import pytest
import torch
import torch.nn.functional as F
from classy_vision.losses import build_loss
from tiny_store import save_codebook, save_store

from vissl_clusterfit.config.targets import TargetSettings
from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.labels.targets import Targets
from vissl_clusterfit.plugin.training.loss import ClusterFitLoss

LOGITS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 4, -1, 2, 2, -1])
LABELLED = TARGET != -1


def test_it_is_registered_by_name():
    loss = build_loss({"name": "clusterfit_loss", "num_clusters": 5, "label_smoothing": 0.1})
    assert isinstance(loss, ClusterFitLoss)
    assert (loss.num_clusters, loss.label_smoothing) == ((5,), 0.1)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_it_is_cross_entropy_over_the_labelled_samples(smoothing):
    loss = ClusterFitLoss([5], label_smoothing=smoothing)
    expected = F.cross_entropy(LOGITS[LABELLED], TARGET[LABELLED], label_smoothing=smoothing)
    torch.testing.assert_close(loss(LOGITS, TARGET), expected)


def test_unlabelled_samples_have_no_gradient():
    logits = LOGITS.clone().requires_grad_()
    ClusterFitLoss([5])(logits, TARGET).backward()
    assert (logits.grad[~LABELLED] == 0).all()
    assert (logits.grad[LABELLED] != 0).all()


def test_a_batch_without_labels_gives_zero_and_a_gradient_of_zero():
    logits = LOGITS.clone().requires_grad_()
    value = ClusterFitLoss([5])(logits, torch.full((6,), -1))
    value.backward()
    assert value == 0
    assert (logits.grad == 0).all()


@pytest.mark.parametrize(("weighting", "power"), [("inverse", -1.0), ("inverse_sqrt", -0.5)])
def test_cluster_sizes_weigh_samples_with_a_mean_of_one(weighting, power):
    sizes = torch.tensor([40, 10, 30, 0, 20])
    loss = ClusterFitLoss([5], cluster_weighting=weighting)
    loss.set_cluster_sizes(0, sizes)
    weights = loss.cluster_weights_0.double()
    torch.testing.assert_close((weights * sizes).sum(), torch.tensor(100.0, dtype=torch.float64))
    torch.testing.assert_close(weights[1] / weights[0], torch.tensor((10 / 40) ** power, dtype=torch.float64))
    per_sample = F.cross_entropy(LOGITS[LABELLED], TARGET[LABELLED], reduction="none")
    expected = (per_sample * weights[TARGET[LABELLED]].float()).mean()
    torch.testing.assert_close(loss(LOGITS, TARGET), expected)


def test_its_weights_are_kept_in_a_checkpoint():
    loss = ClusterFitLoss([5], cluster_weighting="inverse")
    loss.set_cluster_sizes(0, torch.tensor([1, 2, 3, 4, 5]))
    restored = ClusterFitLoss([5], cluster_weighting="inverse")
    restored.load_state_dict(loss.state_dict())
    torch.testing.assert_close(restored.cluster_weights_0, loss.cluster_weights_0)


def test_several_heads_average_over_their_own_labels():
    other = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    second = torch.tensor([0, 1, 2, -1, 0, 1])
    together = ClusterFitLoss([5, 3])([LOGITS, other], torch.stack([TARGET, second], dim=1))
    expected = (ClusterFitLoss([5])(LOGITS, TARGET) + ClusterFitLoss([3])(other, second)) / 2
    torch.testing.assert_close(together, expected)


def test_several_heads_may_share_one_column():
    expected = ClusterFitLoss([5])(LOGITS, TARGET)
    torch.testing.assert_close(ClusterFitLoss([5, 5])([LOGITS, LOGITS], TARGET), expected)


def test_a_head_of_another_width_is_refused():
    with pytest.raises(
        ConfigError, match=r"HEAD.PARAMS: found heads of widths \[5\] .* allowed: heads of widths \[7\]"
    ):
        ClusterFitLoss([7])(LOGITS, TARGET)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing: found 1.0"),
        (
            {"cluster_weighting": "log"},
            "cluster_weighting: found 'log'; allowed: none | inverse | inverse_sqrt",
        ),
    ],
)
def test_bad_values_are_refused(block, message):
    with pytest.raises(ConfigError, match=message.replace("|", r"\|")):
        ClusterFitLoss.from_config({"num_clusters": 5, **block})


ROWS = np.random.default_rng(0).standard_normal((6, 3)).astype(np.float32)
SAMPLES = np.array([4, 0, -1, 2, 5, 1])
SOFT = TargetSettings(kind="soft", num_nearest=3, temperature=2.0)


def labels_of(folder, num_clusters, unreadable=(2,)):
    centroids = np.random.default_rng(num_clusters).standard_normal((num_clusters, 3)).astype(np.float32)
    store = save_store(folder / "features", ROWS, list(unreadable))
    return label_store(store, save_codebook(folder / "codebook", centroids), "cpu", folder / "labels", top_clusters=3)


def with_targets(loss, *of_heads):
    loss.set_targets({"TRAIN": of_heads})
    loss.begin_phase("TRAIN")
    return loss


def columns_of(*labels):
    hard = [np.where(SAMPLES >= 0, each.labels[SAMPLES], -1) for each in labels]
    return torch.from_numpy(np.column_stack([*hard, SAMPLES]))


def by_hand(logits, targets, smoothing=0.0, cluster_weights=None):
    """A sum over samples and all clusters, in float64."""
    probabilities = np.exp(logits.double().numpy())
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    total, number = 0.0, 0
    for row, (clusters, shares, weight) in zip(probabilities, zip(*targets.of(SAMPLES), strict=True), strict=True):
        if not weight:
            continue
        full = np.zeros(len(row))
        full[clusters] = shares
        factor = 1.0 if cluster_weights is None else float(full @ cluster_weights)
        full = (1 - smoothing) * full + smoothing / len(row)
        total, number = total - weight * factor * float(full @ np.log(row)), number + 1
    return total / number


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("rules", [SOFT, TargetSettings(kind="top_l", num_nearest=2), TargetSettings(margin_power=1.0)])
def test_other_targets_are_a_cross_entropy_with_their_shares(tmp_path, rules, smoothing):
    labels = labels_of(tmp_path, 5)
    targets = Targets(labels, rules)
    loss = with_targets(ClusterFitLoss([5], label_smoothing=smoothing), targets)
    value = loss(LOGITS, columns_of(labels))
    assert float(value) == pytest.approx(by_hand(LOGITS, targets, smoothing), rel=1e-5)


def test_cluster_sizes_weigh_soft_targets_by_their_shares(tmp_path):
    labels = labels_of(tmp_path, 5)
    targets = Targets(labels, SOFT)
    loss = with_targets(ClusterFitLoss([5], cluster_weighting="inverse"), targets)
    loss.set_cluster_sizes(0, torch.tensor([40, 10, 30, 0, 20]))
    expected = by_hand(LOGITS, targets, cluster_weights=loss.cluster_weights_0.double().numpy())
    assert float(loss(LOGITS, columns_of(labels))) == pytest.approx(expected, rel=1e-5)


def test_each_head_has_targets_of_its_own(tmp_path):
    first, second = labels_of(tmp_path / "first", 5), labels_of(tmp_path / "second", 4)
    of_heads = [Targets(labels, SOFT) for labels in (first, second)]
    other = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    value = with_targets(ClusterFitLoss([5, 4]), *of_heads)([LOGITS, other], columns_of(first, second))
    expected = (by_hand(LOGITS, of_heads[0]) + by_hand(other, of_heads[1])) / 2
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_hard_labels_with_weights_of_one_are_the_loss_without_them(tmp_path):
    labels = labels_of(tmp_path, 5)
    target = columns_of(labels)
    expected = ClusterFitLoss([5])(LOGITS, target[:, 0])
    torch.testing.assert_close(
        with_targets(ClusterFitLoss([5]), Targets(labels, TargetSettings()))(LOGITS, target), expected
    )


def test_samples_without_a_target_have_no_gradient(tmp_path):
    labels = labels_of(tmp_path, 5)
    logits = LOGITS.clone().requires_grad_()
    with_targets(ClusterFitLoss([5]), Targets(labels, SOFT))(logits, columns_of(labels)).backward()
    assert ((logits.grad == 0).all(dim=1).numpy() == [False, False, True, True, False, False]).all()


def test_targets_are_no_part_of_a_checkpoint(tmp_path):
    loss = with_targets(ClusterFitLoss([5]), Targets(labels_of(tmp_path, 5), SOFT))
    assert loss.state_dict().keys() == {"cluster_weights_0"}
