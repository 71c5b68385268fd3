"""From the text of a setting to the place that it names, on this machine or on a file system that iopath knows."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import cast

from iopath.common.file_io import HTTPURLHandler, g_pathmgr

from vissl_clusterfit import dependencies
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.storage.remote import ROOT, RemotePath


def artifact_path(text: str, setting: str = "The folder") -> Path:
    """The place that a setting names: a path of this machine, or a :class:`RemotePath` where the text is a URI.

    Args:
        text: of the setting.
        setting: its name, for the message.

    Raises:
        ConfigError: iopath has no handler for the URI.
    """
    root = ROOT.match(text)
    if not root:
        return Path(text)
    register_handlers()
    prefixes = tuple(g_pathmgr._path_handlers)
    if not text.startswith(prefixes):
        raise ConfigError(
            problem(
                setting,
                found=f"{text!r}, and iopath has no handler for {root[1]}",
                allowed=f"a path of this machine, or a URI that begins with {' | '.join(sorted(prefixes))}",
                remedy="Register a handler in a Python module and name the module in "
                f'{dependencies.IMPORT_VARIABLE}: see "Other file systems" in docs/artifacts.md.',
            )
        )
    # It has the methods of a Path that this package uses; any other is an AttributeError, not a file on this machine.
    return cast(Path, RemotePath(root[0] + text[root.end() :].strip("/")))


@functools.lru_cache(maxsize=1)
def register_handlers() -> None:
    """Registers what reads URLs, and the user's own handlers; safe to call twice.

    Raises:
        ConfigError: a module that ``VISSL_CLUSTERFIT_IMPORT`` names cannot be imported.
    """
    dependencies.import_user_modules()
    with contextlib.suppress(KeyError):  # there is another already
        g_pathmgr.register_handler(HTTPURLHandler(), allow_override=False)
