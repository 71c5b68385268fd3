"""VISSL's benchmarks that are trainings take a student's checkpoint, all of its trunk or nothing."""

import json

import pytest
import torch
from benchmark_data import ON_THIS_MACHINE, write_classes
from checkpoint_parts import trunk_of
from results_file import rows_in

# With a rate of zero.
ONE_EPOCH = (
    "config.OPTIMIZER.num_epochs=1",
    "config.OPTIMIZER.param_schedulers.lr.name=constant",
    "config.OPTIMIZER.param_schedulers.lr.value=0.0",
    "config.OPTIMIZER.param_schedulers.lr.auto_lr_scaling.auto_scale=false",
)
SMALL = tuple(
    f"config.DATA.{split}.TRANSFORMS=[{{name:Resize,size:[32,32]}},{{name:ToTensor}}]" for split in ("TRAIN", "TEST")
)
FULL_TUNING = "benchmark/fulltune/imagenet1k/eval_resnet_8gpu_transfer_in1k_fulltune"
SEMI_SUPERVISED = "benchmark/semi_supervised/imagenet1k/eval_resnet_8gpu_transfer_in1k_semi_sup_fulltune"
LOW_TUNING = "benchmark/low_shot_transfer/sun397/eval_resnet_8gpu_transfer_sun397_low_tune"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_classes(tmp_path_factory.mktemp("classes"), 8, 4, seed=0)


@pytest.fixture
def training(run_command, images, teacher, tmp_path):
    def run(config: str, *overrides: str, weights=teacher):
        return run_command(
            f"config={config}",
            *ON_THIS_MACHINE,
            *ONE_EPOCH,
            *[
                f"config.DATA.{split}.{key}={value}"
                for split in ("TRAIN", "TEST")
                for key, value in (
                    ("DATA_SOURCES", "[disk_folder]"),
                    ("LABEL_SOURCES", "[disk_folder]"),
                    ("DATA_PATHS", f"[{images}]"),
                    ("BATCHSIZE_PER_REPLICA", "4"),
                    ("DATA_LIMIT", "4"),
                )
            ],
            f"config.MODEL.WEIGHTS_INIT.PARAMS_FILE={weights}",
            f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
            *overrides,
            cwd=tmp_path,
        )

    return run


@pytest.mark.parametrize("config", [FULL_TUNING, SEMI_SUPERVISED, LOW_TUNING])
def test_a_training_starts_with_the_whole_trunk(training, tmp_path, config, teacher):
    result = training(config, *SMALL)
    said = result.stdout + result.stderr
    assert result.returncode == 0, result.stderr
    assert f"The whole trunk has the weights of {teacher}." in said
    assert "These start at random: heads.0.clf.0.weight" in said
    lines = map(json.loads, (tmp_path / "run/metrics.json").read_text().splitlines())
    assert any("test_accuracy_list_meter" in line for line in lines)
    # With a rate of zero the trunk that VISSL saves is the one that it was given.
    [final] = (tmp_path / "run").glob("model_final_checkpoint_phase*.torch")
    before, after = (trunk_of(torch.load(file)) for file in (teacher, final))
    names = [name for name in before if name.endswith("weight")]
    assert len(names) > 100
    assert all(torch.equal(before[name], after[name]) for name in names)


def test_a_test_scores_what_can_be_read_and_says_of_how_many_samples_it_is(training, tmp_path):
    test = write_classes(tmp_path / "test", 8, 4, seed=1)
    sorted(test.rglob("*.png"))[3].write_bytes(b"no image")
    whole = (f"config.DATA.TEST.DATA_PATHS=[{test}]", "config.DATA.TEST.DATA_LIMIT=-1")
    result = training(FULL_TUNING, *SMALL, *whole, "+config.BENCHMARK.MODEL_NAME=student")
    assert result.returncode == 0, result.stderr
    rows = rows_in(tmp_path / "run")
    assert rows
    assert all("; 7 of 8 test samples, the others could not be read; " in row["protocol"] for row in rows)
    assert all(7 * row["value"] == pytest.approx(round(7 * row["value"])) for row in rows)


def test_a_partial_load_is_refused(training, teacher, tmp_path):
    """VISSL would start the rest at random, and say so in the middle of a long log."""
    state = torch.load(teacher)
    trunk = trunk_of(state)
    lost = [name for name in trunk if "layer4.2.conv3" in name or "layer4.2.bn3.bias" in name]
    for name in lost:
        del trunk[name]
    torch.save(state, tmp_path / "part.torch")
    result = training(FULL_TUNING, *SMALL, weights=tmp_path / "part.torch")
    assert result.returncode == 2
    assert f"part.torch has no weights for {len(lost)} of" in result.stderr
    assert "what is to start at random is named in its SKIP_LAYERS" in result.stderr
    assert "Traceback" not in result.stderr
    skipping = training(
        FULL_TUNING,
        *SMALL,
        "config.MODEL.WEIGHTS_INIT.SKIP_LAYERS=[num_batches_tracked,layer4.2.conv3,layer4.2.bn3.bias]",
        weights=tmp_path / "part.torch",
    )
    assert skipping.returncode == 0, skipping.stderr
    assert "The rest of the trunk has the weights of" in skipping.stdout + skipping.stderr


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP=8"], "have different shapes"),
        (["config.MODEL.WEIGHTS_INIT.STATE_DICT_KEY_NAME=''"], "is not compatible with VISSL"),
        (["config.MODEL.WEIGHTS_INIT.STATE_DICT_KEY_NAME=weights"], "Unknown state dict key: weights"),
    ],
)
def test_weights_that_do_not_fit_are_the_users_mistake(training, overrides, message):
    result = training(FULL_TUNING, *SMALL, *overrides)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
