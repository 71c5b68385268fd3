"""What the encoder gives is what the network itself gives."""

import dataclasses

import pytest
import torch
import torchvision
from vissl.config import AttrDict
from vissl.models import build_model
from vissl.models.trunks import MODEL_TRUNKS_REGISTRY

from vissl_clusterfit.config.features import FeatureSettings, TeacherSettings
from vissl_clusterfit.errors import ConfigError, TeacherError
from vissl_clusterfit.plugin.models.encoder import EncoderSpec, build_encoder, load_network, teacher_spec
from vissl_clusterfit.storage.artifacts import file_sha256

CPU = torch.device("cpu")
IMAGES = torch.rand(5, 3, 48, 48, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def spec(model_config, teacher) -> EncoderSpec:
    return EncoderSpec(
        model=model_config, weights=str(teacher), state_dict_key="", trust_weights=False, layer="res4", pooling="avg"
    )


@pytest.fixture(scope="module")
def network(model_config, teacher):
    """The teacher as VISSL itself restores it."""
    network = build_model(AttrDict(model_config), AttrDict({}))
    network.set_classy_state(torch.load(teacher)["classy_state_dict"]["base_model"])
    return network.eval().requires_grad_(False)


def encode(spec: EncoderSpec, **changes) -> torch.Tensor:
    with torch.inference_mode():
        return build_encoder(dataclasses.replace(spec, **changes), CPU)(IMAGES)


@pytest.mark.parametrize("layer", ["conv1", "res2", "res4", "res5"])
@pytest.mark.parametrize(
    "pooling, pool",
    [
        ("avg", lambda maps: maps.mean(dim=(2, 3))),
        ("max", lambda maps: maps.amax(dim=(2, 3))),
        ("flatten", lambda maps: maps.reshape(len(maps), -1)),
    ],
)
def test_a_layer_of_the_trunk_pooled(spec, network, layer, pooling, pool):
    torch.testing.assert_close(encode(spec, layer=layer, pooling=pooling), pool(network.trunk(IMAGES, [layer])[0]))


def test_the_output_of_the_trunk(spec, network):
    features = encode(spec, layer="")
    torch.testing.assert_close(features, network.trunk(IMAGES, [])[0].flatten(1))
    assert features.shape == (5, 2048)


def test_the_output_of_the_head(spec, network):
    features = encode(spec, layer="heads")
    torch.testing.assert_close(features, network(IMAGES)[0])
    assert features.shape == (5, 4)


def test_the_head_needs_a_head(spec, model_config):
    model = {**model_config, "HEAD": {**model_config.HEAD, "PARAMS": []}}
    with pytest.raises(ConfigError, match=r"TEACHER\.MODEL\.HEAD\.PARAMS: found no head"):
        encode(spec, model=model, layer="heads")


def test_a_layer_that_does_not_exist(spec):
    with pytest.raises(TeacherError, match=r"LAYER_NAME: found 'layer4'; allowed: .*conv1.*res5.*, heads, or"):
        encode(spec, layer="layer4")


def test_torchvisions_weights_arrive(spec, tmp_path):
    """The same features as from torchvision's own forward, from its own state dict, in VISSL's ResNet-50."""
    torch.manual_seed(0)
    model = torchvision.models.resnet50()
    model.train()
    with torch.no_grad():
        model(torch.rand(8, 3, 64, 64))  # statistics of its own
    torch.save(model.state_dict(), tmp_path / "resnet50.pth")
    block = AttrDict(
        {
            **spec.model,
            "TRUNK": {"NAME": "resnet", "RESNETS": {**spec.model["TRUNK"]["RESNETS"], "WIDTH_PER_GROUP": 64}},
        }
    )
    features = encode(spec, model=block, weights=str(tmp_path / "resnet50.pth"), layer="res5")
    model.fc = torch.nn.Identity()
    torch.testing.assert_close(features, model.eval()(IMAGES).detach())


def test_without_weights_it_is_drawn_from_the_seed(spec):
    first, again, other = (encode(spec, weights=None, seed=seed) for seed in (1, 1, 2))
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert not torch.allclose(first, other)


def test_the_network_is_built_without_touching_the_callers_random_numbers(spec):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    encode(spec)
    assert torch.rand(1) == expected


def test_it_does_not_depend_on_the_batch(spec):
    with torch.inference_mode():
        encoder = build_encoder(spec, CPU)
        torch.testing.assert_close(torch.cat([encoder(image[None]) for image in IMAGES]), encoder(IMAGES))


def test_a_linear_evaluations_model_block_gives_the_same(spec):
    model = AttrDict({**spec.model})
    model.FEATURE_EVAL_SETTINGS = AttrDict(
        {**model.FEATURE_EVAL_SETTINGS, "EVAL_MODE_ON": True, "FREEZE_TRUNK_ONLY": True}
    )
    torch.testing.assert_close(encode(spec, model=model), encode(spec))


def test_the_teacher_is_the_student_with_its_own_changes(model_config, teacher):
    settings = TeacherSettings(model={"TRUNK": {"RESNETS": {"DEPTH": 101}}}, weights=str(teacher))
    spec = teacher_spec(model_config, settings, FeatureSettings(layer_name="res5"))
    assert spec.model["TRUNK"]["RESNETS"] == {**model_config.TRUNK.RESNETS, "DEPTH": 101}
    assert model_config.TRUNK.RESNETS.DEPTH == 50
    assert spec.layer == "res5"


def test_its_inputs_name_all_that_decides_the_features(spec, teacher):
    inputs = spec.inputs()
    assert inputs["weights_sha256"] == file_sha256(teacher)
    assert (inputs["layer"], inputs["pooling"]) == ("res4", "avg")
    assert inputs["trunk"]["RESNETS"]["WIDTH_PER_GROUP"] == 4
    assert "head" not in inputs
    assert dataclasses.replace(spec, layer="heads").inputs()["head"] == spec.model["HEAD"]["PARAMS"]
    assert dataclasses.replace(spec, weights=None, seed=7).inputs()["weights_sha256"] == "random, seed 7"


def test_the_network_that_was_chosen_of_several_is_an_input(spec, model_config, tmp_path):
    """Of one network nothing is said, however it was found, so that older features are still of this run."""
    trunks = [build_model(AttrDict(model_config), AttrDict({})).trunk.state_dict() for _ in range(2)]
    names = [
        {f"module.{name}.{key}": value for key, value in trunk.items()}
        for name, trunk in zip("qk", trunks, strict=True)
    ]
    torch.save({"state_dict": {**names[0], **names[1]}}, tmp_path / "two.pth")
    torch.save({"state_dict": names[0]}, tmp_path / "one.pth")
    two = dataclasses.replace(spec, weights=str(tmp_path / "two.pth"))
    with pytest.raises(TeacherError, match=r"2 networks that fit the trunk; .* with .*TEACHER\.STATE_DICT_PREFIX"):
        encode(two)
    chosen = [dataclasses.replace(two, state_dict_prefix=prefix) for prefix in ("module.q.", "module.k.")]
    assert [each.inputs()["weights_network"][:9] for each in chosen] == ["module.q.", "module.k."]
    assert not torch.equal(*map(encode, chosen))
    one = dataclasses.replace(spec, weights=str(tmp_path / "one.pth"))
    for each in (one, dataclasses.replace(one, state_dict_prefix="module.q.", state_dict_key="state_dict")):
        assert "weights_network" not in each.inputs()


@pytest.mark.parametrize("depth", [18, "fifty", None, [50]])
def test_what_the_constructor_of_a_trunk_does_not_take_is_told_in_one_message(spec, model_config, depth):
    model = AttrDict(AttrDict(model_config).to_dict())
    model.TRUNK.RESNETS.DEPTH = depth
    with pytest.raises(ConfigError, match=r"TEACHER\.MODEL: found a network that cannot be built, trunk resnet: "):
        encode(spec, model=model)


class WithChance(torch.nn.Module):
    """A trunk of a user's, which draws a number that is no weight."""

    def __init__(self, model_config, model_name):
        super().__init__()
        self.linear = torch.nn.Linear(2, 3)
        self.drawn = torch.empty(4).normal_()


def test_what_a_trunk_of_the_users_draws_besides_its_weights_is_drawn(model_config, monkeypatch, tmp_path):
    monkeypatch.setitem(MODEL_TRUNKS_REGISTRY, "with_chance", WithChance)
    state = torch.nn.Linear(2, 3).state_dict()
    torch.save({f"linear.{name}": tensor for name, tensor in state.items()}, tmp_path / "weights.torch")
    model = {**model_config, "TRUNK": {**model_config["TRUNK"], "NAME": "with_chance"}}
    spec = EncoderSpec(model=model, weights=None, state_dict_key="", trust_weights=False, layer="", pooling="avg")
    untrained = load_network(spec, CPU).trunk
    trained = load_network(dataclasses.replace(spec, weights=str(tmp_path / "weights.torch")), CPU).trunk
    assert torch.equal(trained.linear.weight, state["weight"])
    assert torch.equal(trained.drawn, untrained.drawn)
