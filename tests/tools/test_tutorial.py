"""docs/tutorial.md, command by command, in a folder with the files that it asks for, all small."""

import json
import os
import shlex

import pytest
import timm
from repository import ROOT
from safetensors.torch import save_file
from tiny import write_images

from vissl_clusterfit.commands.main import main

#: What makes a run small. Of options that are given twice, the last one holds.
SMALL = (
    "config.MACHINE.DEVICE=cpu",
    "config.DATA.NUM_DATALOADER_WORKERS=0",
    "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=8",
)
SMALL_OF = {
    "clusterfit/student": (*SMALL, "config.OPTIMIZER.num_epochs=1", "config.CLUSTERFIT.NUM_CLUSTERS=4"),
    "clusterfit/transfer": (
        *SMALL,
        "config.TRANSFER.FEATURES.TRANSFORMS=[{name:Resize,size:[32,32]},{name:ToTensor}]",
        "config.TRANSFER.LINEAR.C_GRID=[0.1]",
    ),
}
FEW = {"cluster": ("--num-clusters", "4")}
NOT_RUN = "clusterfit/study/own_teacher"


def steps() -> list[tuple[str, list[str]]]:
    """The commands in the order of the page, without their first word."""
    text = (ROOT / "docs/tutorial.md").read_text("utf-8").replace("\\\n", " ")
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    assert all(line.startswith("vissl-clusterfit ") for line in lines)
    return [(words[1], words[2:]) for words in map(shlex.split, lines)]


@pytest.mark.slow
def test_every_command_of_the_tutorial_runs(run_command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "pictures", 36)
    write_images(tmp_path / "train", 24, seed=1)
    write_images(tmp_path / "test", 12, seed=2)
    save_file(timm.create_model("resnet18").state_dict(), "resnet18.safetensors")
    left_out = []
    for name, words in steps():
        if name != "run":
            code = main([name, *words, *FEW.get(name, ())])
            said, errors = capsys.readouterr()
            assert code == 0, (name, errors)
            continue
        config = words[0].removeprefix("config=")
        if config == NOT_RUN:
            left_out.append(config)
            continue
        done = run_command(*words, *SMALL_OF[config], cwd=tmp_path)
        assert done.returncode == 0, (words, done.stderr)
    assert left_out == [NOT_RUN]
    assert said.count("student") >= 1  # the table, which comes last
    assert said.count("teacher") >= 1
    for model, folder in (("student", "run/transfer"), ("teacher", "run/transfer-teacher")):
        rows = json.loads((tmp_path / folder / "results.json").read_text())
        assert {row["model"] for row in rows} == {model}
    assert {"labels.csv", "run", "seed1"} <= {*os.listdir(tmp_path)}
    assert (tmp_path / "run/student/export/card.json").exists()
