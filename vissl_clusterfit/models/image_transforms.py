"""Transforms as a config has them, built without VISSL: those of torchvision by name, and an image processor's."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision.transforms
from torchvision.transforms import InterpolationMode

from vissl_clusterfit.dependencies import require
from vissl_clusterfit.errors import ConfigError, problem

#: The file in which transformers keeps the settings of an image processor.
PROCESSOR_FILE = "preprocessor_config.json"
_PILLOWS_NUMBERS = {
    InterpolationMode.NEAREST: 0,
    InterpolationMode.LANCZOS: 1,
    InterpolationMode.BILINEAR: 2,
    InterpolationMode.BICUBIC: 3,
    InterpolationMode.BOX: 4,
    InterpolationMode.HAMMING: 5,
}


def as_number(interpolation: InterpolationMode) -> int:
    """The number that Pillow has for it, which torchvision's ``Resize`` takes and a config can hold: 2 is bilinear."""
    return _PILLOWS_NUMBERS[interpolation]


class ImageProcessor:
    """An image processor of transformers as one step of the transforms, from a picture to a tensor (3, H, W).

    Args:
        config: its settings, as ``preprocessor_config.json`` has them.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)

    @classmethod
    def from_config(cls, block: Mapping[str, Any]) -> ImageProcessor:
        """From its block in TRANSFORMS, as VISSL builds it."""
        return cls(block["config"])

    def __call__(self, image: Any) -> torch.Tensor:
        """Of one RGB picture, what the network takes."""
        return self._processor(images=image, return_tensors="pt")["pixel_values"][0]

    @functools.cached_property
    def _processor(self) -> Any:
        """Made where it is used: processes that read images get the settings alone."""
        require("transformers")
        import transformers

        with tempfile.TemporaryDirectory() as folder:
            Path(folder, PROCESSOR_FILE).write_text(json.dumps(self.config), "utf-8")
            return transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config}


def build_transform(transforms: Sequence[Mapping[str, Any]], setting: str = "transforms") -> Callable[[Any], Any]:
    """A function from a picture (PIL) to a tensor (3, H, W).

    Args:
        transforms: each a mapping with its name, of torchvision's classes or ``ImageProcessor``, and its arguments.
        setting: what to call them in messages.

    Raises:
        ConfigError: a name is unknown, or arguments are refused.
    """
    steps = []
    for number, step in enumerate(transforms):
        arguments = {key: value for key, value in step.items() if key != "name"}
        kind = ImageProcessor if step.get("name") == "ImageProcessor" else None
        kind = kind or getattr(torchvision.transforms, str(step.get("name")), None)
        try:
            steps.append(kind(**arguments))  # type: ignore[misc]
        except (TypeError, ValueError) as error:
            allowed = "a mapping with the name of a transform of torchvision and its arguments"
            found = f"{dict(step)} ({error})"
            raise ConfigError(problem(f"{setting}[{number}]", found=found, allowed=allowed)) from None
    return torchvision.transforms.Compose(steps)


def in_words(transforms: Sequence[Mapping[str, Any]]) -> str:
    """The transforms in one line, for the log."""
    names = {number: mode.value for mode, number in _PILLOWS_NUMBERS.items()}

    def value_of(key: str, value: Any) -> str:
        if key in ("interpolation", "resample") and value in names:
            return names[value]
        if isinstance(value, Mapping):
            return " x ".join(map(str, value.values()))
        return str([round(each, 4) for each in value]) if _is_numbers(value) else str(value)

    def said(step: Mapping[str, Any]) -> str:
        values = step.get("config", step) if step["name"] == "ImageProcessor" else step
        kind = values.get("image_processor_type", step["name"])
        hidden = ("name", "config", "image_processor_type", "rescale_factor")
        shown = [(key, value) for key, value in values.items() if key not in hidden and not key.startswith("do_")]
        shown = [(key, value) for key, value in shown if value is not None and not key.startswith("_")]
        off = [key for key, value in values.items() if key.startswith("do_") and value is False]
        parts = [*(f"{key} {value_of(key, value)}" for key, value in shown), *(f"no {key[3:]}" for key in off)]
        return f"{kind} ({', '.join(parts)})" if parts else kind

    return ", ".join(map(said, transforms))


def _is_numbers(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(each, float) for each in value)
