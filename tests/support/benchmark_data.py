"""Small labelled data in the layouts of VISSL's benchmarks: class folders, VOC07's lists, retrieval sets."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from PIL import Image

#: What any user with one CPU overrides, and what keeps the network small.
ON_THIS_MACHINE = (
    "config.MACHINE.DEVICE=cpu",
    "config.DISTRIBUTED.NUM_PROC_PER_NODE=1",
    "config.DATA.NUM_DATALOADER_WORKERS=0",
    "config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP=4",
)
#: Small images for the benchmarks whose configs take 224 pixels.
SMALL_IMAGES = tuple(
    f"config.DATA.{split}.TRANSFORMS=[{{name:Resize,size:[32,32]}},{{name:ToTensor}}]" for split in ("TRAIN", "TEST")
)
#: Two layers of small images and their widths, each pooled to one value for each channel.
LAYERS = (("res4", 1024), ("res5", 2048))
POOLED_LAYERS = "config.MODEL.FEATURE_EVAL_SETTINGS.LINEAR_EVAL_FEAT_POOL_OPS_MAP=[{}]".format(
    ",".join(f'["{name}",["AdaptiveAvgPool2d",[[1,1]]]]' for name, _ in LAYERS)
)


def linear_heads(num_classes: int) -> str:
    """A linear head on each of these layers."""
    heads = (f'["eval_mlp",{{in_channels:{width},dims:[{width},{num_classes}]}}]' for _, width in LAYERS)
    return f"config.MODEL.HEAD.PARAMS=[{','.join(heads)}]"


def write_classes(folder: Path, num_images: int, num_classes: int, seed: int) -> Path:
    """PNG files of noise in class folders; classes differ a little in colour."""
    rng = np.random.default_rng(seed)
    for index in range(num_images):
        path = folder / f"class{index % num_classes}" / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        tint = np.eye(3)[index % num_classes % 3] * (20 + 8 * (index % num_classes))
        _noise(rng, tint).save(path)
    return folder


def write_voc(folder: Path, num_images: int, num_classes: int, seed: int) -> tuple[Path, Path]:
    """JPEG files, and VISSL's two lists: paths, and targets 1, 0 and -1 for each class."""
    rng = np.random.default_rng(seed)
    targets = (rng.random((num_images, num_classes)) < 0.4).astype(np.int32)
    folder.mkdir(parents=True)
    paths = []
    for index, row in enumerate(targets):
        tint = np.array([40.0 * row[0], 40.0 * row[1], 40.0 * row[2]]) + rng.normal(0, 15, 3)
        paths.append(str(folder / f"{index:03d}.jpg"))
        _noise(rng, tint).save(paths[-1])
    targets[rng.random(targets.shape) < 0.05] = -1
    lists = folder / "images.npy", folder / "targets.npy"
    for file, content in zip(lists, (np.array(paths), targets), strict=True):
        np.save(file, content)
    return lists


def voc_overrides(train: tuple[Path, Path], test: tuple[Path, Path]) -> list[str]:
    """Where both splits lie."""
    return [
        f"config.DATA.{split}.{kind}_PATHS=[{path}]"
        for split, lists in (("TRAIN", train), ("TEST", test))
        for kind, path in zip(("DATA", "LABEL"), lists, strict=True)
    ] + [f"config.DATA.{split}.COPY_TO_LOCAL_DISK=false" for split in ("TRAIN", "TEST")]


def write_revisited(root: Path, name: str, seed: int) -> None:
    """A data base of four scenes, and a query of each, in the layout of the revisited Oxford and Paris."""
    rng = np.random.default_rng(seed)
    images = root / name / "jpg"
    images.mkdir(parents=True)
    scenes = rng.integers(0, 255, size=(4, 48, 64, 3))
    database, queries, truth = [], [], []
    for scene, pixels in enumerate(scenes):
        mine = []
        for view in range(4):
            mine.append(len(database))
            database.append(f"{name}_{scene}_{view}")
            changed = pixels + rng.normal(0, 20 + 30 * view, size=pixels.shape)
            _image(changed[:, : 64 - 4 * view]).save(images / f"{database[-1]}.jpg")
        queries.append(f"{name}_query_{scene}")
        _image(pixels).save(images / f"{queries[-1]}.jpg")
        truth.append({"easy": mine[:2], "hard": mine[2:3], "junk": mine[3:], "bbx": [0.0, 0.0, 60.0, 40.0]})
    content = {"gnd": truth, "imlist": database, "qimlist": queries}
    (root / name / f"gnd_{name}.pkl").write_bytes(pickle.dumps(content))


def write_copydays(root: Path, seed: int) -> None:
    """Originals, queries that were cropped or compressed, distractors, and images to fit the whitening on."""
    rng = np.random.default_rng(seed)
    folders = {name: root / "copydays" / name for name in ("queries", "database_and_distractors", "train")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    for number in range(5):
        pixels = rng.integers(0, 255, size=(48, 48, 3))
        _image(pixels).save(folders["database_and_distractors"] / f"original_{2000 + number}00.jpg")
        _image(pixels[4:-4, 4:-4]).save(folders["queries"] / f"crops_10_{2000 + number}01.jpg")
        _image(pixels).save(folders["queries"] / f"jpegqual_3_{2000 + number}02.jpg", quality=3)
        for kind in ("train", "database_and_distractors"):
            _image(rng.integers(0, 255, size=(48, 48, 3))).save(folders[kind] / f"distractor_{number}.jpg")


def _noise(rng: np.random.Generator, tint: np.ndarray) -> Image.Image:
    return _image(rng.normal(110, 40, size=(32, 32, 3)) + tint)


def _image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
