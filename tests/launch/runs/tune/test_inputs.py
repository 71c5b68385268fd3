"""What a tuning refuses before anything is written: settings, splits, and what others have made in its folder."""

import json

import numpy as np
import pytest
from tune_work import FINE_TUNING, TWO_RATES

from vissl_clusterfit.errors import ArtifactError, ClusterFitError, DataError
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.launch.runs.execute import execute

RATE = "config.OPTIMIZER.param_schedulers.lr"


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
