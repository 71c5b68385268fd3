"""The attention of VISSL's vision transformers: its own in float32, a fused one below."""

import pytest
import torch
from vissl.models.trunks.vision_transformer import Attention

TOKENS = torch.randn(3, 17, 32, generator=torch.Generator().manual_seed(0))
OWN = Attention.forward.__wrapped__


def attention(**arguments) -> Attention:
    torch.manual_seed(1)
    return Attention(32, num_heads=4, qkv_bias=True, **arguments)


def gradients(module: Attention, forward) -> tuple[torch.Tensor, list[torch.Tensor]]:
    module.zero_grad()
    found = forward(module, TOKENS)
    found.float().square().mean().backward()
    return found, [parameter.grad.clone() for parameter in module.parameters()]


def test_in_float32_the_bits_are_those_of_vissl():
    module = attention()
    for ours, vissls in zip(*(gradients(module, forward) for forward in (Attention.forward, OWN)), strict=True):
        torch.testing.assert_close(ours, vissls, rtol=0, atol=0)


def test_a_dry_run_without_values_is_vissls():
    assert attention().to("meta")(TOKENS.to("meta")).shape == TOKENS.shape


@pytest.mark.parametrize("arguments", [{}, {"qk_scale": 0.7}])
def test_below_float32_it_is_near(arguments):
    module = attention(**arguments)
    expected, of_expected = gradients(module, OWN)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, of_found = gradients(module, Attention.forward)
        own, _ = gradients(module, OWN)
    assert found.dtype == torch.bfloat16
    assert not torch.equal(found, own)  # it is another way to the same
    for one, other in zip([found, *of_found], [expected, *of_expected], strict=True):
        assert (one.float() - other).norm() / other.norm() < 0.03


def test_where_attention_is_dropped_out_it_is_vissls():
    module = attention(attn_drop=0.5).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.manual_seed(2)
        found = module(TOKENS)
        torch.manual_seed(2)
        assert torch.equal(found, OWN(module, TOKENS))
