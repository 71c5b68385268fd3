"""A data set that is drawn into a folder: whole or not at all, once, and the same one whenever it is used."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.storage.artifacts import (
    MANIFEST_NAME,
    has_manifest,
    read_manifest,
    require_same_inputs,
    write_manifest,
)
from vissl_clusterfit.storage.atomic import whole_folder

logger = logging.getLogger(__name__)


def write_drawn_set(
    folder: Path, what: str, inputs: Mapping[str, Any], draw: Callable[[Path], Mapping[str, Any]]
) -> None:
    """Has ``draw`` fill ``folder``, unless what it would draw is there already.

    Args:
        folder: Made by this function; its parents, too.
        what: What the set shows: "handwritten digits".
        inputs: What decides the bytes of all files.
        draw: Writes the files below a folder that exists, and returns facts for the manifest.

    Raises:
        ArtifactError: the folder holds another set, one that was changed, or something else.
    """
    folder = Path(folder)
    if has_manifest(folder):
        _check(folder, what, inputs)
        logger.info("The %s in %s are complete.", what, folder)
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise ArtifactError(f"{folder} is not empty and holds no {what}. Name another folder, or delete this one.")
    with whole_folder(folder) as temporary:
        facts = dict(draw(temporary))
        write_manifest(temporary, what, dict(inputs), {**facts, "sha256": _digest(temporary)})
    logger.info("Wrote %s to %s: %s.", what, folder, facts)


def _check(folder: Path, what: str, inputs: Mapping[str, Any]) -> None:
    manifest = read_manifest(folder, what)
    require_same_inputs(folder, manifest["inputs"], dict(inputs))
    if manifest.get("sha256") != _digest(folder):
        raise ArtifactError(
            f"The {what} in {folder} were changed or are incomplete. Delete the folder to make them again."
        )


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file() and file.name != MANIFEST_NAME):
        digest.update(f"{file.relative_to(folder).as_posix()}\n".encode() + file.read_bytes())
    return digest.hexdigest()
