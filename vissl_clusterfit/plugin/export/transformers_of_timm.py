"""VISSL's ViT and DeiT, ConViT and XCiT under the names of timm."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from vissl_clusterfit.plugin.export.counterparts import Call, Counterpart, State


def vision_transformer(model: Mapping[str, Any], trunk: nn.Module, size: int) -> Counterpart | str:
    """VISSL's trunk ``vision_transformer`` in timm, for images of ``size``; as text, why that has none."""
    settings = model["TRUNK"]["VISION_TRANSFORMERS"]
    if why := _scaled(settings, "VISION_TRANSFORMERS"):
        return why
    sizes = _sizes(settings, size)
    return _timm("vit_base_patch16_224", sizes, functools.partial(_vit_names, trunk=trunk, sizes=sizes))


def convit(model: Mapping[str, Any], trunk: nn.Module, size: int) -> Counterpart | str:
    """VISSL's trunk ``convit`` in timm, which has three positional weights per head, VISSL 3 · LOCALITY_DIM."""
    settings = {**model["TRUNK"]["CONVIT"], **model["TRUNK"]["VISION_TRANSFORMERS"]}
    if why := _scaled(settings, "VISION_TRANSFORMERS"):
        return why
    if settings["CLASS_TOKEN_IN_LOCAL_LAYERS"]:
        return "CONVIT.CLASS_TOKEN_IN_LOCAL_LAYERS, and timm's class token enters after the local layers"
    if settings["CLASSIFIER"] != "token":
        return f"VISION_TRANSFORMERS.CLASSIFIER={settings['CLASSIFIER']}, and timm's mean leaves out the class token"
    if settings["N_GPSA_LAYERS"] >= settings["NUM_LAYERS"]:
        return "CONVIT.N_GPSA_LAYERS as many as there are layers, so that no class token enters"
    if settings["HIDDEN_DIM"] % settings["NUM_HEADS"]:
        return "a HIDDEN_DIM that NUM_HEADS do not divide"
    if size != settings["IMAGE_SIZE"]:
        return f"images of {size} pixels, and positions for {settings['IMAGE_SIZE']}"
    sizes = _sizes(settings, size)
    sizes["embed_dim"] = settings["HIDDEN_DIM"] // settings["NUM_HEADS"]
    sizes["mlp_ratio"] = (settings["MLP_DIM"] or 4 * settings["HIDDEN_DIM"]) / settings["HIDDEN_DIM"]
    sizes["local_up_to_layer"] = settings["N_GPSA_LAYERS"]
    sizes["norm_layer"] = Call("torch.nn.LayerNorm", None)  # timm's own has another epsilon
    return _timm("convit_base", sizes, functools.partial(_convit_names, locality=settings["LOCALITY_DIM"]))


def xcit(model: Mapping[str, Any], trunk: nn.Module, size: int) -> Counterpart | str:
    """VISSL's trunk ``xcit`` in timm; as text, why that has none."""
    settings = model["TRUNK"]["XCIT"]
    if why := _scaled(settings, "XCIT"):
        return why
    sizes = {**_sizes(settings, size), "eta": float(settings["ETA"]), "tokens_norm": bool(settings["TOKENS_NORM"])}
    return _timm("xcit_small_12_p16_224", sizes, _xcit_names)


def _scaled(settings: Mapping[str, Any], block: str) -> str:
    if scale := settings["QK_SCALE"]:
        return f"{block}.QK_SCALE={scale}, which timm has no setting for"
    return ""


def _sizes(settings: Mapping[str, Any], size: int) -> dict[str, Any]:
    return {
        "img_size": size,
        "patch_size": int(settings["PATCH_SIZE"]),
        "embed_dim": int(settings["HIDDEN_DIM"]),
        "depth": int(settings["NUM_LAYERS"]),
        "num_heads": int(settings["NUM_HEADS"]),
        "qkv_bias": bool(settings["QKV_BIAS"]),
    }


def _timm(name: str, sizes: Mapping[str, Any], rename: Callable[[State], State]) -> Counterpart:
    call = Call("timm.create_model", {"model_name": name, **sizes})
    return Counterpart("timm", call, rename, linear="head", headless="num_classes")


def _vit_names(state: State, *, trunk: Any, sizes: Mapping[str, Any]) -> State:
    """VISSL's own names; positions as VISSL interpolates them for images of another size."""
    tokens = (sizes["img_size"] // sizes["patch_size"]) ** 2 + 1
    like = torch.empty(1, tokens, sizes["embed_dim"])
    return {**state, "pos_embed": trunk.interpolate_pos_encoding(like, state["pos_embed"]).contiguous()}


def _convit_names(state: State, *, locality: int) -> State:
    renamed: State = {}
    for name, tensor in state.items():
        name = re.sub(r"^class_token$", "cls_token", name)
        name = re.sub(r"^pos_embedding$", "pos_embed", name)
        name = re.sub(r"\.mlp\.linear_(\d)\.", r".mlp.fc\1.", name)
        if name.endswith(".attn.alpha"):
            name, tensor = name.replace(".alpha", ".gating_param"), tensor.flatten()
        elif name.endswith(".attn.pos_proj.weight"):
            # The same three numbers, across, down and squared distance, LOCALITY_DIM times each.
            tensor = torch.stack([part.sum(dim=1) for part in tensor.double().split(locality, dim=1)], dim=1)
            tensor = (tensor / locality).float()
        elif name.endswith(".attn.pos_proj.bias"):
            tensor = tensor / locality
        renamed[name] = tensor
    return renamed


def _xcit_names(state: State) -> State:
    renamed: State = {}
    for name, tensor in state.items():
        name = re.sub(r"^pos_embeder\.", "pos_embed.", name)
        of_class = re.fullmatch(r"(cls_attn_blocks\.\d+\.attn\.)qkv\.(\w+)", name)
        if of_class:
            for each, part in zip("qkv", tensor.chunk(3), strict=True):
                renamed[f"{of_class[1]}{each}.{of_class[2]}"] = part.contiguous()
        else:
            renamed[name] = tensor
    return renamed
