import pytest

from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.report.results import ResultRow
from vissl_clusterfit.report.table import format_table


def row(model, benchmark, value, *, dataset="digits", metric="top-1 accuracy", protocol="", seed=0):
    return ResultRow(model, benchmark, dataset, "test", metric, value, protocol or f"{benchmark} protocol", seed)


ROWS = [
    row("raw pixels", "linear", 0.9),
    row("raw pixels", "kNN", 1.0),
    row("student", "linear", 0.94449),
    row("student", "kNN", 0.0712),
]


def lines(text):
    return "\n".join(text)


def test_plain_text():
    assert format_table(ROWS) == lines(
        [
            "digits, test, top-1 accuracy, in %",
            "",
            "model       linear    kNN",
            "----------  ------  -----",
            "raw pixels    90.0  100.0",
            "student       94.4    7.1",
        ]
    )


def test_markdown():
    assert format_table(ROWS, style="markdown") == lines(
        [
            "digits, test, top-1 accuracy, in %",
            "",
            "| model      | linear |   kNN |",
            "| ---------- | -----: | ----: |",
            "| raw pixels |   90.0 | 100.0 |",
            "| student    |   94.4 |   7.1 |",
        ]
    )


def test_markdown_keeps_a_bar_in_a_name_inside_its_cell():
    assert format_table([row("a|b", "kNN", 0.5)], style="markdown").splitlines()[-1] == r"| a\|b  | 50.0 |"


def test_several_seeds_give_mean_and_sample_standard_deviation():
    rows = [row("student", "kNN", value, seed=seed) for seed, value in enumerate([0.5, 0.6, 0.7])]
    assert format_table([*rows, row("teacher", "kNN", 0.55)]) == lines(
        [
            "digits, test, top-1 accuracy, in %, mean ± standard deviation over seeds",
            "",
            "model            kNN",
            "-------  -----------",
            "student  60.0 ± 10.0",
            "teacher         55.0",
        ]
    )


def test_one_seed_twice_is_one_seed():
    rows = [row("student", "kNN", 0.5), row("student", "kNN", 0.25)]
    assert format_table(rows).splitlines()[-1] == "student  25.0"


def test_what_was_not_evaluated_is_a_dash():
    rows = [row("teacher", "linear", 0.5), row("student", "kNN", 0.25)]
    assert format_table(rows).splitlines()[2:] == [
        "model    linear   kNN",
        "-------  ------  ----",
        "teacher    50.0     -",
        "student       -  25.0",
    ]


def test_headings_name_what_is_not_common_to_all_columns():
    rows = [
        row("student", "linear", 0.5, dataset="cars"),
        row("student", "retrieval", 0.25, dataset="CIFAR-100", metric="mAP"),
    ]
    assert format_table(rows).splitlines()[:3] == [
        "test, in %",
        "",
        "model    linear (cars, top-1 accuracy)  retrieval (CIFAR-100, mAP)",
    ]


def test_figures_of_different_protocols_never_share_a_column():
    rows = [
        row("teacher", "kNN", 0.5, protocol="k = 20"),
        row("student", "kNN", 0.75, protocol="k = 200"),
        row("student", "linear", 0.875),
    ]
    assert format_table(rows).splitlines()[2:] == [
        "model    kNN [1]  kNN [2]  linear",
        "-------  -------  -------  ------",
        "teacher     50.0        -       -",
        "student        -     75.0    87.5",
        "",
        "[1] k = 20",
        "[2] k = 200",
    ]


def test_an_unknown_style_is_refused():
    with pytest.raises(ConfigError, match="style: found 'latex'; allowed: 'text'"):
        format_table(ROWS, style="latex")


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="at least one row"):
        format_table([])
