"""Several labels of a video as soft targets."""

import pytest
import torch
from classy_vision.losses import build_loss
from vissl.data.collators import get_collator

from vissl_clusterfit.errors import ConfigError


def collate(*labels, num_classes=5):
    batch = [{"data": [torch.zeros(3, 2, 4, 4)], "label": [torch.tensor(label)]} for label in labels]
    return get_collator("multi_label_collator", {"num_classes": num_classes})(batch)


def test_labels_share_the_weight_of_a_sample():
    collated = collate([1, 4, -1], [0, -1, -1], [2, 3, 0], [-1, -1, -1])
    assert collated["data"][0].shape == (4, 3, 2, 4, 4)
    third = 1 / 3
    expected = [[0, 0.5, 0, 0, 0.5], [1, 0, 0, 0, 0], [third, 0, third, third, 0], [0] * 5]
    torch.testing.assert_close(collated["label"][0], torch.tensor(expected, dtype=torch.float32))
    torch.testing.assert_close(collate(2, 0)["label"][0], torch.eye(5)[[2, 0]])


def test_classy_visions_loss_takes_them():
    targets = collate([1, 4], [0, -1])["label"][0]
    torch.manual_seed(0)
    logits = torch.randn(2, 5)
    loss = build_loss({"name": "soft_target_cross_entropy", "ignore_index": -1, "reduction": "mean"})(logits, targets)
    by_hand = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(loss, by_hand)


def test_a_label_beyond_the_classes_is_refused():
    with pytest.raises(ConfigError, match=r"num_classes: found 5 with label 5; allowed: more than the highest label"):
        collate([1, 5])
