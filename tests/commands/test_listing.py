"""``vissl-clusterfit list`` against what is really there."""

import pytest
import timm
import torchvision
from repository import ROOT
from tiny import STUDENT

from vissl_clusterfit.commands.main import main
from vissl_clusterfit.launch.compose.registered_names import live_names


@pytest.fixture
def listed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def listed(*words: str) -> list[str]:
        assert main(["list", *words]) == 0
        assert not list(tmp_path.iterdir())
        return capsys.readouterr().out.splitlines()

    return listed


def test_configs_are_ours_and_those_of_vissl(listed):
    names = listed("configs")
    ours = (ROOT / "configs/config").rglob("*.yaml")
    assert {str(path.relative_to(ROOT / "configs/config").with_suffix("")) for path in ours} <= {*names}
    assert "pretrain/simclr/simclr_8node_resnet" in names
    assert names == sorted(set(names))
    assert listed("configs", "CLUSTERFIT", "cars") == ["clusterfit/transfer/cars_finetune"]


@pytest.mark.parametrize(("kind", "registry"), [("trunks", "trunk"), ("sources", "data source")])
def test_names_are_those_that_are_registered(kind, registry, listed):
    assert listed(kind) == sorted(live_names(registry))


def test_layers_are_those_of_the_teachers_network(listed):
    assert listed("layers", *STUDENT) == ["conv1", "res1", "res2", "res3", "res4", "res5", "res5avg", "flatten"]


def test_models_are_those_of_their_libraries(listed):
    names = listed("models")
    assert {f"timm:{name}" for name in timm.list_models()} <= {*names}
    assert {f"torchvision:{name}" for name in torchvision.models.list_models(torchvision.models)} <= {*names}
    assert listed("models", "torchvision", "VIT_L") == ["torchvision:vit_l_16", "torchvision:vit_l_32"]


def test_layers_of_a_network_by_name_are_its_modules(listed):
    own = [name for name, _ in torchvision.models.resnet18().named_modules() if name and name != "fc"]
    assert [name for name in listed("layers", "torchvision:resnet18") if name != "fc"] == own


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["layers"], "list layers: found nothing; allowed: a network by name"),
        (["layers", "resnet18"], "list layers: found resnet18; allowed: a network by name"),
        (["layers", "timm:resnet"], "name: found timm:resnet,"),
        (["layers", "config=clusterfit/nowhere"], "config=clusterfit/nowhere: found no such config"),
    ],
)
def test_a_mistake_is_one_message(words, said, capsys):
    assert main(["list", *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")
