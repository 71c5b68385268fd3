"""The names of our data sources in VISSL's registry, what VISSL needs beside them, and data that are not there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vissl.config import AttrDict
from vissl.data.dataset_catalog import get_data_files

from vissl_clusterfit.errors import ClusterFitError, DataError
from vissl_clusterfit.plugin.data.named_files import require_data_files

_LABELLED, _TOLERANT = "clusterfit_", "tolerant_"
_NEEDS_NO_PATH = "synthetic"


def labelled_source_name(name: str) -> str:
    """The registered data source that pairs a VISSL data source with pseudo-labels."""
    return f"{_LABELLED}{base_source(name)}"


def tolerant_source_name(name: str) -> str:
    """The registered data source that reads a VISSL data source and tolerates damaged files."""
    return f"{_TOLERANT}{base_source(name)}"


def is_labelled(name: str) -> bool:
    """Whether a registered data source pairs another one with pseudo-labels."""
    return name.startswith(_LABELLED)


def base_source(name: str) -> str:
    """The VISSL data source that one of ours reads its images through."""
    return name.removeprefix(_LABELLED).removeprefix(_TOLERANT)


def paired_paths(sources: list[str], paths: list[str]) -> list[str]:
    """``DATA_PATHS`` for ``sources`` of ours: of the one that needs no path VISSL knows only its own name."""
    return paths or ([""] * len(sources) if {*map(base_source, sources)} == {_NEEDS_NO_PATH} else [])


def unused_label_paths(sources: list[str]) -> list[str]:
    """``LABEL_PATHS`` for ``sources`` whose labels are in no file: without any, VISSL looks for some."""
    return [""] * len(sources)


@contextmanager
def data_errors(split: str) -> Iterator[None]:
    """What VISSL and torchvision raise where data are missing, as our message."""
    try:
        yield
    except (AssertionError, ImportError, KeyError, OSError, RuntimeError) as error:
        if isinstance(error, ClusterFitError):
            raise
        reason = str(error.args[0] if isinstance(error, KeyError) else error).strip().removesuffix(".")
        raise DataError(
            f"config.DATA.{split}: the data set cannot be opened: {reason}. Check DATA_PATHS, DATA_SOURCES and "
            "DATASET_NAMES."
        ) from None


def require_data_paths(cfg: AttrDict) -> None:
    """Checks, before any process starts, that every split that is paired with labels has data.

    Raises:
        DataError: it has no DATA_PATHS, and its name is in no catalogue of VISSL's; or a list or a label file is none.
    """
    require_data_files(cfg.DATA)
    for split in ("TRAIN", "TEST"):
        if any(is_labelled(source) for source in cfg.DATA[split].DATA_SOURCES):
            with data_errors(split):
                get_data_files(split, cfg.DATA)
