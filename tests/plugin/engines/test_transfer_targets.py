"""Every row of the transfer tables: its config composes, and runs on a stand-in that the real tool prepared."""

import re
from pathlib import Path

import pytest
from benchmark_data import ON_THIS_MACHINE, POOLED_LAYERS, SMALL_IMAGES, linear_heads
from publishers import WRITERS
from results_file import rows_in

from vissl_clusterfit.config.search_path import config_dir
from vissl_clusterfit.datasets.catalogue import RECIPES
from vissl_clusterfit.datasets.preparation import prepare
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.launch.runs.tune.settings import TuneSettings
from vissl_clusterfit.launch.runs.tune.trainings import grid
from vissl_clusterfit.plugin.data.prepared import require_prepared

CONFIGS = config_dir() / "config/clusterfit/transfer"
ROWS = {
    *("cars_finetune", "flowers102_finetune", "food101_finetune", "inat2018_finetune", "inat2019_finetune"),
    *("cifar100_knn", "imagenet1k_knn", "inat2018_knn", "cifar100_retrieval", "imagenet1k_retrieval"),
    *("imagenet1k_linear", "imagenet9k_linear", "inat2018_linear", "places205_linear", "places365_linear"),
    "voc07_linear",
}
TINY = (
    *ON_THIS_MACHINE,
    *SMALL_IMAGES,
    "config.MULTI_PROCESSING_METHOD=fork",
    "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=6",
    "config.DATA.TEST.BATCHSIZE_PER_REPLICA=6",
)
FROZEN = (
    "config.TRANSFER.FEATURES.TRANSFORMS=[{name:Resize,size:[32,32]},{name:ToTensor}]",
    "config.TRANSFER.KNN.NUM_NEIGHBORS=3",
)
TRAINED = (
    "config.OPTIMIZER.num_epochs=4",
    "target.num_classes=3",
    "config.TUNE.LEARNING_RATES=[]",  # tests of launch/runs/tune choose
    "config.TUNE.WEIGHT_DECAYS=[]",
)


def test_every_row_has_a_config():
    assert {file.stem for file in CONFIGS.glob("*.yaml")} == ROWS


@pytest.mark.parametrize("row", sorted(ROWS))
def test_rows_read_what_the_tool_writes(row, tmp_path):
    name, _, protocol = row.partition("_")
    overrides = ("config.MACHINE.DEVICE=cpu", f"config.CHECKPOINT.DIR={tmp_path}", "data_root=/data")
    engine, _, config = compose([f"config=clusterfit/transfer/{row}", *overrides])
    for split, part in (("TRAIN", "trainval"), ("TEST", "test")):
        data = config.DATA[split]
        assert (data.DATA_SOURCES, data.LABEL_SOURCES) == (["disk_filelist"], ["disk_filelist"])
        assert [f"/data/{name}/{part}_images.npy"] == data.DATA_PATHS
        assert [f"/data/{name}/{part}_labels.npy"] == data.LABEL_PATHS
    if engine == "clusterfit_tune":
        settings = TuneSettings.from_config(config)
        assert (settings.dataset_name, settings.validation) == (RECIPES[name].title, "prepared")
        assert settings.benchmark == ("linear" if protocol == "linear" else "fine-tuning")
        assert len(grid(config, settings)) == (4 if protocol == "linear" else 6)
        widths = [parameters["dims"][-1] for _, parameters in config.MODEL.HEAD.PARAMS]
        assert widths == [RECIPES[name].num_classes or 9000] * config.METERS.accuracy_list_meter.num_meters
        assert len(widths) == (5 if protocol == "linear" else 1)
    else:
        assert engine == ("clusterfit_svm" if row == "voc07_linear" else "clusterfit_transfer")


@pytest.fixture(scope="module")
def data_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("targets")
    for name, write in WRITERS.items():
        (root / "archives" / name).mkdir(parents=True)
        write(root / "archives" / name)
        prepare(name, RECIPES[name], root / "archives" / name, root, subset=True)
    return root


@pytest.fixture
def run_row(run_command, data_root, teacher, tmp_path):
    """Runs a row's config with a tiny network, and gives the folder of the run."""

    def run(row: str, *overrides: str) -> Path:
        result = run_command(
            f"config=clusterfit/transfer/{row}",
            f"data_root={data_root}",
            f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={teacher}",
            f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
            *TINY,
            *overrides,
            cwd=tmp_path,
        )
        assert result.returncode == 0, result.stderr
        return tmp_path / "run"

    return run


@pytest.mark.parametrize(
    "row, folder, message",
    [
        (
            "cifar100_knn",
            "none",
            r"data_root: found no prepared data set in none/cifar100; .*vissl-clusterfit prepare cifar100 .*none",
        ),
        (
            "cars_finetune",
            None,
            r"the head mlp for 196 classes; allowed: 3, as .*/cars has\. Set target\.num_classes=3\.",
        ),
        ("places205_linear", None, r"the head eval_mlp for 205 classes; allowed: 3, as"),
    ],
)
def test_a_row_is_refused_before_it_starts(row, folder, message, run_command, data_root, tmp_path):
    config, root = f"config=clusterfit/transfer/{row}", f"data_root={folder or data_root}"
    weights, place = "config.MODEL.WEIGHTS_INIT.PARAMS_FILE=''", f"config.CHECKPOINT.DIR={tmp_path / 'run'}"
    result = run_command(config, root, weights, place, *TINY, cwd=tmp_path)
    assert result.returncode == 2
    assert re.search(message, result.stderr)
    assert "Traceback" not in result.stderr


def test_lists_of_ones_own_need_no_preparation(tmp_path):
    own = [f"config.DATA.{split}.DATA_PATHS=[{tmp_path}/{split}.npy]" for split in ("TRAIN", "TEST")]
    place = ("config.MACHINE.DEVICE=cpu", f"config.CHECKPOINT.DIR={tmp_path}")
    require_prepared(compose(["config=clusterfit/transfer/cars_finetune", "data_root=none", *own, *place])[2])


@pytest.mark.parametrize("row", ["cifar100_knn", "imagenet1k_knn"])
def test_nearest_neighbours(row, run_row):
    (found,) = rows_in(run_row(row, *FROZEN))
    title = RECIPES[row.partition("_")[0]].title
    assert (found["benchmark"], found["dataset"], found["metric"]) == ("knn", title, "top-1 accuracy")
    assert found["value"] > 0.6  # the classes have colours


@pytest.mark.parametrize("row", ["cifar100_retrieval", "imagenet1k_retrieval"])
def test_retrieval(row, run_row):
    (found,) = rows_in(run_row(row, *FROZEN))
    assert (found["benchmark"], found["metric"]) == ("retrieval", "mAP")
    assert found["value"] > 0.4


def test_levels_of_a_taxonomy(run_row):
    rows = rows_in(run_row("inat2018_knn", *FROZEN))
    values = {row["benchmark"].removeprefix("knn, "): row["value"] for row in rows}
    assert list(values) == ["kingdom", "phylum", "class", "order", "family", "genus", "species"]
    assert values["kingdom"] >= values["species"] > 0.6


@pytest.mark.slow
@pytest.mark.parametrize("row", ["cars_finetune", "inat2019_finetune"])
def test_fine_tuning(row, run_row):
    (found,) = rows_in(run_row(row, *TRAINED))
    title = RECIPES[row.partition("_")[0]].title
    assert (found["benchmark"], found["dataset"], found["metric"]) == ("fine-tuning", title, "top-1 accuracy")
    assert "nothing was chosen" in found["protocol"]
    assert 0 <= found["value"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("row", ["imagenet9k_linear", "places365_linear"])
def test_linear_classifiers(row, run_row):
    schedule = "config.OPTIMIZER.param_schedulers.lr.milestones=[1,2,3]"
    meters = "config.METERS.accuracy_list_meter.num_meters=2"
    rows = rows_in(run_row(row, *TRAINED, schedule, POOLED_LAYERS, linear_heads(3), meters))
    assert [found["benchmark"] for found in rows] == ["linear, res4", "linear, res5"]
    assert max(found["value"] for found in rows) > 0.5  # the classes have colours


def test_voc07(run_row):
    rows = rows_in(run_row("voc07_linear", POOLED_LAYERS, "config.SVM.costs.costs_list=[0.1,1.0]"))
    assert [(row["dataset"], row["metric"]) for row in rows] == [("PASCAL VOC 2007", "mAP")] * 2
    assert all(0 <= row["value"] <= 1 for row in rows)
