"""VISSL's checkpoints on disk: written whole, linked within their folder, and looked at before one is resumed from."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from vissl_clusterfit.compat import TRUST_VARIABLE
from vissl_clusterfit.errors import ArtifactError, refusal_of_disk
from vissl_clusterfit.models.weight_files import reason_of
from vissl_clusterfit.storage.atomic import remove_leftovers, temporary_path
from vissl_clusterfit.storage.folders import names_in
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.storage.remote import as_remote
from vissl_clusterfit.storage.untrusted import UnsafeFileError, is_archive, require_regular, require_unpacked

logger = logging.getLogger(__name__)

#: The link that VISSL leaves to the latest checkpoint.
LINK_NAME = "checkpoint.torch"
_NAME = re.compile(r"model_(final_checkpoint_phase|phase|iteration)\d+\.torch")


def saved_whole(save: Callable[..., str]) -> Callable[..., str]:
    """Wraps classy's ``save_checkpoint``, which writes a checkpoint in its place: a kill then leaves half of one.

    Here it goes to a file beside, under a name that says which process writes it, and is moved into place once it is on
    the disk. What dead processes left is removed, what living ones write stays.
    """

    @functools.wraps(save)
    def save_whole(checkpoint_folder: str, state: Any, checkpoint_file: str = LINK_NAME) -> str:
        if "://" in str(checkpoint_folder):  # not a local folder: moving is not ours to do
            return save(checkpoint_folder, state, checkpoint_file)
        folder = Path(checkpoint_folder)
        place = folder / checkpoint_file
        temporary = temporary_path(folder / "saving")
        try:
            if folder.is_dir():
                remove_leftovers(folder)
            save(str(folder), state, temporary.name)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            os.replace(temporary, place)
        except (OSError, RuntimeError) as error:
            refusal = error if isinstance(error, OSError) else refusal_of_disk(error)
            if refusal is None and "PytorchStreamWriter failed" not in str(error):
                raise
            reason = (refusal and refusal.strerror) or str(error).splitlines()[0]
            raise ArtifactError(
                f"{place} cannot be written: {reason}. The checkpoints before it are kept: make room or name another "
                "config.CHECKPOINT.DIR, and start again."
            ) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        return str(place)

    return save_whole


def linked_within_folder(link: Callable[[str, str], None]) -> Callable[[str, str], None]:
    """Wraps VISSL's ``create_file_symlink``, whose links are absolute.

    A folder that is moved or copied would lose its own checkpoint, or find another run's. Here a link names the file
    beside it, and is never absent in between.
    """

    @functools.wraps(link)
    def link_within(target: str, place: str) -> None:
        if "://" in place or os.path.dirname(target) != os.path.dirname(place):
            link(target, place)
            return
        temporary = temporary_path(Path(place))
        try:
            os.symlink(os.path.basename(target), temporary)
            os.replace(temporary, place)
        except OSError as error:  # a file system without links; as VISSL, which can resume without
            logger.info("%s cannot be linked to %s: %s", place, target, error)

    return link_within


def has_checkpoints(folder: Path) -> bool:
    """Whether a training has left a checkpoint of any kind, whole or not."""
    return any(map(is_checkpoint, names_in(folder)))


def is_checkpoint(name: str) -> bool:
    """Whether a file of this name is one of VISSL's checkpoints, or the link to the latest."""
    return name == LINK_NAME or _NAME.fullmatch(name) is not None


def final_checkpoint(folder: str) -> str | None:
    """The path of the final checkpoint in the folder of a run; None if there is none that is whole."""
    place = artifact_path(folder, "config.CHECKPOINT.DIR")
    for name in _newest_first(names_in(place), "model_final_checkpoint_phase"):
        if not why_damaged(place / name):
            return f"{folder}/{name}"
    return None


def final_phase(name: str) -> int:
    """The number of the training phase that a final checkpoint was written after."""
    return _number(name.rpartition("/")[2])


def _number(name: str) -> int:
    return int(re.search(r"(\d+)\.torch$", name)[1])  # type: ignore[index]


def checkpoint_to_resume(config: Any, folder: str, say: Callable[[str], None]) -> str | None:
    """The checkpoint that a training resumes from: VISSL's choice, or the last one before it that is whole.

    Only files of this folder are taken, wherever a link leads.

    Args:
        config: VISSL's ``config``.
        folder: ``CHECKPOINT.DIR``.
        say: gets what the user should know.

    Returns:
        Its path, None to start from the beginning.

    Raises:
        ArtifactError: a checkpoint is whole and cannot be opened without running code of it.
    """
    place = artifact_path(folder, "config.CHECKPOINT.DIR")
    for name in dict.fromkeys(_candidates(config, place, say)):
        reason = why_damaged(place / name)
        if not reason:
            return f"{folder}/{name}"
        say(f"warning: {place / name} is damaged ({reason}); the checkpoint before it is taken.")
    return None


def _candidates(config: Any, folder: Path, say: Callable[[str], None]) -> Iterator[str]:
    """The names of checkpoints, from the one that VISSL resumes from to those before it."""
    settings, there = config.CHECKPOINT, names_in(folder)
    latest = latest_by_link(folder, say) if settings.USE_SYMLINK_CHECKPOINT_FOR_RESUME else None
    if latest:
        yield latest
    elif not settings.AUTO_RESUME:
        return
    if not settings.OVERWRITE_EXISTING:
        yield from _newest_first(there, "model_final_checkpoint_phase")
    # Without this, the only ones of single iterations are those that VISSL dumps where an output is no number.
    at_iterations = settings.CHECKPOINT_ITER_FREQUENCY > 0
    usual = _newest_first(there, "model_iteration" if at_iterations else "model_phase")
    # VISSL's own remedy for a damaged file: not the latest, but one of those before it.
    yield from usual[min(max(0, settings.LATEST_CHECKPOINT_RESUME_FILE_NUM - 1), max(0, len(usual) - 1)) :]
    if at_iterations:
        yield from _newest_first(there, "model_phase")


def _newest_first(names: set[str], start: str) -> list[str]:
    return sorted((name for name in names if re.fullmatch(rf"{start}\d+\.torch", name)), key=_number, reverse=True)


def latest_by_link(folder: Path, say: Callable[[str], None]) -> str | None:
    """The file of this folder that its ``checkpoint.torch`` names, wherever that leads; or itself where it is a file.

    Args:
        folder: of a training.
        say: gets what the user should know.

    Returns:
        Its name; None if there is none.
    """
    there = names_in(folder)
    if LINK_NAME not in there:
        return None
    link = folder / LINK_NAME
    if as_remote(folder) or not link.is_symlink():
        return LINK_NAME
    target = os.readlink(link)
    name = os.path.basename(target)
    if os.path.dirname(target) not in ("", ".", str(folder)):
        taken = f"{name} of this folder is taken" if name in there else "it is left out"
        say(f"warning: {link} leads to {target}, which is not of this folder; {taken}.")
    return name if name in there else None


def why_damaged(path: Path) -> str:
    """Why a checkpoint cannot be read: cut off, empty, changed; "" if it is whole. Those of object stores are not read.

    Raises:
        ArtifactError: it cannot be reached, or is whole and cannot be opened without running code of it.
    """
    if as_remote(path):
        return ""
    try:
        state = path.stat()
    except FileNotFoundError:
        return "it is missing"
    return _why_damaged(path, state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _why_damaged(path: Path, size: int, _changed: int) -> str:
    if not size:
        return "it is empty"
    try:
        require_regular(path)
        with path.open("rb") as file:
            begins_as_archive = file.read(2) == b"PK"
            require_unpacked(file)
    except UnsafeFileError as error:
        return f"it is {error}"
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}.") from None
    whole_archive = is_archive(path)  # the list of its members is at its end
    if begins_as_archive and not whole_archive:
        return "it was cut off"
    try:
        if whole_archive:
            with zipfile.ZipFile(path) as archive:
                if (bad := archive.testzip()) is not None:
                    return f"{bad} in it was changed"
        content = torch.load(path, map_location="cpu", mmap=whole_archive)
    except pickle.UnpicklingError as error:
        if not whole_archive and "GLOBAL" not in str(error):
            return "it was cut off, or is no checkpoint"
        raise ArtifactError(
            f"{path} runs code when it is opened: {reason_of(error)} If you made it or trust it, set the "
            f"environment variable {TRUST_VARIABLE}=1; else move it away."
        ) from None
    except Exception as error:  # of many types: RuntimeError, EOFError, BadZipFile, KeyError, OSError
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    shards = content.get("shards", []) if isinstance(content, Mapping) else []
    return next((f"its shard {name}: {why}" for name in shards if (why := why_damaged(path.parent / name))), "")


def phase_of(path: str) -> int | None:
    """The last phase, training and test phases counted together, that a checkpoint knows to be done.

    None where it does not say, or is in an object store, where it is not read twice.
    """
    place = artifact_path(path)
    if as_remote(place):
        return None
    content = torch.load(place, map_location="cpu", mmap=is_archive(place))
    phase = content.get("phase_idx") if isinstance(content, Mapping) else None
    return phase if isinstance(phase, int) else None
