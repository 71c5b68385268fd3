"""Which of VISSL's benchmark configs get an engine, and that every one of them composes."""

from pathlib import Path

import pytest
import vissl

from vissl_clusterfit.launch.compose.engine import choose_benchmark_engine

CONFIGS = Path(vissl.__file__).parents[1] / "configs/config/benchmark"


def engine_of(config: str, *overrides: str) -> str:
    composed = {"engine_name": "train", "config": {}}
    changes = choose_benchmark_engine([f"config={config}", *overrides], composed)
    assert composed["config"] == {"BENCHMARK": {}}
    assert bool(changes) == (composed["engine_name"] != "train")
    return composed["engine_name"]


def test_what_is_no_training_gets_an_engine():
    names = [str(file.relative_to(CONFIGS.parent).with_suffix("")) for file in sorted(CONFIGS.rglob("eval_*.yaml"))]
    chosen = {name: engine_of(name) for name in names}
    found = {name: engine for name, engine in chosen.items() if engine != "train"}
    # VISSL's scripts are named for what they evaluate; everything else in this folder is trained.
    assert found == {
        name: engine
        for name in names
        for mark, engine in (
            ("nearest_neighbor/", "clusterfit_nearest_neighbor"),
            ("voc07_svm", "clusterfit_svm"),
            ("low_shot_svm", "clusterfit_low_shot_svm"),
            ("instance_retrieval/", "clusterfit_retrieval"),
        )
        if mark in name
    }
    assert len(found) == 9


def test_an_engine_on_the_command_line_stays():
    name = "benchmark/nearest_neighbor/eval_resnet_8gpu_in1k_kNN"
    assert engine_of(name, "engine_name=clusterfit_transfer") == "train"  # what it composes to is the user's


@pytest.mark.parametrize(
    "config",
    [
        "benchmark/nearest_neighbor/eval_resnet_8gpu_places205_kNN",
        "benchmark/linear_image_classification/voc07/eval_alexnet_8gpu_transfer_voc07_svm",
        "benchmark/low_shot_transfer/places205/eval_resnet_8gpu_transfer_places205_low_shot_svm",
        "benchmark/instance_retrieval/eval_resnet_1gpu_rparis",
    ],
)
def test_the_rest_composes(config, tmp_path):
    from vissl_clusterfit.launch.compose.compose import compose

    # Some name a source of the publishers' own, which no public VISSL has.
    sources = [f"config.DATA.{split}.DATA_SOURCES=[disk_folder]" for split in ("TRAIN", "TEST")]
    here = ["config.MACHINE.DEVICE=cpu", f"config.CHECKPOINT.DIR={tmp_path}"]
    engine, _, _ = compose([f"config={config}", *sources, *here])
    assert engine.startswith("clusterfit_")
