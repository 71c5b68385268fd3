"""What a user can mend: every error that ends a run with one message and no traceback.

Anything else that is raised (``ValueError`` for a wrong argument, ``AssertionError`` for what cannot happen)
is a fault of the caller or of this package, and keeps its traceback.
"""

from __future__ import annotations


class ClusterFitError(Exception):
    """A problem that the user can mend. Its text names the setting, what was found, what is allowed, the remedy."""


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
