"""The command with its sub-commands: which one is meant, what each says of itself, and what mistakes get."""

import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from repository import ROOT

import vissl_clusterfit
from vissl_clusterfit.commands.main import COMMANDS, main

#: What takes seconds to import.
HEAVY = ("torch", "torchvision", "vissl", "hydra", "sklearn", "pyarrow", "timm", "transformers")


def in_a_process(*words: str, cwd) -> subprocess.CompletedProcess:
    code = (
        "import sys; from vissl_clusterfit.commands.main import main\n"
        "try: code = main()\n"
        "except SystemExit as end: code = end.code\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_what_a_command_does_with_examples_and_imports_nothing_heavy(name, tmp_path):
    done = in_a_process(name, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert f"usage: vissl-clusterfit {name}" in done.stdout
    assert len([line for line in done.stdout.splitlines() if line.startswith(f"    vissl-clusterfit {name}")]) > 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_the_overview_names_every_command(words, capsys):
    assert main(words) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines() if line.startswith("  ")][: len(COMMANDS)] == list(COMMANDS)


def test_without_words_the_overview_is_an_error(capsys):
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert (out, err[:6]) == ("", "usage:")


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vissl-clusterfit {vissl_clusterfit.__version__}\n"


@pytest.mark.parametrize(("word", "meant"), [("chek", "check"), ("Labels", "label"), ("exprot", "export")])
def test_an_unknown_command_gets_the_nearest(word, meant, capsys):
    assert main([word, "--help"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: vissl-clusterfit: found {word!r}; allowed: run, list, ")
    assert f"Did you mean {meant}" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("words", [["config=clusterfit/nowhere"], ["run", "config=clusterfit/nowhere"]])
def test_a_config_without_a_command_is_run(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("error: config=clusterfit/nowhere: found no such config")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cluster", "features", "codebook"], "the following arguments are required: --num-clusters"),
        (["cluster", "f", "c", "--num-clusters", "many"], "--num-clusters: found 'many'; allowed: a whole number"),
        (["cluster", "f", "c", "--num-clusters=2", "--time-limit=abc"], "--time-limit: found 'abc'; allowed: a number"),
        (["label", "a"], "required: CODEBOOK, FOLDER"),
        (["compare", "labels", "--tolerance=-1"], "found '-1'; allowed: a number, 0 or more"),
        (["prepare", "carz", "--output", "x"], "invalid choice: 'carz'"),
        (["export", "labels"], "required: LABELS, PATH"),
    ],
)
def test_a_mistake_in_the_arguments_is_one_message(words, said, capsys):
    with pytest.raises(SystemExit) as end:
        main(words)
    out, err = capsys.readouterr()
    assert (end.value.code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert said in err
    assert f"See: vissl-clusterfit {words[0]}" in err


def test_output_that_nobody_reads_is_no_failure(tmp_path):
    done = subprocess.run(
        f"{sys.executable} -m vissl_clusterfit.commands.main list configs | head -1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[1:] == ["0"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["export", "model", "nowhere", "out"], "nowhere"),
        (["embed", "pictures", "timm:resnet18", "out"], "The images: found pictures, which is not there"),
        (["check", "."], "there is no artefact in"),
        (["table", "nowhere"], "nowhere"),
        (["compare", "nowhere"], "nowhere: found no pseudo-labels below it"),
        (["prepare", "cars", "--output", "data"], "prepare cars: found no --archives; allowed: --archives, --output"),
        (["plan", "--dim", "8"], "--num-samples: found nothing"),
    ],
)
def test_a_mistake_of_the_user_is_one_message_and_leaves_nothing(words, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("error: ")
    assert said in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_reader_of_the_overview_may_leave(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-c", "from vissl_clusterfit.commands.main import main; raise SystemExit(main(['--help']))"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_messages_name_the_options_of_the_command(tmp_path, capsys):
    np.savez(tmp_path / "two.npz", a=np.zeros((3, 2), np.float32), b=np.zeros((3, 2), np.float32))
    assert main(["import", "features", str(tmp_path / "two.npz"), str(tmp_path / "features")]) == 2
    assert capsys.readouterr().err.startswith("error: --key: found ")
    (tmp_path / "code.pth").write_bytes(pickle.dumps(object))
    images = tmp_path / "images.npy"
    np.save(images, np.zeros((2, 8, 8, 3), np.uint8))
    words = ["embed", str(images), "torchvision:resnet18", str(tmp_path / "store")]
    assert main([*words, "--weights", str(tmp_path / "code.pth")]) == 2
    assert "give --trust" in capsys.readouterr().err
    assert not (tmp_path / "features").exists()
    assert not (tmp_path / "store").exists()
