from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import Normalize, RandomCrop, RandomHorizontalFlip, ToTensor

from vissl_clusterfit.images.pixels import unfinished
from vissl_clusterfit.plugin.data.cropped_pixels import CroppedPixels, with_cropped_pixels


def steps_of(*transforms):
    """As VISSL wraps them, and without what is left to a batch."""
    wrapped = [
        SimpleNamespace(transform=each, indices=[]) for each in (*transforms, ToTensor(), Normalize([0.5], [0.2]))
    ]
    return unfinished(wrapped)[0]


def picture(mode="RGB", size=(24, 20)):
    shape = (size[1], size[0], 3) if mode == "RGB" else size[::-1]
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def crops(steps, given):
    torch.manual_seed(3)
    found = []
    for _ in range(40):
        image = given
        for step in steps:
            image = step.transform(image)
        found.append(image)
    return torch.stack(found), torch.rand(1)


@pytest.mark.parametrize("given", [picture(), picture("L"), picture(size=(18, 18))], ids=["colour", "grey", "small"])
@pytest.mark.parametrize(
    "crop",
    [
        RandomCrop(20, padding=3, fill=64),
        RandomCrop((18, 22), padding=(2, 5), fill=(1, 2, 3)),
        RandomCrop(20, padding=[1, 2, 3, 4]),
        RandomCrop(18),
        RandomCrop((20, 24)),
    ],
)
def test_crops_and_random_numbers_are_those_of_torchvision(crop, given):
    steps = steps_of(RandomHorizontalFlip(), crop)
    joined = with_cropped_pixels(steps)
    assert isinstance(joined[-1].transform, CroppedPixels)
    assert len(joined) == len(steps) - 1
    try:
        expected = crops(steps, given)
    except (ValueError, TypeError) as error:  # too small, or a colour for what is grey
        with pytest.raises(type(error)):
            crops(joined, given)
        return
    for one, two in zip(crops(joined, given), expected, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    "crop",
    [
        RandomCrop(20, padding=3, padding_mode="reflect"),
        RandomCrop(40, pad_if_needed=True),
        RandomCrop(8, padding=-2),
        RandomCrop(20, padding=3, fill=0.5),
        RandomHorizontalFlip(),
    ],
)
def test_other_steps_stay_as_they_are(crop):
    steps = steps_of(crop)
    assert with_cropped_pixels(steps) == steps
    assert with_cropped_pixels(steps[1:]) == steps[1:]
