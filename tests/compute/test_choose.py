import time

import pytest
import torch

from vissl_clusterfit.compute import choose as module
from vissl_clusterfit.compute.choose import candidates, choose
from vissl_clusterfit.compute.chosen import PLAIN, Compute
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.config.compute import ComputeSettings
from vissl_clusterfit.errors import ConfigError

LOWER = Compute("bfloat16", channels_last=True)
LAST = Compute("float32", channels_last=True)


def never(_: Compute):
    raise AssertionError("there is nothing to choose")


def work_of(seconds: dict[Compute, float], rows: dict[Compute, torch.Tensor], size: int = 600):
    """Work that takes a given time of a processor besides a product, and gives given rows."""
    operand = torch.ones(size, size)

    def prepare(compute: Compute):
        def work():
            ends = time.process_time() + seconds[compute]
            while time.process_time() < ends:
                pass
            _ = operand @ operand
            return rows.get(compute, torch.ones(2, 3))

        return work

    return prepare


@pytest.fixture(autouse=True)
def _units(monkeypatch):
    monkeypatch.setattr(module, "has_units", lambda precision, device: precision in ("float32", "bfloat16"))


@pytest.mark.parametrize(
    ("settings", "ways"),
    [
        (ComputeSettings(), [PLAIN, LOWER, LAST]),
        (ComputeSettings(precision="float32"), [PLAIN]),
        (ComputeSettings(precision="bfloat16"), [LOWER]),
        (ComputeSettings(precision="bfloat16", channels_last=False), [Compute("bfloat16")]),
        (ComputeSettings(channels_last=False), [PLAIN, Compute("bfloat16")]),
        (ComputeSettings(channels_last=True), [LAST, LOWER]),
        (ComputeSettings(precision="float32", compile=True), [Compute(compiled=True)]),
    ],
)
def test_what_the_settings_allow(settings, ways):
    assert candidates(settings, "cpu") == ways
    if len(ways) == 1:
        assert choose(settings, "cpu", never) == ways[0]


def test_a_device_without_units_has_float32_alone(monkeypatch):
    monkeypatch.setattr(module, "has_units", lambda precision, device: precision == "float32")
    assert candidates(ComputeSettings(), "cpu") == [PLAIN, LAST]


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({PLAIN: 0.09, LOWER: 0.01, LAST: 0.04}, LOWER),
        ({PLAIN: 0.09, LOWER: 0.05, LAST: 0.01}, LAST),
        ({PLAIN: 0.02, LOWER: 0.09, LAST: 0.02}, PLAIN),
    ],
)
def test_the_fastest_is_taken(seconds, chosen, caplog):
    with caplog.at_level("INFO"):
        assert choose(ComputeSettings(), "cpu", work_of(seconds, {})) == chosen
    assert f"The network computes in {chosen}. Measured against float32: bfloat16, channels last: " in caplog.text


@pytest.mark.parametrize("rows", [torch.full((2, 3), 1.2), torch.full((2, 3), torch.nan)])
def test_what_gives_other_features_is_not_taken(rows):
    seconds = {PLAIN: 0.09, LOWER: 0.01, LAST: 0.09}
    assert choose(ComputeSettings(), "cpu", work_of(seconds, {LOWER: rows})) == PLAIN


def test_what_does_not_run_is_not_taken(caplog):
    def prepare(compute: Compute):
        if compute == LOWER:
            raise RuntimeError("not implemented for 'BFloat16'")
        return work_of({PLAIN: 0.02, LAST: 0.09}, {})(compute)

    with caplog.at_level("INFO"):
        assert choose(ComputeSettings(), "cpu", prepare) == PLAIN
    assert "bfloat16, channels last: it does not run (not implemented for 'BFloat16')" in caplog.text


def test_a_small_network_stays_as_it_is():
    assert choose(ComputeSettings(), "cpu", work_of({PLAIN: 0.0}, {}, size=100)) == PLAIN


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"PRECISION": "half"}, r"COMPUTE\.PRECISION: found 'half'; allowed: 'auto' \| 'float32' \| 'bfloat16'"),
        ({"CHANNELS_LAST": 1}, r"COMPUTE\.CHANNELS_LAST: found 1; allowed: "),
        ({"CHANNELS_LAST": "yes"}, r"COMPUTE\.CHANNELS_LAST: found 'yes'; allowed: 'auto' \| True \| False"),
        ({"COMPILE": "auto"}, r"COMPUTE\.COMPILE: found 'auto'; allowed: a value of type bool"),
    ],
)
def test_what_the_settings_may_not_be(block, message):
    with pytest.raises(ConfigError, match=message):
        ClusterFitConfig.from_block({"COMPUTE": block})


def test_channels_last_is_said_or_left_open():
    for value in ("auto", True, False):
        assert ClusterFitConfig.from_block({"COMPUTE": {"CHANNELS_LAST": value}}).compute.channels_last == value
