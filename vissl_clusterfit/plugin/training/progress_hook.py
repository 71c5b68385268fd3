"""The line that says how a training goes: VISSL's, with the rate, what the data cost, and the time that is left.

Everything in it that the device has to be asked for is asked for at the steps that are logged, and at no other.
"""

from __future__ import annotations

import datetime
import functools
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from classy_vision.generic.distributed_util import get_rank, is_primary
from vissl.hooks.log_hooks import LogLossLrEtaHook

from vissl_clusterfit.compute.memory import keep_all_freed_memory
from vissl_clusterfit.plugin.costs import Meter
from vissl_clusterfit.plugin.training.checkpoint_thread import raise_failed
from vissl_clusterfit.plugin.training.metrics_log import MetricsHook, step_row
from vissl_clusterfit.progress.step import Progress

_BYTES_PER_MB = 1 << 20


class WatchedBatches:
    """Batches of a loader, and the seconds that the training has waited for them."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches = batches
        self.waited_s = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]  (loaders say it, and VISSL asks for it)

    def __iter__(self) -> WatchedBatches:
        return self

    def __next__(self) -> Any:
        begun = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            self.waited_s += time.perf_counter() - begun


def with_watch(recreate: Callable[..., None]) -> Callable[..., None]:
    """Wraps ``recreate_data_iterator`` of VISSL's task."""

    @functools.wraps(recreate)
    def recreate_watched(task: Any, *args: Any, **kwargs: Any) -> None:
        recreate(task, *args, **kwargs)
        task.data_iterator = WatchedBatches(task.data_iterator)

    return recreate_watched


class ProgressHook(LogLossLrEtaHook):
    """VISSL's ``LogLossLrEtaHook``: a line at the same steps, with the same fields and three more.

    ``img/s`` are images per second of all processes, ``waiting`` is the share of the time in which this process had no
    data, and ``eta`` is reckoned from the training steps of this process alone, without what came before them. The
    screen has them as the progress of a long step.
    """

    _steps = 0
    _training_s = _waited_s = 0.0
    _progress: Progress | None = None

    def on_phase_start(self, task: Any) -> None:
        """Begins to count the time of a phase, and what it takes."""
        self._meter = Meter(task.config)
        if task.device.type == "cpu":
            keep_all_freed_memory()  # here, as the clustering before it sets smaller limits
        if task.train and self._progress is None:
            batch = task.get_global_batchsize()
            self._progress = Progress("Training", task.max_iteration * batch, "images", done=task.iteration * batch)
        self._begun, self._waited_before = time.perf_counter(), 0.0

    def on_update(self, task: Any) -> None:
        """After a step: raises what a checkpoint could not be written for, and logs where VISSL does."""
        raise_failed()
        if not (is_primary() and task.train):
            return
        now, waited_s = time.perf_counter(), task.data_iterator.waited_s
        self._training_s, self._begun = self._training_s + now - self._begun, now
        self._waited_s, self._waited_before = self._waited_s + waited_s - self._waited_before, waited_s
        self._steps += 1
        waiting = f"{self._waited_s / self._training_s:.0%} of the time waiting for data"
        self._progress.add(task.get_global_batchsize(), waiting)
        iteration, every = task.iteration, task.config["LOG_FREQUENCY"]
        if iteration == 1 or iteration % every == 0 or (iteration <= 100 and iteration % 5 == 0):
            self._log(task)

    def on_phase_end(self, task: Any) -> None:
        """Adds what a phase took to ``costs.json``: what a training that was killed had finished is counted, too."""
        del task
        self._meter.add("train")

    def on_end(self, task: Any) -> None:
        """Takes the bar off the screen."""
        del task
        if self._progress is not None:
            self._progress.__exit__()

    on_exception = on_end

    def _log(self, task: Any) -> None:
        seconds = self._training_s / self._steps
        left = datetime.timedelta(seconds=int(seconds * (task.max_iteration - task.iteration - 1)))
        rates = task.optimizer.options_view.lr
        is_cuda = torch.cuda.is_available()
        loss, waiting = task.last_batch.loss.data.cpu().item(), self._waited_s / self._training_s
        images_per_s = float(f"{task.get_global_batchsize() / seconds:.3g}")
        memory_mb = torch.cuda.max_memory_allocated() // _BYTES_PER_MB if is_cuda else None
        row = step_row(
            epoch=task.train_phase_idx + 1,
            iteration=task.iteration,
            phase=task.phase_idx,
            loss=loss,
            lr=max(rates) if isinstance(rates, set | list) else rates,
            seconds_left=int(left.total_seconds()),
            waiting=round(waiting, 3),
            memory_mb=memory_mb,
            time=round(time.time(), 3),
        )
        for hook in task.hooks:
            if isinstance(hook, MetricsHook):
                hook.add(row | {"images/s": images_per_s})
        said = {
            "Rank": get_rank(),
            "ep": task.train_phase_idx,
            "iter": task.iteration,
            "lr": list(rates) if isinstance(rates, set | list) else round(rates, 5),
            "loss": round(loss, 5),
            "btime(ms)": int(1000 * seconds),
            "eta": str(left),
            "img/s": images_per_s,
            "waiting": f"{waiting:.0%}",
            "peak_mem(M)": memory_mb if is_cuda else -1,
        }
        if task.iteration == 1:
            said["max_iterations"] = task.max_iteration
        recent = task.batch_time[-self.btime_freq :] if self.btime_freq else []
        if recent and len(recent) == self.btime_freq:
            mean = sum(recent) / len(recent)
            said[f"btime({self.btime_freq}iters)(ms)"] = int(1000 * mean)
            said["rolling_eta"] = str(datetime.timedelta(seconds=int(mean * (task.max_iteration - task.iteration))))
        line = "".join(f"[{key}: {value}] " if key == "ep" else f"{key}: {value}; " for key, value in said.items())
        logging.info(line.strip())
        self.json_stdout_logger.write(json.dumps(said) + "\n")
