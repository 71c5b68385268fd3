"""From features of one's own to labels for other programs, by the commands, as a user types them."""

import csv
import os
import subprocess
import sys

import numpy as np
import pytest
from repository import ROOT

from vissl_clusterfit import label_rows, open_artifact
from vissl_clusterfit.commands.main import main

ROWS = np.random.default_rng(5).standard_normal((400, 12)).astype(np.float32)
NAMES = [f"img/ä {number}.jpg" for number in range(len(ROWS))]


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """A command in a folder with features and their names: its exit code, and what it says."""
    monkeypatch.chdir(tmp_path)
    np.save("features.npy", ROWS)
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n", "utf-8")

    def run(*words: object):
        code = main([str(word) for word in words])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def labelled(run):
    for words in (
        ("import", "features", "features.npy", "run/features", "--names", "names.txt"),
        ("cluster", "run/features", "run/codebook", "--num-clusters", 7, "--num-iter", 5, "--seed", 3),
        ("label", "run/features", "run/codebook", "run/labels", "--top-clusters", 2),
    ):
        code, _, errors = run(*words)
        assert code == 0, errors
    return run


def test_labels_as_csv_have_their_names(labelled, tmp_path):
    assert labelled("export", "labels", "run/labels", "labels.csv")[:2] == (0, "labels.csv\n")
    with (tmp_path / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    codebook = open_artifact("run/codebook")
    assert codebook.manifest["inputs"]["settings"]["seed"] == 3
    assert [row["name"] for row in rows] == NAMES
    np.testing.assert_array_equal([int(row["label"]) for row in rows], label_rows(ROWS, codebook).labels)
    assert "nearest_2" in rows[0]


def test_the_run_is_meant_where_its_labels_are(labelled):
    assert labelled("export", "labels", "run", "labels.npy")[0] == 0
    np.testing.assert_array_equal(np.load("labels.npy"), open_artifact("run/labels").labels)


def test_labels_from_elsewhere_come_in_by_name(labelled):
    given = np.arange(len(NAMES))[::-1] % 5
    with open("given.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("name", "label"), *zip(NAMES[::-1], given, strict=True)])
    code, out, errors = labelled("import", "labels", "given.csv", "given", "--for", "run/features")
    assert code == 0, errors
    assert out == "given: labels of 400 samples, 5 clusters\n"
    np.testing.assert_array_equal(open_artifact("given").labels, given[::-1])
    code, _, errors = labelled("import", "labels", "given.csv", "other", "--for", "run/codebook")
    assert code == 2
    assert errors.startswith("error: --for: found run/codebook, a codebook; allowed: a folder of features")


def test_rows_of_a_file_are_clustered_without_a_store(run):
    assert run("cluster", "features.npy", "codebook", "--num-clusters", 7, "--no-normalize")[0] == 0
    assert run("label", "features.npy", "codebook", "labels")[0] == 0
    np.testing.assert_array_equal(open_artifact("labels").labels, label_rows(ROWS, open_artifact("codebook")).labels)


def test_a_report_says_what_there_is_and_what_it_was_made_from(labelled):
    np.save("classes.npy", np.asarray(open_artifact("run/labels").labels))
    code, out, _ = labelled("report", "run", "--true", "classes.npy")
    assert code == 0
    assert "features: run/features, " in out
    assert "  400 samples of dimension 12, float32" in out
    assert "  7 clusters of 400 samples\n  made from: run/features\n  cluster_backend: torch\n" in out
    objective = open_artifact("run/codebook").manifest["objective"]
    assert f"  objective: {objective[0]:.6g} to {objective[-1]:.6g} in {len(objective)} iterations" in out
    assert "  made from: run/features\n  made from: run/codebook\n" in out
    (agreement,) = [line for line in out.splitlines() if "classes.npy" in line]
    assert agreement.split()[-4:] == ["1", "1", "1", "1"]  # NMI, adjusted Rand, purity, inverse purity
    assert out.splitlines()[-1] == "page: run/report.html"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--clusters", "7"), "--clusters: found 7; allowed: 0 to 6."),
        (("--images", "nowhere"), "The images: found nowhere, which is not there"),
        (("--images", "names.txt"), "names.txt: found 400 of 400 files missing"),
        (("--true", "features.npy"), "features.npy: found (400, 12) of float32"),
        (
            ("--html", "names.txt"),
            "names.txt: found another file; allowed: a file that is not there, or a page of ours.",
        ),
        (("--html", "run"), "run: found a folder; allowed: a file that is not there, or a page of ours."),
        (("other",), "other: found no pseudo-labels below it"),
        (("--map", "umap"), "Not installed: umap. Install with"),
    ],
)
def test_a_mistake_about_a_page_is_one_message_and_leaves_nothing(labelled, words, said, tmp_path):
    (tmp_path / "other").mkdir()
    before = sorted(tmp_path.rglob("*"))
    code, out, errors = labelled("report", "run", *words)
    assert (code, out) == (2, "")
    assert errors.startswith("error: ")
    assert said in errors
    assert sorted(tmp_path.rglob("*")) == before


def test_a_page_is_written_over_and_lies_beside_an_artefact(labelled, tmp_path):
    for _ in range(2):
        assert labelled("report", "run")[0] == 0
    assert labelled("report", "run/labels")[1].splitlines()[-1] == "page: run/labels-report.html"
    assert {path.name for path in (tmp_path / "run").glob("*.html")} == {"report.html", "labels-report.html"}
    assert "img/ä" in (tmp_path / "run/report.html").read_text("utf-8")


def test_a_report_names_what_cannot_be_used(labelled, tmp_path):
    (tmp_path / "run/codebook/centroids.npy").unlink()
    code, out, _ = labelled("report", "run")
    assert code == 0
    assert "cannot be used: run/codebook/centroids.npy is missing" in out
    assert "features: run/features" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cluster", "features.npy", "c", "--num-clusters", 401), "--num-clusters: found 401; allowed: 1 to 400"),
        (
            ("cluster", "features.npy", "c", "--num-clusters", 4, "--refinement-iterations", 2),
            "--refinement-iterations: found 2; allowed: with two levels only, which --num-coarse-clusters makes",
        ),
        (("cluster", "nowhere", "c", "--num-clusters", 4), "nowhere holds no feature_store"),
        (("cluster", "nowhere.npy", "c", "--num-clusters", 4), "nowhere.npy is missing"),
        (("label", "features.npy", "features.npy", "l"), "features.npy holds no codebook"),
        (("report", "."), "RUN: found ., with neither; allowed: a folder with artefacts"),
        (("report", "features.npy"), "RUN: found features.npy, with neither"),
        (("report", ".", "--clusters", "seven"), "--clusters: found 'seven'; allowed: numbers of clusters"),
        (("export", "labels", ".", "labels.csv"), ".: found no pseudo-labels below it"),
        (("import", "features", "names.txt", "f"), "source: found names.txt"),
        (("import", "features", "features.npy", "f", "--names", "features.npy"), "features.npy cannot be read as"),
    ],
)
def test_a_mistake_is_one_message_and_leaves_nothing(run, words, said, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    code, out, errors = run(*words)
    assert (code, out) == (2, "")
    assert errors.startswith("error: ")
    assert said in errors
    assert errors.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_vissl_is_not_imported(labelled, tmp_path):
    code = (
        "import sys; from vissl_clusterfit.commands.main import main\n"
        "assert main(['cluster', 'run/features', 'again', '--num-clusters', '3']) == 0\n"
        "assert main(['label', 'run/features', 'again', 'more']) == 0\n"
        "assert main(['export', 'labels', 'more', 'more.csv']) == 0\n"
        "assert main(['report', '.']) == 0\n"
        "print({'vissl', 'classy_vision', 'hydra', 'submitit'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1:] == ["set()"], done.stderr
