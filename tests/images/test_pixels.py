import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

from vissl_clusterfit.compute.chosen import PLAIN, Compute
from vissl_clusterfit.compute.inference import prepared
from vissl_clusterfit.config.features import EncodingSettings
from vissl_clusterfit.features.batches import stack_images
from vissl_clusterfit.features.extract import extract_features
from vissl_clusterfit.images import TransformedImages, open_images
from vissl_clusterfit.images.pixels import Finish, unfinished

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
STEPS = [Resize(20), CenterCrop(16), ToTensor(), Normalize(MEAN, STD)]


@pytest.fixture
def images(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 24, 32, 3), dtype=np.uint8)
    np.save(tmp_path / "pictures.npy", pixels)
    return TransformedImages(open_images(str(tmp_path / "pictures.npy")), Compose(STEPS))


def test_a_batch_that_is_finished_has_the_same_bits(images):
    others, finish = images.unfinished()
    pixels = torch.stack([others[index][0] for index in range(5)])
    assert pixels.dtype == torch.uint8
    assert torch.equal(finish(pixels), torch.stack([images[index][0] for index in range(5)]))
    assert torch.equal(finish(pixels[2]), images[2][0])
    assert torch.equal(finish(images[2][0]), images[2][0])


def test_a_batch_of_pixels_has_its_channels_last_as_pictures_do(images):
    others, finish = images.unfinished()
    pixels = stack_images([others[index][0] for index in range(5)])
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert finish(pixels).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(finish(pixels), torch.stack([images[index][0] for index in range(5)]))


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("compute", [PLAIN, Compute("float32", channels_last=True), Compute("bfloat16", True)])
def test_features_have_the_bits_of_those_from_finished_batches(images, tmp_path, compute, num_workers):
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 8, 3).eval().requires_grad_(False)

    def encoder():
        own = copy.deepcopy(network)
        return prepared(lambda batch: own(batch).float().mean(dim=(2, 3)), own, torch.device("cpu"), compute)

    inputs, settings = {"dataset": images.inputs()}, EncodingSettings(batch_size=2)
    store = extract_features(images, encoder, tmp_path / "store", inputs, settings, num_workers=num_workers)
    encode = encoder()
    with torch.inference_mode():
        batches = [torch.stack([images[each][0] for each in part]) for part in ([0, 1], [2, 3], [4])]
        expected = torch.cat([encode(batch) for batch in batches])
    np.testing.assert_array_equal(store.read(0, 5), expected.numpy())


def test_every_value_has_the_same_bits():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    steps, finish = unfinished(STEPS[2:])
    picture = Image.fromarray(grey)
    assert torch.equal(finish(steps[0](picture)), Compose(STEPS[2:])(picture))


def test_a_picture_of_another_kind_is_finished_at_once():
    steps, _ = unfinished([ToTensor(), Normalize([0.5], [0.2])])
    picture = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4))
    assert torch.equal(steps[0](picture), Normalize([0.5], [0.2])(ToTensor()(picture)))


WRONG = [Normalize([0.5] * 2, [0.2] * 2), Normalize([0.5] * 3, [0.2, 0.0, 0.2])]


@pytest.mark.parametrize(
    "steps", [[], STEPS[:3], [*STEPS, CenterCrop(8)], STEPS[3:], *([ToTensor(), wrong] for wrong in WRONG)]
)
def test_other_transforms_are_left_as_they_are(images, steps):
    assert unfinished(steps) is None
    assert TransformedImages(images.images, Compose(steps)).unfinished() is None


def test_pixels_are_finished_where_they_are():
    finish = Finish(MEAN, STD)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        finish._constants = tuple(map(mode.from_tensor, finish._constants))
        found = finish(torch.empty(2, 3, 4, 4, dtype=torch.uint8, device="cuda"))
    assert (found.device.type, found.dtype) == ("cuda", torch.float32)
