"""The parts of the recipe for vision transformers: groups of parameters, mixed batches, averaged weights."""

from types import SimpleNamespace

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
import torchvision
from classy_vision.optim.param_scheduler import LinearParamScheduler, UpdateInterval
from torch import nn

from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.plugin.training.ema import EMA_NAME, EmaHook
from vissl_clusterfit.plugin.training.loss import ClusterFitLoss
from vissl_clusterfit.plugin.training.meter import ClusterAccuracyMeter
from vissl_clusterfit.plugin.training.mixing import mix_collator
from vissl_clusterfit.plugin.training.parameter_groups import layer_groups

OPTIMIZER = {
    "weight_decay": 0.05,
    "non_regularized_parameters": ["class_token", "pos_embedding"],
    "head_optimizer_params": {"weight_decay": 0.1},
}
SCHEDULE = LinearParamScheduler(1.0, 0.0)
SCHEDULE.update_interval = UpdateInterval.STEP


def network(trunk):
    model = nn.Module()
    model.trunk, model.heads = trunk, nn.ModuleList([nn.Linear(4, 3)])
    return model


def groups_of(model, decay):
    groups = layer_groups(model, {**OPTIMIZER, "layer_decay": decay}, {"lr": SCHEDULE, "lr_head": SCHEDULE})
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(each)]: group for group in groups for each in group["params"]}
    assert len(found) == len(names) == sum(len(group["params"]) for group in groups)
    return found


def test_rates_fall_from_layer_to_layer_as_in_timm():
    """The heads are the layer after the last one, as a classifier of timm's is."""
    from timm.optim import param_groups_layer_decay  # which imports PyTorch's compiler

    model = network(timm.create_model("vit_tiny_patch16_224", depth=3, num_classes=0))
    groups = groups_of(model, 0.5)
    rates = {name: group["lr"](0.25) / 0.75 for name, group in groups.items()}
    assert rates["heads.0.weight"] == 1
    assert [rates[f"trunk.blocks.{number}.attn.qkv.weight"] for number in range(3)] == [0.125, 0.25, 0.5]
    assert rates["trunk.patch_embed.proj.weight"] == 0.0625
    whole = timm.create_model("vit_tiny_patch16_224", depth=3, num_classes=3)
    names = {id(parameter): name for name, parameter in whole.named_parameters()}
    for group in param_groups_layer_decay(whole, layer_decay=0.5):
        for parameter in group["params"]:
            if (name := names[id(parameter)]).partition(".")[0] != "head":
                assert rates[f"trunk.{name}"] == group["lr_scale"], name
    assert all(group["lr"].update_interval == UpdateInterval.STEP for group in groups.values())


@pytest.mark.parametrize("decay", [0.75, 1.0])
@pytest.mark.parametrize(
    "trunk",
    [
        lambda: timm.create_model("vit_tiny_patch16_224", depth=2, num_classes=0),
        lambda: torchvision.models.VisionTransformer(32, 16, 2, 2, 16, 32),
        lambda: timm.create_model("resnet10t", num_classes=0),
    ],
)
def test_norms_biases_and_positions_are_not_decayed(trunk, decay):
    model = network(trunk())
    parameters = dict(model.named_parameters())
    for name, group in groups_of(model, decay).items():
        free = parameters[name].ndim == 1 or any(part in name for part in ("pos_embed", "cls_token", "class_token"))
        expected = 0.0 if free else 0.1 if name.startswith("heads") else 0.05
        assert group["weight_decay"] == expected, name


@pytest.mark.parametrize("decay", [0, 1.5, True, "x"])
def test_a_layer_decay_that_is_none(decay):
    with pytest.raises(ConfigError, match=r"OPTIMIZER\.layer_decay: found .*; allowed: above 0, to 1"):
        groups_of(network(nn.Linear(4, 4)), decay)


def batch(labels):
    images = torch.arange(len(labels) * 3 * 8 * 8).reshape(-1, 3, 8, 8).float()
    return [
        {"data": [image], "label": [label], "data_valid": [1], "data_idx": [number]}
        for number, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


def test_a_mixed_image_has_the_shares_of_its_clusters():
    torch.manual_seed(0)
    samples = batch([2, 0, 1])
    mixed = mix_collator(samples, num_clusters=4, cutmix_alpha=0.0, mixup_alpha=1.0)
    (images,), (shares,) = mixed["data"], mixed["label"]
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(3))
    assert 0 < shares.max() < 1
    # One cluster per sample, so that the shares are those of the images as well.
    originals = torch.stack([sample["data"][0] for sample in samples])
    of_images = shares[:, [2, 0, 1]]
    torch.testing.assert_close(images, torch.einsum("ij,jchw->ichw", of_images, originals))


def test_a_cut_image_has_as_many_pixels_of_each_as_its_shares_say():
    torch.manual_seed(1)
    samples = batch([0, 1])
    mixed = mix_collator(samples, num_clusters=2, mixup_alpha=0.0, cutmix_alpha=1.0)
    (images,), (shares,) = mixed["data"], mixed["label"]
    kept = (images == torch.stack([sample["data"][0] for sample in samples])).float().mean(dim=(1, 2, 3))
    torch.testing.assert_close(kept, shares.diagonal())
    assert 0 < kept[0] < 1


def test_samples_without_a_label_are_not_mixed():
    torch.manual_seed(0)
    samples = batch([1, -1, 0, -1])
    mixed = mix_collator(samples, num_clusters=2)
    (images,), (shares,) = mixed["data"], mixed["label"]
    for number in (1, 3):
        assert torch.equal(images[number], samples[number]["data"][0])
        assert not shares[number].any()
    assert not torch.equal(images[0], samples[0]["data"][0])


def test_the_loss_of_shares_is_the_mean_of_the_labels_losses():
    torch.manual_seed(0)
    logits, loss = torch.randn(3, 4, dtype=torch.float64), ClusterFitLoss([4])
    shares = torch.tensor([[0.3, 0.7, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1.0]], dtype=torch.float64)

    def of(row, label):
        return F.cross_entropy(logits[row : row + 1], torch.tensor([label]))

    expected = (0.3 * of(0, 0) + 0.7 * of(0, 1) + of(2, 3)) / 2
    torch.testing.assert_close(loss(logits, shares), expected)
    hard = torch.tensor([1, -1, 3])
    soft = (F.one_hot(hard.clamp(min=0), 4) * (hard >= 0)[:, None]).float()
    torch.testing.assert_close(loss(logits.float(), soft), loss(logits.float(), hard))
    weighted = ClusterFitLoss([4], cluster_weighting="inverse", label_smoothing=0.1)
    weighted.set_cluster_sizes(0, torch.tensor([1, 2, 3, 4]))
    torch.testing.assert_close(weighted(logits.float(), soft), weighted(logits.float(), hard))


def test_the_meter_takes_the_largest_share():
    meter = ClusterAccuracyMeter(num_meters=1, topk_values=[1], meter_names=["clusters"])
    logits = torch.tensor([[3.0, 1.0], [3.0, 1.0], [3.0, 1.0]])
    meter.update(logits, torch.tensor([[0.6, 0.4], [0.2, 0.8], [0.0, 0.0]]))
    assert meter.value == {"top_1": {"clusters": 50.0}}


def test_the_average_resumes_where_it_was(tmp_path):
    def task(checkpoint=None):
        torch.manual_seed(0)
        return SimpleNamespace(base_model=nn.Linear(2, 2), checkpoint=checkpoint, train=True)

    def step(task, hook):
        with torch.no_grad():
            task.base_model.weight += 1
        hook.on_update(task)

    whole, first = task(), EmaHook(0.9, tmp_path)
    first.on_start(whole)
    before = whole.base_model.weight.clone()
    for _ in range(5):
        step(whole, first)
    first.on_phase_end(whole)
    found = safetensors.torch.load_file(tmp_path / EMA_NAME)["weight"]
    assert (before < found).all()
    assert (found < whole.base_model.weight).all()

    half, second = task(), EmaHook(0.9, tmp_path)
    second.on_start(half)
    for _ in range(2):
        step(half, second)
    state = {name: tensor.clone() for name, tensor in second.get_classy_state()["ema"].items()}
    saved = {"ema": state, "num_steps": second.get_classy_state()["num_steps"]}
    third = EmaHook(0.9, tmp_path / "again")
    half.checkpoint = {"classy_state_dict": {"hooks": {EmaHook.name(): saved}}}
    third.on_start(half)
    for _ in range(3):
        step(half, third)
    third.on_phase_end(half)
    again = safetensors.torch.load_file(tmp_path / "again" / EMA_NAME)["weight"]
    assert torch.equal(again, found)


def test_a_decay_that_is_none(tmp_path):
    with pytest.raises(ConfigError, match=r"MODEL\.EMA_DECAY: found 1\.5; allowed: above 0, below 1"):
        EmaHook(1.5, tmp_path)
