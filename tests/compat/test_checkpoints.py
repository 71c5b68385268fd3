import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from pickled_calls import Reduced

from vissl_clusterfit.compat.checkpoints import NumberArray, NumberType, number, safe_globals


@pytest.fixture(autouse=True)
def _allow() -> None:
    torch.serialization.add_safe_globals(safe_globals())  # they stay: a context would take them from later tests


def save_and_load(value: Any) -> Any:
    file = io.BytesIO()
    torch.save({"value": value}, file)
    file.seek(0)
    return torch.load(file, weights_only=True)["value"]


@pytest.mark.parametrize(
    "value",
    [
        np.float64(0.1),
        np.float32(2),
        np.float16(0.5),
        np.int64(-3),
        np.uint8(255),
        np.bool_(True),
        np.complex64(1j),
    ],
)
def test_numbers_come_back(value):
    loaded = save_and_load(value)
    assert type(loaded) is type(value)
    assert loaded == value


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int32).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([1, 2], dtype=">f4"),
        np.array([True, False]),
        np.zeros((0, 3)),
        np.array(5.0),
    ],
    ids=["rows", "columns", "other byte order", "booleans", "empty", "no dimension"],
)
def test_arrays_come_back(array):
    loaded = save_and_load(array)
    assert isinstance(loaded, np.ndarray)
    assert (loaded.shape, loaded.dtype) == (array.shape, array.dtype.newbyteorder("="))
    np.testing.assert_array_equal(loaded, array)


def test_a_loaded_array_is_saved_as_a_plain_one():
    loaded = save_and_load(np.arange(3))
    assert type(loaded) is NumberArray
    assert type(pickle.loads(pickle.dumps(loaded))) is np.ndarray
    assert save_and_load(loaded).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "value", [np.array([{}], dtype=object), np.array(["text"]), np.array([(1,)], dtype=[("field", "f8")])]
)
def test_arrays_of_anything_else_are_refused(value):
    with pytest.raises(pickle.UnpicklingError, match="is not one of numbers"):
        save_and_load(value)


def test_no_array_is_laid_over_bytes_of_the_file():
    crafted = Reduced(np.ndarray, ((1,), "O", b"A" * 8))
    loaded = save_and_load(crafted)
    assert (loaded.size, loaded.dtype) == (0, np.int8)


def test_no_type_gets_flags_from_the_file():
    # Without the stand-in, a float64 whose values are taken for references: 63 are all flags of an object.
    state = (3, "<", None, None, None, -1, -1, 63)
    unsafe = np.dtype("f8", copy=True)
    unsafe.__setstate__(state)
    assert unsafe.flags == 63
    loaded = save_and_load(Reduced(np.dtype, ("f8", False, True), state))
    assert (loaded.dtype, loaded.dtype.flags) == (np.float64, 0)


def test_no_array_is_filled_twice():
    array, state = NumberArray(), (1, (1,), NumberType("f8"), False, b"A" * 8)
    array.__setstate__(state)
    with pytest.raises(pickle.UnpicklingError, match="filled twice"):
        array.__setstate__(state)


def test_an_array_takes_no_type_but_the_stand_in():
    with pytest.raises(pickle.UnpicklingError, match="no type of numbers, but ObjectDType"):
        NumberArray().__setstate__((1, (1,), np.dtype("O"), False, [{}]))


def test_a_number_of_the_wrong_size_is_refused():
    with pytest.raises(pickle.UnpicklingError, match="type float64 has 8 bytes, found 9"):
        number(NumberType("f8"), b"A" * 9)
