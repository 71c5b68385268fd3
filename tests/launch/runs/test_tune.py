"""Settings chosen on a validation split, the test split scored once: real trainings of VISSL, all tiny."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import watched_files
from benchmark_data import ON_THIS_MACHINE, SMALL_IMAGES, write_classes
from PIL import Image
from torchvision.transforms.functional import to_tensor
from vissl.config import AttrDict
from vissl.models import build_model

from vissl_clusterfit import dependencies
from vissl_clusterfit.errors import ArtifactError, ClusterFitError, DataError
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.launch.runs.execute import execute
from vissl_clusterfit.launch.runs.tune.settings import TuneSettings
from vissl_clusterfit.launch.runs.tune.split import ValidationSplit
from vissl_clusterfit.launch.runs.tune.trainings import Trial, grid, on_validation, with_setting
from vissl_clusterfit.report.results import read_results
from vissl_clusterfit.storage.artifacts import write_array, write_manifest

VISSLS_LINEAR = "benchmark/linear_image_classification/imagenet1k/eval_resnet_8gpu_transfer_in1k_linear"
LAYERS = (("res4", 1024), ("res5", 2048))
NUM_TRAIN, NUM_TEST, NUM_CLASSES = 24, 12, 3
SMALL = (
    *ON_THIS_MACHINE,
    *SMALL_IMAGES,
    "config.MULTI_PROCESSING_METHOD=fork",
    "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=6",
    "config.DATA.TEST.BATCHSIZE_PER_REPLICA=5",
)
#: Two linear heads on the frozen layers of a tiny network, by VISSL's own config.
LINEAR = (
    f"config={VISSLS_LINEAR}",
    "engine_name=clusterfit_tune",
    *SMALL,
    "config.OPTIMIZER.num_epochs=4",
    "config.OPTIMIZER.param_schedulers.lr.milestones=[1,2,3]",
    "config.OPTIMIZER.param_schedulers.lr.auto_lr_scaling.base_lr_batch_size=6",
    "config.METERS.accuracy_list_meter.topk_values=[1]",
    "config.MODEL.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP=[{}]".format(
        ",".join(f'["{name}",["AdaptiveAvgPool2d",[[1,1]]]]' for name, _ in LAYERS)
    ),
    "config.MODEL.HEAD.PARAMS=[{}]".format(
        ",".join(f'["eval_mlp",{{in_channels:{width},dims:[{width},{NUM_CLASSES}]}}]' for _, width in LAYERS)
    ),
    "+config.TUNE.MODEL_NAME=mine",
    "+config.TUNE.DATASET_NAME=colours",
    "+config.TUNE.BENCHMARK=linear",
    "+config.TUNE.VALIDATION_SHARE=0.25",
)
FINE_TUNING = ("config=clusterfit/tune", f"tune.num_classes={NUM_CLASSES}", *SMALL)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> list[str]:
    """TRAIN in class folders; TEST a list of files that are watched."""
    root = tmp_path_factory.mktemp("colours")
    train = write_classes(root / "train", NUM_TRAIN, NUM_CLASSES, seed=1)
    files = sorted(write_classes(root / "test", NUM_TEST, NUM_CLASSES, seed=2).rglob("*.png"))
    np.save(root / "images.npy", np.array([f"{watched_files.PREFIX}{file}" for file in files]))
    np.save(root / "labels.npy", np.array([int(file.parent.name[-1]) for file in files]))
    return [
        "config.DATA.TRAIN.DATA_SOURCES=[disk_folder]",
        "config.DATA.TRAIN.LABEL_SOURCES=[disk_folder]",
        f"config.DATA.TRAIN.DATA_PATHS=[{train}]",
        "config.DATA.TEST.DATA_SOURCES=[disk_filelist]",
        "config.DATA.TEST.LABEL_SOURCES=[disk_filelist]",
        f"config.DATA.TEST.DATA_PATHS=[{root / 'images.npy'}]",
        f"config.DATA.TEST.LABEL_PATHS=[{root / 'labels.npy'}]",
    ]


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """The times at which processes that are started from now on open each file of TEST."""
    log = tmp_path / "opened.txt"
    monkeypatch.setenv(dependencies.IMPORT_VARIABLE, "watched_files")
    monkeypatch.setenv(watched_files.LOG_VARIABLE, str(log))
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(watched_files.__file__), prepend=os.pathsep)

    def times() -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for line in log.read_text().splitlines() if log.exists() else ():
            when, _, file = line.split(" ", 2)
            found.setdefault(file, []).append(int(when))
        return found

    return times


@pytest.fixture
def composed(data, teacher, tmp_path):
    """The config of a tuning in ``tmp_path / "run"``."""

    def compose_it(*overrides: str) -> AttrDict:
        weights = f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={teacher}"
        return compose([*overrides, *data, weights, f"config.CHECKPOINT.DIR={tmp_path / 'run'}"])[2]

    return compose_it


@pytest.mark.slow
def test_a_tuning_that_is_killed_goes_on_and_scores_the_test_split_once(start_script, data, teacher, opened, tmp_path):
    """Killed in the second training, that of a rate at which the loss is soon no number."""
    run = tmp_path / "run"
    command = (*LINEAR, *data, f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={teacher}", f"config.CHECKPOINT.DIR={run}")
    command = (*command, "+config.TUNE.LEARNING_RATES=[0.05,1e38]")
    process = start_script(*command, cwd=tmp_path)
    assert any("Training 2 of 2 without" in line for line in process.stdout), process.stderr.read()
    assert any("Starting phase 0 " in line for line in process.stdout), process.stderr.read()
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    first = run / "tune/lr=0.05,wd=0.0005/model_final_checkpoint_phase3.torch"
    made = first.stat().st_mtime_ns
    assert not opened()
    assert not (run / "validation.json").exists()

    process = start_script(*command, cwd=tmp_path)
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    assert first.stat().st_mtime_ns == made
    record = json.loads((run / "validation.json").read_text())
    assert record["tried"]["lr=1e+38,wd=0.0005"] == "diverged"
    assert record["chosen"] == {"layer res4": "lr=0.05,wd=0.0005", "layer res5": "lr=0.05,wd=0.0005"}
    assert "6 of 24 training samples (a share of 0.25" in record["validation"]
    # Every image of TEST once, and the choice was made before.
    assert sorted(map(len, opened().values())) == [1] * NUM_TEST
    assert min(min(times) for times in opened().values()) > (run / "validation.json").stat().st_mtime_ns
    rows = read_results(run)
    assert {(row.model, row.dataset, row.split, row.metric) for row in rows} == {
        ("mine", "colours", "test", "top-1 accuracy")
    }
    assert [row.benchmark for row in rows] == ["linear, res4", "linear, res5"]
    assert max(row.value for row in rows) > 0.5
    for part in ("lr=0.05,wd=0.0005 of [lr=0.05,wd=0.0005, lr=1e+38,wd=0.0005] by top-1", "6 of 24", "scored once"):
        assert part in rows[0].protocol

    files = {file: file.stat().st_mtime_ns for file in (run / "tune").rglob("*") if file.is_file()}
    process = start_script(*command, cwd=tmp_path)
    said, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "This tuning was finished before: nothing is trained or scored again." in said
    assert {file: file.stat().st_mtime_ns for file in (run / "tune").rglob("*") if file.is_file()} == files
    assert sorted(map(len, opened().values())) == [1] * NUM_TEST
    assert read_results(run) == rows


def write_finished_training(folder: Path, phase: int, **top_1: float) -> None:
    """What says of a training that it is finished, with the figures on the validation split that a test wants."""
    folder.mkdir(parents=True)
    state = {"phase_idx": phase, "classy_state_dict": {}}
    torch.save(state, folder / f"model_final_checkpoint_phase{phase}.torch")
    line = {"phase_idx": phase + 2, "train_phase_idx": phase, "test_accuracy_list_meter": {"top_1": top_1}}
    (folder / "metrics.json").write_text(json.dumps(line) + "\n")


def tensors_of(checkpoint: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The trunk and the heads of a checkpoint of VISSL's."""
    return torch.load(checkpoint, weights_only=True)["classy_state_dict"]["base_model"]["model"]


def accuracies(cfg: AttrDict, network: dict[str, dict[str, torch.Tensor]]) -> dict[str, float]:
    """What each head has right of TEST, without VISSL's training loop, meters and data sets."""
    model = build_model(cfg.MODEL, cfg.OPTIMIZER).eval()
    model.trunk.base_model.load_state_dict(network["trunk"])
    model.heads.load_state_dict(network["heads"])
    files = [file.removeprefix(watched_files.PREFIX) for file in np.load(cfg.DATA.TEST.DATA_PATHS[0])]
    with torch.no_grad():
        outputs = model(torch.stack([to_tensor(Image.open(file).convert("RGB")) for file in files]))
    labels = torch.from_numpy(np.load(cfg.DATA.TEST.LABEL_PATHS[0]))
    right = [(output.argmax(1) == labels).float().mean().item() for output in outputs]
    return {f"linear, {name}": share for (name, _), share in zip(LAYERS, right, strict=True)}


@pytest.mark.slow
def test_each_layer_is_trained_with_its_own_choice_and_scored_as_it_was_trained(
    start_script, composed, data, teacher, opened, tmp_path
):
    """On two processes. The validation figures are made up so that the layers differ."""
    run = tmp_path / "run"
    for rate, res4, res5 in (("0.02", 50.0, 40.0), ("0.05", 30.0, 60.0), ("0.1", 50.0, 10.0)):
        write_finished_training(run / f"tune/lr={rate},wd=0.0005", 3, res4=res4, res5=res5)
    settings = ("+config.TUNE.LEARNING_RATES=[0.02,0.05,0.1]", "config.DISTRIBUTED.NUM_PROC_PER_NODE=2")
    weights, place = f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={teacher}", f"config.CHECKPOINT.DIR={run}"
    process = start_script(*LINEAR, *data, weights, place, *settings, cwd=tmp_path)
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    record = json.loads((run / "validation.json").read_text())
    assert record["chosen"] == {"layer res4": "lr=0.02,wd=0.0005", "layer res5": "lr=0.05,wd=0.0005"}
    assert sorted(map(len, opened().values())) == [1] * NUM_TEST
    finals = [run / f"tune/final,lr={rate},wd=0.0005" for rate in ("0.02", "0.05")]
    assert sorted((run / "tune").glob("final*")) == finals
    assert [file.name for file in finals[0].glob("model*")] == ["model_final_checkpoint_phase3.torch"]

    network = tensors_of(run / "tune/network.torch")
    heads = [tensors_of(folder / "model_final_checkpoint_phase3.torch")["heads"] for folder in finals]
    for number, trained in enumerate(heads):
        of_head = [name for name in network["heads"] if name.startswith(f"{number}.")]
        assert of_head
        assert all(torch.equal(network["heads"][name], trained[name]) for name in of_head)
        assert not all(torch.equal(network["heads"][name], heads[1 - number][name]) for name in of_head)
    rows = {row.benchmark: row for row in read_results(run)}
    expected = accuracies(composed(*LINEAR), network)
    assert {name: row.value for name, row in rows.items()} == pytest.approx(expected, abs=1e-4)
    for layer, values in (("res4", "0.04,0.004"), ("res5", "0.1,0.01")):  # two times six images in a step
        assert f'lr multistep {{"values":[{values}' in rows[f"linear, {layer}"].protocol


def test_the_whole_schedule_is_scaled(composed):
    config = composed(*LINEAR, "+config.TUNE.LEARNING_RATES=[0.05]", "+config.TUNE.WEIGHT_DECAYS=[0.0,0.001]")
    tried = grid(config, TuneSettings.from_config(config))
    assert [str(setting) for setting in tried] == ["lr=0.05,wd=0", "lr=0.05,wd=0.001"]
    made = with_setting(config, tried[1], Path("x"))
    for schedule in (made.OPTIMIZER.param_schedulers.lr, made.OPTIMIZER.param_schedulers.lr_head):
        assert schedule["values"] == pytest.approx([0.05, 0.005, 0.0005, 0.00005])  # as base_value=0.05 gives it
    assert (made.OPTIMIZER.weight_decay, made.OPTIMIZER.head_optimizer_params.weight_decay) == (0.001, 0.001)
    assert config.OPTIMIZER.param_schedulers.lr["values"][0] == 0.01
    assert not made.TEST_MODEL


def test_without_scaling_a_rate_is_the_greatest_of_the_schedule(composed):
    parts = "[{name:linear,start_value:0.01,end_value:0.2},{name:cosine,start_value:0.2,end_value:0.002}]"
    schedule = f"{{name:composite,schedulers:{parts},lengths:[0.5,0.5],interval_scaling:[rescaled,rescaled]}}"
    config = composed(
        *FINE_TUNING,
        "config.OPTIMIZER.param_schedulers.lr.auto_lr_scaling.auto_scale=false",
        f"config.OPTIMIZER.param_schedulers.lr={schedule}",
    )
    [own] = grid(config, TuneSettings.from_config(config))
    assert own == Trial(0.2, 0.0001)
    assert with_setting(config, own, Path("x")).OPTIMIZER == config.OPTIMIZER
    first, second = with_setting(config, Trial(0.4, 0.0), Path("x")).OPTIMIZER.param_schedulers.lr["schedulers"]
    assert (first["start_value"], first["end_value"]) == (0.02, 0.4)
    assert (second["start_value"], second["end_value"]) == (0.4, 0.004)


def test_train_is_split_by_class_into_lists_of_its_files(composed, tmp_path):
    config = composed(*LINEAR, "config.DATA.TEST.DROP_LAST=true")
    split = ValidationSplit(config, TuneSettings.from_config(config), np.arange(NUM_TRAIN) // 8)
    split.write(tmp_path)
    made = on_validation(config, Trial(0.01, 0.0), tmp_path / "x", tmp_path)
    parts = {}
    for name in ("TRAIN", "TEST"):
        data = made.DATA[name]
        assert data.DATA_SOURCES == data.LABEL_SOURCES == ["disk_filelist"]
        images, labels = np.load(data.DATA_PATHS[0]), np.load(data.LABEL_PATHS[0])
        assert [int(Path(file).parent.name[-1]) for file in images] == labels.tolist()
        parts[name] = set(images)
    assert np.bincount(labels).tolist() == [2, 2, 2]  # of each class a quarter
    assert len(parts["TRAIN"] | parts["TEST"]) == NUM_TRAIN
    assert not parts["TRAIN"] & parts["TEST"]
    assert made.DATA.TRAIN.TRANSFORMS == config.DATA.TRAIN.TRANSFORMS
    assert (made.TEST_MODEL, made.DATA.TEST.DROP_LAST) == (True, False)


def write_prepared(folder: Path, held_out: list[int]) -> list[str]:
    """The lists of a prepared data set; gives the overrides that read its TRAIN."""
    images = np.array([f"/images/{number}.jpg" for number in range(12)])
    for name, samples in (("trainval", [*range(12)]), ("val", held_out)):
        write_array(folder / f"{name}_images.npy", images[samples])
        write_array(folder / f"{name}_labels.npy", np.arange(12)[samples] % 3)
    write_manifest(folder, "data set", {}, {"validation": "the publisher's"})
    return [
        "config.DATA.TRAIN.DATA_SOURCES=[disk_filelist]",
        "config.DATA.TRAIN.LABEL_SOURCES=[disk_filelist]",
        f"config.DATA.TRAIN.DATA_PATHS=[{folder}/trainval_images.npy]",
        f"config.DATA.TRAIN.LABEL_PATHS=[{folder}/trainval_labels.npy]",
        "config.TUNE.VALIDATION=prepared",
    ]


def test_the_publishers_validation_split_is_taken(tmp_path):
    prepared = write_prepared(tmp_path / "flowers", [3, 4, 11])
    config = compose([*FINE_TUNING, *prepared, f"config.CHECKPOINT.DIR={tmp_path}"])[2]
    split = ValidationSplit(config, TuneSettings.from_config(config), np.arange(12) % 3)
    assert str(split) == "3 of 12 training samples (the publisher's)"
    split.write(tmp_path / "split")
    assert np.load(tmp_path / "split/validation_labels.npy").tolist() == [0, 1, 2]
    assert np.load(tmp_path / "split/fit_images.npy")[:4].tolist() == [f"/images/{n}.jpg" for n in (0, 1, 2, 5)]


def test_a_prepared_split_of_another_train_is_refused(tmp_path):
    prepared = write_prepared(tmp_path / "flowers", [3, 4, 11])
    write_array(tmp_path / "flowers/val_images.npy", np.array(["/images/3.jpg", "/elsewhere/4.jpg"]))
    config = compose([*FINE_TUNING, *prepared, f"config.CHECKPOINT.DIR={tmp_path}"])[2]
    with pytest.raises(DataError, match=r"found 2 images, 1 of them in TRAIN, which has 12; allowed: images of TRAIN"):
        ValidationSplit(config, TuneSettings.from_config(config), np.arange(12) % 3)


RATE = "config.OPTIMIZER.param_schedulers.lr"
TWO_RATES = "config.TUNE.LEARNING_RATES=[0.1,0.2]"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["++config.TUNE.LEARNING_RATE=[0.1]"],
            r"TUNE\.LEARNING_RATE: found an unknown key.*Did you mean LEARNING_RATES",
        ),
        (["config.TUNE.VALIDATION_SHARE=1.0"], r"VALIDATION_SHARE: found 1\.0; allowed: above 0 and at most 0\.5"),
        (["config.TUNE.VALIDATION_SHARE=0.0"], r"VALIDATION_SHARE: found 0\.0"),
        (["config.TUNE.LEARNING_RATES=[0.1,0.0]"], r"LEARNING_RATES: found \[0\.1, 0\.0\]; allowed: numbers above 0"),
        (["config.TUNE.WEIGHT_DECAYS=[0.1,0.1]"], r"WEIGHT_DECAYS: found .*each once"),
        (["config.TUNE.VALIDATION=test"], r"VALIDATION: found 'test'; allowed: 'drawn' \| 'prepared'"),
        (["config.TUNE.MODEL_NAME=''"], r"MODEL_NAME: found nothing"),
        ([TWO_RATES, "config.TUNE.VALIDATION=prepared"], r"VALIDATION: found prepared, and no .*val_images\.npy"),
        ([TWO_RATES, "config.TUNE.VALIDATION_SHARE=0.01"], r"cannot be drawn of TRAIN\. validation_share: found 0\.01"),
        (["config.METERS.accuracy_list_meter.topk_values=[5]"], r"config\.METERS: found .*with 1 among topk_values"),
        (["config.METERS.accuracy_list_meter.num_meters=2"], r"num_meters: found several heads; allowed: one, or a"),
        (["config.DISTRIBUTED.NUM_NODES=2"], r"NUM_NODES: found 2; allowed: 1: the trainings"),
        (["config.TEST_ONLY=true"], r"TEST_ONLY: found true"),
        (["config.DATA.TRAIN.DATA_LIMIT=4"], r"TRAIN\.DATA_LIMIT: found 4; allowed: -1"),
        (
            [f"{RATE}.name=tent", f"{RATE}.auto_lr_scaling.auto_scale=false"],
            r"name: found 'tent', no registered scheduler; allowed: composite, constant",
        ),
        (["tune.num_classes=2"], r"TRAIN: found 3 classes, and heads for 2; allowed: heads for all"),
        (["config.DATA.TEST.LABEL_PATHS=[nowhere.npy]"], r"TEST\.LABEL_PATHS: found .*nowhere\.npy.*no file"),
        (["config.MODEL.WEIGHTS_INIT.PARAMS_FILE=nowhere"], r"PARAMS_FILE: found nowhere, which does not exist"),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(overrides, message, data, teacher, tmp_path):
    run, weights = tmp_path / "run", f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={teacher}"
    keys = {override.split("=")[0] for override in overrides}
    command = [*FINE_TUNING, *data, weights, f"config.CHECKPOINT.DIR={run}"]
    with pytest.raises(ClusterFitError, match=message):  # some when the config is composed, some when the run starts
        execute(
            "clusterfit_tune",
            0,
            compose([*(each for each in command if each.split("=")[0] not in keys), *overrides])[2],
        )
    assert not (run / "tune").exists()


def test_a_class_with_one_training_sample_is_refused_where_something_is_chosen(data, teacher, tmp_path):
    labels = np.array([0, 0, 1, 1, 2])
    np.save(tmp_path / "labels.npy", labels)
    np.save(tmp_path / "images.npy", np.array([f"{number}.jpg" for number in range(5)]))
    lists = [
        *(f"config.DATA.TRAIN.{kind}_SOURCES=[disk_filelist]" for kind in ("DATA", "LABEL")),
        f"config.DATA.TRAIN.DATA_PATHS=[{tmp_path}/images.npy]",
        f"config.DATA.TRAIN.LABEL_PATHS=[{tmp_path}/labels.npy]",
    ]
    weights, place = f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={teacher}", f"config.CHECKPOINT.DIR={tmp_path / 'run'}"
    _, _, config = compose([*FINE_TUNING, *data[3:], *lists, weights, place, TWO_RATES])
    with pytest.raises(DataError, match=r"TRAIN\. train_labels: found one sample each of 1 of 3 classes \(2\)"):
        execute("clusterfit_tune", 0, config)


def test_what_was_made_of_other_settings_is_not_taken_for_this(composed, tmp_path):
    run = tmp_path / "run/tune"
    run.mkdir(parents=True)
    (run / "inputs.json").write_text(json.dumps({"optimizer": {"momentum": 0.5}}))
    (run / "model_phase0.torch").touch()  # without anything made, the first command had a mistake
    with pytest.raises(ArtifactError, match=r"optimizer\.momentum: it was made with 0\.5, this run has 0\.9"):
        execute("clusterfit_tune", 0, composed(*FINE_TUNING))


def test_after_the_test_nothing_more_is_tried(composed, tmp_path):
    run = tmp_path / "run/tune"
    run.mkdir(parents=True)
    (run / "finished.json").write_text(json.dumps({"grid": ["lr=0.01,wd=0.0001"]}))
    with pytest.raises(ArtifactError, match=r"has scored the test split for what was chosen of lr=0\.01,wd=0\.0001;"):
        execute("clusterfit_tune", 0, composed(*FINE_TUNING, TWO_RATES))
