"""The label that reaches the loss with an image is that of its very file, whatever VISSL does on the way.

Every image shows its number and its data source; what VISSL's train step is handed is read back from the pixels.
"""

import itertools
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import STUDENT, write_labels
from vissl.config import AttrDict
from vissl.data import build_dataloader, build_dataset
from vissl.trainer.train_steps.standard_train_step import construct_sample_for_model

from vissl_clusterfit.errors import DataError
from vissl_clusterfit.launch.compose.compose import compose

COUNT = 40
#: A cluster for each sample; two samples have none.
LABELS = np.random.default_rng(0).integers(0, 4, COUNT)
LABELS[[5, 33]] = -1

SUBSETS = {
    "all": {},
    "some": {"DATA_LIMIT": 20},
    "some after others": {"DATA_LIMIT": 20, "DATA_LIMIT_SAMPLING": (3, False, 15)},
    "balanced": {"DATA_LIMIT": 16, "DATA_LIMIT_SAMPLING": (0, True, 0)},
    "balanced after others": {"DATA_LIMIT": 18, "DATA_LIMIT_SAMPLING": (1, True, 6)},
}
COPY = [{"name": "ImgReplicatePil", "num_times": 2}]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders; image i of the s-th is of the colour (i, s, 0)."""
    folders = [tmp_path_factory.mktemp(f"source{number}") for number in range(2)]
    for (number, folder), index in itertools.product(enumerate(folders), range(COUNT)):
        path = folder / f"class{index * 3 // COUNT}" / f"{index:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (index, number, 0)).save(path)
    return folders


@pytest.fixture
def configured(tmp_path, folders):
    def configure(num_sources=1, kind="disk_folder", copies=False, **train):
        paths = [str(folder) for folder in folders[:num_sources]]
        if kind == "disk_filelist":
            for number, folder in enumerate(folders):
                np.save(tmp_path / f"{number}.npy", np.array(sorted(map(str, folder.rglob("*.png")))))
            paths = [str(tmp_path / f"{number}.npy") for number in range(num_sources)]
        cfg = compose(
            [
                *STUDENT,
                f"config.DATA.TRAIN.DATA_SOURCES=[{','.join([kind] * num_sources)}]",
                f"config.DATA.TRAIN.DATASET_NAMES=[{','.join(['tiny'] * num_sources)}]",
                f"config.DATA.TRAIN.DATA_PATHS=[{','.join(paths)}]",
                *(["config.DATA.TRAIN.COLLATE_FUNCTION=simclr_collator"] if copies else []),
                f"config.CHECKPOINT.DIR={tmp_path / 'run'}",
            ]
        )[2]
        cfg.DATA.TRAIN.TRANSFORMS = [AttrDict(t) for t in [*(COPY if copies else []), {"name": "ToTensor"}]]
        if sampling := train.pop("DATA_LIMIT_SAMPLING", None):
            names = ("SEED", "IS_BALANCED", "SKIP_NUM_SAMPLES")
            train["DATA_LIMIT_SAMPLING"] = AttrDict(dict(zip(names, sampling, strict=True)))
        cfg.DATA.TRAIN.update(train)
        write_labels(tmp_path / "run/clusterfit/labels/train", LABELS, 4)
        return cfg

    return configure


def what_the_loss_gets(cfg, num_workers=0):
    """(data source, index, label) of each image, in the order in which the train step gets them."""
    loader = build_dataloader(
        build_dataset(cfg, "TRAIN"),
        cfg.DATA.TRAIN,
        num_dataloader_workers=num_workers,
        pin_memory=False,
        multi_processing_method="fork",
        device=torch.device("cpu"),
    )
    keys = {"input": cfg.DATA.TRAIN.INPUT_KEY_NAMES, "target": cfg.DATA.TRAIN.TARGET_KEY_NAMES}
    task = SimpleNamespace(data_and_label_keys=keys)
    for batch in loader:
        sample = construct_sample_for_model(batch, task)
        colours = (sample["input"][:, :, 0, 0] * 255).round().long()
        for (index, source, _), label in zip(colours.tolist(), sample["target"].tolist(), strict=True):
            yield source, index, label


@pytest.mark.parametrize("num_sources", [1, 2])
@pytest.mark.parametrize("copies", [False, True], ids=["one view", "copies"])
@pytest.mark.parametrize("subset", SUBSETS)
def test_every_image_comes_with_the_label_of_its_file(configured, subset, copies, num_sources):
    got = list(what_the_loss_gets(configured(num_sources, copies=copies, **SUBSETS[subset])))
    assert [label for _, _, label in got] == [LABELS[index] for _, index, _ in got]
    seen = Counter((source, index) for source, index, _ in got)
    assert set(seen.values()) == {1 + copies}
    indices = [{index for source, index in seen if source == number} for number in range(num_sources)]
    assert all(of_source == indices[0] for of_source in indices)
    assert len(indices[0]) == SUBSETS[subset].get("DATA_LIMIT", COUNT)


@pytest.mark.parametrize(("kind", "num_workers"), [("disk_filelist", 0), ("disk_folder", 2)])
def test_so_it_does_from_a_list_of_files_and_in_processes(configured, kind, num_workers):
    got = list(what_the_loss_gets(configured(2, kind, **SUBSETS["balanced after others"]), num_workers))
    assert [label for _, _, label in got] == [LABELS[index] for _, index, _ in got]
    assert len(got) == 2 * 18


def test_a_balanced_subset_has_as_many_of_each_cluster_and_none_without_a_label(configured):
    labels = [label for _, _, label in what_the_loss_gets(configured(**SUBSETS["balanced"]))]
    assert Counter(labels) == dict.fromkeys(range(4), 4)


def test_what_one_subset_skips_another_one_has(configured):
    """As VISSL's users hold samples back for validation."""
    first, second = (
        {index for _, index, _ in what_the_loss_gets(configured(DATA_LIMIT=20, DATA_LIMIT_SAMPLING=(0, False, skip)))}
        for skip in (0, 20)
    )
    assert first | second == set(range(COUNT))


@pytest.mark.parametrize(
    ("limit", "sampling", "message"),
    [
        (
            41,
            (0, False, 0),
            r"DATA\.TRAIN\.DATA_LIMIT: found 41, after 0 that are skipped; allowed: at most 40 together",
        ),
        (30, (0, False, 11), r"DATA\.TRAIN\.DATA_LIMIT: found 30, after 11 that are skipped; allowed: at most 40"),
        (
            36,
            (0, True, 0),
            r"IS_BALANCED: found 36, after 0 that are skipped, for 4 labels, of which label \d has [678] ",
        ),
        (3, (0, True, 0), r"IS_BALANCED: found 3, after 0 that are skipped, for 4 labels; allowed: at least one"),
    ],
)
def test_a_subset_that_there_is_not_gets_a_message(configured, limit, sampling, message):
    with pytest.raises(DataError, match=message):
        list(what_the_loss_gets(configured(DATA_LIMIT=limit, DATA_LIMIT_SAMPLING=sampling)))
