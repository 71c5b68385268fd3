"""Images that are not as they should be: labelled for what they show, or without label and with the reason."""

import os
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from tiny import write_images
from vissl.data import build_dataset

from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.plugin.data.split_images import SplitImages

TO_TENSOR = [{"name": "Resize", "size": [8, 8]}, {"name": "ToTensor"}]


def png(width: int, height: int, bits: int, colour: int, row: bytes) -> bytes:
    """A PNG file whose rows are all the same, whatever Pillow can write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress((b"\0" + row) * height, 1))
    return b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b"")


@pytest.fixture
def read(tmp_path):
    """A function from the bytes of one file to its image, as extraction sees it, and the reason if it cannot."""
    folder = write_images(tmp_path / "images", 3)

    def read_one(content: bytes | None = None, save=None):
        file = folder / "class0" / "00000.png"
        if content is not None:
            file.write_bytes(content)
        if save is not None:
            save(file)
        overrides = [
            "config=test/cpu_test/test_cpu_resnet_simclr",
            "+config/clusterfit=student",
            f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
            "config.DATA.TRAIN.DATA_SOURCES=[disk_folder]",
            f"config.DATA.TRAIN.DATA_PATHS=[{folder}]",
        ]
        return SplitImages(compose(overrides)[2], "TRAIN", TO_TENSOR)[0]

    return read_one


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "UnidentifiedImageError"),
        (b"\0" * 4096, "UnidentifiedImageError"),
        (b"This is no picture.", "UnidentifiedImageError"),
        (png(40, 40, 8, 2, b"\x80" * 120)[:-40], "Error"),
        (png(20000, 20000, 1, 0, bytes(2500)), "DecompressionBombError: Image size .400000000 pixels. exceeds"),
    ],
    ids=["empty", "zero bytes", "text", "truncated", "huge"],
)
def test_what_cannot_be_read_has_a_reason(read, content, reason):
    assert re.search(reason, read(content)[1])


def test_a_truncated_jpeg_has_a_reason(read, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    assert "truncated" in read(whole[: len(whole) // 2])[1]


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [("CMYK", (0, 255, 255, 0), (1, 0, 0)), ("L", 128, (0.5, 0.5, 0.5)), ("RGBA", (0, 255, 0, 255), (0, 1, 0))],
)
def test_other_colour_spaces_are_read_for_what_they_show(read, mode, colour, expected):
    picture = Image.new(mode, (40, 40), colour)
    image, reason = read(save=lambda file: picture.save(file, format="TIFF" if mode == "CMYK" else "PNG"))
    assert reason == ""
    np.testing.assert_allclose(image.mean(dim=(1, 2)), expected, atol=0.01)


def test_sixteen_bits_per_colour_are_read_for_what_they_show(read):
    image, reason = read(png(40, 40, 16, 2, b"\x40\x00\x80\x00\xc0\x00" * 40))
    assert reason == ""
    np.testing.assert_allclose(image.mean(dim=(1, 2)), [0.25, 0.5, 0.75], atol=0.01)


def read_by_vissl(file, kind):
    """The sample of one file in a class folder, through the data set of VISSL's own trainings."""
    images = file.parents[1]
    np.save(images.with_name("files.npy"), np.array([str(file)]))
    cfg = compose(
        [
            "config=test/cpu_test/test_cpu_resnet_simclr",
            f"config.DATA.TRAIN.DATA_SOURCES=[{kind}]",
            f"config.DATA.TRAIN.DATA_PATHS=[{images if kind == 'disk_folder' else images.with_name('files.npy')}]",
            "config.DATA.TRAIN.TRANSFORMS=[{name:ToTensor}]",
            "config.DATA.TRAIN.DATA_LIMIT=-1",
        ]
    )[2]
    return build_dataset(cfg, "TRAIN")[0]


@pytest.mark.parametrize("kind", ["disk_folder", "disk_filelist"])
def test_sixteen_bits_of_grey_are_read_for_what_they_show_by_every_source(tmp_path, kind):
    """Extraction and VISSL's own trainings, on true labels, read through the same data set."""
    file = tmp_path / "images/class0/grey.png"
    file.parent.mkdir(parents=True)
    file.write_bytes(png(40, 40, 16, 0, b"\x40\x00\xc0\x00" * 20))
    sample = read_by_vissl(file, kind)
    assert sample["data_valid"] == [1]
    np.testing.assert_array_equal(sample["data"][0][:, 0, :2] * 255, [[64, 192]] * 3)


@pytest.mark.timeout(60)
def test_a_pipe_has_a_reason(read):
    def make(file):
        file.unlink()
        os.mkfifo(file)

    assert "a named pipe, not a file" in read(save=make)[1]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["disk_folder", "disk_filelist"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda file: file.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_vissls_own_trainings_wait_for_no_pipe(tmp_path, kind, make):
    file = tmp_path / "images/class0/0.png"
    file.parent.mkdir(parents=True)
    make(file)
    assert read_by_vissl(file, kind)["data_valid"] == [-1]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_unknown_range_have_a_reason(read, mode):
    _, reason = read(save=lambda file: Image.new(mode, (40, 40), 70_000).save(file, format="TIFF"))
    assert f"its pixels are of mode {mode}, whose range the file does not say" in reason


def test_wrong_exif_data_change_nothing(read, tmp_path):
    picture = Image.fromarray(np.full((40, 40, 3), (200, 100, 50), dtype=np.uint8))
    image, reason = read(save=lambda file: picture.save(file, format="JPEG", exif=b"Exif\0\0MM\0*garbage" + bytes(9)))
    assert reason == ""
    np.testing.assert_allclose(image.mean(dim=(1, 2)) * 255, [200, 100, 50], atol=3)
