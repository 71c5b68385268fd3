"""Networks whose weights are loaded whole are built without drawing any."""

import pytest
import torch
from torch import nn

from vissl_clusterfit.plugin.models.undrawn import Undrawn


@pytest.mark.parametrize(
    ("draw", "mean"),
    [
        (lambda weight: nn.init.normal_(weight, 1.5, 0.1), 1.5),
        (lambda weight: nn.init.normal_(weight, mean=1.5), 1.5),
        (nn.init.kaiming_normal_, 0.0),
        (nn.init.kaiming_uniform_, 0.0),
        (nn.init.trunc_normal_, 0.0),
        (lambda weight: nn.init.trunc_normal_(weight, mean=0.5, std=0.02, a=0.4, b=0.6), 0.5),
    ],
)
def test_the_mean_is_there_whatever_the_memory_had(draw, mean):
    weight = nn.Parameter(torch.full((3, 4), float("nan")))
    with Undrawn():
        draw(weight)
    assert torch.equal(weight, torch.full((3, 4), mean))


def test_the_random_numbers_that_follow_are_those_of_no_network():
    before = torch.random.get_rng_state()
    with Undrawn():
        nn.Conv2d(3, 4, 5, bias=False)
        nn.init.kaiming_normal_(torch.empty(4, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
