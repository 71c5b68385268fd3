"""``transformers:<folder or name>``: networks for images of transformers, as their own classes give features."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vissl_clusterfit.config.network_names import LIBRARY_WEIGHTS
from vissl_clusterfit.dependencies import require
from vissl_clusterfit.errors import ConfigError, TeacherError, problem
from vissl_clusterfit.models.image_transforms import PROCESSOR_FILE
from vissl_clusterfit.models.source import ModelRequest

#: Of models for images and texts, the part for images.
_VISION_CLASSES = {
    "clip": "CLIPVisionModel",
    "clip_vision_model": "CLIPVisionModel",
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
}
#: Keys of a config that say how it was saved, and nothing of the network.
_OF_THE_FILE = (
    "_name_or_path",
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "id2label",
    "label2id",
)


class TransformersModel:
    """A model in a folder that ``save_pretrained`` wrote, or by its name on the hub where that can be reached."""

    def __init__(self, request: ModelRequest) -> None:
        require("transformers")
        self._request = request
        self._place = request.model
        self._config = self._read_config()
        if (self._class.main_input_name if self._class else "") != "pixel_values":
            raise ConfigError(
                problem(
                    request.setting,
                    found=f"transformers:{request.model}, a {self._config.model_type}, which takes no images",
                    allowed="a model for images: DINOv2, DINOv3, CLIP, SigLIP, ViT, ResNet and the like",
                )
            )

    def _read_config(self) -> Any:
        import transformers

        changes = dict(self._request.arguments)
        if self._request.config is not None:
            self._raw = dict(self._request.config)
            return transformers.AutoConfig.for_model(**{**self._raw, **changes})
        try:
            with _quiet():
                config = transformers.AutoConfig.from_pretrained(self._place, trust_remote_code=False, **changes)
        except (OSError, ValueError, KeyError) as error:
            is_folder = Path(self._place).is_dir()
            found = f"transformers:{self._place}, " + (
                "a folder" if is_folder else "no folder, and no model of the hub"
            )
            raise ConfigError(
                problem(
                    self._request.setting,
                    found=f"{found} that transformers can read: {str(error).splitlines()[0]}",
                    allowed="transformers:<folder that save_pretrained wrote>, or the name of a model on its hub",
                )
            ) from None
        # As it is in the file: what another version of transformers adds as a default changes no manifest.
        self._raw, _ = transformers.PreTrainedConfig.get_config_dict(self._place)
        if config.model_type not in ("clip", "siglip"):
            return config
        self._raw = self._raw.get("vision_config") or {}
        return config.vision_config

    @property
    def _class(self) -> Any:
        import transformers

        name = _VISION_CLASSES.get(self._config.model_type)
        return getattr(transformers, name) if name else transformers.MODEL_MAPPING.get(type(self._config), None)

    @property
    def drop_path_argument(self) -> str:
        """A key of the config, where it has it."""
        return "drop_path_rate" if hasattr(self._config, "drop_path_rate") else ""

    def build(self) -> nn.Module:
        """The model without the pooling layer that only some weights have.

        Raises:
            TeacherError: the weights of the folder, or of the hub, do not fit or cannot be had.
        """
        if self._request.weights == LIBRARY_WEIGHTS:
            return self._from_pretrained(self._place)
        with _quiet():
            return _without_dense_pooler(self._class(self._config))

    def _from_pretrained(self, place: str | None, **state: Any) -> nn.Module:
        try:
            with _quiet():
                module, found = self._class.from_pretrained(
                    place,
                    config=self._config,
                    dtype=torch.float32,
                    output_loading_info=True,
                    weights_only=True,
                    trust_remote_code=False,
                    ignore_mismatched_sizes=True,
                    **state,
                )
        except (OSError, ValueError, RuntimeError) as error:
            raise TeacherError(
                problem(
                    "weights",
                    found=f"library, and transformers cannot load those of {self._place}: {str(error).splitlines()[0]}",
                    allowed="library for a folder with weights, or where transformers can reach its hub; or a file",
                )
            ) from None
        module = _without_dense_pooler(module)
        needed = module.state_dict()
        lacking = sorted(
            {_name(each) for kind in ("missing_keys", "mismatched_keys") for each in found[kind]} & {*needed}
        )
        if lacking:
            more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
            raise TeacherError(
                f"The weights of transformers:{self._place} fit only in part: {len(needed) - len(lacking)} of "
                f"{len(needed)} tensors; these do not: {', '.join(lacking[:3])}{more}."
            )
        return module

    def fill(self, module: nn.Module, state: Mapping[str, torch.Tensor]) -> bool:
        """Names of files are not always those of the module: transformers renames as it loads."""
        places = zip(*(name.split(".")[:-1] for name in state), strict=False)
        common = [parts[0] for parts in itertools.takewhile(lambda parts: len({*parts}) == 1, places)]
        for number in range(len(common) + 1):
            prefix = "".join(f"{part}." for part in common[:number])
            renamed = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
            with contextlib.suppress(TeacherError):
                module.load_state_dict(self._from_pretrained(None, state_dict=renamed).state_dict())
                return True
        return False

    def pooled(self, module: nn.Module, images: torch.Tensor) -> torch.Tensor:
        """The pooled output of the class, or the class token where it has none."""
        output = module(pixel_values=images)
        pooled = getattr(output, "pooler_output", None)
        return output.last_hidden_state[:, 0] if pooled is None else pooled.flatten(1)

    def tokens(self, module: nn.Module, images: torch.Tensor) -> torch.Tensor | None:
        """The last hidden state, where it is one of tokens."""
        last = module(pixel_values=images).last_hidden_state
        return last if last.ndim == 3 else None

    def num_prefix_tokens(self, module: nn.Module) -> int:
        """The class token, that of a distilled model, and registers."""
        names = [name.rpartition(".")[2] for name, _ in module.named_parameters()]
        of_class = sum(name in ("cls_token", "class_embedding", "distillation_token") for name in names)
        return of_class + int(getattr(self._config, "num_register_tokens", 0) or 0)

    def classifier(self, module: nn.Module) -> str:
        """These classes have none."""
        return ""

    def transforms(self) -> list[dict[str, Any]]:
        """Its image processor.

        Raises:
            ConfigError: there is none beside the model.
        """
        import transformers

        try:
            with _quiet():
                processor = transformers.AutoImageProcessor.from_pretrained(self._place, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise ConfigError(
                problem(
                    "transforms",
                    found=f"none in transformers:{self._place} ({str(error).splitlines()[0]})",
                    allowed=f"a {PROCESSOR_FILE} beside the model",
                    remedy="Save the image processor there, or give the transforms of this network yourself.",
                )
            ) from None
        return [{"name": "ImageProcessor", "config": json.loads(processor.to_json_string())}]

    def identity(self) -> dict[str, Any]:
        """The config of the network: a folder may be moved."""
        kind = self._config.model_type
        kept = {key: value for key, value in self._raw.items() if key not in _OF_THE_FILE}
        changes = dict(self._request.arguments)
        return {"MODEL": f"transformers:{kind}", "ARGUMENTS": {}, "CONFIG": {**kept, **changes, "model_type": kind}}

    def weights_file(self) -> Path | None:
        """The one file that has the folder's weights; None where they are elsewhere, or in several."""
        found = [Path(self._place, name) for name in ("model.safetensors", "pytorch_model.bin")]
        return next((file for file in found if file.is_file()), None)


def _name(key: Any) -> str:
    return key if isinstance(key, str) else str(key[0])


def _without_dense_pooler(module: nn.Module) -> nn.Module:
    """Without the dense layer behind the class token: only weights of BERT's kind have it, others would be random."""
    if hasattr(getattr(module, "pooler", None), "dense"):
        setattr(module, "pooler", None)  # noqa: B010  (a type checker takes it for a module)
    return module


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' own reports of what it loads, which we check."""
    from transformers.utils import logging

    level, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
