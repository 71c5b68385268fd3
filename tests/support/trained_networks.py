"""Folders of finished trainings of VISSL's networks, with weights as training leaves them, in a second each."""

import json
from pathlib import Path
from typing import Any

import torch
from vissl.config import AttrDict

from vissl_clusterfit.plugin.export.trained import _whole_model
from vissl_clusterfit.plugin.models.encoder import EncoderSpec, load_network

_VIT = {"IMAGE_SIZE": 64, "PATCH_SIZE": 16, "HIDDEN_DIM": 64, "MLP_DIM": 256, "NUM_HEADS": 4, "NUM_LAYERS": 3}
_XCIT = {"IMAGE_SIZE": 64, "PATCH_SIZE": 16, "HIDDEN_DIM": 64, "NUM_HEADS": 4, "NUM_LAYERS": 2}

#: By a name: the TRUNK block, the size of the images, INPUT_TYPE, and the library that has this network.
TRUNKS: dict[str, tuple[dict[str, Any], int, str, str]] = {
    "narrow": ({"NAME": "resnet", "RESNETS": {"WIDTH_PER_GROUP": 4}}, 32, "rgb", "torchvision"),
    "bgr": ({"NAME": "resnet", "RESNETS": {"WIDTH_PER_GROUP": 4}}, 32, "bgr", "torchvision"),
    "resnext": ({"NAME": "resnet", "RESNETS": {"GROUPS": 4, "WIDTH_PER_GROUP": 2}}, 32, "rgb", "torchvision"),
    "wide": ({"NAME": "resnet", "RESNETS": {"WIDTH_MULTIPLIER": 2}}, 32, "bgr", "transformers"),
    "deep": ({"NAME": "resnet", "RESNETS": {"DEPTH": 200, "WIDTH_PER_GROUP": 4}}, 32, "rgb", "torchvision"),
    "last-stride-1": (
        {"NAME": "resnet", "RESNETS": {"LAYER4_STRIDE": 1, "WIDTH_PER_GROUP": 4}},
        32,
        "rgb",
        "vissl",
    ),
    "regnet_y": ({"NAME": "regnet", "REGNET": {"name": "regnet_y_400mf"}}, 32, "bgr", "torchvision"),
    "regnet_x": ({"NAME": "regnet", "REGNET": {"name": "regnet_x_400mf"}}, 32, "rgb", "torchvision"),
    "regnet": (
        {"NAME": "regnet", "REGNET": {"depth": 6, "w_0": 24, "w_a": 24.48, "w_m": 2.54, "group_width": 8}},
        64,
        "rgb",
        "torchvision",
    ),
    "clips": ({"NAME": "r3d_18"}, 32, "bgr", "torchvision"),
    "narrow-clips": ({"NAME": "r2plus1d_18", "VIDEO": {"WIDTH": 8}}, 32, "rgb", "vissl"),
    "vit": ({"NAME": "vision_transformer", "VISION_TRANSFORMERS": {**_VIT, "QKV_BIAS": True}}, 64, "rgb", "timm"),
    "vit-of-other-size": ({"NAME": "vision_transformer", "VISION_TRANSFORMERS": _VIT}, 96, "rgb", "timm"),
    "convit": ({"NAME": "convit", "VISION_TRANSFORMERS": _VIT, "CONVIT": {"N_GPSA_LAYERS": 2}}, 64, "rgb", "timm"),
    "xcit": ({"NAME": "xcit", "XCIT": _XCIT}, 64, "rgb", "timm"),
    "xcit-8": ({"NAME": "xcit", "XCIT": {**_XCIT, "PATCH_SIZE": 8, "TOKENS_NORM": False}}, 64, "rgb", "timm"),
}


def save_trained(
    folder: Path, kind: str, head: list | None = None, name: str = "model_final_checkpoint_phase0"
) -> Path:
    """A checkpoint and its record; ``expected.pt`` beside has images and what trunk and head give for them."""
    trunk, size, input_type, _ = TRUNKS[kind]
    model = AttrDict(dict(_whole_model({}))).to_dict()
    for key, value in trunk.items():
        model["TRUNK"][key] = {**model["TRUNK"].get(key, {}), **value} if isinstance(value, dict) else value
    model["INPUT_TYPE"] = input_type
    model["HEAD"]["PARAMS"] = head or []
    weights = {"weights": None, "state_dict_key": "", "trust_weights": False, "pooling": "avg", "seed": 1}
    network = load_network(EncoderSpec(model=model, layer="heads" if head else "", **weights), torch.device("cpu"))
    generator = torch.Generator().manual_seed(3)
    for key, tensor in network.state_dict().items():
        if key.endswith("running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.ndim == 1:
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    folder.mkdir(parents=True, exist_ok=True)
    state = {"trunk": network.trunk.state_dict(), "heads": network.heads.state_dict()}
    torch.save({"classy_state_dict": {"base_model": {"model": state}}}, folder / f"{name}.torch")
    transforms = [{"name": "RandomResizedCrop", "size": size}, {"name": "ToTensor"}]
    inputs = {"MODEL": model, "DATA": {"TRAIN": {"TRANSFORMS": transforms, "fingerprint": "f", "num_samples": 3}}}
    (folder / "training.json").write_text(json.dumps({"format": 1, "engine": "train", "weights": "", "inputs": inputs}))
    shape = (3, 4, size, size) if hasattr(network.trunk, "clip_shape") else (3, size, size)
    images = torch.rand(3, *shape, generator=generator) * 4 - 2
    with torch.inference_mode():
        features = network.trunk(images, [])[-1].flatten(1)
        logits = network(images)[-1] if head else features
    torch.save({"images": images, "features": features, "logits": logits}, folder / "expected.pt")
    return folder
