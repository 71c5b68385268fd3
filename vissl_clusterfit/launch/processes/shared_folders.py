"""Whether all nodes of a run see the same folders of artefacts, tried before anything is made in them."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import Any

from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.launch.processes.rendezvous import Rendezvous
from vissl_clusterfit.storage.atomic import temporary_path
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.storage.remote import as_remote

# A network file system may show a new file late.
_PATIENCE_S = 30.0


def folders_to_share(engine: str, config: Any) -> dict[str, Path]:
    """The folders of artefacts that an engine reads and writes on every node, by their settings."""
    if engine == "clusterfit_transfer":
        setting = "config.TRANSFER.FEATURES.PATH"
        path = ((config.get("TRANSFER") or {}).get("FEATURES") or {}).get("PATH")
        return {setting: artifact_path(path, setting)} if path else {}
    if engine == "clusterfit_video_accuracy":
        return {"config.CHECKPOINT.DIR": artifact_path(config.CHECKPOINT.DIR)}
    if engine.startswith("clusterfit_") or (engine == "train" and config.LOSS.name == "clusterfit_loss"):
        paths = ClusterFitConfig.from_config(config).paths
        return {
            "config.CLUSTERFIT.OUTPUT_DIR": paths.output_dir,
            "config.CLUSTERFIT.FEATURES.PATH": paths.features_dir,
        }
    return {}


def require_shared(rendezvous: Rendezvous, folders: dict[str, Path]) -> None:
    """Participant 0 writes a file into each folder, and all others have to see it.

    Folders on other file systems (``s3://…``) are the same everywhere, and one that cannot be written is left to the
    stage that needs it.

    Raises:
        ConfigError: on a node that does not see it.
    """
    files: list[str | None] = []
    try:
        written = rendezvous.broadcast_from_first(
            "files", lambda: [_write(folder, files) for folder in folders.values()]
        )
        for (setting, folder), name in zip(folders.items(), written, strict=True):
            if name and not _appears(folder / name):
                raise ConfigError(
                    problem(
                        setting,
                        found=f"{folder}, which on {socket.gethostname()} is not the folder that node 0 sees",
                        allowed="a folder that all nodes share",
                        remedy="Put it on a file system that they all mount at that place.",
                    )
                )
        rendezvous.barrier("seen")
    finally:
        for folder, name in zip(folders.values(), files, strict=False):
            if name:
                (folder / name).unlink(missing_ok=True)


def _write(folder: Path, files: list[str | None]) -> str | None:
    name = None
    if not as_remote(folder):
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            file = temporary_path(folder / "nodes")
            file.touch()
            name = file.name
    files.append(name)
    return name


def _appears(file: Path) -> bool:
    end = time.monotonic() + _PATIENCE_S
    while not file.exists():
        if time.monotonic() > end:
            return False
        with contextlib.suppress(OSError):
            os.listdir(file.parent)  # has some clients ask their server again
        time.sleep(0.1)
    return True
