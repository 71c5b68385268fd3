"""``MODEL.EMA_DECAY``: a moving average of the student's weights, by timm, beside its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch

from vissl_clusterfit import distributed
from vissl_clusterfit.dependencies import require
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.plugin.training.base_hook import Hook
from vissl_clusterfit.storage.atomic import write_file

#: The file of the averaged weights in ``CHECKPOINT.DIR``: a teacher, a transfer and an export take it as any other.
EMA_NAME = "model_ema.safetensors"


class EmaHook(Hook):
    """Averages the weights after each step; they are in the checkpoints, and in a file of their own after each epoch.

    Args:
        decay: what is kept of the average at each step; it begins lower, as there is little to average at first.
        folder: of the checkpoints.

    Raises:
        ConfigError: the decay is no number of (0, 1).
        MissingDependencyError: timm is not installed.
    """

    def __init__(self, decay: float, folder: Path) -> None:
        super().__init__()
        if isinstance(decay, bool) or not isinstance(decay, (int, float)) or not 0 < decay < 1:
            allowed = "above 0, below 1, such as 0.9998; 0 for none"
            raise ConfigError(problem("config.MODEL.EMA_DECAY", found=repr(decay), allowed=allowed))
        require("timm")
        self._decay, self._folder = decay, folder
        self._average: Any = None
        self._num_steps = 0

    def on_start(self, task: Any) -> None:
        """Begins with the weights as they are, or resumes from the checkpoint that the training resumes from."""
        from timm.utils import ModelEmaV3

        self._average = ModelEmaV3(task.base_model, decay=self._decay, use_warmup=True)
        saved = ((task.checkpoint or {}).get("classy_state_dict") or {}).get("hooks", {}).get(self.name())
        if saved and "ema" in saved:
            self._average.module.load_state_dict(saved["ema"])
            self._num_steps = saved["num_steps"]
        self._keep()

    def on_update(self, task: Any) -> None:
        """Takes the weights after a step into the average."""
        self._num_steps += 1
        self._average.update(task.base_model, self._num_steps)
        self.state.num_steps = self._num_steps

    def on_phase_end(self, task: Any) -> None:
        """Writes the file after an epoch."""
        if task.train and distributed.is_primary():
            tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state.ema.items()}
            write_file(self._folder / EMA_NAME, lambda file: file.write(safetensors.torch.save(tensors)))

    def _keep(self) -> None:
        self.state.ema = self._average.module.state_dict()  # its tensors are updated in place
        self.state.num_steps = self._num_steps
