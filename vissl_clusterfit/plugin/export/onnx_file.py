"""A network as an ONNX file, by PyTorch's exporter, held against the network with ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vissl_clusterfit.dependencies import require
from vissl_clusterfit.errors import TeacherError

INPUT_NAME = "images"
#: How far ONNX Runtime's outputs may be from PyTorch's: it fuses operations, which rounds otherwise.
RELATIVE, ABSOLUTE = 1e-4, 1e-5
#: A protocol buffer holds 2 GiB at most; the weights of larger networks are beside it.
_MOST_BYTES = 1_900_000_000
_BATCHES = (1, 3)


class Outputs(nn.Module):
    """A network whose only output is that of a function of it and of a batch of images."""

    def __init__(self, network: nn.Module, outputs: Callable[[nn.Module, torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.network, self._outputs = network, outputs

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features (B, D) or logits (B, K)."""
        return self._outputs(self.network, images)


def write_onnx(module: nn.Module, shape: tuple[int, ...], name: str, path: Path) -> float:
    """Writes a module of one input and one output; the number of images in a batch is left open.

    Args:
        module: in evaluation, on the CPU.
        shape: of one image.
        name: of the output.
        path: of the file.

    Returns:
        The largest absolute difference between ONNX Runtime's outputs and PyTorch's, over batches of 1 and 3.

    Raises:
        TeacherError: PyTorch cannot export this network, or the outputs differ.
        MissingDependencyError: onnx, onnxscript or onnxruntime is missing.
    """
    require("onnx", "onnxscript", "onnxruntime")
    import onnxruntime

    images = torch.rand(max(_BATCHES), *shape, generator=torch.Generator().manual_seed(0))
    size = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _quiet("torch.onnx", "onnxscript"):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module,
                (images,),
                str(path),
                dynamo=True,
                input_names=[INPUT_NAME],
                output_names=[name],
                dynamic_shapes={INPUT_NAME: {0: torch.export.Dim("batch")}},
                external_data=size > _MOST_BYTES,
                verbose=False,
            )
    except Exception as error:  # whatever PyTorch's exporter makes of an operation that it does not know
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TeacherError(f"PyTorch cannot export this network to ONNX: {reason} Export it without onnx.") from None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    largest = 0.0
    for batch in _BATCHES:
        given = session.run([name], {INPUT_NAME: images[:batch].numpy()})[0]
        with torch.inference_mode():
            expected = module(images[:batch]).numpy()
        if not np.allclose(given, expected, rtol=RELATIVE, atol=ABSOLUTE):
            difference = np.abs(given - expected).max()
            raise TeacherError(
                f"ONNX Runtime gives other outputs for this network, by {difference:.1e}. Export it without onnx."
            )
        largest = max(largest, float(np.abs(given - expected).max()))
    return largest


@contextlib.contextmanager
def _quiet(*names: str):
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
