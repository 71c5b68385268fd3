import functools
import http.server
import os
import pickle
import threading

import pytest
import torch
from pickled_calls import Reduced
from safetensors.torch import save_file
from torch import nn

from vissl_clusterfit.errors import TeacherError
from vissl_clusterfit.models.weight_files import load_state_dict
from vissl_clusterfit.models.weights import load_weights


class Trunk(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self._feature_blocks = nn.ModuleDict({"conv1": nn.Conv2d(3, width, 1), "bn1": nn.BatchNorm2d(width)})


def saved(tmp_path, content):
    torch.save(content, tmp_path / "weights.torch")
    return str(tmp_path / "weights.torch")


def plain(trunk: nn.Module, prefix: str = "") -> dict:
    return {f"{prefix}{name.removeprefix('_feature_blocks.')}": value for name, value in trunk.state_dict().items()}


def as_vissl(trunk):
    return {"classy_state_dict": {"base_model": {"model": {"trunk": trunk.state_dict(), "heads": {}}}}}


@pytest.mark.parametrize(
    "layout",
    [
        as_vissl,
        plain,
        lambda trunk: {"state_dict": plain(trunk, "module.encoder_q.")},
        lambda trunk: {"model": plain(trunk), "optimizer": {"lr": 0.1}},
        lambda trunk: {"model_state_dict": {f"trunk.base_model.{k}": v for k, v in trunk.state_dict().items()}},
        lambda trunk: {**plain(trunk), "fc.weight": torch.zeros(2, 3)},
        lambda trunk: {name: value for name, value in plain(trunk).items() if "num_batches" not in name},
    ],
)
def test_every_usual_layout_arrives_whole(tmp_path, layout):
    source, target = Trunk(), Trunk()
    path = saved(tmp_path, layout(source))
    load_weights(target, load_state_dict(path), "trunk", path)
    for name, value in source.state_dict().items():
        torch.testing.assert_close(target.state_dict()[name], value)


def test_a_named_place_is_taken(tmp_path):
    source, target = Trunk(), Trunk()
    path = saved(tmp_path, {"state_dict": plain(Trunk()), "ema": {"net": plain(source)}})
    load_weights(target, load_state_dict(path, key="ema.net"), "trunk", path)
    torch.testing.assert_close(target._feature_blocks.conv1.weight, source._feature_blocks.conv1.weight)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(TeacherError, match=r"nothing\.torch is missing"):
        load_state_dict(str(tmp_path / "nothing.torch"))


@pytest.mark.parametrize("content", [b"", b"hello, this is text", b"\x80\x04K\x01."])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    (tmp_path / "weights.torch").write_bytes(content)
    with pytest.raises(TeacherError, match=r"weights\.torch (is no checkpoint|holds no tensors)"):
        load_state_dict(str(tmp_path / "weights.torch"))


def test_a_file_that_runs_code_is_refused_until_it_is_trusted(tmp_path):
    malicious = Reduced(os.mkdir, (str(tmp_path / "code-ran"),))
    path = saved(tmp_path, {"state_dict": plain(Trunk()), "evil": malicious})
    with pytest.raises(TeacherError, match="TRUST_WEIGHTS=true"):
        load_state_dict(path)
    assert not (tmp_path / "code-ran").exists()
    assert load_state_dict(path, trusted=True).keys() == plain(Trunk()).keys()


def test_a_file_without_tensors_says_what_it_holds(tmp_path):
    with pytest.raises(TeacherError, match="holds no tensors in any of the usual places; it holds the keys 'epoch'"):
        load_state_dict(saved(tmp_path, {"epoch": 3}))


def test_weights_of_another_network_are_refused(tmp_path):
    with pytest.raises(TeacherError, match=r"no tensor of the trunk\. The trunk has _feature_blocks\.conv1"):
        load_weights(Trunk(), {"blocks.0.attn.qkv.weight": torch.zeros(2)}, "trunk", "vit.torch")


def test_weights_of_a_part_are_refused(tmp_path):
    state = plain(Trunk())
    del state["bn1.running_mean"]
    with pytest.raises(TeacherError, match=r"only in part: 5 of 6 tensors; missing _feature_blocks\.bn1\.running_mean"):
        load_weights(Trunk(), state, "trunk", "part.torch")


def test_weights_of_another_shape_are_refused_and_nothing_is_loaded(tmp_path):
    target = Trunk(width=5)
    before = target._feature_blocks.bn1.bias.clone()
    with pytest.raises(TeacherError, match=r"conv1\.weight \(3, 3, 1, 1\) for \(5, 3, 1, 1\)"):
        load_weights(target, plain(Trunk()), "trunk", "narrow.torch")
    torch.testing.assert_close(target._feature_blocks.bn1.bias, before)


def test_pickles_are_told_from_checkpoints(tmp_path):
    (tmp_path / "weights.torch").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(TeacherError, match=r"is no checkpoint|holds no tensors"):
        load_state_dict(str(tmp_path / "weights.torch"))


@pytest.fixture
def served(tmp_path, monkeypatch):
    """The URL of a folder, and the folder."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", folder
        server.shutdown()
        thread.join()


def test_weights_come_from_a_url(served):
    url, folder = served
    trunk = Trunk()
    saved(folder, as_vissl(trunk))
    assert set(load_state_dict(f"{url}/weights.torch")) == {f"trunk.{name}" for name in trunk.state_dict()}
    with pytest.raises(TeacherError, match=f"The weights file {url}/none.torch is missing"):
        load_state_dict(f"{url}/none.torch")


TWO_NETWORKS = {
    "MoCo": lambda one, two: {"state_dict": {**plain(one, "module.encoder_q."), **plain(two, "module.encoder_k.")}},
    "DINO": lambda one, two: {"student": plain(one, "module.backbone."), "teacher": plain(two, "backbone.")},
    "EMA": lambda one, two: {"state_dict": plain(one), "state_dict_ema": plain(two), "optimizer": {"lr": 0.1}},
    "side by side": lambda one, two: {**plain(one, "online."), **plain(two, "target.")},
}


@pytest.mark.parametrize(
    "kind, prefixes",
    [
        ("MoCo", ("module.encoder_q.", "module.encoder_k.")),
        ("DINO", ("student.", "teacher.")),
        ("DINO", ("module.backbone.", "backbone.")),
        ("EMA", ("state_dict.", "state_dict_ema.")),
        ("side by side", ("online", "target")),
    ],
)
def test_of_several_networks_one_has_to_be_chosen(tmp_path, kind, prefixes):
    networks = Trunk(), Trunk()
    path = saved(tmp_path, TWO_NETWORKS[kind](*networks))
    with pytest.raises(TeacherError, match=r"2 networks that fit the trunk; .*Choose one with .*STATE_DICT_PREFIX"):
        load_weights(Trunk(), load_state_dict(path), "trunk", path)
    for prefix, network in zip(prefixes, networks, strict=True):
        target = Trunk()
        load_weights(target, load_state_dict(path, prefix=prefix), "trunk", path)
        torch.testing.assert_close(target.state_dict(), network.state_dict(), rtol=0, atol=0)


def test_the_key_chooses_as_well(tmp_path):
    network, target = Trunk(), Trunk()
    path = saved(tmp_path, TWO_NETWORKS["EMA"](Trunk(), network))
    load_weights(target, load_state_dict(path, key="state_dict_ema"), "trunk", path)
    torch.testing.assert_close(target.state_dict(), network.state_dict(), rtol=0, atol=0)


def test_one_network_that_lies_in_a_file_twice_is_no_choice(tmp_path):
    network, target = Trunk(), Trunk()
    path = saved(tmp_path, TWO_NETWORKS["EMA"](network, network))
    load_weights(target, load_state_dict(path), "trunk", path)
    torch.testing.assert_close(target.state_dict(), network.state_dict(), rtol=0, atol=0)


def test_another_network_in_the_file_that_does_not_fit_is_no_choice(tmp_path):
    network, target = Trunk(), Trunk()
    path = saved(tmp_path, TWO_NETWORKS["EMA"](Trunk(width=5), network))
    load_weights(target, load_state_dict(path), "trunk", path)
    torch.testing.assert_close(target.state_dict(), network.state_dict(), rtol=0, atol=0)


def test_a_prefix_that_no_name_has_says_which_there_are(tmp_path):
    path = saved(tmp_path, TWO_NETWORKS["MoCo"](Trunk(), Trunk()))
    with pytest.raises(TeacherError, match=r"begins with 'encoder_x'; names begin with state_dict|module\.encoder_k"):
        load_state_dict(path, prefix="encoder_x")


@pytest.mark.parametrize("name", ["weights.safetensors", "renamed.pth"])
def test_safetensors_are_read_as_such(tmp_path, name):
    network, target = Trunk(), Trunk()
    path = str(tmp_path / name)
    save_file(plain(network, "backbone."), path)
    load_weights(target, load_state_dict(path), "trunk", path)
    torch.testing.assert_close(target.state_dict(), network.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("cut", [12, 100, 300])
def test_damaged_safetensors_are_told_in_one_message(tmp_path, cut, trusted):
    path = tmp_path / "weights.safetensors"
    save_file(plain(Trunk()), path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(TeacherError, match=r"weights\.safetensors is (damaged|no checkpoint)"):
        load_state_dict(str(path), trusted=trusted)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", ["TorchScript", "module"])
def test_what_holds_code_is_taken_when_it_is_trusted(tmp_path, kind):
    network, target = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1)
    path = str(tmp_path / "whole.pt")
    if kind == "TorchScript":
        torch.jit.script(network).save(path)
    else:
        torch.save(network, path)
    with pytest.raises(TeacherError, match=r"runs code when it is opened: .*set .*TRUST_WEIGHTS=true"):
        load_state_dict(path)
    load_weights(target, load_state_dict(path, trusted=True), "trunk", path)
    torch.testing.assert_close(target.state_dict(), network.state_dict(), rtol=0, atol=0)
