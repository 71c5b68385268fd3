"""What a user can mend: every error that ends a run with one message and no traceback.

Anything else that is raised (``ValueError`` for a wrong argument, ``AssertionError`` for what cannot happen)
is a fault of the caller or of this package, and keeps its traceback.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class ClusterFitError(Exception):
    """A problem that the user can mend. Its text names the setting, what was found, what is allowed, the remedy.

    Examples:
        >>> from vissl_clusterfit import ClusterFitError, open_artifact
        >>> try:
        ...     open_artifact("nowhere")
        ... except ClusterFitError as error:
        ...     print(error)
        nowhere holds no artefact: its manifest.json is missing.
    """


class ConfigError(ClusterFitError, ValueError):
    """A setting under ``config`` that is unknown, of the wrong type, out of range, or contradicts another."""


class DataError(ClusterFitError):
    """Samples or features that cannot be used: an empty data set, NaN features, labels of the wrong number."""


class TeacherError(ClusterFitError):
    """A teacher whose weights or layers do not fit its trunk."""


class ArtifactError(ClusterFitError):
    """An artefact on disk that is missing, incomplete, damaged, or made for other data or settings."""


class MissingDependencyError(ClusterFitError, ImportError):
    """A package that has to be installed first; the message holds the command."""


def problem(setting: str, *, found: object, allowed: str, remedy: str = "") -> str:
    """The one form of our messages: ``setting: found …; allowed: …. remedy``."""
    text = f"{setting}: found {found}; allowed: {allowed}."
    return f"{text} {remedy}" if remedy else text


@contextmanager
def with_remedy(remedy: str) -> Iterator[None]:
    """Adds the remedy, which the caller knows, to a message about an artefact."""
    try:
        yield
    except ArtifactError as error:
        if remedy in str(error):
            raise
        raise ArtifactError(f"{str(error).rstrip('.')}. {remedy}") from None


@contextmanager
def naming_settings(names: Mapping[str, str]) -> Iterator[None]:
    """Says a message of shared code with the settings of the engine at hand: patterns, and what they become."""
    try:
        yield
    except ClusterFitError as error:
        text = str(error)
        for pattern, name in names.items():
            text = re.sub(pattern, name, text)
        if text == str(error):
            raise
        raise type(error)(text) from None


def cannot_write(path: Path, error: OSError) -> ArtifactError:
    """The message where a file system refuses: it is full, read-only, or failing."""
    return ArtifactError(
        f"{path} cannot be written: {error.strerror or error}. What is done is kept: make room or name another "
        "folder (CLUSTERFIT.OUTPUT_DIR, CLUSTERFIT.FEATURES.PATH), and start again."
    )


_REFUSALS_OF_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def refusal_of_disk(error: BaseException) -> OSError | None:
    """The error of a disk that is full or read-only, or of a file that may not grow, that is behind an exception."""
    cause: BaseException | None = error
    while cause is not None:  # PyTorch's writer fails again at the end of what it could not write
        if isinstance(cause, OSError) and cause.errno in _REFUSALS_OF_DISK:
            return cause
        cause = cause.__cause__ or cause.__context__
    return None


def mendable(error: BaseException) -> ClusterFitError | None:
    """What a user can fix of an exception, wherever it was raised; None if only a developer can.

    VISSL and other libraries write files at many places. That the disk refuses is said by the error alone.
    """
    if isinstance(error, ClusterFitError):
        return error
    if refusal := refusal_of_disk(error):
        return ArtifactError(
            f"{refusal.filename or 'A file of this run'} cannot be written: {refusal.strerror}. What is done is kept: "
            "make room or name another config.CHECKPOINT.DIR, and start again."
        )
    return None
