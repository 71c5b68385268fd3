"""Files of data from anywhere: nothing in them runs, names memory, or is taken for what it is not."""

import io
import os
import pickle
import struct

import numpy as np
import pytest
from pickled_calls import Reduced

from vissl_clusterfit.plugin.training import checkpoints
from vissl_clusterfit.storage import untrusted
from vissl_clusterfit.storage.untrusted import _HEADERS, UnsafeFileError, load_array, load_plain_pickle


def unpickled(value, protocol=2):
    return load_plain_pickle(io.BytesIO(pickle.dumps(value, protocol)))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_lists_dictionaries_texts_and_arrays_come_back(protocol):
    value = {
        "data": np.arange(12, dtype=np.uint8).reshape(3, 4),
        "wide": np.array([1, 2], ">i4"),
        "labels": [0, 1, 2],
        "one": np.float64(0.5),
        "names": ["a.png", "ü.png"],
        "raw": b"\x00\xff",
        "none": (None, True, 1.5),
    }
    found = unpickled(value, protocol)
    assert {name: found[name] for name in ("labels", "names", "none", "raw")} == {
        name: value[name] for name in ("labels", "names", "none", "raw")
    }
    for name in ("data", "wide"):
        np.testing.assert_array_equal(found[name], value[name])
    assert found["one"] == 0.5


def test_a_batch_that_python_2_has_written():
    """Bytes are texts there, as in CIFAR's own files."""
    header = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    dtype = b"(I1\n(I2\nI2\ntcnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"
    data = b"I00\nS'\\x01\\x02\\x03\\xff'\ntb."
    found = load_plain_pickle(io.BytesIO(header + dtype + data))
    assert (found.tolist(), found.dtype) == ([[1, 2], [3, 255]], np.uint8)


@pytest.mark.parametrize(
    "value",
    [
        Reduced(os.mkdir, ("trapped",)),
        Reduced(eval, ("__import__('os').mkdir('trapped')",)),
        Reduced(np.ndarray, ((2,), "O", b"A" * 16)),
        np.array([{}], dtype=object),
        np.dtype("O"),
        Reduced(np.ndarray, ((2,), "O", b"A" * 16), (1, (2,), np.dtype("O"), False, [1, 2])),
    ],
    ids=["call", "eval", "array over bytes", "objects", "type of objects", "objects over bytes"],
)
def test_what_would_run_code_is_refused(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafeFileError, match="no pickle of lists, texts and arrays of numbers: "):
        unpickled(value)
    assert list(tmp_path.iterdir()) == []


def test_what_a_pickle_may_call_gets_no_state_from_it():
    given = b"cnumpy._core.multiarray\nscalar\n(N}S'__defaults__'\n(I1\ntstb."
    with pytest.raises(UnsafeFileError, match="a state to a function"):
        load_plain_pickle(io.BytesIO(given))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04\x95",
        b"\x80\x05\x8e" + struct.pack("<Q", 1 << 60) + b"short",
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b"short",
        b"\x80\x02Nr\xff\xff\xff\xffNN",
        b"c_codecs\nencode\n(S'a'\nS'zlib'\ntR.",
        b"I" + b"9" * 10000 + b"\n.",
        b"(" * 100000,
    ],
    ids=["empty", "frame", "bytes", "bytearray", "memo", "codec", "number", "marks"],
)
def test_a_damaged_pickle_is_refused_and_takes_no_memory(content):
    with pytest.raises(UnsafeFileError):
        load_plain_pickle(io.BytesIO(content))


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.ones((3, 2))),
        np.array(["a", "bü"]),
        np.zeros((0, 3)),
        np.array(5),
    ],
    ids=["rows", "columns", "texts", "empty", "no dimension"],
)
def test_arrays_come_back_from_files(tmp_path, array, mmap):
    np.save(tmp_path / "a.npy", array)
    found = load_array(tmp_path / "a.npy", mmap=mmap)
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(found, array)
    assert found.flags.writeable is not mmap


def header_of(shape: str, descr: str = "'<f8'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n"


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"a/b.png\nc/d.png\n", "text, not a NumPy array"),
        (b"PK\x03\x04rest", r"an archive \(\.npz, \.zip\)"),
        (b"\x89PNG\r\n\x1a\n", r"a picture \(PNG\)"),
        (pickle.dumps([1, 2]), "a pickle, not a NumPy array"),
        (header_of("(2,)", "'|O'") + pickle.dumps([1, 2]), "Python objects, whose reading could run code"),
        (header_of("(10,)") + b"\0" * 79, r"cut off: float64 of shape \(10,\), 80 bytes by its header, 79 bytes"),
        (header_of(f"({10**30},)"), "cut off"),
        (header_of(f"({10**18},)", "'<U0'"), "cut off"),
        (header_of("(-1,)"), "of shape"),
        (header_of("(True, 4)") + b"\0" * 32, "of shape"),
        (header_of("(2,)", "[('a', '<f8')]") + b"\0" * 16, "an array of "),
        (header_of("__import__('os')"), "a damaged NumPy array"),
        (b"\x93NUMPY\x09\x00" + b"\0" * 20, "a damaged NumPy array"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "a damaged NumPy array"),
    ],
)
def test_what_is_no_array_is_named(tmp_path, content, message, mmap):
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(UnsafeFileError, match=message):
        load_array(tmp_path / "a.npy", mmap=mmap)


def test_the_end_of_an_archive_in_several_files_is_no_archive(tmp_path):
    path = tmp_path / "checkpoint.torch"
    path.write_bytes(b"PK\x03\x04" + struct.pack("<4sLQL4s18x", b"PK\x06\x07", 1, 0, 2, b"PK\x05\x06"))
    assert not untrusted.is_archive(path)
    with path.open("rb") as file:
        untrusted.require_unpacked(file)
        assert file.tell() == 0
    assert checkpoints.why_damaged(path) == "it was cut off"


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.npy")
    with pytest.raises(UnsafeFileError, match="a named pipe, not a file"):
        load_array(tmp_path / "a.npy")


def test_the_parser_of_another_thread_is_no_damage(tmp_path, monkeypatch):
    """Python 3.11 says now and then that its recursion does not match, where two threads parse headers at a time."""
    np.save(tmp_path / "array.npy", np.arange(7))
    real, failures = _HEADERS[1, 0], iter(range(3))

    def parse(file):
        header = real(file)
        if next(failures, None) is not None:
            raise SystemError("AST constructor recursion depth mismatch")
        return header

    monkeypatch.setitem(_HEADERS, (1, 0), parse)
    for mmap in (False, True):
        assert load_array(tmp_path / "array.npy", mmap=mmap).tolist() == list(range(7))
    assert next(failures, None) is None
