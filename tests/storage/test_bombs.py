"""Files that are made to fill memory or disk, or to be waited for: each reader refuses them at once."""

import contextlib
import gzip
import io
import os
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
import torch
from tiny import write_images

from vissl_clusterfit.datasets.archives import Sources
from vissl_clusterfit.datasets.lists import read_lines
from vissl_clusterfit.datasets.matlab import read_matlab
from vissl_clusterfit.errors import ArtifactError, ClusterFitError, DataError, TeacherError
from vissl_clusterfit.features.imports import import_features, read_name_list
from vissl_clusterfit.features.parquet_files import read_table
from vissl_clusterfit.features.rows_files import read_rows
from vissl_clusterfit.features.sample_names import NAMES_FILE, read_names
from vissl_clusterfit.images import open_images
from vissl_clusterfit.models.weight_files import load_state_dict
from vissl_clusterfit.plugin.data.named_files import load_file, read_label_file
from vissl_clusterfit.plugin.training.checkpoints import why_damaged
from vissl_clusterfit.storage import artifacts, untrusted
from vissl_clusterfit.storage.untrusted import UnsafeFileError, load_array, load_json
from vissl_clusterfit.video.read import open_video
from vissl_clusterfit.video.unreadable import UnreadableVideoError

MEGABYTES = 32


@pytest.fixture(autouse=True)
def a_small_machine(monkeypatch):
    """What any file may unpack to, in proportion to these files."""
    monkeypatch.setattr(untrusted, "_ANY_MAY", 16 << 20)


class Zeros(io.RawIOBase):
    """A file of zeros that takes no memory."""

    def __init__(self, size: int) -> None:
        self.left = size

    def read(self, size: int = -1) -> bytes:
        count = min(self.left, size if size >= 0 else self.left)
        self.left -= count
        return bytes(count)


def packed_checkpoint(path):
    """A checkpoint of 32 MB in 150 kB: its members packed, which PyTorch reads, too."""
    torch.save({"weight": torch.zeros(4)}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        with archive.open("archive/data/1", "w", force_zip64=True) as member:
            for _ in range(MEGABYTES):
                member.write(bytes(1 << 20))


def test_a_checkpoint_that_unpacks(tmp_path):
    path = tmp_path / "weights.pt"
    packed_checkpoint(path)
    assert path.stat().st_size < MEGABYTES << 14
    with pytest.raises(TeacherError, match="bytes that unpack to 335"):
        load_state_dict(str(path))
    with pytest.raises(DataError, match="bytes that unpack to 335"):
        import_features(path, tmp_path / "features")
    assert "bytes that unpack to 335" in why_damaged(path)


def test_features_that_unpack(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (8 << 10, 1024)})
    with (
        zipfile.ZipFile(tmp_path / "features.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("features.npy", "w", force_zip64=True) as member,
    ):
        member.write(header.getvalue())
        for _ in range(MEGABYTES):
            member.write(bytes(1 << 20))
    with pytest.raises(DataError, match=r"features\.npz cannot be read as \.npz: .* bytes that unpack to"):
        import_features(tmp_path / "features.npz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_labels_that_unpack(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    zeros = pa.array(np.zeros(3_000_000, np.int8))
    names = pa.DictionaryArray.from_arrays(zeros, pa.array(["x" * 64]))
    pyarrow.parquet.write_table(pa.table({"name": names, "label": zeros}), tmp_path / "labels.parquet")
    with pytest.raises(DataError, match=r"cannot be read as Parquet: .* bytes that unpack to"):
        read_table(tmp_path / "labels.parquet")


def test_names_that_unpack(tmp_path):
    with gzip.open(tmp_path / NAMES_FILE, "wb", compresslevel=1) as file:
        file.write(b'{"with_sizes": false}\n"')
        for _ in range(MEGABYTES):
            file.write(bytes(1 << 20).replace(b"\0", b"a"))
    with pytest.raises(ArtifactError, match="cannot be read as names"):
        list(read_names(tmp_path))


def add(archive: tarfile.TarFile, name: str, size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size = size
    archive.addfile(member, Zeros(size))


def tar_of_zeros(path):
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        add(archive, "a.bin", MEGABYTES << 20)


def tar_in_a_tar(path):
    with tarfile.open(path.with_name("inner.tar"), "w") as archive:
        header = tarfile.TarInfo("a.bin")
        header.size = 8 << 40
        archive.fileobj.write(header.tobuf())
    with tarfile.open(path, "w:gz") as archive:
        archive.add(path.with_name("inner.tar"), "inner.tar")


def tar_with_a_long_text(path):
    member = tarfile.TarInfo("a.bin")
    member.type, member.size = tarfile.XHDTYPE, 1 << 30
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(member.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(32):
            file.write(bytes(1 << 20))


@pytest.mark.parametrize(
    ("make", "of_tars"), [(tar_of_zeros, False), (tar_in_a_tar, True), (tar_with_a_long_text, False)]
)
def test_an_archive_that_unpacks(tmp_path, make, of_tars):
    make(tmp_path / "a.tar.gz")
    sources = Sources(tmp_path, tmp_path / "unpacked", {"a.tar.gz": ""}, check_sums=False)
    with pytest.raises(DataError, match=r"a\.tar\.gz cannot be unpacked: .*(unpack to|a text of)"):
        sources.folder("a.tar.gz", of_tars=of_tars)
    assert sum(file.stat().st_size for file in (tmp_path / "unpacked").rglob("*") if file.is_file()) == 0


@pytest.mark.parametrize("name", ["../outside", "/{folder}/outside", "a/../../outside", "link/outside"])
def test_nothing_is_unpacked_outside(tmp_path, name):
    """Names that leave the folder, and a link in the archive that would lead out of it."""
    name = name.format(folder=str(tmp_path).strip("/"))
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, ".."
        archive.addfile(link)
        add(archive, name, 10)
    sources = Sources(tmp_path, tmp_path / "unpacked", {"a.tar.gz": ""}, check_sums=False)
    with contextlib.suppress(DataError):  # or the link is left out, and the name taken below the folder
        sources.folder("a.tar.gz")
    assert not [path for path in (tmp_path / "unpacked").rglob("*") if path.is_symlink()]
    assert not (tmp_path / "outside").exists()
    assert not (tmp_path / "unpacked/outside").exists()


def element(kind: int, data: bytes) -> bytes:
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(number: int, shape: tuple[int, ...], *parts: bytes) -> bytes:
    flags, name = element(6, struct.pack("<II", number, 0)), element(1, b"names")
    return element(14, flags + element(5, struct.pack(f"<{len(shape)}i", *shape)) + name + b"".join(parts))


def nested(levels: int) -> bytes:
    inner = matrix(6, (1, 1), element(9, bytes(8)))
    for _ in range(levels):
        inner = matrix(1, (1, 1), inner)
    return inner


def write_matlab(path, content: bytes):
    path.write_bytes(b" " * 124 + b"\0\1IM" + content)
    return path


def test_a_packed_matlab_file_that_unpacks(tmp_path):
    packed = zlib.compress(bytes(300 << 20), 1)
    with pytest.raises(DataError, match="unpack to more than"):
        read_matlab(write_matlab(tmp_path / "a.mat", struct.pack("<II", 15, len(packed)) + packed), "names")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (matrix(1, (1 << 20, 1 << 10)), r"an array of shape \(1048576, 1024\) in"),
        (matrix(2, (1 << 20, 1 << 10)), "an array of shape"),
        (matrix(4, (1 << 20, 1 << 10), element(4, b"")), "an array of shape"),
        (matrix(1, (1, 1), matrix(1, (1 << 20, 1 << 10))), "an array of shape"),
        (nested(5000), "levels of cells"),
    ],
    ids=["cells", "records", "text", "inside", "levels"],
)
def test_a_matlab_file_that_unpacks(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        read_matlab(write_matlab(tmp_path / "a.mat", content), "names")


def test_matlab_files_as_they_are_written(tmp_path):
    scipy_io = pytest.importorskip("scipy.io")
    records = np.array([("a", 1), ("bc", 2)], dtype=[("name", object), ("number", object)])
    for packed in (True, False):
        content = {"names": records, "other": np.zeros((300, 300))}
        scipy_io.savemat(tmp_path / "a.mat", content, do_compression=packed)
        (found,) = read_matlab(tmp_path / "a.mat", "names")
        assert [record.name for record in found] == ["a", "bc"]


READERS = {
    "array": (lambda path: load_array(path), UnsafeFileError),
    "json": (lambda path: load_json(path), UnsafeFileError),
    "manifest": (lambda path: artifacts.read_json(path), ArtifactError),
    "hash": (lambda path: artifacts.file_sha256(path), ArtifactError),
    "labels": (lambda path: read_label_file(str(path), "x", mmap=True), DataError),
    "weights": (lambda path: load_state_dict(str(path)), TeacherError),
    "lines": (lambda path: read_lines(path), DataError),
    "video": (lambda path: open_video(str(path)), UnreadableVideoError),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("read", "error"), READERS.values(), ids=list(READERS))
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_no_reader_waits(tmp_path, read, error, kind):
    path = tmp_path / "x"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(error, match="a named pipe, not a file" if kind == "pipe" else "a device, not a file"):
        read(path)


@pytest.mark.timeout(60)
def test_a_collection_of_images_waits_for_no_pipe(tmp_path):
    folder = write_images(tmp_path / "images", 3)
    os.mkfifo(folder / "class0/pipe.png")
    (tmp_path / "list.txt").write_text("images/class0/pipe.png\n")
    for place in (folder, tmp_path / "list.txt"):
        images = open_images(place)
        with pytest.raises(UnsafeFileError, match="a named pipe"):
            images.read(next(number for number, name in enumerate(images.names) if "pipe" in name))
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(DataError, match="a named pipe, not a file; allowed: a folder of images"):
        open_images(tmp_path / "pipe.csv")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("suffix", [".npy", ".pt", ".safetensors", ".csv", ".txt", ".pkl", ".yaml"])
def test_nor_does_a_reader_of_a_format(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    os.mkfifo(path)
    if suffix in (".pkl", ".yaml"):
        call = lambda: load_file(str(path))  # noqa: E731
    elif suffix in (".csv", ".txt"):
        call = lambda: read_name_list(path)  # noqa: E731
    else:
        call = lambda: read_rows(path, "")  # noqa: E731
    with pytest.raises(ClusterFitError, match="a named pipe, not a file"):
        call()
