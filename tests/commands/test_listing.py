"""``vissl-clusterfit list`` against what is really there."""

import pytest
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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["layers"], "list layers: found nothing; allowed: config=NAME"),
        (["layers", "config=clusterfit/nowhere"], "config=clusterfit/nowhere: found no such config"),
    ],
)
def test_a_mistake_is_one_message(words, said, capsys):
    assert main(["list", *words]) == 2
    assert capsys.readouterr().err.startswith(f"error: {said}")
