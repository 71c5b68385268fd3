"""The settings that a tuning tries, as VISSL's trainings get them."""

from pathlib import Path

import pytest
from tune_work import FINE_TUNING, LINEAR

from vissl_clusterfit.launch.runs.tune.settings import TuneSettings
from vissl_clusterfit.launch.runs.tune.trainings import Trial, grid, with_setting


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
