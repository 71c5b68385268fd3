"""Small real inputs that several tests make: images, labels, a config."""

from pathlib import Path

import numpy as np
from PIL import Image

from vissl_clusterfit.storage import artifacts

#: A VISSL config that runs on the CPU, with our overlay, on 32-pixel images and the narrowest ResNet-50 of VISSL.
STUDENT = (
    "config=test/cpu_test/test_cpu_resnet_simclr",
    "+config/clusterfit=student",
    "config.MODEL.TRUNK.RESNETS.WIDTH_PER_GROUP=4",
    "config.MULTI_PROCESSING_METHOD=fork",
    "config.DATA.TRAIN.DATA_SOURCES=[disk_folder]",
    "config.DATA.TRAIN.DATASET_NAMES=[tiny]",
    "config.DATA.TRAIN.DATA_LIMIT=-1",
    "config.DATA.TRAIN.BATCHSIZE_PER_REPLICA=8",
    "config.DATA.TRAIN.DROP_LAST=false",
    "config.DATA.TRAIN.TRANSFORMS=[{name:RandomResizedCrop,size:32},{name:ToTensor}]",
    "config.OPTIMIZER.num_epochs=1",
    "config.OPTIMIZER.param_schedulers.lr={name:constant,value:0.05,update_interval:epoch,"
    "auto_lr_scaling:{auto_scale:false}}",
    "config.CHECKPOINT.OVERWRITE_EXISTING=false",
    "config.CHECKPOINT.AUTO_RESUME=true",
    "config.CLUSTERFIT.NUM_CLUSTERS=4",
    "config.CLUSTERFIT.NUM_ITER=5",
    "config.CLUSTERFIT.FEATURES.LAYER_NAME=res5",
    "config.CLUSTERFIT.FEATURES.BATCH_SIZE=4",
    "config.CLUSTERFIT.FEATURES.SHARD_SIZE=8",
    "config.CLUSTERFIT.FEATURES.TRANSFORMS=[{name:Resize,size:[32,32]},{name:ToTensor}]",
)

#: Its images as they are, so that a resumed training sees the same ones.
NO_CHANCE = "config.DATA.TRAIN.TRANSFORMS=[{name:Resize,size:[32,32]},{name:ToTensor}]"


def write_images(folder: Path, num_images: int, *, seed: int = 0) -> Path:
    """Noise of one of three colours, in one class folder per colour, as PNG files."""
    rng = np.random.default_rng(seed)
    for index in range(num_images):
        colour = index % 3
        pixels = rng.integers(0, 100, size=(40, 36, 3), dtype=np.uint8)
        pixels[..., colour] += 150
        path = folder / f"class{colour}" / f"{index:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def write_labels(folder: Path, labels: np.ndarray, num_clusters: int, inputs: dict | None = None) -> None:
    """A label artefact with the labels that a test wants."""
    sizes = np.bincount(labels[labels >= 0], minlength=num_clusters)
    artifacts.write_array(folder / "labels.npy", labels.astype(np.int64))
    artifacts.write_array(folder / "distances.npy", np.where(labels >= 0, 1, -1).astype(np.float32))
    artifacts.write_array(folder / "sizes.npy", sizes.astype(np.int64))
    facts = {
        "num_samples": len(labels),
        "num_clusters": [num_clusters],
        "num_unlabelled": int((labels < 0).sum()),
        "imbalance": [float(sizes.max() / sizes.mean())],
    }
    artifacts.write_manifest(folder, "pseudo_labels", inputs or {}, facts)
