"""Lists of images and files of labels: looked at before a run starts, and opened safely wherever VISSL opens them.

VISSL runs what a pickle says (``vissl/utils/io.py``, ``load_single_label_file``). ``install`` has all of it read by
``storage/untrusted.py`` instead: in every process, for every split and source, mapped or not, copied or not.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

import numpy as np
import yaml

from vissl_clusterfit.errors import DataError, problem
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.storage.untrusted import (
    UnsafeFileError,
    load_array,
    load_json,
    load_plain_pickle,
    require_regular,
)

_LIST = "a .npy file with the path of each image, text of shape (N,); or a list of them in a .json, .yaml or .pkl file"
_LABELS = "a .npy file with the label of each sample: numbers or texts of shape (N,), or numbers of shape (N, L)"
_CONVERT = "From a text with a path in each line: np.save('list.npy', open('list.txt').read().split('\\n')[:-1])."
_SAVE_AGAIN = "If you made it: np.save('{name}', np.load('{name}', allow_pickle=True).astype({kind}))."


def load_file(filename: str, mmap_mode: str | None = None) -> Any:
    """Stands for VISSL's function of this name: a .npy, .json, .yaml or plain .pkl file.

    Raises:
        DataError: it is none, or could run code.
    """
    path, ending = artifact_path(filename), filename.rpartition(".")[2].lower()
    try:
        require_regular(path)
        if ending == "npy":
            return load_array(path, mmap=mmap_mode is not None)
        if ending in ("pkl", "pickle"):
            with path.open("rb") as file:
                return load_plain_pickle(file)
        if ending == "json":
            return load_json(path)
        if ending == "yaml":
            return yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise DataError(f"{filename} is missing.") from None
    except (UnsafeFileError, OSError, MemoryError, RecursionError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{filename} cannot be read: {_first_line(error)}.") from None
    found = f"the ending .{ending}" if "/" not in ending else "a name without an ending"
    raise DataError(f"{filename!r} cannot be read: found {found}; allowed: .npy, .json, .yaml, .pkl.")


def read_file_list(filename: str, setting: str, *, mmap: bool) -> Sequence[str]:
    """The paths that a ``disk_filelist`` names, in order.

    Raises:
        DataError: it is no list of paths.
    """
    try:
        found = load_file(filename, "r" if mmap else None)
    except DataError as error:
        remedy = _remedy(filename, error, "str")
        raise DataError(problem(setting, found=str(error).rstrip("."), allowed=_LIST, remedy=remedy)) from None
    if isinstance(found, np.ndarray):
        if found.ndim == 1 and (found.dtype.kind == "U" or not found.size):
            return found
        what = f"an array of {found.dtype} of shape {found.shape}"
    elif isinstance(found, list) and all(isinstance(path, str) for path in found):
        return found
    else:
        what = f"a {type(found).__name__}" + (" of other things than paths" if isinstance(found, list) else "")
    raise DataError(problem(setting, found=f"{filename}, {what}", allowed=_LIST))


def read_label_file(filename: str, setting: str, *, mmap: bool) -> np.ndarray:
    """The labels in a file of ``LABEL_PATHS``: numbers (N,) or (N, …), or texts (N,).

    Raises:
        DataError: it is no such file.
    """
    path = artifact_path(filename)
    try:
        labels = load_array(path, mmap=mmap)
    except FileNotFoundError:
        raise DataError(problem(setting, found=f"{filename}, which does not exist", allowed=_LABELS)) from None
    except (UnsafeFileError, OSError, MemoryError, ValueError) as error:
        remedy = _remedy(filename, error, "int")
        found = f"{filename}, {_first_line(error)}"
        raise DataError(problem(setting, found=found, allowed=_LABELS, remedy=remedy)) from None
    if labels.dtype.kind not in "biufU" or not labels.ndim or (labels.dtype.kind == "U" and labels.ndim > 1):
        found = f"{filename}, an array of {labels.dtype} of shape {labels.shape}"
        raise DataError(problem(setting, found=found, allowed=_LABELS))
    return labels


def _remedy(filename: str, error: Exception, kind: str) -> str:
    if "Python objects" in str(error):
        return _SAVE_AGAIN.format(name=filename, kind=kind)
    return _CONVERT if kind == "str" and filename.endswith((".txt", ".csv")) else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def require_data_files(data: Mapping[str, Any]) -> None:
    """Opens each list and label file of ``config.DATA`` once, before any process starts, where there is one.

    Raises:
        DataError: one of them cannot be used.
    """
    for setting, filename, kind in _named_files(data):
        if artifact_path(filename, setting).exists():  # what is missing is reported where the data set is made
            (read_file_list if kind == "DATA_PATHS" else read_label_file)(filename, setting, mmap=True)


def _named_files(data: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for split in ("TRAIN", "TEST"):
        for kind, sources in (("DATA_PATHS", "DATA_SOURCES"), ("LABEL_PATHS", "LABEL_SOURCES")):
            for source, entry in zip(data[split][sources], data[split].get(kind) or (), strict=False):
                if source.removeprefix("clusterfit_") == "disk_filelist":
                    for filename in entry if isinstance(entry, (list, tuple)) else (entry,):
                        yield f"config.DATA.{split}.{kind}", filename, kind


def install() -> None:
    """Puts these readers in the place of VISSL's and torchvision's; called once in every process."""
    disk = importlib.import_module("vissl.data.disk_dataset").DiskImageDataset
    load_folder = disk._load_data

    def load_data(self: Any, path: str) -> None:
        if self.data_source == "disk_filelist":
            setting = f"config.DATA.{self.split}.DATA_PATHS"
            self.image_dataset = read_file_list(path, setting, mmap=bool(self.cfg["DATA"][self.split].MMAP_MODE))
        else:
            load_folder(self, path)

    def load_single_label_file(self: Any, path: str) -> np.ndarray:
        setting = f"config.DATA.{self.split}.LABEL_PATHS"
        return read_label_file(path, setting, mmap=bool(self.cfg["DATA"][self.split].MMAP_MODE))

    disk._load_data = load_data
    importlib.import_module("vissl.data.ssl_dataset").GenericSSLDataset.load_single_label_file = load_single_label_file
    io = importlib.import_module("vissl.utils.io")
    theirs, io.load_file = io.load_file, load_file  # modules that are imported later take it from there
    for name, module in list(sys.modules.items()):
        if name.startswith(("vissl.", "tools.")) and vars(module).get("load_file") is theirs:
            module.load_file = load_file  # type: ignore[attr-defined]
    of_torchvision = importlib.import_module("vissl.data.torchvision_dataset")
    known = [name for key, name in vars(of_torchvision.TorchvisionDatasetName).items() if not key.startswith("_")]
    load_known = of_torchvision.TorchvisionDataset._load_dataset

    def load_dataset(self: Any) -> Any:
        # VISSL's own refusal of another name fails while it writes it.
        assert self.dataset_name in known, f"torchvision_dataset reads {', '.join(known)}, not {self.dataset_name!r}"
        return load_known(self)

    of_torchvision.TorchvisionDataset._load_dataset = load_dataset
    importlib.import_module("torchvision.datasets.cifar").pickle = _PlainPickle  # type: ignore[attr-defined]


class _PlainPickle:
    """Stands for the module ``pickle`` where torchvision reads CIFAR."""

    @staticmethod
    def load(file: IO[bytes], encoding: str = "latin1") -> Any:
        """Reads what a batch of CIFAR may be."""
        del encoding  # the one that it asks for
        try:
            return load_plain_pickle(file)
        except UnsafeFileError as error:
            raise DataError(f"{file.name} cannot be read: {error}.") from None
