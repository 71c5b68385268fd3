import doctest
import pickle
import sys

import library_networks
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from library_networks import OF_TRANSFORMERS, of_timm, of_torchvision, of_transformers, pictures
from pickled_calls import Reduced

from vissl_clusterfit.config.network_names import split_network_name
from vissl_clusterfit.errors import ConfigError, MissingDependencyError, TeacherError
from vissl_clusterfit.models import describe, load

TEACHERS = {
    "torchvision-cnn": lambda folder: of_torchvision("resnet18", folder, wrapped=lambda state: {"state_dict": state}),
    "torchvision-mobile": lambda folder: of_torchvision("mobilenet_v3_small", folder),
    "torchvision-vit": lambda folder: of_torchvision("vit_b_16", folder),
    "timm-cnn": lambda folder: of_timm("resnet10t", folder),
    "timm-convnext": lambda folder: of_timm("convnext_atto", folder),
    "timm-vit": lambda folder: of_timm("vit_tiny_patch16_224", folder),
    **{f"transformers-{kind}": lambda folder, kind=kind: of_transformers(kind, folder) for kind in OF_TRANSFORMERS},
}
# Its smallest vision transformer has 86 million weights.
SLOW = {"torchvision-vit": pytest.mark.slow}


def features_of(saved):
    network = load(saved.name, saved.weights)
    return network.encoder()(torch.stack([network.transform(image) for image in pictures()]))


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=SLOW.get(kind, ())) for kind in TEACHERS])
def test_features_are_those_of_the_library(kind, tmp_path):
    saved = TEACHERS[kind](tmp_path)
    expected = saved.features(pictures())
    assert expected.std(dim=0).max() > 1e-3, "the pictures must differ in their features"
    torch.testing.assert_close(features_of(saved), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "encoder_q.", "_orig_mod.", "module._orig_mod.backbone."])
@pytest.mark.parametrize("key", ["state_dict", "model", "teacher", "student", "model_ema"])
def test_wrapped_weights_arrive(key, prefix, tmp_path):
    source = timm.create_model("resnet10t")
    state = {f"{prefix}{name}": tensor for name, tensor in source.state_dict().items()}
    torch.save({key: state, "epoch": 3}, tmp_path / "weights.pt")
    network = load("timm:resnet10t", str(tmp_path / "weights.pt"))
    for name, tensor in network.module.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name]), name


def test_of_several_networks_in_a_file_one_is_chosen(tmp_path):
    ours, other = (timm.create_model("resnet10t").state_dict() for _ in range(2))
    torch.save({"teacher": ours, "student": other}, tmp_path / "weights.pt")
    with pytest.raises(TeacherError, match=r"2 networks that fit .*'student\.', 'teacher\.'.*Choose one with prefix"):
        load("timm:resnet10t", str(tmp_path / "weights.pt"))
    network = load("timm:resnet10t", str(tmp_path / "weights.pt"), prefix="teacher.")
    assert torch.equal(network.module.conv1[0].weight, ours["conv1.0.weight"])


def test_a_file_of_transformers_is_as_good_as_its_folder(tmp_path):
    saved = of_transformers("vit", tmp_path)
    file = str(tmp_path / "model.safetensors")
    state = safetensors.torch.load_file(file)
    torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "wrapped.pth")
    expected = features_of(saved)
    for weights in (file, str(tmp_path / "wrapped.pth")):
        assert torch.equal(features_of(library_networks.Saved(saved.name, weights, saved.features)), expected)
    assert describe(saved.name, "library") == describe(saved.name, file)


def test_class_token_and_patches_are_those_of_the_last_tokens():
    images = torch.randn(2, 3, 64, 64)
    network = load("timm:vit_tiny_patch16_224", arguments={"img_size": 64})
    with torch.no_grad():
        tokens = network.module.eval().forward_features(images)
    torch.testing.assert_close(network.encoder(pooling="class_token")(images), tokens[:, 0])
    torch.testing.assert_close(network.encoder(pooling="patch_mean")(images), tokens[:, 1:].mean(dim=1))
    torch.testing.assert_close(network.encoder("norm", "avg")(images), tokens.mean(dim=1))


def test_registers_are_no_patches(tmp_path):
    saved = of_transformers("dinov3", tmp_path)
    network = load(saved.name, "library")
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        tokens = network.module.eval()(images).last_hidden_state
    prefix = 1 + network.module.config.num_register_tokens
    assert prefix > 1
    assert tokens.shape[1] == prefix + 16
    torch.testing.assert_close(network.encoder(pooling="patch_mean")(images), tokens[:, prefix:].mean(dim=1))


def test_a_named_layer_is_any_submodule():
    network, images = load("torchvision:resnet18"), torch.randn(2, 3, 64, 64)
    encode = network.encoder("layer3.0.conv1")
    with torch.no_grad():
        module = network.module
        before = module.layer2(module.layer1(module.maxpool(module.relu(module.bn1(module.conv1(images))))))
        maps = module.layer3[0].conv1(before)
    torch.testing.assert_close(encode(images), maps.mean(dim=(2, 3)))
    torch.testing.assert_close(network.encoder("layer3.0.conv1", "max")(images), maps.amax(dim=(2, 3)))
    assert {"layer3.0.conv1", "avgpool"} <= {*network.layers}


def test_channels_that_come_last_are_averaged_over_positions():
    network, images = load("torchvision:swin_t"), torch.randn(1, 3, 64, 64)
    assert network.encoder("features.3")(images).shape == (1, 192)


def test_sizes_follow_the_arguments():
    network = load("timm:vit_tiny_patch16_224", arguments={"img_size": 64})
    assert network.transform(pictures()[0]).shape == (3, 64, 64)
    assert load("torchvision:vit_b_16", arguments={"image_size": 32}).transforms[1] == {
        "name": "CenterCrop",
        "size": 32,
    }


def test_timm_converts_files_as_it_does_itself(tmp_path):
    """Positions for images of another size, as timm's own loading resamples them."""
    file = str(tmp_path / "weights.safetensors")
    safetensors.torch.save_file(timm.create_model("vit_tiny_patch16_224").state_dict(), file)
    overlay = {"file": file, "custom_load": False}  # as newer versions do by themselves
    own = timm.create_model(
        "vit_tiny_patch16_224", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, img_size=64
    ).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = own(images)
    network = load("timm:vit_tiny_patch16_224", file, arguments={"img_size": 64})
    torch.testing.assert_close(network.encoder()(images), expected, rtol=0, atol=1e-5)


def test_torchvisions_own_weights_have_their_own_transforms(tmp_path, monkeypatch):
    """The library finds its files in its folder; which weights they are of shows in the name."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = torchvision.models.resnet50()
    for weights in torchvision.models.ResNet50_Weights:
        file = tmp_path / "hub/checkpoints" / weights.url.rpartition("/")[2]
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save(network.state_dict(), file)
        assert load("torchvision:resnet50", str(file)).transforms[0]["size"] == weights.transforms().resize_size[0]
    found = load("torchvision:resnet50", "library")
    assert torch.equal(found.module.conv1.weight, network.conv1.weight)
    assert found.transforms[0]["size"] == 232


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tim:resnet18", r"found 'tim:resnet18'.*Did you mean timm:resnet18"),
        ("torchvision:resnet19", r"torchvision:resnet19, which torchvision .* does not have.*torchvision:resnet18"),
        ("timm:resnet_18", r"timm:resnet_18, which timm .* does not have.*timm:resnet18"),
        ("timm:resnet18.a1_in2k", r"Did you mean timm:resnet18.a1_in1k"),
        ("transformers:/nowhere", r"transformers:/nowhere, no folder, and no model of the hub"),
        ("hub:/nowhere", r"/nowhere, which has no hubconf.py"),
        ("python:json:lods", r"json has no function 'lods'.*python:json:loads"),
        ("python:no_such_module:f", r"no_such_module cannot be imported"),
        ("timm:", r"without a model"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(name, message, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=message):
        load(name)


def test_a_missing_library_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr("vissl_clusterfit.dependencies.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"timm.*\n.*pip install 'vissl-clusterfit\[models\]'"):
        load("timm:resnet18")


def test_weights_of_another_architecture_say_how_many_fit(tmp_path):
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / "weights.pth")
    with pytest.raises(TeacherError, match=r"only in part: \d+ of 318 tensors; of another shape|; missing layer"):
        load("torchvision:resnet50", str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_of_a_deeper_network_are_no_network_of_fewer_blocks(prefix, tmp_path):
    state = torchvision.models.resnet34().state_dict()
    torch.save({f"{prefix}{name}": tensor for name, tensor in state.items()}, tmp_path / "weights.pth")
    for library in ("torchvision", "timm"):
        with pytest.raises(
            TeacherError, match=rf"deeper network than {library}:resnet18: .* 80 more .*layer1\.2\.conv1"
        ):
            load(f"{library}:resnet18", str(tmp_path / "weights.pth"))
    first_blocks = load("timm:resnet18", str(tmp_path / "weights.pth"), arguments={"layers": [2, 2, 2, 2]})
    assert torch.equal(first_blocks.module.state_dict()["layer4.1.conv2.weight"], state["layer4.1.conv2.weight"])


def test_a_folder_with_the_weights_of_another_model_is_refused(tmp_path):
    of_transformers("vit", tmp_path)
    file = tmp_path / "model.safetensors"
    state = safetensors.torch.load_file(file)
    name = next(name for name in state if name.endswith("weight"))
    safetensors.torch.save_file({**state, name: torch.zeros(3)}, file, metadata={"format": "pt"})
    with pytest.raises(TeacherError, match=r"fit only in part: \d+ of \d+ tensors; these do not"):
        load(f"transformers:{tmp_path}", "library")


def test_a_pickle_that_runs_code_is_refused(tmp_path, capsys):
    (tmp_path / "weights.pth").write_bytes(pickle.dumps({"state_dict": Reduced(print, ("it ran",))}))
    with pytest.raises(TeacherError, match="runs code"):
        load("timm:resnet10t", str(tmp_path / "weights.pth"))
    assert "it ran" not in capsys.readouterr().out


def test_a_repository_runs_only_where_it_is_trusted(tmp_path):
    (tmp_path / "hubconf.py").write_text(
        "import torch\n\ndef small(width=4):\n    return torch.nn.Conv2d(3, width, 3)\n"
    )
    with pytest.raises(ConfigError, match=r"runs the code of .*set trust=True"):
        load(f"hub:{tmp_path}")
    network = load(f"hub:{tmp_path}", trust=True, arguments={"width": 5})
    assert network.encoder()(torch.zeros(1, 3, 8, 8)).shape == (1, 5)
    with pytest.raises(ConfigError, match="small"):
        load(f"hub:{tmp_path}:smal", trust=True)


def test_a_function_of_ones_own_builds_a_network():
    network = load("python:torchvision.models:resnet18", arguments={"num_classes": 7})
    assert network.encoder()(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


def test_a_manifest_tells_other_networks_apart(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save(torchvision.models.resnet18().state_dict(), file)
    one = describe("torchvision:resnet18", str(file))
    assert one["network"] == {"MODEL": "torchvision:resnet18", "ARGUMENTS": {}}
    torch.save(torchvision.models.resnet18().state_dict(), file)
    assert describe("torchvision:resnet18", str(file))["weights_sha256"] != one["weights_sha256"]


def test_a_folder_is_the_same_model_wherever_it_lies(tmp_path):
    saved = of_transformers("clip", tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    moved = f"transformers:{tmp_path / 'two'}"
    found = describe(moved, "library")
    assert found["network"]["CONFIG"]["hidden_size"] == 32
    assert str(tmp_path) not in str(found)
    file = str(tmp_path / "two/model.safetensors")
    by_manifest = load(found["network"]["MODEL"], file, config=found["network"]["CONFIG"], transforms=[])
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(by_manifest.encoder()(images), load(moved, "library").encoder()(images))
    assert saved.weights == "library"


@pytest.mark.parametrize("function", [load, describe, split_network_name], ids=lambda function: function.__name__)
def test_the_example_in_a_docstring_runs(function):
    test = doctest.DocTestParser().get_doctest(
        function.__doc__, {function.__name__: function}, function.__name__, None, 0
    )
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0
