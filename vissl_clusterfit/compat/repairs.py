"""What VISSL 0.1.6 needs on today's Python, PyTorch, torchvision, NumPy and setuptools: named repairs.

Call :func:`apply` before the first import of VISSL, in every process: launcher, ranks, data workers, jobs.
Neither importing this module nor applying imports anything heavy: a repair of a module that is not there yet
waits for it (``import_hooks.py``). Each repair looks first whether it is needed. Those of ``torch.load`` are in
``torch_load.py``.

VISSL brings its own classy_vision (0.7.0.dev): "classy" below. Paths are inside VISSL's wheel.
"""

from __future__ import annotations

import collections
import collections.abc
import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from vissl_clusterfit.compat.compiler import import_compiler_on_demand
from vissl_clusterfit.compat.import_hooks import around_import
from vissl_clusterfit.compat.torch_load import TRUST_VARIABLE, checkpoint_types, trusted_checkpoints

__all__ = ["REPAIRS", "TRUST_VARIABLE", "apply"]

logger = logging.getLogger(__name__)

#: Every repair by its name, in the order in which they are applied.
REPAIRS: dict[str, Repair] = {}


def apply() -> tuple[str, ...]:
    """Applies all repairs: at once where that is possible, else when the module in question is imported.

    Besides, PyTorch's compiler is imported only where something is compiled (``compiler.py``). Calling it again changes
    nothing, and returns what has been repaired since.

    Returns:
        The names of the repairs that were needed and have been made, so far, in this process.
    """
    import_compiler_on_demand()
    for repair in REPAIRS.values():
        repair.apply()
    return tuple(name for name, repair in REPAIRS.items() if repair.made)


class Repair:
    """One repair, and whether it has been made in this process.

    Attributes:
        function: Makes the repair if it is needed, and returns whether it was. It gets the module.
        modules: What has to be imported first. With none, the repair is made at once.
        during: The function is a generator: it prepares, yields its answer while the module runs, cleans up.
        made: Whether it was needed and has been made.
    """

    def __init__(self, function: Callable[..., Any], modules: tuple[str, ...], during: bool) -> None:
        self.function = function
        self.modules = modules
        self.during = during
        self.made = False
        self._seen: set[str] = set()

    def apply(self) -> None:
        """Makes the repair where it can be made now, and has it wait for the rest."""
        if not self.modules:
            self._note(self.function())
        for name in self.modules:
            around_import(name, self._around)
            if name in sys.modules and name not in self._seen and not self.during:
                self._seen.add(name)
                self._note(self.function(sys.modules[name]))

    @contextmanager
    def _around(self, module: ModuleType) -> Iterator[None]:
        self._seen.add(module.__name__)
        if self.during:
            with contextmanager(self.function)(module) as needed:
                yield
            self._note(needed)
        else:
            yield
            self._note(self.function(module))

    def _note(self, needed: bool) -> None:
        if needed and not self.made:
            self.made = True
            logger.debug("Repaired for VISSL 0.1.6: %s", self.function.__name__)


def _repair(*modules: str, during: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        REPAIRS[function.__name__] = Repair(function, modules, during)
        return function

    return register


@_repair()
def collections_mutable_mapping() -> bool:
    """``collections.MutableMapping``, only in ``collections.abc`` since Python 3.10.

    Used by ``flatten_dict`` in vissl/utils/misc.py (the benchmark suite) and classy generic/util.py, and by
    classy's visdom hook.
    """
    if "MutableMapping" in vars(collections):
        return False
    collections.MutableMapping = collections.abc.MutableMapping  # type: ignore[attr-defined]
    return True


_repair()(trusted_checkpoints)


@_repair("vissl.utils.misc", "vissl.utils.collect_env", during=True)
def pkg_resources_stand_in(_module: ModuleType) -> Iterator[bool]:
    """A ``pkg_resources`` of two functions, where setuptools has none (since 82) or a broken one.

    vissl/utils/misc.py and collect_env.py import it, for ``resource_filename`` and ``get_distribution``. The
    stand-in is there only while these two are imported: others (pytest, legacy namespace packages) look
    whether it exists, and then expect all of it.
    """
    try:
        import pkg_resources  # noqa: F401
    except Exception:
        sys.modules["pkg_resources"] = _small_pkg_resources()
        try:
            yield True
        finally:
            del sys.modules["pkg_resources"]
    else:
        yield False


def _small_pkg_resources() -> ModuleType:
    def resource_filename(package: str, resource: str) -> str:
        from importlib.util import find_spec

        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError(f"No package named {package!r}", name=package)
        return os.path.join(next(iter(spec.submodule_search_locations)), *resource.split("/"))

    def get_distribution(name: str) -> Any:
        from importlib.metadata import distribution

        return distribution(name)

    module: Any = ModuleType("pkg_resources")
    module.resource_filename = resource_filename
    module.get_distribution = get_distribution
    return module


@_repair("torchvision.datasets.kinetics")
def kinetics400_alias(kinetics: Any) -> bool:
    """``Kinetics400``, which is ``Kinetics`` since torchvision 0.12, and lost its old name soon after.

    classy dataset/classy_kinetics400.py imports it, and every import of ``classy_vision.dataset`` that file.
    """
    if hasattr(kinetics, "Kinetics400"):
        return False
    kinetics.Kinetics400 = kinetics.Kinetics
    return True


@_repair("numpy")
def numpy_aliases(numpy: Any) -> bool:
    """``np.float``, ``np.int``, ``np.bool`` (not in NumPy 1.24; the last till 2.0), ``np.in1d`` (not in 2.4).

    Used in VISSL by svm_utils/evaluate.py, meters/mean_ap_meter.py, collators/cutmixup_collator.py and, of
    instance_retrieval_utils, rmac.py and evaluate.py; in classy by autoaugment.
    """

    def in1d(ar1: Any, ar2: Any, *args: Any, **kwargs: Any) -> Any:
        return numpy.isin(numpy.ravel(ar1), ar2, *args, **kwargs)

    aliases = {"float": float, "int": int, "bool": bool, "in1d": in1d}
    # Not with hasattr: NumPy's __getattr__ warns about some of these names.
    missing = {name: alias for name, alias in aliases.items() if name not in vars(numpy)}
    vars(numpy).update(missing)
    return bool(missing)


_repair("torch")(checkpoint_types)


@_repair("vissl.data.disk_dataset")
def images_read_once(disk_dataset: Any) -> bool:
    """Each image of a ``disk_folder`` read and decoded once.

    ``DiskImageDataset.__getitem__`` asks the folder twice for every image: first only for the name in a warning.
    """

    class ImageFolder(disk_dataset.ImageFolder):
        """Gives what it has just read when it is asked for it again; once, as what becomes of it is the caller's."""

        _read: tuple[int, Any] | None = None

        def __getitem__(self, index: int) -> Any:
            if self._read and self._read[0] == index:
                item, self._read = self._read[1], None
            else:
                item = super().__getitem__(index)
                self._read = index, item
            return item

    # Where pickle finds it, for processes that read.
    ImageFolder.__module__, ImageFolder.__qualname__ = disk_dataset.__name__, "ImageFolder"
    disk_dataset.ImageFolder = ImageFolder
    return True


@_repair("vissl.utils.cluster_utils")
def cluster_assignment_config(cluster_utils: Any) -> bool:
    """The configuration in VISSL's cluster assignments as an ``AttrDict`` again.

    It is one in the file, ``checkpoint_types`` can only give a dictionary, vissl/data reads attributes.
    """
    loader = cluster_utils.ClusterAssignmentLoader
    load = loader.load_cluster_assigment.__func__

    @functools.wraps(load)
    def load_with_attributes(cls: type, file_path: str) -> Any:
        assignment = load(cls, file_path)
        assignment.config = cluster_utils.AttrDict(assignment.config)
        return assignment

    loader.load_cluster_assigment = classmethod(load_with_attributes)
    return True
