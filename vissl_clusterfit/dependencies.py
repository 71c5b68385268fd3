"""Says which command installs what is missing, before an import fails somewhere deep inside."""

from __future__ import annotations

from importlib.util import find_spec

from vissl_clusterfit.errors import MissingDependencyError

_INSTALL = {
    "torch": "python -m pip install torch torchvision",
    "vissl": "python -m pip install --no-deps vissl==0.1.6",
    "faiss": "python -m pip install faiss-cpu    (faiss-gpu where there is an NVIDIA GPU; never both)",
    "pyarrow": "python -m pip install 'vissl-clusterfit[parquet]'",
}
_NEEDED = ("torch", "vissl", "faiss")


def require(*modules: str) -> None:
    """Checks that modules are installed, without importing them.

    Args:
        modules: Any of ``torch``, ``vissl``, ``faiss``, ``pyarrow``; the first three if none is named.

    Raises:
        MissingDependencyError: One message that names everything missing and the commands that install it.
    """
    missing = [name for name in modules or _NEEDED if not _is_installed(name)]
    if missing:
        commands = "".join(f"\n    {_INSTALL[name]}" for name in missing)
        raise MissingDependencyError(f"Not installed: {', '.join(missing)}. Install with:{commands}")


def _is_installed(name: str) -> bool:
    try:
        spec = find_spec(name)
    except ImportError:
        return False
    # A mere folder of that name, say a clone of VISSL in the working directory, is found without origin.
    return spec is not None and spec.origin is not None
