"""Data that ``vissl-clusterfit prepare`` makes for a config: are they there, and what the config says they are?"""

from __future__ import annotations

from pathlib import Path

from vissl.config import AttrDict

from vissl_clusterfit.datasets.catalogue import RECIPES
from vissl_clusterfit.datasets.preparation import KIND
from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.storage.artifacts import has_manifest, read_manifest


def require_prepared(cfg: AttrDict) -> None:
    """Checks the config of a row of the transfer tables before any process starts; other configs are left alone.

    Raises:
        DataError: its data set was not prepared, or not to the end.
        ConfigError: its heads are for another number of classes.
    """
    data = cfg.DATA.TEST
    if list(data.DATA_SOURCES) != ["disk_filelist"] or not data.DATA_PATHS or not data.DATASET_NAMES:
        return
    folder, name = Path(data.DATA_PATHS[0]).parent, data.DATASET_NAMES[0]
    if name not in RECIPES or folder.name != name:
        return
    if not has_manifest(folder):
        remedy = f"Prepare it: vissl-clusterfit prepare {name} --archives DIR --output {folder.parent}"
        found = f"no prepared data set in {folder}"
        raise DataError(problem("data_root", found=found, allowed="the folder of prepared data sets", remedy=remedy))
    num_classes = read_manifest(folder, KIND)["num_classes"]
    for head, settings in cfg.MODEL.HEAD.PARAMS:
        if settings.get("dims", [num_classes])[-1] != num_classes:
            found = f"the head {head} for {settings['dims'][-1]} classes"
            allowed, remedy = f"{num_classes}, as {folder} has", f"Set target.num_classes={num_classes}."
            raise ConfigError(problem("config.MODEL.HEAD.PARAMS", found=found, allowed=allowed, remedy=remedy))
