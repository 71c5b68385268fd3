"""VISSL's own pre-trainings that ask for Apex, as they are shipped: with PyTorch's and VISSL's parts in its place."""

import copy
import re

import pytest
import torch
from classy_vision.optim import build_optimizer
from shrunk import ON_THIS_MACHINE, SMALL_TRUNK
from tiny import write_images

from vissl_clusterfit.launch.compose import derived
from vissl_clusterfit.launch.compose.early import compose_early

SWAV, DEEPCLUSTER = "swav/swav_8node_resnet", "deepcluster_v2/deepclusterv2_2crops_resnet"
#: What a step of each needs besides: heads of narrow trunks, and no more clusters than images.
PRE_TRAININGS = {
    SWAV: [],
    DEEPCLUSTER: ["config.LOSS.deepclusterv2_loss.num_clusters=[4,4,4]"],
    "vision_transformer/moco/vit_b16": ["config.MODEL.HEAD.PARAMS=[[mlp,{dims:[48,32,128],use_relu:true}]]"],
    "dino/dino_16gpus_deits16": [
        "config.MODEL.HEAD.PARAMS=[[swav_head,{use_weight_norm_prototypes:true,dims:[48,32,16],use_bn:false,"
        "return_embeddings:false,activation_name:GELU,num_clusters:[64]}]]"
    ],
}
WITHOUT = ("config.MODEL.AMP_PARAMS.USE_AMP=false", "config.MODEL.SYNC_BN_CONFIG.CONVERT_BN_TO_SYNC_BN=false")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), 8)


@pytest.fixture
def train(run_command, tmp_path, images):
    """Trains on one batch; what was said, the loss, and the network that was saved."""

    def run(name, *overrides, folder):
        result = run_command(
            f"config=pretrain/{name}",
            *ON_THIS_MACHINE,
            *SMALL_TRUNK,
            "config.OPTIMIZER.num_epochs=1",
            f"config.DATA.TRAIN.DATA_PATHS=[{images}]",
            "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=8",
            "config.LOG_FREQUENCY=1",
            *PRE_TRAININGS[name],
            *overrides,
            f"config.CHECKPOINT.DIR={tmp_path / folder}",
            cwd=tmp_path,
        )
        assert result.returncode == 0, result.stderr
        saved = torch.load(tmp_path / folder / "model_final_checkpoint_phase0.torch")["classy_state_dict"]
        [loss] = re.findall(r"iter: 0; lr: \S+; loss: ([\d.]+);", result.stdout)
        return result.stdout, loss, saved["base_model"]["model"]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("name", PRE_TRAININGS)
def test_a_step_as_shipped_is_that_without_apex(train, name):
    said, loss, model = train(name, folder="shipped")
    has_larc = name in (SWAV, DEEPCLUSTER)
    assert ("config.OPTIMIZER.use_larc: by VISSL's own LARC, as Apex is not installed." in said) is has_larc
    # VISSL's optimizer for sharded networks, which never needed Apex; it has the norms of all processes.
    other = ["config.OPTIMIZER.name=sgd_fsdp"] if has_larc else []
    _, expected_loss, expected = train(name, *WITHOUT, *other, folder="without")
    assert loss == expected_loss
    for part in ("trunk", "heads"):
        for key, tensor in expected[part].items():
            torch.testing.assert_close(model[part][key], tensor, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("clip", [True, False])
def test_larc_is_its_formula(clip):
    """You, Gitman and Ginsburg, "Large batch training of convolutional networks", arXiv:1708.03888, algorithm 1.

    The local rate of a tensor is ``trust · |w| / (|g| + decay · |w|)``; clipped, it is no more than the global one.
    """
    rate, decay, momentum, trust, eps = 0.4, 0.01, 0.9, 0.02, 1e-8
    config = {"name": "sgd", "lr": rate, "weight_decay": decay, "momentum": momentum, "use_larc": True}
    config["larc_config"] = {"clip": clip, "trust_coefficient": trust, "eps": eps}
    generator = torch.Generator().manual_seed(0)
    weights = [
        torch.nn.Parameter(scale * torch.randn(shape, generator=generator, dtype=torch.float64))
        for scale, shape in ((1.0, (4, 3)), (100.0, (5,)), (0.0, (2,)))
    ]
    optimizer = None
    expected = [weight.detach().clone() for weight in weights]
    velocities = [torch.zeros_like(weight) for weight in expected]
    for step in range(3):
        state = optimizer and copy.deepcopy(optimizer.get_classy_state())  # each step as after a resume
        optimizer = build_optimizer(dict(config))
        optimizer.set_param_groups([{"params": weights}], lr=rate, weight_decay=decay, momentum=momentum)
        if state:
            optimizer.set_classy_state(state)
        for place, weight in enumerate(weights):
            weight.grad = torch.randn(weight.shape, generator=generator, dtype=torch.float64) * (step + 1)
            w, g = expected[place], weight.grad.clone()
            if w.norm() > 0:
                local = trust * w.norm() / (g.norm() + decay * w.norm() + eps)
                scale = min(float(local) / rate, 1.0) if clip else float(local)
                g = scale * (g + decay * w)
            velocities[place] = momentum * velocities[place] + g
            expected[place] = w - rate * velocities[place]
        optimizer.step(where=step / 3)
        for weight, wanted in zip(weights, expected, strict=True):
            torch.testing.assert_close(weight.detach(), wanted, rtol=1e-12, atol=0)
    assert optimizer.optimizer.param_groups[0]["weight_decay"] == decay


@pytest.mark.parametrize("has_apex", [False, True])
def test_on_a_gpu_pytorch_stands_for_apex_where_that_is_missing(monkeypatch, has_apex):
    monkeypatch.setattr(derived, "is_apex_available", lambda: has_apex)
    config = compose_early([f"config=pretrain/{SWAV}"])[0]["config"]
    assert config["MACHINE"]["DEVICE"] == "gpu"
    changes = derived.fill_derived(config)
    model = config["MODEL"]
    found = [model["AMP_PARAMS"]["AMP_TYPE"], model["SYNC_BN_CONFIG"]["SYNC_BN_TYPE"]]
    assert found == (["apex"] * 2 if has_apex else ["pytorch"] * 2)
    assert model["AMP_PARAMS"]["USE_AMP"]
    assert model["SYNC_BN_CONFIG"]["CONVERT_BN_TO_SYNC_BN"]
    assert sum("as Apex is not installed" in change for change in changes) == (0 if has_apex else 3)
