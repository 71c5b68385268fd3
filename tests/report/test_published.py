import json

import pytest

from vissl_clusterfit.datasets.catalogue import RECIPES
from vissl_clusterfit.report.published import published_rows, read_published
from vissl_clusterfit.report.results import ResultRow

FIGURES = read_published()


def row(dataset, benchmark, metric="top-1 accuracy"):
    return ResultRow("student", benchmark, dataset, "test", metric, 0.5, "ours", 3)


def test_names_are_those_that_our_rows_have():
    assert {figure.dataset for figure in FIGURES} <= {recipe.title for recipe in RECIPES.values()}
    assert {figure.benchmark for figure in FIGURES} == {
        "linear",
        "svm",
        "fine-tuning",
        "knn",
        "knn, kingdom",
        "retrieval",
    }
    assert {(figure.benchmark, figure.metric) for figure in FIGURES if figure.metric != "top-1 accuracy"} == {
        ("svm", "mAP"),
        ("retrieval", "mAP"),
    }


def test_no_figure_is_there_twice_and_none_claims_a_protocol_that_was_not_compared():
    places = [(figure.model, figure.dataset, figure.benchmark) for figure in FIGURES]
    assert len(set(places)) == len(places) == 25
    assert "agrees" not in {figure.protocol for figure in FIGURES}


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        (row("Stanford Cars", "fine-tuning"), [("ClusterFit", 0.894)]),
        (row("iNaturalist 2018", "knn, kingdom"), [("ClusterFit", 0.963)]),
        (row("CIFAR-100", "retrieval", "mAP"), [("ClusterFit", 0.23)]),
        (
            row("Places205", "linear, res5"),
            [
                ("Jigsaw ResNet-50", 0.399),
                ("Jigsaw ResNet-50, twice as long", 0.387),
                ("ClusterFit of Jigsaw ResNet-50", 0.45),
            ],
        ),
        (
            row("iNaturalist 2018", "linear, res5"),
            [
                ("Jigsaw ResNet-50", 0.221),
                ("Jigsaw ResNet-50, twice as long", 0.218),
                ("ClusterFit of Jigsaw ResNet-50", 0.298),
                ("ClusterFit ResNet-50", 0.497),
            ],
        ),
        (
            row("PASCAL VOC 2007", "SVM, layer res4", "mAP"),
            [
                ("Jigsaw ResNet-50", 0.661),
                ("Jigsaw ResNet-50, twice as long", 0.654),
                ("ClusterFit of Jigsaw ResNet-50", 0.695),
            ],
        ),
        # Other data, another level, benchmark or metric; a logistic regression on the output of the trunk.
        (row("digits", "knn"), []),
        (row("iNaturalist 2018", "knn, genus"), []),
        (row("iNaturalist 2018", "knn"), []),
        (row("CIFAR-100", "knn", "mAP"), []),
        (row("CIFAR-100", "knn, res4"), []),
        (row("ImageNet-1k", "linear"), []),
        (row("ImageNet-9k", "linear, res5"), []),
    ],
)
def test_only_figures_of_the_same_data_and_benchmark_are_found(ours, expected):
    found = published_rows([ours, ours])
    assert [(figure.model, pytest.approx(figure.value)) for figure in found] == expected
    assert all((figure.dataset, figure.metric, figure.split) == (ours.dataset, ours.metric, "test") for figure in found)
    assert all("published" in figure.benchmark and "; protocol: " in figure.protocol for figure in found)


def test_a_layer_that_is_not_stated_is_said_to_be():
    found = published_rows([row("ImageNet-1k", "linear, res5"), row("ImageNet-1k", "linear, res4")])
    assert {figure.benchmark for figure in found} == {"linear, layer not stated, published"}
    assert len(found) == 5
    assert {figure.protocol.split("; protocol: ")[1] for figure in found} == {"not known to agree"}


GOOD = {"model": "m", "dataset": "d", "benchmark": "knn", "metric": "mAP", "percent": 12}


def publication(**changes):
    return {"source": "s", "protocol": "agrees", "figures": [{**GOOD, **changes}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"source": "s", "figures": []}, "publication 0: found source, figures; allowed: source, protocol, figures"),
        ({**publication(), "source": ""}, "publication 0"),
        ({**publication(), "protocol": "the same"}, r"found the same; allowed: agrees \| not known to agree"),
        (publication(percent=0.5, year=2020), "publication 0, figure 0: found"),
        (publication(layer="res5"), "layer: any"),
        (publication(model=""), "allowed: texts that are not empty"),
        (publication(percent=101), "percent: found 101; allowed: above 0 and at most 100"),
        (publication(percent="12"), "percent: found '12'"),
        (publication(percent=True), "percent: found True"),
    ],
)
def test_a_file_with_an_entry_that_is_wrong_is_refused(tmp_path, content, message):
    (tmp_path / "published.json").write_text(json.dumps([content]))
    with pytest.raises(ValueError, match=message):
        read_published(tmp_path / "published.json")


def test_a_good_file_is_read(tmp_path):
    (tmp_path / "published.json").write_text(json.dumps([publication(layer="any")]))
    (figure,) = read_published(tmp_path / "published.json")
    assert (figure.model, figure.value, figure.any_layer, figure.protocol) == ("m", 0.12, True, "agrees")
