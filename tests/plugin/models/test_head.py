"""The head's width follows from the trunk and from K."""

import copy

import pytest
import torch
from vissl.config import AttrDict
from vissl.models import build_model
from vissl.models.trunks import get_model_trunk

from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.plugin.models import head as heads
from vissl_clusterfit.plugin.models.head import ClusterFitHead, trunk_width

# One small network per kind of trunk in VISSL that runs on the CPU.
TRUNKS = {
    "resnet": ["config=test/cpu_test/test_cpu_resnet_simclr", "config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP=4"],
    "resnet, wide": [
        "config=test/cpu_test/test_cpu_resnet_simclr",
        "config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP=4",
        "config.MODEL.TRUNK.RESNETS.WIDTH_MULTIPLIER=2",
    ],
    "regnet": ["config=test/cpu_test/test_cpu_regnet_simclr"],
    "regnet, named": ["config=test/cpu_test/test_cpu_regnet_moco"],
    "efficientnet": ["config=test/cpu_test/test_cpu_efficientnet_simclr"],
    "vision transformer": [
        "config=pretrain/vision_transformer/supervised/1gpu_vit_example",
        "config.MODEL.TRUNK.VISION_TRANSFORMERS.NUM_LAYERS=2",
        "config.MODEL.TRUNK.VISION_TRANSFORMERS.HIDDEN_DIM=48",
        "config.MODEL.TRUNK.VISION_TRANSFORMERS.MLP_DIM=48",
        "config.MODEL.TRUNK.VISION_TRANSFORMERS.NUM_HEADS=4",
    ],
    "convit": [
        "config=pretrain/vision_transformer/supervised/1gpu_convit_s_example",
        "config.MODEL.TRUNK.VISION_TRANSFORMERS.NUM_LAYERS=2",
        "config.MODEL.TRUNK.CONVIT.N_GPSA_LAYERS=1",
    ],
}


@pytest.fixture(params=TRUNKS.values(), ids=TRUNKS)
def model(request, tmp_path) -> AttrDict:
    overrides = [*request.param, "config.MACHINE.DEVICE=cpu", "config.LOSS.name=CrossEntropyLoss"]
    return compose([*overrides, f"config.CHECKPOINT.DIR={tmp_path}"])[2].MODEL


def test_the_dry_run_gives_the_width_of_a_real_one(model):
    width = trunk_width(copy.deepcopy(model))  # EfficientNet takes out of its config what it reads
    trunk = get_model_trunk(model.TRUNK.NAME)(model, model.TRUNK.NAME).eval()
    with torch.inference_mode():
        features = trunk(torch.zeros(2, 3, 224, 224), [])[-1]
    assert width == features.flatten(1).shape[1]


def test_a_trunk_of_vissls_is_built_once_for_the_same_settings(model, monkeypatch):
    width = trunk_width(copy.deepcopy(model))
    monkeypatch.setattr(heads, "_built", None)
    assert trunk_width(copy.deepcopy(model)) == width
    model.TRUNK.OTHER = 1
    with pytest.raises(ConfigError, match="has no dry run"):
        trunk_width(model)


def test_the_dry_run_leaves_the_random_numbers_alone(model):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    trunk_width(model)
    assert torch.rand(1) == expected


def with_head(model_config, **params) -> AttrDict:
    return AttrDict({**model_config, "HEAD": {**model_config.HEAD, "PARAMS": [["clusterfit_head", params]]}})


def test_one_codebook_gives_one_linear_layer(model_config):
    network = build_model(with_head(model_config, num_clusters=7), AttrDict({}))
    [logits] = network(torch.rand(3, 3, 32, 32))
    assert logits.shape == (3, 7)
    [layer] = [module for module in network.heads.modules() if isinstance(module, torch.nn.Linear)]
    assert (layer.in_features, layer.out_features) == (2048, 7)


def test_several_codebooks_give_a_layer_each(model_config):
    head = ClusterFitHead(model_config, num_clusters=[7, 3], in_features=12)
    assert [tuple(logits.shape) for logits in head(torch.rand(5, 12, 1, 1))] == [(5, 7), (5, 3)]


def test_a_given_width_needs_no_dry_run(model_config):
    head = ClusterFitHead(AttrDict({"HEAD": model_config.HEAD}), num_clusters=4, in_features=6)
    assert head(torch.rand(2, 6)).shape == (2, 4)


def test_a_trunk_without_a_dry_run_asks_for_its_width(model_config):
    class NeedsValues(torch.nn.Module):
        def __init__(self, *_):
            super().__init__()
            self.width = int(torch.ones(3).sum())

    from vissl.models.trunks import MODEL_TRUNKS_REGISTRY, register_model_trunk

    register_model_trunk("needs_values")(NeedsValues)
    try:
        model = AttrDict({**model_config, "TRUNK": {"NAME": "needs_values"}})
        with pytest.raises(ConfigError, match=r"the trunk needs_values, which has no dry run .*\"in_features\": width"):
            trunk_width(model)
    finally:
        del MODEL_TRUNKS_REGISTRY["needs_values"]
