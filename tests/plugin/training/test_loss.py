import pytest
import torch
import torch.nn.functional as F
from classy_vision.losses import build_loss

from vissl_clusterfit.errors import ConfigError
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
