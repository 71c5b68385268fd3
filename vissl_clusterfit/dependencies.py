"""Modules from outside: which command installs a missing one, and a user's own, imported in every process of a run."""

from __future__ import annotations

import functools
import importlib
import os
from importlib.util import find_spec

from vissl_clusterfit import compat
from vissl_clusterfit.errors import ConfigError, MissingDependencyError, problem

_INSTALL = {
    "torch": "python -m pip install torch torchvision",
    "torchvision": "python -m pip install torch torchvision",
    "vissl": "python -m pip install --no-deps vissl==0.1.6",
    "faiss": "python -m pip install faiss-cpu    (faiss-gpu where there is an NVIDIA GPU; never both)",
    "pyarrow": "python -m pip install 'vissl-clusterfit[parquet]'",
    "timm": "python -m pip install 'vissl-clusterfit[models]'",
    "transformers": "python -m pip install 'vissl-clusterfit[models]'",
    "onnx": "python -m pip install 'vissl-clusterfit[onnx]'",
    "onnxruntime": "python -m pip install 'vissl-clusterfit[onnx]'",
    "onnxscript": "python -m pip install 'vissl-clusterfit[onnx]'",
    "datasets": "python -m pip install 'vissl-clusterfit[images]'",
    "umap": "python -m pip install umap-learn",
    "tensorboard": "python -m pip install 'vissl-clusterfit[loggers]'",
    "wandb": "python -m pip install 'vissl-clusterfit[loggers]'",
    "mlflow": "python -m pip install 'vissl-clusterfit[loggers]'",
    "lmdb": "python -m pip install 'vissl-clusterfit[images]'",
}
_NEEDED = ("torch", "vissl", "faiss")


def require(*modules: str) -> None:
    """Checks that modules are installed, without importing them.

    Args:
        modules: Any of those with a command here; ``torch``, ``vissl`` and ``faiss`` if none is named.

    Raises:
        MissingDependencyError: One message that names everything missing and the commands that install it.
    """
    missing = [name for name in modules or _NEEDED if not _is_installed(name)]
    if missing:
        commands = "".join(f"\n    {command}" for command in dict.fromkeys(_INSTALL[name] for name in missing))
        raise MissingDependencyError(f"Not installed: {', '.join(missing)}. Install with:{commands}")


def _is_installed(name: str) -> bool:
    try:
        spec = find_spec(name)
    except ImportError:
        return False
    # A mere folder of that name, say a clone of VISSL in the working directory, is found without origin.
    return spec is not None and spec.origin is not None


#: An environment variable: names of a user's modules, with commas between them.
IMPORT_VARIABLE = "VISSL_CLUSTERFIT_IMPORT"
#: Its former name, which still works.
_FORMER_VARIABLE = "VISSL_CLUSTERFIT_PATH_HANDLERS"


def user_modules() -> list[str]:
    """The names of the user's modules, in order."""
    given = ",".join(os.environ.get(variable, "") for variable in (IMPORT_VARIABLE, _FORMER_VARIABLE))
    return [name for name in map(str.strip, given.split(",")) if name]


@functools.lru_cache(maxsize=1)
def import_user_modules() -> None:
    """Imports what :data:`IMPORT_VARIABLE` names, in order, after VISSL was repaired; safe to call twice.

    Raises:
        ConfigError: a module cannot be imported.
    """
    compat.apply()
    for module in user_modules():
        try:
            importlib.import_module(module)
        except Exception as error:
            raise ConfigError(
                problem(
                    IMPORT_VARIABLE,
                    found=f"{module!r}, which cannot be imported ({type(error).__name__}: {error})",
                    allowed="Python modules, with commas between them, that register their parts when imported",
                    remedy="Mend the module, put its folder into PYTHONPATH, or unset the variable.",
                )
            ) from error
