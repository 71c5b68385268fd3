"""VISSL's transforms: what is none, is random or fails is told, before anything starts or with the image."""

import random

import numpy as np
import pytest
import torch
from classy_vision.dataset import transforms
from PIL import Image
from tiny import write_images, write_labels
from vissl.data import build_dataset

from vissl_clusterfit.errors import ConfigError, DataError
from vissl_clusterfit.images.pixels import unfinished
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.plugin.data.split_images import SplitImages
from vissl_clusterfit.plugin.data.transform_steps import Steps, TransformFailed
from vissl_clusterfit.plugin.data.transforms import build_steps, require_fixed, require_transforms

SETTING = "config.CLUSTERFIT.FEATURES.TRANSFORMS"
RESIZE, TO_TENSOR = {"name": "Resize", "size": 32}, {"name": "ToTensor"}
CROP = {"name": "CenterCrop", "size": 32}


class OwnNoise:
    """Random by a generator that nobody sees."""

    @classmethod
    def from_config(cls, config):
        transform = cls()
        transform.rng = np.random.default_rng(config.get("seed"))
        return transform

    def __call__(self, image):
        return Image.fromarray(np.asarray(image) ^ self.rng.integers(2, size=(1, 1, 3), dtype=np.uint8))


@pytest.fixture(scope="module", autouse=True)
def _own_noise_is_registered():
    transforms.register_transform("own_noise")(OwnNoise)
    yield
    for registry in (transforms.TRANSFORM_REGISTRY, transforms.TRANSFORM_REGISTRY_TB):
        del registry["own_noise"]


RANDOM = [
    {"name": "RandomHorizontalFlip"},
    {"name": "RandomVerticalFlip", "p": 1e-9},
    {"name": "RandomCrop", "size": 24},
    {"name": "RandomResizedCrop", "size": 24},
    {"name": "RandomRotation", "degrees": 5},
    {"name": "RandomGrayscale", "p": 0.2},
    {"name": "ColorJitter", "brightness": 0.4},
    {"name": "AutoAugment"},
    {"name": "TrivialAugmentWide"},
    {"name": "AugMix"},
    {"name": "ElasticTransform"},
    {"name": "ImgPilGaussianBlur", "p": 0.5, "radius_min": 0.1, "radius_max": 2.0},
    {"name": "ImgPilColorDistortion", "strength": 1.0},
    {"name": "ImgPilRandomSolarize", "prob": 0.2},
    {"name": "RandAugment", "magnitude": 5, "magnitude_std": 0.5, "num_layers": 2, "increasing_severity": True},
    {"name": "own_noise", "seed": 3},
]


@pytest.mark.parametrize("transform", RANDOM, ids=lambda transform: transform["name"])
def test_random_transforms_are_refused_and_draw_nothing_themselves(transform):
    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    expected = torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    with pytest.raises(ConfigError, match=rf"FEATURES\.TRANSFORMS: found random transforms: {transform['name']};"):
        require_fixed([RESIZE, CROP, transform, TO_TENSOR], SETTING)
    assert (torch.rand(1), np.random.rand(), random.random()) == expected  # noqa: NPY002


@pytest.mark.parametrize(
    "transforms",
    [
        [],
        [RESIZE, CROP, TO_TENSOR, {"name": "Normalize", "mean": [0.5] * 3, "std": [0.2] * 3}],
        [{"name": "Resize", "size": [20, 30]}, {"name": "Grayscale", "num_output_channels": 3}, TO_TENSOR],
        [{"name": "Resize", "size": 40, "max_size": 60}, {"name": "Pad", "padding": 4}, TO_TENSOR],
        [{"name": "CenterCrop", "size": 1000}, TO_TENSOR],  # pictures may be as large as that
    ],
)
def test_fixed_transforms_are_taken(transforms):
    require_fixed(transforms, SETTING)


@pytest.mark.parametrize(
    "transforms, message",
    [
        ("Resize", r"TRANSFORMS: found 'Resize'; allowed: a list of transforms"),
        ({"name": "Resize"}, r"TRANSFORMS: found \{.*\}; allowed: a list of transforms"),
        (None, r"TRANSFORMS: found None; allowed: a list"),
        (["Resize"], r"TRANSFORMS\[0\]: found 'Resize'; allowed: a mapping with the name"),
        ([{"size": 3}], r"TRANSFORMS\[0\]: found \{'size': 3\}; allowed: a mapping with the name"),
        ([{"name": "Resise"}], r"TRANSFORMS\[0\]: found the unknown transform 'Resise'.* Did you mean Resize"),
        ([RESIZE, {"name": "CenterCrop", "sise": 3}], r"TRANSFORMS\[1\] \(CenterCrop\): found \{'sise': 3\}, which"),
        ([{"name": "CenterCrop"}], r"TRANSFORMS\[0\] \(CenterCrop\): found .* allowed: the arguments \(size\)"),
        ([{"name": "Resize", "size": "large"}], r"TRANSFORMS\[0\] \(Resize\): found|TRANSFORMS: found Resize, for"),
        ([RESIZE, {"name": "CenterCrop", "size": 64}], r"CenterCrop, .*the crop of 64 x 64 pixels is larger than"),
        ([{"name": "Resize", "size": [64, 16]}, CROP], r"the crop of 32 x 32 pixels is larger than the image"),
        ([RESIZE, {"name": "RandomCrop", "size": 64}, TO_TENSOR], r"RandomCrop, for an image of .*: ValueError: "),
        ([{"name": "Normalize", "mean": [0.5], "std": [0.5]}], r"found Normalize, for an image of 4096 x 4096 pixels"),
    ],
)
def test_what_fails_on_every_picture_is_refused_before_anything_starts(transforms, message):
    with pytest.raises(ConfigError, match=message):
        require_transforms(transforms, SETTING)


@pytest.fixture
def odd(tmp_path):
    """A config of 6 images, one of which is 3,000 times as wide as high, or has another size that is given."""

    def make(size, transforms):
        folder = write_images(tmp_path / "images", 6)
        file = sorted(folder.rglob("*.png"))[2]
        Image.new("RGB", size, (9, 99, 199)).save(file)
        overrides = [
            "config=test/cpu_test/test_cpu_resnet_simclr",
            "+config/clusterfit=student",
            f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
            "config.DATA.TRAIN.DATA_SOURCES=[disk_folder]",
            f"config.DATA.TRAIN.DATA_PATHS=[{folder}]",
        ]
        cfg = compose(overrides)[2]
        cfg.DATA.TRAIN.DATA_SOURCES, cfg.DATA.TRAIN.LABEL_SOURCES = ["disk_folder"], []
        cfg.DATA.TRAIN.LABEL_PATHS, cfg.DATA.TRAIN.DATA_LIMIT = [str(folder)], -1
        cfg.DATA.TRAIN.TRANSFORMS = transforms
        return cfg, file

    return make


@pytest.mark.parametrize(
    "size, transforms, reason",
    [
        ((30_000, 1), [{"name": "Resize", "size": 256}, {"name": "CenterCrop", "size": 224}, TO_TENSOR], "Resize"),
        ((20, 20), [CROP, TO_TENSOR], "CenterCrop, for an image of 20 x 20 pixels: ValueError: the crop of 32 x 32"),
        ((40, 20), [CROP, TO_TENSOR], "40 x"),
    ],
)
def test_an_image_that_transforms_cannot_take_is_named_and_has_no_label(odd, size, transforms, reason, caplog):
    cfg, file = odd(size, transforms)
    samples = list(SplitImages(cfg, "TRAIN", transforms))
    assert [why == "" for _, why in samples] == [True, True, False, True, True, True]
    assert reason in samples[2][1]
    assert str(file) in samples[2][1]
    assert len({tuple(image.shape) for image, _ in samples}) == 1
    # In a training of VISSL's it counts as unreadable, as in extraction.
    with caplog.at_level("WARNING"):
        trained = build_dataset(cfg, "TRAIN")
        found = [trained[index] for index in range(6)]
    assert [sample["data_valid"] for sample in found] == [[1], [1], [-1], [1], [1], [1]]
    assert len({tuple(sample["data"][0].shape) for sample in found}) == 1
    [message] = [record.getMessage() for record in caplog.records if "unreadable" in record.getMessage()]
    assert message.startswith("config.DATA.TRAIN.TRANSFORMS: ")
    assert f"The sample is {file}. It counts as unreadable." in message


def test_in_training_a_failed_image_loses_its_pseudo_label(odd, tmp_path):
    cfg, _ = odd((20, 20), [CROP, TO_TENSOR])
    cfg.DATA.TRAIN.DATA_SOURCES, cfg.DATA.TRAIN.LABEL_SOURCES = ["clusterfit_disk_folder"], ["torchvision_dataset"]
    write_labels(tmp_path / "run/clusterfit/labels/train", np.arange(6), 1000)
    dataset = build_dataset(cfg, "TRAIN")
    assert [dataset[index]["label"] for index in range(6)] == [[0], [1], [-1], [3], [4], [5]]
    images, labels = (
        torch.utils.data.default_collate([dataset[i][key][0] for i in range(6)]) for key in ("data", "label")
    )
    assert images.shape == (6, 3, 32, 32)
    assert labels.dtype == torch.int64


def test_transforms_that_take_no_grey_image_either_end_a_training_with_the_name_of_the_file(odd):
    cfg, file = odd((20, 20), [{"name": "CenterCrop", "size": 32}, TO_TENSOR])
    cfg.DATA.TRAIN.DEFAULT_GRAY_IMG_SIZE = 8
    cfg.DATA.TRAIN.TRANSFORMS = [{"name": "RandomCrop", "size": 32}, TO_TENSOR]
    with pytest.raises(DataError, match=r"^config\.DATA\.TRAIN\.TRANSFORMS: .*The sample is .*\.png") as caught:
        build_dataset(cfg, "TRAIN")[2]
    assert str(file) in str(caught.value)


def test_a_strip_is_refused_by_name_where_the_crop_is_a_part_of_resize(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1 << 16)
    normalize = {"name": "Normalize", "mean": [0.5] * 3, "std": [0.5] * 3}
    steps = build_steps([RESIZE, {"name": "CenterCrop", "size": 28}, TO_TENSOR, normalize], SETTING)
    left, _ = unfinished(steps.transforms)
    assert len(left) == 2
    for each in (steps, Steps(left)):
        with pytest.raises(TransformFailed, match=r"^Resize, for an image of 4 x 900 pixels: .* it would become"):
            each({"data": [Image.new("RGB", (4, 900))], "data_valid": [1]})
