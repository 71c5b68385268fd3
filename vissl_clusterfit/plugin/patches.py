"""Weights that VISSL loads into a network, with proof that the whole trunk got them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from vissl.optimizers.larc_fsdp import LARC_FSDP
from vissl.trainer import train_task
from vissl.utils.misc import is_apex_available, set_dataloader_seeds

from vissl_clusterfit import distributed
from vissl_clusterfit.errors import ConfigError, DataError, TeacherError, problem
from vissl_clusterfit.features.worker_init import end_with_parent
from vissl_clusterfit.plugin.data.balanced_sampler import balanced_sampling
from vissl_clusterfit.plugin.data.batches import ArrivedBatches, in_one_message, leave_pixels
from vissl_clusterfit.plugin.data.small_pictures import keep_small_pictures

logger = logging.getLogger(__name__)

_SHOWN = 3
_REMEDY = (
    "Make config.MODEL.TRUNK the network that was trained, and check config.MODEL.WEIGHTS_INIT (STATE_DICT_KEY_NAME, "
    "REMOVE_PREFIX, APPEND_PREFIX); what is to start at random is named in its SKIP_LAYERS."
)


def require_full_trunk(load: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps VISSL's ``init_model_from_consolidated_weights``, which logs what it does not find and continues.

    A tensor of the trunk that gets no weights is refused, unless ``SKIP_LAYERS`` names it. Heads that start at random,
    as those of most benchmarks do, are said in the log.
    """

    @functools.wraps(load)
    def load_all(
        config: Any,
        model: Any,
        state_dict: Any,
        state_dict_key_name: str,
        skip_layers: list[str],
        *more: Any,
        **kwargs: Any,
    ) -> Any:
        path = config.MODEL.WEIGHTS_INIT.PARAMS_FILE
        # VISSL copies into the tensors of the network, and every such copy is counted by the tensor.
        before = {name: tensor._version for name, tensor in model.state_dict().items()}
        try:
            loaded = load(config, model, state_dict, state_dict_key_name, skip_layers, *more, **kwargs)
        except AssertionError as error:
            raise TeacherError(f"{path} does not fit config.MODEL: {error}. {_REMEDY}") from None
        except KeyError as error:
            raise TeacherError(f"{path} is no checkpoint of VISSL's: it has no {error}. {_REMEDY}") from None
        except Exception as error:
            if type(error) is not Exception:  # VISSL raises this one where the names do not fit
                raise
            raise TeacherError(f"{path} does not fit config.MODEL: {error} {_REMEDY}") from None
        without = [
            name
            for name, tensor in model.state_dict().items()
            if tensor._version == before[name] and not any(skipped in name for skipped in skip_layers)
        ]
        trunk = [name for name in without if name.startswith("trunk.")]
        if trunk:
            of_all = sum(name.startswith("trunk.") for name in before)
            shown = ", ".join(trunk[:_SHOWN]) + (f" and {len(trunk) - _SHOWN} more" if len(trunk) > _SHOWN else "")
            raise TeacherError(
                f"{path} has no weights for {len(trunk)} of {of_all} tensors of the trunk: {shown}. {_REMEDY}"
            )
        left_out = [name for name in before if name.startswith("trunk.") and name not in _counters(before)]
        left_out = [name for name in left_out if any(skipped in name for skipped in skip_layers)]
        logger.info("The %s trunk has the weights of %s.", "rest of the" if left_out else "whole", path)
        if left_out or without:
            logger.info("These start at random: %s.", ", ".join(left_out + without))
        return loaded

    return load_all


def _counters(names: Iterable[str]) -> set[str]:
    """How many batches a normalisation has seen, which VISSL leaves out of its own accord; it decides nothing."""
    return {name for name in names if name.endswith("num_batches_tracked")}


def skip_unlabelled(balanced_sub_sampling: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """VISSL's ``balanced_sub_sampling``, which takes a missing label (-1) for one more label, without those samples.

    The function it gives is VISSL's where every sample has a label; it raises DataError where a label has too few.
    """

    @functools.wraps(balanced_sub_sampling)
    def sample(labels: np.ndarray, num_samples: int, skip_samples: int = 0, seed: int = 0) -> np.ndarray:
        if np.ndim(labels) != 1:  # of which VISSL's ends in a TypeError
            raise DataError(
                problem(
                    "config.DATA: DATA_LIMIT_SAMPLING.IS_BALANCED",
                    found=f"true for labels of shape {np.shape(labels)}",
                    allowed="false where a sample has several labels, or CLUSTERFIT.TARGETS that are more than a label",
                )
            )
        labelled = np.flatnonzero(labels >= 0)
        _require_enough(labels[labelled], num_samples, skip_samples)
        return labelled[balanced_sub_sampling(labels[labelled], num_samples, skip_samples, seed)]

    return sample


def _require_enough(labels: np.ndarray, num_samples: int, skip_samples: int) -> None:
    values, counts = np.unique(labels, return_counts=True)

    def shares(number: int) -> np.ndarray:
        return number // len(values) + (np.arange(len(values)) < number % len(values))

    lacking = np.flatnonzero(shares(num_samples) + shares(skip_samples) > counts) if len(values) else []
    if len(lacking) or num_samples < len(values):
        few = f", of which label {values[lacking[0]]} has {counts[lacking[0]]} samples" if len(lacking) else ""
        raise DataError(
            problem(
                "config.DATA: DATA_LIMIT with DATA_LIMIT_SAMPLING.IS_BALANCED",
                found=f"{num_samples}, after {skip_samples} that are skipped, for {len(values)} labels{few}",
                allowed="at least one sample of each label, and no more than there are of the rarest",
                remedy="Change DATA_LIMIT or SKIP_NUM_SAMPLES, or set IS_BALANCED to false.",
            )
        )


def local_on_cpu(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The ``forward`` of ``SyncBatchNorm``, which on the CPU takes the statistics of this process's batch.

    That is what VISSL does with all other networks there: it makes no batch norm a synchronous one on the CPU.
    """

    @functools.wraps(forward)
    def forward_anywhere(self: torch.nn.SyncBatchNorm, batch: torch.Tensor) -> torch.Tensor:
        return _BatchNorm.forward(self, batch) if batch.device.type == "cpu" else forward(self, batch)

    return forward_anywhere


def with_larc_of_vissl(prepare: Callable[..., None]) -> Callable[..., None]:
    """Classy Vision's ``SGD.prepare``, whose LARC is Apex's, with VISSL's where Apex is not installed.

    VISSL has it for sharded networks (``LARC_FSDP``), with the formula of Apex's: every tensor w of gradient g has the
    rate ``trust · |w| / (|g| + weight_decay · |w| + eps)`` times that of the schedule, or at most that of the schedule
    where ``clip`` is set; LARS of You, Gitman and Ginsburg, arXiv:1708.03888, equations 5 and 6. Here each process has
    whole tensors, so norms are its own.
    """

    @functools.wraps(prepare)
    def prepare_anywhere(self: Any, param_groups: Any) -> None:
        if not self._use_larc or is_apex_available():
            prepare(self, param_groups)
            return
        self._use_larc = False
        try:
            prepare(self, param_groups)
        finally:
            self._use_larc = True
        self.optimizer = LARC_FSDP(optimizer=self.optimizer, distributed_norm=False, **self._larc_config)

    return prepare_anywhere


def built_without_apex(self: Any) -> Any:
    """The ``_build_optimizer`` of VISSL's task, which asserts Apex for LARC."""
    return train_task.build_optimizer(self.config["OPTIMIZER"])


def staying_on_cpu(method: Callable[..., None]) -> Callable[..., None]:
    """A method of VISSL's DeepClusterV2 loss, which moves tensors to a GPU; where the loss is on the CPU they stay."""

    @functools.wraps(method)
    def call(self: Any, *args: Any) -> None:
        if self.local_memory_embeddings.device.type != "cpu":
            method(self, *args)
            return
        cuda = torch.Tensor.cuda
        torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[method-assign,assignment]
        try:
            method(self, *args)
        finally:
            torch.Tensor.cuda = cuda  # type: ignore[method-assign]

    return call


def with_batches(build_dataloader: Callable[..., Any]) -> Callable[..., Any]:
    """VISSL's ``build_dataloader``, which is called before features are extracted, with a look at how many batches are.

    Small pictures are kept for later epochs, and batches arrive as ``data/batches.py`` has them.

    Where CLUSTERFIT.BALANCED_SAMPLES says so, the samples of an epoch are drawn by ``data/balanced_sampler.py``.

    The function it gives raises ConfigError where there is none: the data are fewer than one, and the rest is dropped.
    """

    @functools.wraps(build_dataloader)
    def build(dataset: Any, dataset_config: Any, *more: Any, **kwargs: Any) -> Any:
        keep_small_pictures(dataset)
        finish = leave_pixels(dataset, dataset_config)
        if sampling := balanced_sampling(dataset):
            kwargs["get_sampler"] = sampling
        loader = build_dataloader(dataset, dataset_config, *more, **kwargs)
        if not len(loader):
            name, size, processes = f"config.DATA.{dataset.split}", len(dataset), distributed.world_size()
            shared = f" on {processes} processes" if processes > 1 else ""
            raise ConfigError(
                problem(
                    f"{name}.BATCHSIZE_PER_REPLICA",
                    found=f"{dataset_config['BATCHSIZE_PER_REPLICA']} with DROP_LAST for {size} samples{shared}",
                    allowed=f"1 to {-(-size // processes)}, so that there is one whole batch",
                    remedy=f"Lower it, or set {name}.DROP_LAST=false.",
                )
            )
        if kwargs["device"].type == "cpu":
            in_one_message(loader)
        return ArrivedBatches(loader, finish)

    return build


def with_bucket_views(
    model: torch.nn.Module,
    broadcast_buffers: bool = False,
    find_unused_parameters: bool = True,
    bucket_cap_mb: int = 25,
) -> DistributedDataParallel:
    """Classy Vision's ``init_distributed_data_parallel_model``, with gradients that are views of what is sent.

    The sums are the same; what is spared is a copy of every gradient in each step, and the memory of one of them.
    """
    device = next(model.parameters()).device
    places = {} if device.type == "cpu" else {"device_ids": [device.index], "output_device": device.index}
    return DistributedDataParallel(
        model,
        broadcast_buffers=broadcast_buffers,
        find_unused_parameters=find_unused_parameters,
        bucket_cap_mb=bucket_cap_mb,
        gradient_as_bucket_view=True,
        **places,
    )


def largest_rounded(value: Any, digits: int) -> float:
    """``round`` for VISSL's TensorBoard hook, which cannot round the rates of several groups: the largest of them."""
    return round(max(value) if isinstance(value, set | list) else value, digits)


def begin_to_read(number: int) -> None:
    """What VISSL does in such a process; besides, it ends with the training. A ``worker_init_fn``."""
    end_with_parent(number)
    set_dataloader_seeds(number)
