"""Ten teachers as their libraries make and save them, with random weights, and the features that the libraries give."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.torch
import timm
import torch
import torchvision
import transformers
from PIL import Image
from torch import nn


@dataclass(frozen=True)
class Saved:
    """A teacher on disk: its name, its weights, and its library's own way from pictures to features."""

    name: str
    weights: str
    features: Callable[[list[Image.Image]], torch.Tensor]


def pictures(count: int = 3) -> list[Image.Image]:
    """Pictures of several sizes, with edges and gradients: every other resizing or crop shows."""
    random = np.random.default_rng(0)
    found = []
    for number in range(count):
        height, width = 150 + 30 * number, 210 - 20 * number
        ramp = np.add.outer(np.arange(height) * (1 + number), np.arange(width) * 2)[..., None] * [1, 2, 3]
        blocks = random.integers(0, 256, (height // 10 + 1, width // 10 + 1, 3)).repeat(10, 0).repeat(10, 1)
        found.append(Image.fromarray(((ramp + blocks[:height, :width]) % 256).astype(np.uint8)))
    return found


def random_network(build: Callable[[], nn.Module], size: int = 224) -> nn.Module:
    """With norms and biases that are drawn, and statistics of a batch: each of its tensors has an effect."""
    torch.manual_seed(3)
    network = build().train()
    with torch.no_grad():
        for tensor in network.parameters():
            if tensor.ndim <= 1:
                tensor.add_(0.1 * torch.randn_like(tensor))
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 1.0
        if any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules()):
            network(torch.randn(8, 3, size // 2, size // 2))
    return network.eval()


@torch.no_grad()
def in_one_batch(network: nn.Module, transform: Callable, images: list[Image.Image]) -> torch.Tensor:
    return network(torch.stack([transform(image) for image in images]))


def of_torchvision(name: str, folder: Path, *, wrapped: Callable[[dict], dict] = dict) -> Saved:
    network = random_network(lambda: torchvision.models.get_model(name))
    torch.save(wrapped(network.state_dict()), folder / "weights.pth")
    last = {"resnet18": "fc", "vit_b_16": "heads.head", "mobilenet_v3_small": "classifier.3"}[name]
    network.set_submodule(last, nn.Identity())
    transform = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    return Saved(
        f"torchvision:{name}", str(folder / "weights.pth"), lambda images: in_one_batch(network, transform, images)
    )


def of_timm(name: str, folder: Path) -> Saved:
    network = random_network(lambda: timm.create_model(name))
    safetensors.torch.save_file(network.state_dict(), folder / "weights.safetensors")
    network.reset_classifier(0)
    transform = timm.data.create_transform(**timm.data.resolve_data_config(model=network))
    return Saved(
        f"timm:{name}", str(folder / "weights.safetensors"), lambda images: in_one_batch(network, transform, images)
    )


_OF_TOKENS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_OF_PATCHES = {"image_size": 32, "patch_size": 8}
_SQUARE = {"height": 32, "width": 32}
_CROPPED = {"size": {"shortest_edge": 40}, "crop_size": _SQUARE}
OF_TRANSFORMERS = {
    "vit": ("ViT", {**_OF_TOKENS, **_OF_PATCHES}, "ViTImageProcessor", {"size": _SQUARE}),
    "dinov2": ("Dinov2", {**_OF_TOKENS, **_OF_PATCHES}, "BitImageProcessor", _CROPPED),
    "dinov3": (
        "DINOv3ViT",
        {**_OF_TOKENS, **_OF_PATCHES, "num_register_tokens": 4},
        "DINOv3ViTImageProcessor",
        {"size": _SQUARE},
    ),
    "clip": ("CLIPVision", {**_OF_TOKENS, **_OF_PATCHES}, "CLIPImageProcessor", _CROPPED),
    "siglip": ("SiglipVision", {**_OF_TOKENS, **_OF_PATCHES}, "SiglipImageProcessor", {"size": _SQUARE}),
    "resnet": (
        "ResNet",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
        "ConvNextImageProcessor",
        {"size": {"shortest_edge": 32}, "crop_pct": 0.875},
    ),
}


def of_transformers(kind: str, folder: Path) -> Saved:
    model, config, processor, sizes = OF_TRANSFORMERS[kind]
    settings = getattr(transformers, f"{model}Config")(**config)
    random_network(lambda: getattr(transformers, f"{model}Model")(settings), 64).save_pretrained(folder)
    getattr(transformers, processor)(**sizes).save_pretrained(folder)
    network = getattr(transformers, f"{model}Model").from_pretrained(folder).eval()
    process = transformers.AutoImageProcessor.from_pretrained(folder)

    @torch.no_grad()
    def features(images: list[Image.Image]) -> torch.Tensor:
        output = network(**process(images=images, return_tensors="pt"))
        # The pooler of a ViT is a layer for classification, of BERT's kind; its features are the class token.
        return output.last_hidden_state[:, 0] if kind == "vit" else output.pooler_output.flatten(1)

    return Saved(f"transformers:{folder}", "library", features)
