import copy

import pytest
import torch
from torch import nn

from vissl_clusterfit.compute.chosen import PLAIN, Compute
from vissl_clusterfit.compute.folding import fold_batch_norms
from vissl_clusterfit.compute.inference import prepared

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
CPU = torch.device("cpu")


class Residual(nn.Module):
    """Two convolutions with norms, the second of which has no weights; a norm after an addition stays."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.second, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.BatchNorm2d(8, affine=False)
        self.last = nn.BatchNorm2d(8)

    def forward(self, images):
        maps = self.norm1(self.first(images)).relu()
        return self.last(maps + self.norm2(self.second(maps)))


class ReadsTwice(Residual):
    """The output of a convolution goes to its norm, and elsewhere."""

    def forward(self, images):
        maps = self.first(images)
        return self.norm1(maps) + maps


class SharedConvolution(Residual):
    def forward(self, images):
        maps = self.norm1(self.first(images))
        return maps + self.last(self.first(images))


def ready(network: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.3, 2.0, generator=generator)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2.0, generator=generator)
                nn.init.normal_(module.bias, 0, 0.3, generator=generator)
    return network.eval().requires_grad_(False)


def test_norms_after_convolutions_are_folded():
    network = ready(Residual())
    expected, names = network(IMAGES), [name for name, _ in network.named_modules()]
    assert fold_batch_norms(network, lambda: network(IMAGES)) == 2
    torch.testing.assert_close(network(IMAGES), expected, atol=1e-5, rtol=1e-5)
    maps = torch.rand(1, 8, 2, 2)
    assert network.norm1(maps) is maps
    assert network.last(maps) is not maps
    assert [name for name, _ in network.named_modules()] == names


@pytest.mark.parametrize("kind", [ReadsTwice, SharedConvolution])
def test_what_folding_would_change_is_left(kind):
    network = ready(kind())
    expected = network(IMAGES)
    assert fold_batch_norms(network, lambda: network(IMAGES)) == 0
    assert torch.equal(network(IMAGES), expected)


def test_a_norm_in_training_is_not_folded():
    network = ready(Residual())
    network.norm1.train()
    assert fold_batch_norms(network, lambda: network(IMAGES)) == 1


def test_plain_gives_the_same_bits():
    network = ready(Residual())
    expected = network(IMAGES)
    encode = prepared(network, network, CPU, PLAIN)
    with torch.inference_mode():
        assert torch.equal(encode(IMAGES), expected)


@pytest.mark.parametrize("compute", [Compute("bfloat16", True), Compute("bfloat16"), Compute("float32", True)])
def test_other_ways_give_nearly_the_same_and_the_same_bits_again(compute):
    network = ready(Residual())
    expected, twin = network(IMAGES), copy.deepcopy(network)
    encode = prepared(lambda images: network(images).float(), network, CPU, compute)
    again = prepared(lambda images: twin(images).float(), twin, CPU, compute)
    with torch.inference_mode():
        found = encode(IMAGES)
        again(IMAGES[:1])  # another first batch
        assert torch.equal(found, again(IMAGES))
        assert torch.equal(found, encode(IMAGES))
    torch.testing.assert_close(
        found, expected, **({"atol": 0.05, "rtol": 0.05} if compute.precision != "float32" else {})
    )
    assert compute.precision == "float32" or not torch.equal(found, expected)


def test_lists_of_maps_are_computed_so_too():
    network = ready(Residual())
    encode = prepared(lambda images: [network(images), network.first(images)], network, CPU, Compute("bfloat16", True))
    with torch.inference_mode():
        assert [maps.dtype for maps in encode(IMAGES)][1] == torch.bfloat16


@pytest.mark.parametrize("several", [False, True])
def test_a_compiled_network_is_compiled_for_one_batch_size(monkeypatch, several):
    """The compiler itself takes a minute: what it is given is looked at."""
    network, sizes = ready(Residual()), []

    def encode(images):
        maps = network(images)
        return [maps, maps.mean(dim=(2, 3))] if several else maps

    def seen(function, *, dynamic):
        assert not dynamic
        return lambda images: sizes.append(len(images)) or function(images)

    monkeypatch.setattr(torch, "compile", seen)
    compiled = prepared(encode, network, CPU, Compute(compiled=True))
    for number in (4, 3, 1, 4):
        found, expected = compiled(IMAGES[:number]), encode(IMAGES[:number])
        for part, of_part in zip(*([found, expected] if several else [[found], [expected]]), strict=True):
            torch.testing.assert_close(part, of_part)
    assert set(sizes) == {4}
