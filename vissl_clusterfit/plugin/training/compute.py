"""How the network of a training computes: chosen once, recorded beside the checkpoints, applied under VISSL's trainer.

VISSL's own mixed precision knows CUDA and float16. That is what float16 uses here. For bfloat16, which needs no scaling
of gradients, the network's forward pass is under PyTorch's autocast on any device, and its outputs are float32 again:
losses, meters and checks are what they are without.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import torch
from classy_vision.tasks.classification_task import AmpType
from torch import nn
from vissl.config import AttrDict

from vissl_clusterfit import distributed
from vissl_clusterfit.compute.choose import FEW_IMAGES, MOST_IMAGES, Work, choose, of_as_many_as_fit
from vissl_clusterfit.compute.chosen import PLAIN, SETTING, Compute
from vissl_clusterfit.config.clusterfit import part_for_any_training
from vissl_clusterfit.config.compute import AUTO, ComputeSettings
from vissl_clusterfit.config.schema import read_settings
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.plugin.data.batches import changed
from vissl_clusterfit.plugin.training.record import record_compute, recorded_compute
from vissl_clusterfit.plugin.training.seen_images import image_size

logger = logging.getLogger(__name__)


def compute_settings(config: AttrDict) -> ComputeSettings | None:
    """``config.CLUSTERFIT.COMPUTE``; None where a config of VISSL's has no such block: it trains as VISSL does.

    Raises:
        ConfigError: a value is out of range, or VISSL's own mixed precision is asked for besides.
    """
    block = part_for_any_training(config, "COMPUTE")
    if block is None:
        return None
    settings = read_settings(ComputeSettings, block, SETTING)
    if config.MODEL.AMP_PARAMS.USE_AMP:
        if settings.precision != AUTO:
            raise ConfigError(
                problem(
                    f"{SETTING}.PRECISION",
                    found=f"{settings.precision} with config.MODEL.AMP_PARAMS.USE_AMP=true",
                    allowed="one of the two",
                    remedy="Set config.MODEL.AMP_PARAMS.USE_AMP=false, or leave PRECISION at auto.",
                )
            )
        return None
    if settings.precision == "float16" and config.MACHINE.DEVICE == "cpu" and not config.TEST_ONLY:
        raise ConfigError(
            problem(
                f"{SETTING}.PRECISION",
                found="float16 for a training on the CPU",
                allowed="auto, float32 or bfloat16; float16 on a GPU",
            )
        )
    return settings


def with_compute(build_model: Callable[[Any], nn.Module]) -> Callable[[Any], nn.Module]:
    """Wraps ``_build_model`` of VISSL's task: the network that it gives computes as it was chosen."""

    @functools.wraps(build_model)
    def build(task: Any) -> nn.Module:
        model = build_model(task)
        settings = compute_settings(task.config)
        compute = PLAIN if settings is None else distributed.on_primary(lambda: _chosen(task, model, settings))
        if compute != PLAIN:
            _apply(compute, task, model)
        return model

    return build


def _chosen(task: Any, model: nn.Module, settings: ComputeSettings) -> Compute:
    """What the record says, which a training keeps to its end; else what the settings do, recorded."""
    folder = task.checkpoint_folder
    compute = recorded_compute(folder)
    if compute is None and task.checkpoint_path is not None:
        compute = PLAIN  # a training of before there was a choice
    if compute is not None:
        logger.info("The network computes in %s, as this training began.", compute)
        return compute
    if task.config.TEST_ONLY and settings.precision == AUTO:
        return PLAIN
    shape = _image_shape(task.config)
    if shape is None:  # nothing to measure with
        settings = ComputeSettings(
            "float32" if settings.precision == AUTO else settings.precision, settings.channels_last, settings.compile
        )
    on_card = task.device.type == "cuda"
    passes = 4  # one in evaluation, one forward, and a backward one, which is as long as two

    def measure(number: int) -> Compute:
        return choose(
            settings,
            task.device,
            lambda way: _steps(way, task.device, model, (number, *(shape or ()))),
            passes * number,
        )

    most = min(MOST_IMAGES if on_card else FEW_IMAGES, task.config.DATA.TRAIN.BATCHSIZE_PER_REPLICA)
    with torch.random.fork_rng([task.device] if on_card else []):
        compute = of_as_many_as_fit(measure, most)
    record_compute(folder, compute)
    return compute


def _image_shape(config: AttrDict) -> tuple[int, ...] | None:
    """Of an image or clip of the training; None where it has several, or of no known size."""
    data = config.DATA.TRAIN
    size = image_size(data.TRANSFORMS)
    if size is None or config.MODEL.MULTI_INPUT_HEAD_MAPPING or data.INPUT_KEY_NAMES != ["data"]:
        return None
    if any(transform.get("num_crops") for transform in data.TRANSFORMS):
        return None
    frames = (data.CLIPS.NUM_FRAMES,) if "CLIPS" in data else ()
    return 3, *frames, size, size


def _steps(compute: Compute, device: torch.device, model: nn.Module, shape: tuple[int, ...]) -> Work:
    """The forward and backward pass of a batch through a copy of the network.

    Its rows are the outputs in evaluation, before the first pass: with the statistics of so small a batch, those of an
    untrained network are another tenth apart for a difference in the last bit.
    """
    network = copy.deepcopy(model).to(device)
    compute.arrange(network)
    batch = compute.arranged(torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device))

    def forward() -> torch.Tensor:
        with compute.autocast(device):
            outputs = network(batch)
        return torch.cat([output.float().flatten(1) for output in _tensors(outputs)], dim=1)

    rows: list[torch.Tensor] = []

    def step() -> torch.Tensor:
        if not rows:
            with torch.no_grad():
                rows.append(forward())
            network.train()
        network.zero_grad()
        output = forward()
        if output.requires_grad:
            output.square().mean().backward()
        return rows[0]

    network.eval()
    return step


def _tensors(outputs: Any) -> Iterator[torch.Tensor]:
    """Those in lists of lists, as heads give them."""
    if isinstance(outputs, torch.Tensor):
        yield outputs
    else:
        for output in outputs:
            yield from _tensors(output)


def _apply(compute: Compute, task: Any, model: nn.Module) -> None:
    compute.arrange(model)
    if compute.compiled:
        model.trunk.compile()
    context = functools.partial(compute.autocast, task.device)
    if compute.precision == "float16" and not task.config.TEST_ONLY:
        # VISSL's autocast and scaling of gradients.
        task.amp_type = AmpType.PYTORCH
        task._init_pytorch_grad_scaler()
        context = functools.partial(PLAIN.autocast, task.device)
    model.forward = MethodType(_computing(type(model).forward, compute, context), model)


def _computing(forward: Callable[..., Any], compute: Compute, context: Callable[[], Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def forward_as_chosen(model: nn.Module, batch: Any) -> Any:
        with context():
            outputs = forward(model, _floats(compute.arranged, batch))
        return _floats(torch.Tensor.float, outputs)

    return forward_as_chosen


def _floats(change: Callable[[torch.Tensor], torch.Tensor], value: Any) -> Any:
    """Tensors of floats, in lists and dictionaries, changed."""
    return changed(value, torch.Tensor, lambda tensor: change(tensor) if tensor.is_floating_point() else tensor)


def with_scale(get_state: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Wraps ``get_classy_state`` of VISSL's task, which forgets by how much gradients are scaled, and restores it."""

    @functools.wraps(get_state)
    def get(task: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        state = get_state(task, *args, **kwargs)
        if task.amp_grad_scaler is not None:
            state.setdefault("amp", task.amp_grad_scaler.state_dict())
        return state

    return get
