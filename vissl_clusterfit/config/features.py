"""Whose features are clustered, and how images become features: ``CLUSTERFIT.TEACHER`` and ``CLUSTERFIT.FEATURES``."""

from __future__ import annotations

from dataclasses import dataclass

from vissl_clusterfit.config.compute import AUTO
from vissl_clusterfit.config.schema import setting

#: Stands for a batch size that is found where features are extracted.
AUTO_BATCH = 0


@dataclass(frozen=True)
class TeacherSettings:
    """``TEACHER``: the pre-trained network whose features are clustered (the paper's N_pre, section 3)."""

    #: A VISSL MODEL block, or the part of it that differs from ``config.MODEL`` (the student's). A command may name a
    #: network of another library, ``timm:resnet18``, which becomes such a block.
    model: dict = setting({})
    #: A VISSL checkpoint, or a torchvision or plain state dict; "library" for those that another library brings.
    weights: str = setting("")
    #: Where the state dict is inside the file, as VISSL's WEIGHTS_INIT.STATE_DICT_KEY_NAME; found by itself if empty.
    state_dict_key: str = setting("")
    #: With which the names of the wanted network begin, where a file has several: "module.encoder_q.", "teacher.".
    state_dict_prefix: str = setting("")
    #: Load a file that needs Python's pickle, or TorchScript. It can run code: only for files that you made or trust.
    trust_weights: bool = setting(False)


@dataclass(frozen=True)
class EncodingSettings:
    """How images become features, whoever the network is."""

    #: The folder of the feature stores, one sub-folder per split.
    path: str = setting(".")
    #: A layer of the trunk, "heads" for the output of the head, or "" for the output of the trunk.
    layer_name: str = setting("")
    #: How a feature map of shape (C, H, W) becomes a vector: its mean, its maximum, or all of it; where a network of
    #: another library gives tokens, also the class token, or the mean of the patches.
    pooling: str = setting("avg", choices=("avg", "max", "flatten", "class_token", "patch_mean"))
    #: VISSL transforms that are applied before the network sees an image; they must not be random.
    transforms: list = setting([])
    #: Clips of each video, spread evenly, whose features are averaged; 0 for as many as in training.
    num_clips: int = setting(0, at_least=0)
    #: Samples per forward pass, with all of their views or clips; "auto" for 64 on a CPU, and on a GPU what measures
    #: fastest and fits: features then differ in their last bits from one GPU to another.
    batch_size: int = setting(64, at_least=1, words={AUTO: AUTO_BATCH})
    #: Rows per shard, the unit of work, of which a killed process may have to do two again. 0 for 4,096, or of fewer
    #: samples for whole batches, in about 16 shards.
    shard_size: int = setting(0, at_least=0)
    #: How features are kept on disk.
    dtype: str = setting("float32", choices=("float16", "float32"))
    #: The share of samples that may be unreadable before the run stops.
    max_unreadable: float = setting(0.05, at_least=0.0, at_most=1.0)


@dataclass(frozen=True)
class FeatureSettings(EncodingSettings):
    """``FEATURES``: what is taken from the teacher, and what is done to it before it is clustered."""

    #: Extract what is missing; if false, the features must already be under PATH.
    extract: bool = setting(False)
    #: The split of ``config.DATA`` that is clustered and trained on (the paper's D_cf).
    data_partition: str = setting("TRAIN", choices=("TRAIN", "TEST"))
    #: The held-out split that is labelled with the same codebook; "" for none.
    test_partition: str = setting("TEST", choices=("", "TRAIN", "TEST"))
    #: Keep the names of the samples beside features and labels; false where they are secret. No effect on the result.
    keep_names: bool = setting(True)
    #: A name for the data in reports; no effect on the result.
    dataset_name: str = setting("")
    #: Scale every feature to unit L2 norm before anything else, as VISSL does.
    normalize: bool = setting(True)
    #: Number of principal components to keep; 0 keeps all dimensions.
    dimensionality_reduction: int = setting(0, at_least=0)
    #: Scale the principal components to unit variance.
    whiten: bool = setting(False)
