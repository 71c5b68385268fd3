import copy

import pytest
import torch
from torch import nn

from vissl_clusterfit.compute.chosen import PLAIN, Compute, has_units, require_possible
from vissl_clusterfit.errors import ConfigError


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()


def test_manifests_do_not_mention_what_was_always_so():
    assert PLAIN.inputs() == {}
    assert Compute.of_inputs({"dataset": {}}) == PLAIN


@pytest.mark.parametrize("compute", [Compute("bfloat16"), Compute("float32", True), Compute("float16", True, True)])
def test_a_manifest_says_what_it_was(compute):
    assert Compute.of_inputs(compute.inputs()) == compute


def test_plain_changes_no_bit():
    plain, images = network(), torch.rand(2, 3, 8, 8)
    arranged = copy.deepcopy(plain)
    PLAIN.arrange(arranged)
    with torch.no_grad(), PLAIN.autocast("cpu"):
        assert torch.equal(arranged(PLAIN.arranged(images)), plain(images))
    assert PLAIN.arranged(images) is images


def test_lower_precision_gives_nearly_the_same_channels_last():
    plain, images = network(), torch.rand(2, 3, 8, 8)
    lower = copy.deepcopy(plain)
    compute = Compute("bfloat16", channels_last=True)
    compute.arrange(lower)
    with torch.no_grad(), compute.autocast("cpu"):
        maps = lower(compute.arranged(images))
    assert maps.dtype == torch.bfloat16
    assert maps.is_contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(maps.float(), plain(images), atol=0.02, rtol=0.02)


def test_weights_of_videos_are_channels_last_too():
    compute, kernel = Compute("float32", True), nn.Sequential(nn.Conv3d(2, 4, 3), nn.Linear(3, 3))
    compute.arrange(kernel)
    assert kernel[0].weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert compute.arranged(torch.zeros(2, 3)).shape == (2, 3)


def test_half_precision_is_refused_where_it_would_be_emulated():
    if has_units("float16", "cpu"):
        pytest.skip("this processor has units for float16")
    with pytest.raises(ConfigError, match=r"COMPUTE\.PRECISION: found float16 on a processor without units"):
        require_possible(Compute("float16"), "cpu")
    require_possible(Compute("float16"), "cuda")
    require_possible(Compute("bfloat16"), "cpu")
