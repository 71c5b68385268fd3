"""The network that is exported: of a finished training, or of a checkpoint that is named; and what is known of it."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import vissl.config
from omegaconf import OmegaConf
from torch import nn
from vissl.config import AttrDict

from vissl_clusterfit.compat import TRUST_VARIABLE
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.models.weight_files import WeightsSettings
from vissl_clusterfit.plugin.models.encoder import HEAD_LAYER, EncoderSpec, load_network
from vissl_clusterfit.plugin.models.library_network import require_no_code
from vissl_clusterfit.plugin.training.checkpoints import final_checkpoint, has_checkpoints
from vissl_clusterfit.plugin.training.record import RECORD_NAME, training_beside
from vissl_clusterfit.plugin.training.seen_images import evaluation_transforms, image_size
from vissl_clusterfit.storage.artifacts import file_sha256
from vissl_clusterfit.storage.paths import artifact_path

_SETTINGS = WeightsSettings(
    weights="the checkpoint",
    key="a checkpoint as VISSL writes it",
    prefix="a checkpoint of one network",
    trust=f"the environment variable {TRUST_VARIABLE}=1",
    model=f"config.MODEL of the training in its {RECORD_NAME}",
    layer="head",
)


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network of VISSL's on the CPU, without gradients.

    Attributes:
        checkpoint: its file.
        record: what its training was made from, as its ``training.json`` has it.
        network: VISSL's, with ``trunk`` and ``heads``; the heads' weights are loaded where they were asked for.
    """

    checkpoint: Path
    record: Mapping[str, Any]
    network: nn.Module

    @property
    def model(self) -> Mapping[str, Any]:
        """VISSL's MODEL block."""
        return self.record["MODEL"]

    @property
    def whole_model(self) -> dict[str, Any]:
        """The same, with what a record leaves out, as it changes nothing of a network."""
        return _whole_model(self.model)

    @property
    def transforms(self) -> list[dict[str, Any]]:
        """Those without chance that go with the training, as VISSL names them; empty if they are not known."""
        return evaluation_transforms(self.record)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one image, or clip, that the network was trained for: channels first."""
        if (clip := getattr(self.network.trunk, "clip_shape", None)) is not None:
            return tuple(clip)
        trained = self.record["DATA"].get("TRAIN", {}).get("TRANSFORMS", [])
        size = image_size(self.transforms) or image_size(trained) or _built_size(self.model["TRUNK"])
        return 3, size, size

    def made_from(self) -> dict[str, Any]:
        """Hashes and settings, for the card; no path of this machine."""
        record = self.checkpoint.parent / RECORD_NAME
        data = self.record["DATA"].get("TRAIN", {})
        return {
            "checkpoint": {"name": self.checkpoint.name, "sha256": file_sha256(self.checkpoint)},
            "training": {"name": RECORD_NAME, "sha256": file_sha256(record)},
            "data": {key: data[key] for key in ("fingerprint", "num_samples") if key in data},
            "labels": self.record.get("CLUSTERFIT", {}),
            "loss": self.record.get("LOSS", {}).get("name"),
            "seed": self.record.get("SEED_VALUE"),
        }


def open_trained(run_or_checkpoint: str | Path, *, head: bool, is_own: bool = False) -> TrainedNetwork:
    """Opens a trained network.

    Args:
        run_or_checkpoint: the folder of a training, or one of its checkpoints, with ``training.json`` beside it.
        head: whether the weights of its heads are wanted.
        is_own: whether the run that asks has written the record: code that it names is the user's.

    Raises:
        ClusterFitError: there is no training, it has not finished, it does not say what it is, or it does not fit.
    """
    checkpoint = _checkpoint(str(run_or_checkpoint))
    record = training_beside(str(checkpoint))
    if record is None:
        raise ArtifactError(
            f"{checkpoint} has no {RECORD_NAME} beside it, which says what network it is. Name a checkpoint in the "
            f"folder of its training, or copy the {RECORD_NAME} of that folder, too."
        )
    if not is_own:
        require_no_code(record["MODEL"]["TRUNK"], checkpoint.parent / RECORD_NAME)
    spec = EncoderSpec(
        model=_whole_model(record["MODEL"]),
        weights=str(checkpoint),
        state_dict_key="",
        trust_weights=os.environ.get(TRUST_VARIABLE) == "1",
        layer=HEAD_LAYER if head else "",
        pooling="avg",
        settings=_SETTINGS,
    )
    network = load_network(spec, torch.device("cpu"))
    # A teacher needs no counters of batches, and gets none.
    counters = {name: tensor for name, tensor in spec.state_dict().items() if name.endswith("num_batches_tracked")}
    network.load_state_dict(counters, strict=False)
    return TrainedNetwork(checkpoint, record, network)


def _checkpoint(text: str) -> Path:
    place = artifact_path(text.rstrip("/") or text)
    if place.is_file():
        return place.resolve()
    if not place.is_dir():
        raise ArtifactError(f"{place} is missing. Name the folder of a training, or one of its checkpoints.")
    if final := final_checkpoint(str(place)):
        return Path(final)
    if has_checkpoints(place):
        raise ArtifactError(
            f"The training in {place} has not finished: it has no final checkpoint. Let it finish, or name one of its "
            "checkpoints to export that."
        )
    raise ArtifactError(
        f"{place} has no training: it holds no checkpoint. Name the folder of a training (CHECKPOINT.DIR)."
    )


def _whole_model(recorded: Mapping[str, Any]) -> dict[str, Any]:
    return {**_vissls_model(), **recorded}


@functools.cache
def _vissls_model() -> Mapping[str, Any]:
    defaults = OmegaConf.load(Path(vissl.config.__file__).with_name("defaults.yaml"))
    return AttrDict(OmegaConf.to_container(defaults.config.MODEL, resolve=False))


def _built_size(trunk: Mapping[str, Any]) -> int:
    block = {"vision_transformer": "VISION_TRANSFORMERS", "convit": "VISION_TRANSFORMERS", "xcit": "XCIT"}
    return int(trunk.get(block.get(trunk["NAME"], ""), {}).get("IMAGE_SIZE", 224))
