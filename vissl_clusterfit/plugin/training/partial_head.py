"""The hook of a partial head: its rows when a training starts, their step of SGD, and their part of a checkpoint."""

from __future__ import annotations

from pathlib import Path

from classy_vision.hooks import ClassyHook
from classy_vision.tasks import ClassyTask
from vissl.config import AttrDict

from vissl_clusterfit import distributed
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.plugin.models.head import PartialHead
from vissl_clusterfit.plugin.training.base_hook import Hook
from vissl_clusterfit.plugin.training.cluster_rows import ClusterRows
from vissl_clusterfit.plugin.training.partial_softmax import PartialSoftmax
from vissl_clusterfit.plugin.training.record import HEAD_FOLDER
from vissl_clusterfit.storage.paths import artifact_path


def partial_head_hooks(cfg: AttrDict) -> list[ClassyHook]:
    """The hook, where the config trains a partial head."""
    wanted = cfg.LOSS.name == "clusterfit_loss" and ClusterFitConfig.from_config(cfg).head.kind == "partial"
    return [PartialHeadHook(cfg)] if wanted else []


class PartialHeadHook(Hook):
    """Gives the loss the rows of its heads, moves them, and saves them before the checkpoint of an epoch.

    Args:
        cfg: VISSL's ``config``.
    """

    def __init__(self, cfg: AttrDict) -> None:
        super().__init__()
        self._settings = ClusterFitConfig.from_config(cfg).head
        self._folder, self._seed = artifact_path(cfg.CHECKPOINT.DIR), cfg.SEED_VALUE
        self._momentum, self._weight_decay = cfg.OPTIMIZER.momentum, cfg.OPTIMIZER.weight_decay
        self._frequency = cfg.CHECKPOINT.CHECKPOINT_FREQUENCY
        self._scale = 1.0

    def on_start(self, task: ClassyTask) -> None:
        """Makes the rows, or reads those of the checkpoint that the training resumes from.

        Raises:
            ArtifactError: they are missing, damaged, or of another size.
            ConfigError: there are more processes than clusters.
        """
        [head] = [each for each in task.base_model.heads if isinstance(each, PartialHead)]
        if min(head.widths) < distributed.world_size():
            found = f"{distributed.world_size()} processes for {min(head.widths)} clusters"
            raise ConfigError(problem("config.CLUSTERFIT.HEAD.KIND", found=f"partial, {found}", allowed="full"))
        made = []
        for number, width in enumerate(head.widths):
            seed = self._seed + 1_000_003 * number
            rows = ClusterRows(width, head.in_features, seed=seed, device=task.device)
            if task.train_phase_idx >= 0:
                rows.load(self._place(task.train_phase_idx, number))
            made.append(PartialSoftmax(rows, self._settings))
        task.base_loss.heads = made

    def on_forward(self, task: ClassyTask) -> None:
        """Says which step it is: it draws the negatives, a resumed training the same ones."""
        task.base_loss.step = task.iteration

    def on_backward(self, task: ClassyTask) -> None:
        """Notes what the gradients were multiplied by, before the optimizer changes it."""
        scaler = getattr(task, "amp_grad_scaler", None)
        self._scale = scaler.get_scale() if scaler is not None else 1.0

    def on_update(self, task: ClassyTask) -> None:
        """Moves the rows that were drawn, by the rate that the network just had."""
        rate = task.optimizer.options_view.lr / (1 - self._momentum)
        for head in task.base_loss.heads:
            head.update(rate, self._weight_decay, self._scale)

    def on_phase_end(self, task: ClassyTask) -> None:
        """Saves the rows where a checkpoint of the network follows. All processes do."""
        phase, last = task.train_phase_idx, task.num_train_phases - 1
        if not task.train or (phase != last and phase % self._frequency):
            return
        for number, head in enumerate(task.base_loss.heads):
            head.rows.save(self._place(phase, number))

    def _place(self, phase: int, number: int) -> Path:
        return self._folder / f"{HEAD_FOLDER}{phase}" / str(number)
