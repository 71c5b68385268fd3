"""Our log lines in VISSL's log, without the warnings that VISSL's own age causes, and without secrets in any line."""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import os
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from vissl_clusterfit.errors import mendable

#: Set where all of VISSL's log comes to the screen, in every process of a run (``screen.py``).
VERBOSE = "VISSL_CLUSTERFIT_VERBOSE"
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


class _WritableRecord(logging.LogRecord):
    """A line of a log that can be written: a file's name that is no UTF-8 is shown by the bytes that are not."""

    def getMessage(self) -> str:
        """The text of the line."""
        return super().getMessage().encode("utf-8", "backslashreplace").decode("utf-8")


def _told_once(tell: Callable[[logging.Handler, logging.LogRecord], None]) -> Callable[..., None]:
    """``Handler.handleError``, which prints a traceback for each line that a full disk refuses."""
    told = False

    @functools.wraps(tell)
    def tell_once(handler: logging.Handler, record: logging.LogRecord) -> None:
        nonlocal told
        error = sys.exc_info()[1]
        if error is None or mendable(error) is None:
            tell(handler, record)
        elif not told:
            told = True
            with contextlib.suppress(OSError):  # which may go to the same disk
                print(f"warning: the log cannot be written: {error}", file=sys.stderr)  # noqa: T201

    return tell_once


def join_vissls_log() -> None:
    """Sends our log lines where VISSL's go, from now on in this process."""
    if logging.getLogRecordFactory() is logging.LogRecord:
        logging.setLogRecordFactory(_WritableRecord)
    if not hasattr(logging.Handler.handleError, "__wrapped__"):
        logging.Handler.handleError = _told_once(logging.Handler.handleError)  # type: ignore[method-assign]
    logger = logging.getLogger(_PACKAGE)
    if not any(isinstance(handler, _IntoVisslsLog) for handler in logger.handlers):
        logger.setLevel(logging.INFO)
        logger.addHandler(_IntoVisslsLog())
    for message in _KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


# What says how a run computes and where its processes meet. All else in the environment is the user's own.
_TOLD = re.compile(
    r"(CUDA|NCCL|GLOO|SLURM|SUBMITIT|OMP|MKL|KMP|OPENBLAS|TORCH|PYTORCH|VISSL)(_.*)?|(TORCH|PYTORCH)\w*"
    r"|MASTER_(ADDR|PORT)|((LOCAL_|GROUP_)?RANK)|((LOCAL_)?WORLD_SIZE)"
)
_SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASS|PWD|CREDENTIAL|AUTH|COOKIE|SIGNATURE|EXPORT|JWT", re.IGNORECASE)
_HIDDEN = "***"
_SECRETS = (
    # https://user:password@host
    (re.compile(r"(\b[A-Za-z][A-Za-z0-9+.-]*://)[^\s/@'\"]+@"), rf"\1{_HIDDEN}@"),
    # …?X-Amz-Signature=…, …&sig=…
    (
        re.compile(r"([?&][\w.-]*(?:token|key|secret|pass|credential|auth|sig)[\w.-]*=)[^&\s'\"]+", re.IGNORECASE),
        rf"\1{_HIDDEN}",
    ),
    # WANDB_API_KEY=…, as among the options of a job; no setting, whose name has dots before it
    (
        re.compile(r"(?<![\w.])([A-Z0-9_]*(?:TOKEN|KEY|SECRET|PASS|PASSWORD|PASSWD|CREDENTIALS?)=)[^\s,;'\"}\]]+"),
        rf"\1{_HIDDEN}",
    ),
    # 'password': '…', in the dump of a config
    (
        re.compile(
            r"(['\"]?\b[\w-]*(?:password|passwd|secret|api_?key|access_?key|(?:auth|access|api)_?token|credentials?)\b"
            r"['\"]?\s*:\s*)(?:'[^'\n]*'|\"[^\"\n]*\"|[^\s,}'\"]+)",
            re.IGNORECASE,
        ),
        rf"\1{_HIDDEN}",
    ),
    # what issuers put at the beginning, so that it is found
    (re.compile(r"\b(?:gh[opsu]_|github_pat_|glpat-|hf_|xox[abp]-|sk-|AKIA|eyJhbGci)[\w.-]{12,}"), _HIDDEN),
)


def without_secrets(text: str) -> str:
    """A text without what looks like passwords and keys: in addresses, in ``NAME=value``, in the dump of a config."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def environment_lines(environment: Mapping[str, str]) -> list[str]:
    """What a log may say of the environment: the variables that decide how a run computes, without secrets."""
    return [
        f"{name}:\t{_HIDDEN if _SECRET_NAME.search(name) else without_secrets(value)}"
        for name, value in sorted(environment.items())
        if _TOLD.fullmatch(name)
    ]


def _print_environment(environment: Mapping[str, str]) -> None:
    for line in environment_lines(environment):
        logging.info("%s", line)


def _processor() -> str:
    """What VISSL has a shell ask: the lines of ``lscpu`` without the flags; "" where there is no such program."""
    program = shutil.which("lscpu", path=os.defpath)
    if program is None:
        return ""
    said = subprocess.run([program], capture_output=True, text=True, check=False).stdout
    return "\n".join(line for line in said.splitlines() if not line.startswith("Flags:"))


def _where_cuda_is(collect: Callable[[list], list]) -> Callable[[list], list]:
    """``collect_gpus_info``: without a GPU it would import what warns that there is none, to name CUDA's folder."""

    @functools.wraps(collect)
    def collect_anywhere(data: list) -> list:
        import torch

        return collect(data) if torch.cuda.is_available() else [*data, ("GPU available", False)]

    return collect_anywhere


def keep_secrets() -> None:
    """Has VISSL's log say no secrets, and ask no shell; called once in every process."""
    environment = importlib.import_module("vissl.utils.collect_env")
    environment.collect_cpu_info = _processor
    environment.collect_gpus_info = _where_cuda_is(environment.collect_gpus_info)
    importlib.import_module("vissl.utils.env").print_system_env_info = _print_environment
    for engine in ("train", "extract_features", "extract_cluster"):
        importlib.import_module(f"vissl.engines.{engine}").print_system_env_info = _print_environment
    make = logging.getLogRecordFactory()

    def make_without_secrets(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        with contextlib.suppress(Exception):  # a message that cannot be made is reported where it is
            said = record.getMessage()
            told = without_secrets(said)
            if told != said:
                record.msg, record.args = told, ()
        return record

    logging.setLogRecordFactory(make_without_secrets)
