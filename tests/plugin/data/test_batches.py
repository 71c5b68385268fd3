"""How batches come from the processes that read: with the same bits, small ones in one message."""

import numpy as np
import pytest
import torch
from tiny import write_images
from torch.utils.data import default_collate
from vissl.data import build_dataset
from vissl.trainer import train_task

from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.plugin.data import batches
from vissl_clusterfit.plugin.data.batches import InOneMessage, leave_pixels

STEPS = [
    {"name": "RandomCrop", "size": 24},
    {"name": "ToTensor"},
    {"name": "Normalize", "mean": [0.25, 0.3, 0.2], "std": [0.21, 0.2, 0.19]},
]


@pytest.fixture
def config(tmp_path):
    folder = write_images(tmp_path / "pictures", 8)
    _, _, config = compose(
        [
            "config=clusterfit/quickstart/teacher",
            f"config.DATA.TRAIN.DATA_PATHS=[{folder}]",
            "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=4",
        ]
    )
    config.DATA.TRAIN.TRANSFORMS = [type(config)(step) for step in STEPS]
    return config


def loader(config, workers: int = 1):
    dataset = build_dataset(config, "TRAIN")
    return dataset, train_task.build_dataloader(
        dataset=dataset,
        dataset_config=config.DATA.TRAIN,
        num_dataloader_workers=workers,
        pin_memory=False,
        multi_processing_method="fork",
        device=torch.device("cpu"),
    )


def expected(config) -> list[torch.Tensor]:
    """The images as VISSL's data set gives them, with the random numbers of the process that reads."""
    dataset = build_dataset(config, "TRAIN")
    torch.manual_seed(3)
    seed = torch.empty((), dtype=torch.int64).random_().item()
    torch.manual_seed(seed)
    return [torch.stack([dataset[index]["data"][0] for index in range(first, first + 4)]) for first in (0, 4)]


@pytest.mark.parametrize("most", [1 << 20, 0])
def test_batches_have_the_bits_of_vissls_data_set(config, monkeypatch, most):
    monkeypatch.setattr(batches, "_MOST_BYTES", most)
    _, made = loader(config)
    assert (len(made), made.num_workers) == (2, 1)
    torch.manual_seed(3)
    found = list(made)
    for batch, images in zip(found, expected(config), strict=True):
        assert torch.equal(batch["data"][0], images)
        assert batch["data_idx"][0].dtype == torch.int64
    assert torch.cat([batch["data_idx"][0] for batch in found]).tolist() == [*range(8)]


def test_a_small_batch_is_passed_by_value():
    samples = [{"data": [torch.full((3, 2, 2), index)], "label": [index]} for index in range(2)]
    message = InOneMessage(default_collate)(samples)
    assert isinstance(message.arrays["data"][0], np.ndarray)
    assert message.arrays["label"][0].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("setting", "value"), [("COLLATE_FUNCTION", "simclr_collator"), ("TRANSFORMS", STEPS[:2]), ("TRANSFORMS", [])]
)
def test_what_is_not_known_is_left_as_it_is(config, setting, value):
    config.DATA.TRAIN[setting] = [type(config)(step) for step in value] if setting == "TRANSFORMS" else value
    dataset = build_dataset(config, "TRAIN")
    before = dataset.transform
    assert leave_pixels(dataset, config.DATA.TRAIN) is None
    assert dataset.transform is before
