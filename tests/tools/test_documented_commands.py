"""Every command in the documents and at the top of the configs composes, as far as it can without data and weights."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from repository import ROOT

from vissl_clusterfit.launch.compose.early import compose_early
from vissl_clusterfit.launch.runs.sweep import sweep_runs

DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("configs/**/*.yaml"), *ROOT.glob("tools/run_*.py")]
# What a reader chooses, where any text is not as good.
CHOSEN = {
    "config=…": "config=pretrain/simclr/simclr_8node_resnet",
    "config=pretrain/…": "config=pretrain/simclr/simclr_8node_resnet",
    "config=clusterfit/<name>": "config=clusterfit/quickstart/clusterfit",
    "<data set>_<protocol>": "cifar100_knn",
    "<row>": "cifar100_knn",
    "<overrides>": "",
    "…": "",
    '"$@"': "",
}


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of each command of a text; what ``set --`` gives goes before those of the commands after it."""
    text = re.sub(r"\\\n#?\s*", " ", text)
    common: list[str] = []
    for line in text.splitlines():
        for written, meant in CHOSEN.items():
            line = line.replace(written, meant)
        line = re.sub(r"<([^<>]+)>", lambda found: re.sub(r"\W", "_", found[1]), line).replace("$seed", "1")
        if found := re.match(r"\s+set -- (.*)", line):
            common = shlex.split(found[1])
        if found := re.match(
            r"#?(?: |python)[^=]*(?:tools/run_distributed_engines\.py|vissl-clusterfit)(?: run| plan)? (\S*=.*)", line
        ):
            yield [*common, *shlex.split(found[1].partition("; done")[0], comments=True)]


ALL = [(file, command) for file in DOCUMENTS for command in commands(file.read_text("utf-8"))]


def test_the_documents_have_commands():
    assert len({file for file, _ in ALL if file.suffix == ".md"}) > 6
    assert len({file for file, _ in ALL if file.suffix == ".yaml"}) > 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "command"), ALL, ids=[f"{file.relative_to(ROOT)}-{' '.join(command[:1])}" for file, command in ALL]
)
def test_it_composes(file: Path, command: list[str], tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for run in sweep_runs(command) or [None]:
        plain, _ = compose_early(list(run.overrides) if run else command)
        assert plain["engine_name"]
    assert not [*tmp_path.iterdir()]
