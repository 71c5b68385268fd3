"""ClusterFit laid over a config (``config=<x> +config/clusterfit=student``): whether it fits, and what it replaces.

Hydra lays one group over another silently, in the order of the command line. Here the groups are composed with
and without those of ours, and what differs is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf

from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.launch.compose.overrides import compose_file
from vissl_clusterfit.plugin.training.seen_images import image_size, size_warning

_OURS = "config/clusterfit"
#: What makes the run one of ClusterFit. A group that changes it after the overlay takes that back.
_ESSENTIAL = (
    "LOSS.name",
    "MODEL.HEAD.PARAMS",
    "MODEL.MULTI_INPUT_HEAD_MAPPING",
    "DATA.TRAIN.TRANSFORMS",
    "DATA.TRAIN.COLLATE_FUNCTION",
)
#: Why, by the beginning of a setting's name; the first that fits.
_REASONS = {
    "LOSS.": "cross-entropy over the clusters",
    "MODEL.HEAD.": "one linear layer per codebook, as wide as it has clusters",
    "MODEL.MULTI_INPUT_HEAD_MAPPING": "as there is one head",
    "MODEL.WEIGHTS_INIT.": "as the student starts from random weights",
    "MODEL.SYNC_BN_CONFIG.": "as Apex is not needed for it",
    "MODEL.AMP_PARAMS.": "as Apex is not needed for it",
    "MODEL.": "as the whole network is trained",
    "DATA.TRAIN.TRANSFORMS": "one view per image",
    "DATA.TRAIN.COLLATE_FUNCTION": "as there is one view per image",
    "DATA.": "as a sample is an image and its cluster",
    "METERS.": "the accuracy on clusters",
    "OPTIMIZER.": "by the recipe of VISSL's ClusterFit",
}
_ANY_REASON = "as ClusterFit trains it"


def check_and_describe(overrides: Sequence[str], config: Mapping[str, Any]) -> list[str]:
    """Checks that our overlay fits what it is laid over, and says what it replaces there.

    Args:
        overrides: as on the command line.
        config: the mapping below ``config`` that they give.

    Returns:
        One sentence for each setting that the overlay changed, for the log; nothing without an overlay.

    Raises:
        ConfigError: it is laid over a config that evaluates or extracts, on one without trunk or data, or another group
            undoes it.
    """
    groups = [override for override in overrides if _options(override)]
    below, ours = [group for group in groups if not _is_ours(group)], [group for group in groups if _is_ours(group)]
    base = next((group for group in below if group.startswith("config=")), "")
    if not (base and ours):
        return []
    overlay, places = " ".join(ours), [override for override in overrides if override.startswith("hydra.")]
    before = compose_file("defaults", [*below, *places])
    _require_training(base, overlay, before)
    _require_trunk(overrides, below, overlay)
    _require_data(base, overlay, config)
    in_order = [*below, *ours]
    ours_last = _leaves(compose_file("defaults", [*in_order, *places]).config)
    if groups != in_order:
        as_given = _leaves(compose_file("defaults", [*groups, *places]).config)
        _require_nothing_undone(overlay, in_order, ours_last, as_given)
    replaced = list(_replaced(_leaves(before.config), ours_last, _leaves(config)))
    if config["DATA"]["TRAIN"]["TRANSFORMS"] != ours_last["DATA.TRAIN.TRANSFORMS"]:
        return replaced  # the user has chosen a size
    crops = OmegaConf.to_container(before.config.DATA.TRAIN.TRANSFORMS, resolve=False)
    features = config["CLUSTERFIT"]["FEATURES"]["TRANSFORMS"]
    return [*replaced, *size_warning("config.CLUSTERFIT.FEATURES.TRANSFORMS", features, image_size(crops), base)]


def _options(override: str) -> list[str]:
    """The configs that an override chooses, as paths below the configs' folder; none where it sets a value."""
    match = re.fullmatch(r"\+*(config(?:/[^=@]*)?)=(.*)", override)
    if not match:
        return []
    return [f"{match[1]}/{option.strip()}" for option in match[2].strip("[] ").split(",")]


def _is_ours(override: str) -> bool:
    return any(f"{option}/".startswith(f"{_OURS}/") for option in _options(override))


def _require_training(base: str, overlay: str, before: Any) -> None:
    evaluation = before.config.MODEL.FEATURE_EVAL_SETTINGS
    engine, name = before.engine_name, base.removeprefix("config=")
    if name.startswith("benchmark/") or (evaluation.EVAL_MODE_ON and not evaluation.EXTRACT_TRUNK_FEATURES_ONLY):
        raise ConfigError(
            problem(
                "config",
                found=f"{name}, which evaluates a network, with {overlay}, which trains one",
                allowed="the overlay on a config that trains, such as config=pretrain/simclr/simclr_8node_resnet",
                remedy="A benchmark takes the checkpoint of a ClusterFit run without it: set "
                "config.MODEL.WEIGHTS_INIT.PARAMS_FILE.",
            )
        )
    if engine != "train":
        raise ConfigError(
            problem(
                "config",
                found=f"{name}, whose engine is {engine}, with {overlay}, which trains a network",
                allowed="the overlay on a config that trains, such as config=pretrain/simclr/simclr_8node_resnet",
            )
        )


def _require_trunk(overrides: Sequence[str], below: Sequence[str], overlay: str) -> None:
    setting = "config.MODEL.TRUNK.NAME"
    if any(override.lstrip("+").startswith(f"{setting}=") for override in overrides):
        return
    # VISSL's defaults name one, so it has to be looked for in the files themselves.
    places = [override for override in overrides if override.startswith("hydra.")]
    if not any(_names_trunk(option, places) for group in below for option in _options(group)):
        raise ConfigError(
            problem(
                setting,
                found=f"nothing in {' '.join(below)}, under {overlay}",
                allowed="the name of the trunk that is to be trained, in one of these configs or on the command line",
                remedy="Parts of VISSL's configs, as those in models/ and optimization/, are laid over a whole one: "
                "config=pretrain/simclr/simclr_8node_resnet +config/pretrain/simclr/models=resnext50 " + overlay,
            )
        )


def _names_trunk(option: str, places: list[str]) -> bool:
    alone = compose_file(option, places)
    return bool(((alone.get("config", {}).get("MODEL") or {}).get("TRUNK") or {}).get("NAME"))


def _require_data(base: str, overlay: str, config: Mapping[str, Any]) -> None:
    if not config["DATA"]["TRAIN"]["DATA_SOURCES"]:
        raise ConfigError(
            problem(
                "config.DATA.TRAIN.DATA_SOURCES",
                found=f"[] in {base.removeprefix('config=')}, under {overlay}",
                allowed="the data sources of the images that are to be clustered and trained on, such as [disk_folder]",
            )
        )


def _require_nothing_undone(
    overlay: str, in_order: Sequence[str], ours_last: Mapping[str, Any], as_given: Mapping[str, Any]
) -> None:
    for name in _ESSENTIAL:
        if as_given[name] != ours_last[name]:
            raise ConfigError(
                problem(
                    f"config.{name}",
                    found=f"{_brief(name, as_given[name])}, which a group after {overlay} brings",
                    allowed=f"{_brief(name, ours_last[name])}, by the overlay",
                    remedy=f"Name the overlay last: {' '.join(in_order)}",
                )
            )


def _replaced(before: Mapping[str, Any], ours: Mapping[str, Any], final: Mapping[str, Any]) -> Iterator[str]:
    for name, value in ours.items():
        was, becomes = before.get(name), final.get(name)
        # Where a setting was given on the command line, too, that is what it becomes.
        if was in (None, "", [], {}, value, becomes) or name.startswith("CLUSTERFIT."):
            continue
        reason = next((why for start, why in _REASONS.items() if name.startswith(start)), _ANY_REASON)
        yield f"config.{name}: {_brief(name, was)} becomes {_brief(name, becomes)}, {reason}."


def _leaves(block: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by their full name; a schedule is one setting."""
    if OmegaConf.is_config(block):
        block = OmegaConf.to_container(block)
    found: dict[str, Any] = {}
    for key, value in block.items():
        is_block = isinstance(value, dict) and value and not prefix.endswith("param_schedulers.")
        found.update(_leaves(value, f"{prefix}{key}.") if is_block else {f"{prefix}{key}": value})
    return found


def _brief(name: str, value: Any) -> str:
    """A value, or the names of what it is made of."""
    if name == "MODEL.HEAD.PARAMS":
        return " + ".join(re.findall(r"'(\w+)', \{", str(value))) or "no head"
    if name.endswith(".TRANSFORMS"):
        sizes = [f" {transform['size']}" if "size" in transform else "" for transform in value]
        names = [transform["name"] + size for transform, size in zip(value, sizes, strict=True)]
        return " + ".join(names) or "no transforms"
    if ".param_schedulers." in name and value:
        parts = [part["name"] for part in value.get("schedulers", [])] if value["name"] == "composite" else []
        return " + ".join(parts) or value["name"]
    return repr(value)
