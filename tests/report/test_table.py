import csv
import dataclasses

import pytest

from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.report.published import published_rows
from vissl_clusterfit.report.results import OVER_DRAWS, ResultRow
from vissl_clusterfit.report.table import format_table, table_csv

METRIC = "top-1 accuracy"


def row(model, benchmark, value, *, dataset="digits", metric=METRIC, protocol="", seed=0):
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


def test_several_seeds_give_mean_and_the_half_width_of_students_interval():
    rows = [row("student", "kNN", value, seed=seed) for seed, value in enumerate([0.5, 0.6, 0.7])]
    assert format_table([*rows, row("teacher", "kNN", 0.55)]) == lines(
        [
            "digits, test, top-1 accuracy, in %, mean ± half-width of the 95 % t interval over n seeds",
            "",
            "model                    kNN",
            "-------  -------------------",
            "student  60.0 ± 24.8 (n = 3)",  # 4.302653 * 10 / sqrt(3)
            "teacher                 55.0",
        ]
    )


def test_the_half_width_over_draws_stands_behind_the_figure_of_a_single_seed():
    pair = [row("student", "low-shot, k = 4", 0.5), row("student", "low-shot, k = 4", 0.02, metric=METRIC + OVER_DRAWS)]
    assert format_table(pair) == lines(
        [
            "digits, test, top-1 accuracy, in %, of one seed ± that over its draws",
            "",
            "model    low-shot, k = 4",
            "-------  ---------------",
            "student       50.0 ± 2.0",
        ]
    )
    other = [dataclasses.replace(of_pair, seed=1, value=of_pair.value + 0.1) for of_pair in pair]
    assert format_table([*pair, *other]).splitlines()[-1] == "student  55.0 ± 63.5 (n = 2)"  # 12.7062 * 0.05
    # Alone it is a score like any other.
    assert format_table(pair[1:]).splitlines()[-1] == "student              2.0"


def test_published_figures_have_columns_of_their_own_behind_those_of_their_data():
    rows = [
        row("student", "knn", 0.5, dataset="CIFAR-100", protocol="k = 20"),
        row("student", "knn", 0.25, dataset="ImageNet-1k", protocol="k = 20"),
    ]
    assert format_table(rows, style="markdown", published=published_rows(rows)) == lines(
        [
            "test, top-1 accuracy, in %",
            "",
            "| model      | knn (CIFAR-100) | knn, published (CIFAR-100) [1] | knn (ImageNet-1k) "
            "| knn, published (ImageNet-1k) [1] |",
            "| ---------- | --------------: | -----------------------------: | ----------------: "
            "| -------------------------------: |",
            "| student    |            50.0 |                              - |              25.0 "
            "|                                - |",
            "| ClusterFit |               - |                           72.5 |                 - "
            "|                             59.5 |",
            "",
            "[1] published: Touvron et al. 2020 (arXiv 2011.12982); "
            "protocol: reported elsewhere, protocol not reproduced",
        ]
    )


def test_csv_has_a_line_for_each_cell():
    rows = [row("student", "knn", value, seed=seed, dataset="CIFAR-100") for seed, value in enumerate([0.5, 0.75])]
    rows.append(row("teacher", "knn", 0.1, dataset="CIFAR-100", protocol="k = 1, majority"))
    found = list(csv.DictReader(table_csv(rows, published_rows(rows)).splitlines()))
    assert [line["model"] for line in found] == ["student", "teacher", "ClusterFit"]
    student, teacher, published = found
    assert float(student["mean"]) == 0.625
    assert float(student["half_width"]) == pytest.approx(12.7062047 * 0.125)
    assert (student["interval_over"], student["n"], student["seeds"]) == ("seeds", "2", "0 1")
    assert (teacher["mean"], teacher["half_width"], teacher["n"]) == ("0.1", "", "1")
    assert (teacher["benchmark"], teacher["metric"], teacher["protocol"]) == ("knn", METRIC, "k = 1, majority")
    assert (published["benchmark"], published["mean"], published["n"]) == ("knn, published", "0.725", "")
    assert "arXiv 2011.12982" in published["protocol"]


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
