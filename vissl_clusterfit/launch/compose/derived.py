"""What a composed config needs before VISSL takes it: every change is made here, before any process starts, and logged.

A config says what it wants in VISSL's own words (a data source, a loss, a device). What follows from that alone is
filled in: the pairing of the data source with the pseudo-labels, the width of the head, the backend that a CPU can use.
"""

from __future__ import annotations

import copy
import os
from typing import Any

from vissl.config import AttrDict
from vissl.utils.misc import is_apex_available

from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.plugin.data.source_names import labelled_source_name, paired_paths, unused_label_paths
from vissl_clusterfit.plugin.models.head import trunk_width
from vissl_clusterfit.plugin.training.distillation import LOSS as DISTILLATION
from vissl_clusterfit.plugin.training.meter import METER
from vissl_clusterfit.plugin.training.mixing import COLLATOR
from vissl_clusterfit.storage.paths import artifact_path

#: VISSL's label source that asks the data source itself, whatever that is.
_ASK_THE_DATA_SOURCE = "torchvision_dataset"
_ONE_BATCH = "simclr_collator"
_VISSLS_METER = "accuracy_list_meter"
_LAB = "ImgPil2LabTensor"


def fill_derived(config: dict[str, Any]) -> list[str]:
    """Fills in what follows from the rest of ``config``, in place.

    Args:
        config: the plain mapping below ``config``, interpolations resolved.

    Returns:
        What was changed, one sentence each, for the log.

    Raises:
        ConfigError: something under ``config.CLUSTERFIT`` is unknown or wrong, the trunk's width cannot be found, or
            its images are of another kind than the transforms give.
    """
    settings = ClusterFitConfig.from_config(config)
    changes: list[str] = []
    _make_checkpoint_folder_absolute(config["CHECKPOINT"])
    if config["MACHINE"]["DEVICE"] == "cpu":
        _fit_to_cpu(config, changes)
    _do_without_apex(config, changes)
    if config["LOSS"]["name"] == "clusterfit_loss":
        _drop_what_has_no_part(config, changes)
        _pair_with_labels(config, settings, changes)
        _require_whole_split(config["DATA"]["TRAIN"]["DATA_LIMIT"], settings)
        settings = _keep_nearest(config, settings, changes)
        widths = _add_heads(config, settings, changes)
        if settings.head.kind == "partial":
            _spread_head(config, settings, widths, changes)
        _count_labelled_samples_only(config["METERS"], min(widths), changes)
        _require_lab_images(config)
    if config["LOSS"]["name"] == DISTILLATION:
        _pair_with_predictions(config, changes)
    _fit_heads_to_trunk(config["MODEL"], config["SEED_VALUE"], changes)
    schedules = config["OPTIMIZER"]["param_schedulers"]
    for name in [name for name, schedule in schedules.items() if schedule is None]:
        del schedules[name]  # Hydra merges mappings: an overlay can empty a key, and not take it away
    for split in ("TRAIN", "TEST"):
        _fill_label_paths(config["DATA"][split])
    return changes


def _set(block: dict[str, Any], key: str, value: Any, setting: str, reason: str, changes: list[str]) -> None:
    if block.get(key) != value:
        changes.append(f"{setting}: {block.get(key)!r} becomes {value!r}, {reason}.")
        block[key] = value


def _make_checkpoint_folder_absolute(checkpoint: dict[str, Any]) -> None:
    # VISSL links checkpoint.torch to "<DIR>/<latest>", which leads nowhere when DIR is relative.
    if "://" not in checkpoint["DIR"]:
        checkpoint["DIR"] = os.path.abspath(checkpoint["DIR"])


def _fit_to_cpu(config: dict[str, Any], changes: list[str]) -> None:
    if config["DISTRIBUTED"]["BACKEND"] == "nccl":
        _set(
            config["DISTRIBUTED"],
            "BACKEND",
            "gloo",
            "config.DISTRIBUTED.BACKEND",
            "as NCCL needs GPUs",
            changes,
        )
    amp = config["MODEL"]["AMP_PARAMS"]
    _set(
        amp,
        "USE_AMP",
        False,
        "config.MODEL.AMP_PARAMS.USE_AMP",
        "as VISSL's mixed precision needs GPUs",
        changes,
    )
    name, sharded = "config.MODEL.SHARDED_DDP_SETUP.USE_SDP", config["MODEL"]["SHARDED_DDP_SETUP"]
    _set(sharded, "USE_SDP", False, name, "as sharded training needs GPUs", changes)
    name, reason = "CONVERT_BN_TO_SYNC_BN", "as synchronised batch normalisation needs GPUs"
    sync = config["MODEL"]["SYNC_BN_CONFIG"]
    _set(sync, name, False, f"config.MODEL.SYNC_BN_CONFIG.{name}", reason, changes)


def _do_without_apex(config: dict[str, Any], changes: list[str]) -> None:
    """Many of VISSL's pre-trainings ask for Apex; PyTorch and VISSL have the same."""
    if is_apex_available():
        return
    amp, sync = config["MODEL"]["AMP_PARAMS"], config["MODEL"]["SYNC_BN_CONFIG"]
    if amp["USE_AMP"]:
        reason = "PyTorch's mixed precision, as Apex is not installed"
        _set(amp, "AMP_TYPE", "pytorch", "config.MODEL.AMP_PARAMS.AMP_TYPE", reason, changes)
    if sync["CONVERT_BN_TO_SYNC_BN"]:
        reason = "PyTorch's synchronised batch normalisation, as Apex is not installed"
        _set(sync, "SYNC_BN_TYPE", "pytorch", "config.MODEL.SYNC_BN_CONFIG.SYNC_BN_TYPE", reason, changes)
    if config["OPTIMIZER"]["name"] == "sgd" and config["OPTIMIZER"].get("use_larc"):
        changes.append("config.OPTIMIZER.use_larc: by VISSL's own LARC, as Apex is not installed.")


def _drop_what_has_no_part(config: dict[str, Any], changes: list[str]) -> None:
    """What has an effect only with the losses and heads of VISSL."""
    train, model = config["DATA"]["TRAIN"], config["MODEL"]
    if train["COLLATE_FUNCTION"] == "default_collate":
        name, reason = "config.DATA.TRAIN.COLLATE_FUNCTION_PARAMS", "as default_collate takes none"
        _set(train, "COLLATE_FUNCTION_PARAMS", {}, name, reason, changes)
    sharded = "as VISSL shards only heads that it knows"
    _set(model["FSDP_CONFIG"], "AUTO_SETUP_FSDP", False, "config.MODEL.FSDP_CONFIG.AUTO_SETUP_FSDP", sharded, changes)
    if model["TRUNK"]["NAME"] == "regnet_fsdp":
        _set(model["TRUNK"], "NAME", "regnet", "config.MODEL.TRUNK.NAME", "the same network, not sharded", changes)


def _pair_with_labels(config: dict[str, Any], settings: ClusterFitConfig, changes: list[str]) -> None:
    for split in settings.splits:
        data, name = config["DATA"][split], f"config.DATA.{split}"
        paired = [labelled_source_name(source) for source in data["DATA_SOURCES"]]
        _set(data, "DATA_SOURCES", paired, f"{name}.DATA_SOURCES", "paired with the pseudo-labels", changes)
        sources = [_ASK_THE_DATA_SOURCE] * len(paired)
        _set(data, "LABEL_SOURCES", sources, f"{name}.LABEL_SOURCES", "which asks the paired source", changes)
        _set(data, "LABEL_TYPE", "standard", f"{name}.LABEL_TYPE", "as there are labels", changes)
        data["DATA_PATHS"] = paired_paths(paired, data["DATA_PATHS"])
        data["LABEL_PATHS"] = unused_label_paths(paired)
        if len(paired) > 1 and data["COLLATE_FUNCTION"] == "default_collate":
            reason = "which makes one batch of the images of all data sources, as VISSL's train step takes one"
            _set(data, "COLLATE_FUNCTION", _ONE_BATCH, f"{name}.COLLATE_FUNCTION", reason, changes)
    if not settings.features.test_partition:
        reason = "as no held-out split is labelled (CLUSTERFIT.FEATURES.TEST_PARTITION)"
        _set(config, "TEST_MODEL", False, "config.TEST_MODEL", reason, changes)


def _require_whole_split(data_limit: int, settings: ClusterFitConfig) -> None:
    name, number, clustered = "config.CLUSTERFIT.BALANCED_SAMPLES", settings.balanced_samples, settings.features
    if number and data_limit >= 0:
        found = f"{number} with DATA.TRAIN.DATA_LIMIT {data_limit}"
        raise ConfigError(problem(name, found=found, allowed="0 for a part of the data, or DATA_LIMIT=-1"))
    if number and clustered.data_partition != "TRAIN":
        found = f"{number} with CLUSTERFIT.FEATURES.DATA_PARTITION {clustered.data_partition}"
        raise ConfigError(problem(name, found=found, allowed="0, or DATA_PARTITION=TRAIN"))


def _keep_nearest(config: dict[str, Any], settings: ClusterFitConfig, changes: list[str]) -> ClusterFitConfig:
    """Labels keep as many of the nearest clusters as the targets have, where nothing else is asked for."""
    targets = settings.targets
    if targets.by_sample and config["DATA"]["TRAIN"]["COLLATE_FUNCTION"] == COLLATOR:
        found = f"{COLLATOR} with CLUSTERFIT.TARGETS that are more than a label"
        allowed = "default_collate, or CLUSTERFIT.TARGETS.KIND=hard without weights of samples"
        raise ConfigError(problem("config.DATA.TRAIN.COLLATE_FUNCTION", found=found, allowed=allowed))
    if targets.of_nearest and settings.top_clusters == 1:
        reason = f"as the targets are {targets.kind} (CLUSTERFIT.TARGETS.NUM_NEAREST)"
        block = config["CLUSTERFIT"]
        _set(block, "TOP_CLUSTERS", targets.num_nearest, "config.CLUSTERFIT.TOP_CLUSTERS", reason, changes)
        return ClusterFitConfig.from_block(block)
    return settings


def _add_heads(config: dict[str, Any], settings: ClusterFitConfig, changes: list[str]) -> list[int]:
    """Their widths."""
    widths = [each.num_clusters for each in settings.heads]
    for folder in settings.joined_labels:
        widths.append(PseudoLabels.open(artifact_path(folder)).num_clusters[0])
    if len(widths) == 1:
        return widths
    why = "CLUSTERFIT.JOINED_LABELS" if settings.joined_labels else "CLUSTERFIT.ALSO_NUM_CLUSTERS (nested targets)"
    if config["DATA"]["TRAIN"]["COLLATE_FUNCTION"] == COLLATOR:
        found = f"{COLLATOR} with {why}"
        allowed = "default_collate for samples with several labels"
        raise ConfigError(problem("config.DATA.TRAIN.COLLATE_FUNCTION", found=found, allowed=allowed))
    reason = f"a head for each of {why}"
    loss = config["LOSS"]["clusterfit_loss"]
    _set(loss, "num_clusters", widths, "config.LOSS.clusterfit_loss.num_clusters", reason, changes)
    for name, parameters in config["MODEL"]["HEAD"]["PARAMS"]:
        if name == "clusterfit_head":
            setting = "config.MODEL.HEAD.PARAMS: num_clusters of clusterfit_head"
            _set(parameters, "num_clusters", widths, setting, reason, changes)
    meter = config["METERS"].get(_VISSLS_METER)
    if meter and meter["num_meters"] == 1:
        names = [f"clusters_{number}_{width}" for number, width in enumerate(widths)]
        _set(meter, "meter_names", names, f"config.METERS.{_VISSLS_METER}.meter_names", reason, changes)
        _set(meter, "num_meters", len(widths), f"config.METERS.{_VISSLS_METER}.num_meters", reason, changes)
    return widths


def _spread_head(config: dict[str, Any], settings: ClusterFitConfig, widths: list[int], changes: list[str]) -> None:
    """The loss has the rows of a partial head; what needs logits of all clusters, or another optimizer, is refused."""
    loss, optimizer, heads = config["LOSS"]["clusterfit_loss"], config["OPTIMIZER"], config["MODEL"]["HEAD"]["PARAMS"]
    names, collator = [name for name, _ in heads], config["DATA"]["TRAIN"]["COLLATE_FUNCTION"]
    smoothing, at_steps = loss["label_smoothing"], config["CHECKPOINT"]["CHECKPOINT_ITER_FREQUENCY"]
    for setting, found, fits, allowed in (
        ("MODEL.HEAD.PARAMS", " + ".join(names), names.count("clusterfit_head") == 1, "one clusterfit_head"),
        ("OPTIMIZER.name", optimizer["name"], optimizer["name"] == "sgd", "sgd"),
        ("OPTIMIZER.use_larc", True, not optimizer.get("use_larc"), "false"),
        ("LOSS.clusterfit_loss.label_smoothing", smoothing, not smoothing, "0.0"),
        ("DATA.TRAIN.COLLATE_FUNCTION", collator, collator != COLLATOR, "one that does not mix images"),
        ("CHECKPOINT.CHECKPOINT_ITER_FREQUENCY", at_steps, at_steps <= 0, "-1: rows are saved at the end of an epoch"),
    ):
        if not fits:
            found = f"{found} with CLUSTERFIT.HEAD.KIND=partial"
            raise ConfigError(problem(f"config.{setting}", found=found, allowed=allowed))
    rules = settings.head
    given: dict[str, Any] = {"num_clusters": widths if len(widths) > 1 else widths[0], "rate": rules.rate}
    given |= {"correction": rules.correction, "cosine": rules.cosine}
    given |= {"scale": rules.scale, "margin": rules.margin} if rules.cosine else {}
    heads = [
        ["clusterfit_partial_head", {**parameters, **given}] if head == "clusterfit_head" else [head, parameters]
        for head, parameters in heads
    ]
    reason = "as the rows of the clusters are spread over the processes"
    _set(config["MODEL"]["HEAD"], "PARAMS", heads, "config.MODEL.HEAD.PARAMS", reason, changes)
    _set(config["METERS"], "names", [], "config.METERS.names", "as there are no logits of all clusters", changes)
    _set(config["METERS"], "name", "", "config.METERS.name", "as there are no logits of all clusters", changes)


def _pair_with_predictions(config: dict[str, Any], changes: list[str]) -> None:
    data, reason = config["DATA"]["TRAIN"], "as a sample's target is the teacher's prediction for it"
    if data["DATA_LIMIT"] >= 0:
        allowed = "-1 with clusterfit_distillation_loss: VISSL renumbers the samples of a subset"
        raise ConfigError(problem("config.DATA.TRAIN.DATA_LIMIT", found=data["DATA_LIMIT"], allowed=allowed))
    _set(data, "LABEL_SOURCES", [], "config.DATA.TRAIN.LABEL_SOURCES", reason, changes)
    _set(data, "LABEL_TYPE", "sample_index", "config.DATA.TRAIN.LABEL_TYPE", reason, changes)
    data["LABEL_PATHS"] = unused_label_paths(data["DATA_SOURCES"])
    meters, reason = config["METERS"], "as there is no label to be right about"
    _set(meters, "names", [], "config.METERS.names", reason, changes)
    _set(meters, "name", "", "config.METERS.name", reason, changes)
    _set(config, "TEST_MODEL", False, "config.TEST_MODEL", reason, changes)


def _require_lab_images(config: dict[str, Any]) -> None:
    if config["MODEL"]["INPUT_TYPE"] != "lab":
        return
    setting = "config.DATA.TRAIN.TRANSFORMS"
    names = [transform["name"] for transform in config["DATA"]["TRAIN"]["TRANSFORMS"]]
    if _LAB not in names:
        raise ConfigError(
            problem(
                setting,
                found=f"{' + '.join(names)} for MODEL.INPUT_TYPE=lab, whose trunk would take red for lightness",
                allowed=f"transforms with {_LAB} (it needs OpenCV) in the place of ToTensor and Normalize",
                remedy="Where the teacher is of this kind, set config.CLUSTERFIT.FEATURES.TRANSFORMS as well.",
            )
        )


def _fit_heads_to_trunk(model: dict[str, Any], seed: int, changes: list[str]) -> None:
    for number, head in enumerate(model["HEAD"]["PARAMS"]):
        ours = head[0] in ("clusterfit_head", "clusterfit_partial_head")
        if ours and number and not model["MULTI_INPUT_HEAD_MAPPING"]:
            allowed = "clusterfit_head as the first: it takes what the trunk gives"
            found = f"{head[0]} behind {model['HEAD']['PARAMS'][0][0]}"
            raise ConfigError(problem(f"config.MODEL.HEAD.PARAMS[{number}]", found=found, allowed=allowed))
        if ours:
            given = head[1].get("in_features")
            try:  # VISSL adds the seed later, and some of its trunks want it
                width = trunk_width(AttrDict({**copy.deepcopy(model), "_MODEL_INIT_SEED": seed}))
            except ConfigError:
                if given:
                    continue
                raise
            name = "config.MODEL.HEAD.PARAMS: in_features of clusterfit_head"
            reason = f"the width of the trunk {model['TRUNK']['NAME']}"
            if given and given != width:
                raise ConfigError(problem(name, found=given, allowed=f"{width}, {reason}; 0 has it found"))
            _set(head[1], "in_features", width, name, reason, changes)


def _count_labelled_samples_only(meters: dict[str, Any], num_clusters: int, changes: list[str]) -> None:
    used = {meters["name"], *meters["names"]}
    if _VISSLS_METER in used:
        first = meters[_VISSLS_METER]["topk_values"]
        if max(first, default=1) > num_clusters:
            name, allowed = f"config.METERS.{_VISSLS_METER}.topk_values", f"1 to {num_clusters}, as there are clusters"
            raise ConfigError(problem(name, found=first, allowed=allowed))
        meters[METER] = dict(meters[_VISSLS_METER])
        reason = "which leaves out samples without a label"
        names = sorted(used - {"", _VISSLS_METER} | {METER})
        _set(meters, "names", names, "config.METERS.names", reason, changes)
        meters["name"] = ""


def _fill_label_paths(data: dict[str, Any]) -> None:
    # With DATA_PATHS and no LABEL_PATHS VISSL looks the data set up in its catalogue, even where no label file is
    # wanted, and fails when it is not there. Only a label file list is read from the path.
    if data["DATA_PATHS"] and not data["LABEL_PATHS"] and "disk_filelist" not in data["LABEL_SOURCES"]:
        data["LABEL_PATHS"] = list(data["DATA_PATHS"])
