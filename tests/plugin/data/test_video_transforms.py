"""Transforms of clips: the same for all frames, and their shapes."""

import pickle

import pytest
import torch
from torchvision.tv_tensors import Video
from vissl.data.ssl_transforms import get_transform

from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.plugin.data.video_transforms import OF_TORCHVISION

ARGUMENTS = {
    "CenterCrop": {"size": 20},
    "ColorJitter": {"brightness": 0.5, "contrast": 0.5, "saturation": 0.5, "hue": 0.2},
    "GaussianBlur": {"kernel_size": 5},
    "RandAugment": {},
    "RandomCrop": {"size": 20},
    "RandomHorizontalFlip": {},
    "RandomResizedCrop": {"size": 20},
    "RandomShortestSize": {"min_size": [20, 30, 40]},
    "Resize": {"size": 20},
}


def apply(clip, *transforms):
    """All that VISSL makes of one clip."""
    sample = {"data": [clip], "label": [3], "data_valid": [1], "data_idx": [0]}
    return get_transform([dict(transform) for transform in transforms])(sample)


def still(num_frames=4, height=40, width=60):
    """One picture in all frames."""
    torch.manual_seed(0)
    return Video(torch.randint(256, (1, 3, height, width), dtype=torch.uint8).expand(num_frames, -1, -1, -1).clone())


def test_all_of_torchvisions_are_tried():
    assert set(ARGUMENTS) == set(OF_TORCHVISION)


@pytest.mark.parametrize("name", OF_TORCHVISION)
def test_all_frames_are_treated_alike(name):
    results, picture = [], still()
    for seed in range(8):
        torch.manual_seed(seed)
        clip = apply(picture, {"name": f"Clip{name}", **ARGUMENTS[name]})["data"][0]
        assert isinstance(clip, Video)
        assert torch.equal(clip, clip[:1].expand_as(clip))
        results.append(clip)
    differ = any(one.shape != results[0].shape or not torch.equal(one, results[0]) for one in results)
    assert differ == (name not in ("CenterCrop", "Resize"))


def test_the_last_one_gives_what_the_trunk_takes():
    clip = still()
    plain = apply(clip, {"name": "ClipToTensor"})["data"][0]
    assert (type(plain), plain.dtype, plain.shape) == (torch.Tensor, torch.float32, (3, 4, 40, 60))
    assert plain.is_contiguous()
    torch.testing.assert_close(plain[1, 2], clip[2, 1].as_subclass(torch.Tensor) / 255)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    scaled = apply(clip, {"name": "ClipToTensor", "mean": mean, "std": std})["data"][0]
    torch.testing.assert_close(scaled[2], (plain[2] - 0.6) / 0.4)
    assert clip.dtype == torch.uint8
    with pytest.raises(ConfigError, match=r"ClipToTensor: found mean .*allowed: a mean and a std for each channel"):
        apply(clip, {"name": "ClipToTensor", "mean": mean})


@pytest.mark.parametrize("turned", [False, True])
def test_crops_are_spread_along_the_longer_side_and_are_views(turned):
    clip = still(height=60, width=40) if turned else still()
    sample = apply(clip, {"name": "ClipCrops", "size": 30, "num": 3})
    assert [sample["label"], sample["data_valid"]] == [[3] * 3, [1] * 3]
    for view, start in zip(sample["data"], (0, 15, 30), strict=True):
        place = clip[..., start : start + 30, 5:35] if turned else clip[..., 5:35, start : start + 30]
        assert torch.equal(view, place)
    middle = apply(clip, {"name": "ClipCrops", "size": 30, "num": 1})["data"][0]
    assert torch.equal(middle, sample["data"][1])
    with pytest.raises(ConfigError, match=r"size: 50 for frames of .*Put ClipResize before it"):
        apply(clip, {"name": "ClipCrops", "size": 50})


def test_they_can_be_sent_to_data_workers():
    names = [{"name": f"Clip{name}", **ARGUMENTS[name]} for name in OF_TORCHVISION]
    names += [{"name": "ClipCrops", "size": 8}, {"name": "ClipsToViews"}, {"name": "ClipToTensor"}]
    pickle.loads(pickle.dumps(get_transform(names)))
