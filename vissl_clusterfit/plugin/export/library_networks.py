"""``library_network``, whose trunk another library built: under that library's own names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from vissl.config import AttrDict

from vissl_clusterfit.config.network_names import TRUNK_BLOCK, split_network_name
from vissl_clusterfit.plugin.export.counterparts import Call, Counterpart, State


def library_network(model: Mapping[str, Any], trunk: nn.Module, size: int) -> Counterpart | str:
    """The library's call that builds the trunk; as text, why there is none."""
    block = AttrDict(dict(model["TRUNK"][TRUNK_BLOCK])).to_dict()
    library, name = split_network_name(block["MODEL"])
    arguments = dict(block.get("ARGUMENTS") or {})
    if library == "torchvision":
        if name in ("googlenet", "inception_v3"):
            arguments = {"aux_logits": False, "init_weights": False, **arguments}
        if not (head := trunk.described.classifier):
            return f"torchvision's {name} has no linear layer as a head"
        return Counterpart(library, Call(f"torchvision.models.{name}", arguments), _names, linear=head)
    if library == "timm":
        call = Call("timm.create_model", {"model_name": name.partition(".")[0], **arguments})
        return Counterpart(library, call, _names, linear=trunk.described.classifier, headless="num_classes")
    if library == "transformers":
        return _transformers(trunk.network, block["CONFIG"])
    return f"{block['MODEL']} is code of one's own"


def _transformers(network: nn.Module, config: Mapping[str, Any]) -> Counterpart:
    kind = {key: value for key, value in config.items() if key != "model_type"}
    arguments: dict[str, Any] = {"config": Call(f"transformers.{type(network.config).__name__}", kind)}
    dense = hasattr(network, "pooler") and network.pooler is None
    if dense:
        arguments["add_pooling_layer"] = False
    call = Call(f"transformers.{type(network).__name__}", arguments)
    return Counterpart(
        "transformers", call, _names, linear="", output="last_hidden_state[:, 0]" if dense else "pooler_output"
    )


def _names(state: State) -> State:
    return {name.removeprefix("network."): tensor for name, tensor in state.items()}
