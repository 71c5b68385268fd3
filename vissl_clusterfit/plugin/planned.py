"""The parts of a run that the planner measures: the teacher with the images that it sees, the student with its own."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn
from vissl.config import AttrDict
from vissl.models import build_model

from vissl_clusterfit.compute.chosen import PLAIN
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.features.batches import Encoder
from vissl_clusterfit.features.computing import measured_compute
from vissl_clusterfit.plugin.data.split_images import SplitImages
from vissl_clusterfit.plugin.models.constructors import network_errors
from vissl_clusterfit.plugin.models.encoder import EncoderBuilder, untrained_teacher

# Numbers that an optimizer keeps for each weight: its momentum, or two moments.
_STATE = {"adam": 2, "adamw": 2}


def extraction_parts(cfg: AttrDict, settings: ClusterFitConfig, device: torch.device) -> tuple[SplitImages, Encoder]:
    """The images of the split that is clustered, and the teacher without its weights, which computes as it would."""
    features = settings.features
    images = SplitImages(cfg, features.data_partition, features.transforms, num_clips=features.num_clips)
    build = EncoderBuilder(untrained_teacher(cfg.MODEL, settings.teacher, features), device)
    is_here = (cfg.MACHINE.DEVICE == "gpu") == (device.type == "cuda")
    return images, build(measured_compute(settings.compute, images, build, device)[0] if is_here else PLAIN)


def width(images: SplitImages, encode: Encoder) -> int:
    """D, of the first image that can be read.

    Raises:
        ConfigError: there is none.
    """
    image = next((image for image, error in map(images.__getitem__, range(len(images))) if not error), None)
    if image is None:
        raise ConfigError(problem("--dim", found="nothing, and no image that can be read", allowed="a number"))
    with torch.inference_mode():
        return encode(image.unsqueeze(0)).shape[1]


def training_images(cfg: AttrDict) -> SplitImages:
    """The images that are trained on, as their transforms give them."""
    setting = "config.DATA.TRAIN.TRANSFORMS"
    return SplitImages(cfg, "TRAIN", cfg.DATA.TRAIN.TRANSFORMS, num_clips=1, setting=setting, may_be_random=True)


def training_parts(cfg: AttrDict, device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer, int]:
    """The student, an optimizer like that of the run, and how many numbers it keeps for each weight."""
    model, settings = copy.deepcopy(cfg.MODEL), copy.deepcopy(cfg.OPTIMIZER)
    network = network_errors(build_model)(model, settings).to(device).train()
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    state = _STATE.get(cfg.OPTIMIZER.name, 1)
    kind: Any = torch.optim.AdamW if state == 2 else torch.optim.SGD
    return network, kind(weights, lr=1e-6, **({} if state == 2 else {"momentum": 0.9})), state


def partial_heads(cfg: AttrDict) -> list[tuple[int, int, float]]:
    """Of each codebook whose rows are spread over the processes: K, D and the share that a step draws."""
    found = []
    for name, parameters in cfg.MODEL.HEAD.PARAMS:
        if name == "clusterfit_partial_head":
            widths = parameters["num_clusters"]
            widths = [widths] if isinstance(widths, int) else widths
            found += [(width, parameters["in_features"], parameters["rate"]) for width in widths]
    return found


def checkpoint_bytes(cfg: AttrDict, network: nn.Module, state_per_weight: int) -> int:
    """Of all checkpoints that a training leaves: every CHECKPOINT_FREQUENCY epochs, and the last."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in network.state_dict().values())
    number = math.ceil(cfg.OPTIMIZER.num_epochs / cfg.CHECKPOINT.CHECKPOINT_FREQUENCY) + 1
    rows = sum(4 * num_clusters * dim for num_clusters, dim, _ in partial_heads(cfg))
    return number * weights * (1 + state_per_weight) + (number - 1) * rows
