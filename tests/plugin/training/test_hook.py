"""Labels before the first step, from the config as the user wrote it."""

import numpy as np
import pytest
import torch
from vissl.config import AttrDict
from vissl.hooks import default_hook_generator
from vissl.models.trunks import get_model_trunk

from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.plugin.training.hook import ExtractThenClusterHook, require_head_width


def config(tmp_path, *overrides: str) -> AttrDict:
    return compose([*overrides, f"config.CHECKPOINT.DIR={tmp_path / 'run'}"])[2]


def hooks_of(cfg: AttrDict) -> list:
    return [hook for hook in default_hook_generator(cfg) if isinstance(hook, ExtractThenClusterHook)]


def test_it_is_there_wherever_the_loss_is_ours(tmp_path, student_overrides):
    assert len(hooks_of(config(tmp_path, *student_overrides))) == 1
    assert hooks_of(config(tmp_path, "config=test/cpu_test/test_cpu_resnet_simclr")) == []


def test_it_knows_the_config_from_before_the_network_was_built(tmp_path):
    """VISSL's EfficientNet takes its version out of the config, and cannot be built from it again."""
    cfg = config(tmp_path, "config=test/cpu_test/test_cpu_efficientnet_simclr", "+config/clusterfit=student")
    [hook] = hooks_of(cfg)
    get_model_trunk("efficientnet")(cfg.MODEL, "efficientnet")
    assert "model_version" not in cfg.MODEL.TRUNK.EFFICIENT_NETS
    assert hook._cfg.MODEL.TRUNK.EFFICIENT_NETS.model_version == "B0"


def test_clusterfit_of_an_efficientnet(tmp_path, run_command, student_overrides):
    overrides = [
        "config=test/cpu_test/test_cpu_efficientnet_simclr",
        *(entry for entry in student_overrides if "RESNETS" not in entry and not entry.startswith("config=")),
        "config.CLUSTERFIT.FEATURES.LAYER_NAME=''",
    ]
    model = config(tmp_path, *overrides).MODEL
    torch.save(get_model_trunk("efficientnet")(model, "efficientnet").state_dict(), tmp_path / "teacher.pth")
    result = run_command(
        *overrides,
        f"config.CLUSTERFIT.TEACHER.WEIGHTS={tmp_path / 'teacher.pth'}",
        f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run/model_final_checkpoint_phase0.torch").is_file()


@pytest.fixture
def train_on_found_labels(tmp_path, run_command, student_overrides, student_run):
    """Trains on the labels of an earlier run, and gives the final checkpoint."""

    def train(*overrides: str) -> dict:
        (tmp_path / "run").mkdir()
        (tmp_path / "run/clusterfit").symlink_to(student_run / "clusterfit")
        result = run_command(*student_overrides, f"config.CHECKPOINT.DIR={tmp_path / 'run'}", *overrides, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        return torch.load(tmp_path / "run/model_final_checkpoint_phase0.torch")

    return train


def test_the_same_training_whether_labels_are_made_or_found(train_on_found_labels, student_run):
    """Extraction and clustering leave no trace in the random numbers of the training."""
    made = torch.load(student_run / "model_final_checkpoint_phase0.torch")
    found = train_on_found_labels()
    assert found["classy_state_dict"]["losses"] == made["classy_state_dict"]["losses"]


def test_the_loss_learns_the_cluster_sizes(train_on_found_labels, student_run):
    checkpoint = train_on_found_labels("config.LOSS.clusterfit_loss.cluster_weighting=inverse")
    sizes = torch.from_numpy(np.load(student_run / "clusterfit/labels/train/sizes.npy"))
    torch.testing.assert_close(checkpoint["loss"]["cluster_weights_0"] * sizes, torch.full((4,), 30 / 4))


@pytest.mark.parametrize("width, fits", [(4, True), (5, False)])
def test_the_last_linear_layer_must_be_as_wide_as_k(width, fits):
    layers = torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, width)
    heads = torch.nn.ModuleList([torch.nn.Sequential(*layers)])
    if fits:
        require_head_width(heads, 4)
    else:
        with pytest.raises(ConfigError, match="found a head of width 5; allowed: 4"):
            require_head_width(heads, 4)
