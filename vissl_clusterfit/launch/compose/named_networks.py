"""Names of networks of other libraries in a config, which become trunks of VISSL's. No library is imported."""

from __future__ import annotations

from typing import Any

from vissl_clusterfit.config.network_names import TRUNK_BLOCK, TRUNK_NAME, is_network_name, split_network_name

_TEACHER = "config.CLUSTERFIT.TEACHER"


def name_networks(composed: dict[str, Any]) -> None:
    """Writes a name such as ``timm:resnet18`` as the trunk ``library_network``, of the student and of the teacher.

    Args:
        composed: the whole composed config, changed in place.

    Raises:
        ConfigError: a name begins with no library.
    """
    config = composed["config"]
    if not isinstance(config["MODEL"], dict) or not isinstance(config["MODEL"].get("TRUNK"), dict):
        return  # which is said of every block
    _name_trunk(config["MODEL"]["TRUNK"], "config.MODEL.TRUNK.NAME")
    teacher = config["CLUSTERFIT"].get("TEACHER") if isinstance(config["CLUSTERFIT"], dict) else None
    if not isinstance(teacher, dict):
        return
    if is_network_name(teacher.get("MODEL")):
        teacher["MODEL"] = {"TRUNK": {"NAME": teacher["MODEL"]}}
    model = teacher.get("MODEL")
    if isinstance(model, dict) and isinstance(model.get("TRUNK"), dict):
        _name_trunk(model["TRUNK"], f"{_TEACHER}.MODEL")


def _name_trunk(trunk: dict[str, Any], setting: str) -> None:
    name = trunk.get("NAME")
    if is_network_name(name):
        split_network_name(name, setting)
        trunk["NAME"] = TRUNK_NAME
        trunk[TRUNK_BLOCK] = {"ARGUMENTS": {}, **(trunk.get(TRUNK_BLOCK) or {}), "MODEL": name}
    elif name != TRUNK_NAME:  # a recipe may have it for whatever network is named
        trunk.pop(TRUNK_BLOCK, None)
