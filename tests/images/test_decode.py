"""Pictures as they are to be seen: turned by their EXIF data as Pillow turns them, and 16 bits for what they show."""

import io

import numpy as np
import pytest
from pictures import picture, turned
from PIL import Image, ImageOps

from vissl_clusterfit.images.decode import UnreadablePixels, as_rgb


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_pillow_turns_it(kind, orientation):
    content = turned(3, orientation, kind)
    with Image.open(io.BytesIO(content)) as image:
        upright, ignored = as_rgb(image)
    with Image.open(io.BytesIO(content)) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    np.testing.assert_array_equal(np.asarray(upright), np.asarray(expected))
    assert not ignored


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_what_is_ignored_is_said(kind):
    for orientation in (1, 6):
        with Image.open(io.BytesIO(turned(3, orientation, kind))) as image:
            as_stored, ignored = as_rgb(image, exif=False)
            assert as_stored.size == (20, 10)
            assert ignored == (orientation == 6)


def test_pillow_turns_tiff_itself_and_nothing_is_said_to_be_ignored():
    with Image.open(io.BytesIO(turned(3, 6, "TIFF"))) as image:
        upright, ignored = as_rgb(image, exif=False)
    assert (upright.size, ignored) == ((10, 20), False)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_turns_nothing(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    picture(1).save(file, "JPEG", exif=exif)
    with Image.open(file) as image:
        assert as_rgb(image)[0].size == (20, 10)


def test_damaged_exif_data_do_not_cost_the_image():
    file = io.BytesIO()
    picture(1).save(file, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    with Image.open(file) as image:
        rgb, ignored = as_rgb(image)
    assert (rgb.size, rgb.mode, ignored) == ((20, 10), "RGB", False)


def test_16_bits_of_grey_keep_their_upper_8():
    values = np.array([[0, 255, 256, 65535]], dtype=np.uint16)
    for kind in ("PNG", "TIFF"):
        file = io.BytesIO()
        Image.fromarray(values).save(file, kind)
        with Image.open(file) as image:
            np.testing.assert_array_equal(np.asarray(as_rgb(image)[0])[..., 0], [[0, 0, 1, 255]])


def test_pixels_of_unknown_range_are_not_readable():
    with pytest.raises(UnreadablePixels, match="mode F"):
        as_rgb(Image.fromarray(np.zeros((2, 2), dtype=np.float32)))
