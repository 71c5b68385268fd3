"""Trunks for clips: their layers, pooling and settings, and that VISSL trains, initialises and evaluates them."""

import pytest
import torch
from clip_encoding import encode
from torch import nn
from vissl.config import AttrDict
from vissl.models import build_model
from vissl.models.trunks import get_model_trunk

from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.plugin.models.encoder import trunk_layers
from vissl_clusterfit.plugin.models.head import trunk_width

TINY = {"WIDTH": 8, "CLIP_LENGTH": 4, "CROP_SIZE": 32}


@pytest.mark.parametrize("name", ["r2plus1d_18", "r2plus1d_34", "r3d_18", "mc3_18", "mvit_v1_b", "mvit_v2_s"])
def test_a_tiny_variant_has_the_layers_and_shapes_of_the_large_one(name, video_model):
    block = video_model(name, **TINY)
    trunk = get_model_trunk(name)(block, name).eval()
    layers = trunk_layers(trunk)
    assert layers[:5] == ["conv1", "res2", "res3", "res4", "res5"]
    with torch.inference_mode():
        outputs = trunk(torch.rand(2, 3, 4, 32, 32), layers)
    widths = [output.shape[1] for output in outputs]
    doubling = [16, 32, 64, 64] if name == "mvit_v1_b" else [8, 16, 32, 64]
    assert widths == [8, *doubling, *[64] * (len(layers) - 5)]
    assert [output.ndim for output in outputs[:5]] == [5] * 5
    assert trunk_width(block) == outputs[-1].shape[1] == 64
    assert outputs[-1].ndim == 2
    assert sum(parameter.numel() for parameter in trunk.parameters()) < 2e6


@pytest.mark.parametrize(
    "pooling, pool", [("avg", lambda maps: maps.mean((2, 3, 4))), ("max", lambda maps: maps.amax((2, 3, 4)))]
)
@pytest.mark.parametrize("name", ["r2plus1d_18", "mvit_v2_s"])
def test_a_layer_is_pooled_over_time_and_space(name, pooling, pool, video_model):
    clips = torch.rand(2, 3, 4, 32, 32)
    maps = encode(video_model(name, **TINY), clips, layer="res3", pooling="flatten")
    pooled = encode(video_model(name, **TINY), clips, layer="res3", pooling=pooling)
    positions = maps.shape[1] // pooled.shape[1]
    assert positions > 1
    torch.testing.assert_close(pooled, pool(maps.reshape(2, pooled.shape[1], positions, 1, 1)))


def test_mvits_maps_leave_the_class_token_out_and_lie_where_their_tokens_were(video_model):
    """The output at a position of conv1 depends on its own patch alone."""
    trunk = get_model_trunk("mvit_v2_s")(video_model("mvit_v2_s", **TINY), "mvit_v2_s").eval()
    clips = torch.zeros(1, 3, 4, 32, 32)
    clips[:, :, 2:, 16:, :16] = 1
    with torch.inference_mode():
        [changed], [blank] = trunk(clips, ["conv1"]), trunk(torch.zeros_like(clips), ["conv1"])
    differs = (changed - blank).abs().sum(1)[0]
    assert differs.shape == (2, 8, 8)
    assert differs[1, 5:, :3].min() > 0
    assert differs[:, :3].max() == 0


def test_linear_evaluation_takes_layers_pooled_in_3d(video_model):
    block = video_model("r3d_18", **TINY)
    block.FEATURE_EVAL_SETTINGS = AttrDict(
        {
            **block.FEATURE_EVAL_SETTINGS,
            "EVAL_MODE_ON": True,
            "FREEZE_TRUNK_ONLY": True,
            "SHOULD_FLATTEN_FEATS": True,
            "LINEAR_EVAL_FEAT_POOL_OPS_MAP": [
                ["res4", ["AvgPool3d", [[1, 2, 2], 1, 0]]],
                ["res5", ["AdaptiveAvgPool3d", [[1, 1, 1]]]],
            ],
        }
    )
    block.HEAD = AttrDict(
        {**block.HEAD, "PARAMS": [["mlp", {"dims": [288, 3]}], ["eval_mlp", {"in_channels": 64, "dims": [64, 3]}]]}
    )
    network = build_model(block, AttrDict({})).eval()
    clips = torch.rand(2, 3, 4, 32, 32)
    with torch.inference_mode():
        maps = network.trunk.base_model(clips, ["res4", "res5"])
        outputs = network(clips)
        torch.testing.assert_close(outputs[1], network.heads[1](maps[1].mean((2, 3, 4))))
    assert [tuple(output.shape) for output in outputs] == [(2, 3), (2, 3)]


def test_vissl_initialises_a_trunk_from_torchvisions_file(video_model, tmp_path):
    name = "r2plus1d_18"
    source = get_model_trunk(name)(video_model(name, WIDTH=8), name)
    published = {name.removeprefix("_feature_blocks."): value for name, value in source.state_dict().items()}
    torch.save({**published, "fc.weight": torch.zeros(400, 64)}, tmp_path / "w.pth")
    block = video_model(name, WIDTH=8)
    block.HEAD = AttrDict({**block.HEAD, "PARAMS": [["clusterfit_head", {"num_clusters": 4}]]})
    block.WEIGHTS_INIT = AttrDict(
        {
            "PARAMS_FILE": str(tmp_path / "w.pth"),
            "STATE_DICT_KEY_NAME": "",
            "REMOVE_PREFIX": "",
            "APPEND_PREFIX": "trunk._feature_blocks.",
            "SKIP_LAYERS": ["num_batches_tracked"],
        }
    )
    network = build_model(block, AttrDict({}))
    network.init_model_from_weights_params_file(AttrDict({"MODEL": block}), torch.load(tmp_path / "w.pth"))
    for tensor, value in source.state_dict().items():
        torch.testing.assert_close(network.trunk.state_dict()[tensor], value, rtol=0, atol=0)


def test_a_trunk_learns_and_comes_back_from_a_checkpoint(video_model):
    torch.manual_seed(0)
    block = video_model("r2plus1d_18", **TINY)
    block.HEAD = AttrDict({**block.HEAD, "PARAMS": [["clusterfit_head", {"num_clusters": 2}]]})
    network = build_model(block, AttrDict({}))
    clips, labels = torch.rand(4, 3, 4, 32, 32), torch.tensor([0, 1, 0, 1])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    losses = []
    for _ in range(6):
        loss = nn.functional.cross_entropy(network(clips)[0], labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    assert all(parameter.grad is not None for parameter in network.parameters())
    other = build_model(block, AttrDict({}))
    other.set_classy_state(network.get_classy_state())
    torch.testing.assert_close(other.eval()(clips)[0], network.eval()(clips)[0])


@pytest.mark.parametrize(
    "name, settings, told",
    [
        ("s3d", {"WIDTH": 8}, r"VIDEO\.WIDTH: found 8 for s3d, which has one width; allowed: 0"),
        ("r3d_18", {"WITDH": 8}, r"VIDEO\.WITDH: found an unknown key; .*Did you mean WIDTH"),
        ("mvit_v2_s", {"CLIP_LENGTH": 0}, r"VIDEO\.CLIP_LENGTH: found 0; allowed: at least 1"),
        (
            "resnext3d",
            {"RESNEXT3D": {"num_blocks": [1, 1]}},
            r"RESNEXT3D: found .*num_blocks.*; allowed: the model block",
        ),
        (
            "resnext3d",
            {"RESNEXT3D": {"skip_transformation_type": "none"}},
            r"RESNEXT3D: found .*skip.*; allowed: the model block",
        ),
    ],
)
def test_a_setting_that_fits_no_network_is_told(name, settings, told, video_model):
    with pytest.raises(ConfigError, match=told):
        get_model_trunk(name)(video_model(name, **settings), name)


def test_mvit_says_which_clips_it_takes(video_model):
    with pytest.raises(
        ConfigError, match="CROP_SIZE: found clips of 4 frames of 32 x 48; allowed: 4 frames of 32 x 32"
    ):
        encode(video_model("mvit_v1_b", **TINY), torch.rand(1, 3, 4, 32, 48))


def test_activation_checkpointing_is_refused(video_model):
    block = video_model("r3d_18", **TINY)
    block.ACTIVATION_CHECKPOINTING = AttrDict({**block.ACTIVATION_CHECKPOINTING, "USE_ACTIVATION_CHECKPOINTING": True})
    with pytest.raises(ConfigError, match="USE_ACTIVATION_CHECKPOINTING: found true; allowed: false"):
        get_model_trunk("r3d_18")(block, "r3d_18")
