"""Our log lines in VISSL's log, without the warnings that VISSL's own age causes."""

from __future__ import annotations

import logging
import warnings

_PACKAGE = "vissl_clusterfit"

#: What VISSL 0.1.6 and the packages that it bundles provoke on today's versions, and no user can act on.
_KNOWN_WARNINGS = (
    r"The 'torchvision\.transforms\._(functional|transforms)_video' module is deprecated",
    r"`torch\.jit\.script` is deprecated",
    r"\s*The version_base parameter is not specified",
    r"'pin_memory' argument is set as true but no accelerator is found",
    r"`broadcast_buffers` is deprecated",
    r"`torch\.cuda\.amp\.",
)


class _IntoVisslsLog(logging.Handler):
    """VISSL puts another logger in the place of the root one; what our loggers hand upwards would end nowhere."""

    def emit(self, record: logging.LogRecord) -> None:
        if logging.root is not logging.Logger.root:
            logging.root.handle(record)
        elif record.levelno >= logging.WARNING and logging.lastResort and not logging.root.handlers:
            logging.lastResort.handle(record)  # in data workers that VISSL sets no log up for


def join_vissls_log() -> None:
    """Sends our log lines where VISSL's go, from now on in this process."""
    logger = logging.getLogger(_PACKAGE)
    if not any(isinstance(handler, _IntoVisslsLog) for handler in logger.handlers):
        logger.setLevel(logging.INFO)
        logger.addHandler(_IntoVisslsLog())
    for message in _KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
