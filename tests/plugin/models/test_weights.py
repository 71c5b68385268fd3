import functools
import http.server
import os
import pickle
import threading

import pytest
import torch
from torch import nn

from vissl_clusterfit.errors import TeacherError
from vissl_clusterfit.plugin.models.weights import load_state_dict, load_weights


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


class Malicious:
    def __reduce__(self):
        return os.mkdir, (os.environ["MARKER"],)


def test_a_file_that_runs_code_is_refused_until_it_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setenv("MARKER", str(tmp_path / "code-ran"))
    path = saved(tmp_path, {"state_dict": plain(Trunk()), "evil": Malicious()})
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
