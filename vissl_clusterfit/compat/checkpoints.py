"""What VISSL's checkpoints hold besides tensors, in a form that a file from anywhere may use.

``torch.load(weights_only=True)`` calls only what is on its allow-list. NumPy's own functions there, the usual
advice, open a hole: a crafted file can lay an array of objects over its own bytes
(``ndarray(shape, "O", buffer)``), or set the object flags of a float type (``dtype.__setstate__``), and so
have any address taken for a Python object. So what goes there under NumPy's names are the stand-ins below,
which make numbers and arrays of numbers, and nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from pickle import UnpicklingError
from typing import Any

import numpy as np

# VISSL 0.1.6 has the class in the first module, earlier releases had it in the second.
_ATTR_DICTS = ("vissl.config.attr_dict.AttrDict", "vissl.utils.hydra_config.AttrDict")
# NumPy 2.0 moved the functions that its pickles name; files of both kinds are around.
_NUMPY_CORES = ("numpy.core.multiarray", "numpy._core.multiarray")


def safe_globals() -> list[Any]:
    """The entries for ``torch.serialization.add_safe_globals``: what is called, and its name in a file.

    An ``AttrDict`` becomes an ``OrderedDict``: since some release after PyTorch 2.6 a file may only fill
    Python's own dictionaries, whatever the allow-list says. ``AttrDict(loaded)`` makes it one again.
    """
    entries: list[Any] = [(OrderedDict, name) for name in _ATTR_DICTS]
    entries += [(NumberType, "numpy.dtype"), (NumberArray, "numpy.ndarray")]
    entries.append((bytes, "builtins.bytes"))  # Called without arguments for the data of an empty array.
    for core in _NUMPY_CORES:
        entries += [(number, f"{core}.scalar"), (NumberArray, f"{core}._reconstruct")]
    return entries


class NumberType:
    """Stands for ``numpy.dtype`` in a file: a boolean, integer, float or complex type and its byte order.

    A type that is itself a value in the checkpoint stays one of these; its ``dtype`` is NumPy's.
    """

    def __init__(self, code: str, align: bool = False, copy: bool = False) -> None:
        dtype = np.dtype(code) if isinstance(code, str) else None
        if dtype is None or dtype.kind not in "biufc":
            raise UnpicklingError(f"the NumPy type {code!r} is not one of numbers")
        self.dtype = dtype

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class NumberArray(np.ndarray):
    """Stands for NumPy's array and its reconstructor in a file: empty until it gets its state, then checked.

    Pickled again, it is a plain array.
    """

    def __new__(cls, *_: Any) -> NumberArray:
        """An empty array, whatever a file asks for."""
        return super().__new__(cls, (0,), np.int8)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        *_, shape, number_type, column_order, data = state
        if self.size:  # By now a tensor may share the memory that NumPy would free.
            raise UnpicklingError("a NumPy array is filled twice")
        super().__setstate__((1, shape, _dtype(number_type), column_order, data))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return np.asarray(self).__reduce_ex__(protocol)


def number(number_type: NumberType, data: bytes) -> Any:
    """Stands for NumPy's reconstructor of scalars.

    Raises:
        UnpicklingError: The type is not one of numbers, or the bytes are more or fewer than it has.
    """
    dtype = _dtype(number_type)
    if len(data) != dtype.itemsize:
        raise UnpicklingError(f"a NumPy number of type {dtype} has {dtype.itemsize} bytes, found {len(data)}")
    return np.frombuffer(data, dtype)[0]


def _dtype(number_type: NumberType) -> np.dtype[Any]:
    if not isinstance(number_type, NumberType):
        raise UnpicklingError(f"a NumPy value of no type of numbers, but {type(number_type).__name__}")
    return number_type.dtype
