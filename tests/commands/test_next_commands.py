"""What every command that makes something proposes to type next is a command that runs."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from tiny import write_images

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.commands.main import main

ROWS = np.random.default_rng(1).standard_normal((400, 6)).astype(np.float32)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a command, and gives its proposal after what it said, of which there are five lines at most."""
    monkeypatch.chdir(tmp_path)
    np.save("features.npy", ROWS)
    (tmp_path / "names.txt").write_text("".join(f"a/{number}.jpg\n" for number in range(len(ROWS))))

    def run(*words):
        code = main([str(word) for word in words])
        said, errors = capsys.readouterr()
        assert code == 0, errors
        [proposed] = re.findall(r"^next: vissl-clusterfit (.+)$", errors, re.M) or [""]
        return said, shlex.split(proposed)

    return run


IMPORT = ("import", "features", "features.npy", "run/features", "--names", "names.txt")


@pytest.fixture
def follow(run):
    """Types what each command proposes, until one proposes nothing; the commands by name."""

    def follow(*words):
        came_by = []
        while words:
            said, following = run(*words)
            assert words[0] == "report" or len(said.splitlines()) <= 4
            came_by.append(words[0])
            words = following
        return came_by

    return follow


def test_each_leads_to_the_next_from_features_to_the_report(follow):
    assert follow(*IMPORT) == ["import", "cluster", "label", "report"]


def test_each_leads_to_the_next_from_images_to_the_report(follow, tmp_path):
    write_images(tmp_path / "my images", 24)
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), "network.pth")
    network = ("torchvision:shufflenet_v2_x0_5", "my run/features", "--weights", "network.pth", "--size", "32")
    assert follow("embed", "my images", *network) == ["embed", "cluster", "label", "report"]


def test_each_leads_to_the_next_from_two_levels_to_the_report(run, follow):
    run(*IMPORT)
    two_levels = ("--num-clusters", "12", "--num-coarse-clusters", "3")
    assert follow("cluster", "run/features", "run/codebook", *two_levels) == ["cluster", "label", "report"]
    assert Codebook.open(Path("run/codebook")).coarse_centroids.shape == (3, 6)


@pytest.mark.parametrize(
    "words",
    [
        ["export", "labels", "run/labels", "labels.csv"],
        ["sample", "run/labels", "list.csv", "--count", "50"],
        ["import", "labels", "labels.csv", "mine/labels", "--for", "run/features"],
        ["label", "features.npy", "run/codebook", "other"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_what_ends_at_labels_proposes_to_look_at_them(run, words):
    run("import", "features", "features.npy", "run/features", "--names", "names.txt")
    run("cluster", "run/features", "run/codebook", "--num-clusters", 7)
    run("label", "run/features", "run/codebook", "run/labels")
    if words[0] == "import":
        run("export", "labels", "run/labels", "labels.csv")
    _, following = run(*words)
    assert following[0] == "report"
    said, _ = run(*following)
    assert "page: " in said
