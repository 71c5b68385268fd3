"""Values of VISSL's keys that cannot be are refused when a config is composed, whichever part would read them."""

import pytest

from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.launch import main
from vissl_clusterfit.launch.compose.overrides import compose_overrides
from vissl_clusterfit.launch.compose.vissl_keys import require_public_data

SIMCLR = "config=test/cpu_test/test_cpu_resnet_simclr"
TRAIN = "config.DATA.TRAIN"
LR = "config.OPTIMIZER.param_schedulers.lr"
EVERSTORE = "benchmark/fulltune/places205/eval_resnet_8gpu_transfer_places205_fulltune"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("config.VERBOSE=maybe", r"config\.VERBOSE: found 'maybe'; allowed: a value of type bool"),
        ("config.VERBOSE=1", r"config\.VERBOSE: found 1; allowed: a value of type bool"),
        ("config.DATA.PIN_MEMORY=[1]", r"config\.DATA\.PIN_MEMORY: found \[1\]; allowed: a value of type bool"),
        ("config.OPTIMIZER.use_larc=maybe", r"use_larc: found 'maybe'; allowed: a value of type bool"),
        ("config.CHECKPOINT.OVERWRITE_EXISTING=null", r"OVERWRITE_EXISTING: found None; allowed: a value of type bool"),
        (f"{TRAIN}.BASE_DATASET=[1]", r"BASE_DATASET: found \[1\]; allowed: a value of type str"),
        (f"{TRAIN}.REMOVE_IMG_PATH_PREFIX=[1]", r"REMOVE_IMG_PATH_PREFIX: found \[1\]; allowed: a value of type str"),
        (f"{TRAIN}.NEW_IMG_PATH_PREFIX=1", r"NEW_IMG_PATH_PREFIX: found 1; allowed: a value of type str"),
        (f"{TRAIN}.COPY_DESTINATION_DIR={{a:1}}", r"COPY_DESTINATION_DIR: found \{'a': 1\}; allowed: a value of type"),
        (f"{TRAIN}.DEFAULT_GRAY_IMG_SIZE=0", r"DEFAULT_GRAY_IMG_SIZE: found 0; allowed: at least 1"),
        (f"{TRAIN}.COLLATE_FUNCTION_PARAMS=5", r"COLLATE_FUNCTION_PARAMS: found 5; allowed: a value of type dict"),
        ("config.MODEL.TEMP_FROZEN_PARAMS_ITER_MAP=5", r"ITER_MAP: found 5; allowed: a value of type list"),
        ("config.DATA.DDP_BUCKET_CAP_MB=abc", r"DDP_BUCKET_CAP_MB: found 'abc'; allowed: a number"),
        ("config.DATA.DDP_BUCKET_CAP_MB=true", r"DDP_BUCKET_CAP_MB: found True; allowed: a number"),
        (
            "config.LOSS.simclr_info_nce_loss=5",
            r"config\.LOSS\.simclr_info_nce_loss: found 5; allowed: a value of type",
        ),
        ("config.LOSS=null", r"config\.LOSS: found None; allowed: a value of type dict"),
        (f"{LR}.update_interval=5", r"update_interval: found 5; allowed: a value of type str"),
        (f"{LR}.update_interval=batch", r"update_interval: found 'batch'; allowed: 'step' \| 'epoch'"),
        ("~config.DATA.PIN_MEMORY", r"config\.DATA\.PIN_MEMORY: found nothing; allowed: a value of type bool"),
        ("~config.SEED_VALUE", r"config\.SEED_VALUE: found nothing; allowed: a number"),
        ("~config.HOOKS", r"config\.HOOKS: found nothing; allowed: a value of type dict"),
    ],
)
def test_a_value_of_another_type_than_vissls_default(override, message):
    with pytest.raises(ConfigError, match=message):
        compose_overrides([SIMCLR, override])


@pytest.mark.parametrize(
    "override",
    [
        "config.DISTRIBUTED.NCCL_SOCKET_NTHREADS=4",
        "config.HOOKS.TENSORBOARD_SETUP.EXPERIMENT_LOG_DIR=null",
        "config.OPTIMIZER.weight_decay=0",
        "config.OPTIMIZER.param_schedulers.lr_head=null",
        "~config.OPTIMIZER.param_schedulers.lr_head",
        "~config.LOSS.dino_loss",
        "config.MODEL.TRUNK.VISION_TRANSFORMERS.QK_SCALE=0.125",
    ],
)
def test_what_vissl_takes_of_another_type(override):
    compose_overrides([SIMCLR, override])


def test_data_of_their_publisher_alone_compose_and_are_refused_when_they_are_run(run_command, tmp_path):
    config = compose_overrides([f"config={EVERSTORE}"])["config"]
    assert config["DATA"]["TRAIN"]["DATA_SOURCES"] == ["everstore"]
    with pytest.raises(ConfigError, match=r"TRAIN\.DATA_SOURCES: found 'everstore', which no public VISSL has"):
        require_public_data(config)
    for sweep in ([], ["config.SEED_VALUE=1,2"]):
        result = run_command(f"config={EVERSTORE}", *sweep, cwd=tmp_path)
        assert result.returncode == main.USER_ERROR
        assert result.stderr.startswith("error: config.DATA.TRAIN.DATA_SOURCES: found 'everstore', which no public")
    assert list(tmp_path.iterdir()) == []
    mine = [f"config.DATA.{split}.DATA_SOURCES=[disk_folder]" for split in ("TRAIN", "TEST")]
    require_public_data(compose_overrides([f"config={EVERSTORE}", *mine])["config"])
