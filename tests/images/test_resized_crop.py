import functools
import pickle
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor, v2

from vissl_clusterfit.images.pixels import unfinished
from vissl_clusterfit.images.resized_crop import ResizedCrop, with_resized_crop

FILTERS = [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC, InterpolationMode.LANCZOS]


@functools.cache
def noise():
    """In which every pixel shows."""
    return np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)


@settings(deadline=None, max_examples=300)
@given(
    st.integers(1, 700),
    st.integers(1, 700),
    st.sampled_from([16, 32, 64, 128, 256]) | st.integers(1, 300),
    st.floats(0, 1),
    st.sampled_from(FILTERS),
)
@example(500, 375, 256, 0.125, FILTERS[0])  # most of ImageNet
@example(375, 500, 256, 0.125, FILTERS[1])
@example(600, 400, 256, 0.125, FILTERS[0])  # exact along both sides
@example(256, 341, 256, 0.125, FILTERS[0])  # as large as it becomes
@example(100, 75, 256, 0.125, FILTERS[0])  # enlarged
@example(640, 512, 512, 0.0, FILTERS[2])
@example(333, 500, 255, 0.3, FILTERS[1])
@example(100, 500, 50, 0.2, FILTERS[0])  # of which Pillow 13 resizes columns first
@example(6, 700, 2, 0.0, FILTERS[0])  # and this one every release
def test_the_crop_has_the_bits_of_both_steps(width, height, size, cut, resample):
    if max(width, height) * size > 100_000 * min(width, height):  # a strip that becomes a large picture
        width = height
    crop = CenterCrop(max(1, round(size * (1 - cut))))
    plain = [Resize(size, resample), crop]
    picture = Image.fromarray(noise()[:height, :width])
    (step,) = with_resized_crop(plain)
    assert isinstance(step, ResizedCrop)
    np.testing.assert_array_equal(np.asarray(step(picture)), np.asarray(Compose(plain)(picture)))


@pytest.mark.parametrize("size", [(40, 24), [32], (32, 32)])
@pytest.mark.parametrize("crop", [(24, 20), 24])
def test_sizes_are_those_of_torchvision(size, crop):
    plain = [Resize(size), CenterCrop(crop)]
    (step,) = with_resized_crop(plain)
    picture = Image.fromarray(noise()[:90, :64])
    np.testing.assert_array_equal(np.asarray(step(picture)), np.asarray(Compose(plain)(picture)))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_a_picture_of_another_kind_goes_through_both(mode):
    plain = [Resize(32), CenterCrop(24)]
    picture = Image.fromarray(noise()[:90, :64]).convert(mode)
    found = with_resized_crop(plain)[0](picture)
    assert found.mode == mode
    np.testing.assert_array_equal(np.asarray(found), np.asarray(Compose(plain)(picture)))


@pytest.mark.parametrize(
    "steps",
    [
        [CenterCrop(24), Resize(24)],
        [Resize(24), CenterCrop(32)],  # filled up with black
        [Resize((32, 20)), CenterCrop(24)],
        [Resize(32, max_size=40), CenterCrop(24)],
        [Resize(32, InterpolationMode.NEAREST), CenterCrop(24)],
        [v2.Resize(32), v2.CenterCrop(24)],
        [Resize(32), Normalize([0.5], [0.5]), CenterCrop(24)],
        [SimpleNamespace(transform=Resize(32), indices=[0]), SimpleNamespace(transform=CenterCrop(24), indices=[0])],
    ],
)
def test_others_are_left_as_they_are(steps):
    assert with_resized_crop(steps) == steps


def test_the_pixels_of_an_extraction_are_cropped_so_and_travel_to_other_processes():
    given = [ToTensor(), Resize(32), CenterCrop(24), Resize(16), CenterCrop(8), ToTensor(), Normalize([0.5], [0.5])]
    steps, _ = unfinished(given)
    assert [type(step).__name__ for step in steps] == ["ToTensor", "ResizedCrop", "ResizedCrop", "ToPixels"]
    picture = Image.fromarray(noise()[:90, :64])
    sent = pickle.loads(pickle.dumps(steps))
    np.testing.assert_array_equal(np.asarray(sent[1](picture)), np.asarray(Compose(given[1:3])(picture)))
