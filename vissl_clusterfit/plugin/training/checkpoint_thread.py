"""Checkpoints are written beside the training: a thread saves a copy of the state while the next steps are done.

There is one at a time. What a write fails with ends the training after its next step, and no training ends before its
last checkpoint is on the disk.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import threading
from collections.abc import Callable
from typing import Any


class _Write:
    """One checkpoint on its way to the disk."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self.error: BaseException | None = None
        # Not a daemon: at the end of the process Python waits for it.
        self._thread = threading.Thread(target=self._run, name="checkpoint")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.error = error

    def wait(self) -> None:
        self._thread.join()
        if self.error is not None:
            raise self.error


_latest: _Write | None = None
_is_training = False


def wait_for_checkpoint() -> None:
    """Waits until the latest checkpoint is written.

    Raises:
        ArtifactError: it could not be.
    """
    global _latest
    write, _latest = _latest, None
    if write is not None:
        write.wait()


def raise_failed() -> None:
    """Raises what the latest checkpoint could not be written for, if that is known; does not wait."""
    if _latest is not None and _latest.error is not None:
        wait_for_checkpoint()


def saved_beside(save: Callable[[Any, dict[str, Any]], None]) -> Callable[[Any, dict[str, Any]], None]:
    """Wraps ``save_consolidated_checkpoint`` of VISSL's ``CheckpointWriter``, with the link to the checkpoint.

    Outside a training it is VISSL's, and so is the final one: no step follows, and a test phase that is killed is done
    again from it.
    """

    @functools.wraps(save)
    def save_beside(writer: Any, content: dict[str, Any]) -> None:
        global _latest
        wait_for_checkpoint()
        if not _is_training or writer.is_final_train_phase:
            save(writer, content)
            return
        state = copy.deepcopy(content)  # weights and momentum are changed in place by the next step
        _latest = _Write(lambda: save(writer, state))

    return save_beside


def until_written(train: Callable[[Any], None]) -> Callable[[Any], None]:
    """Wraps ``train`` of VISSL's trainer: it ends when its last checkpoint is written."""

    @functools.wraps(train)
    def train_and_wait(trainer: Any) -> None:
        global _is_training
        _is_training = True
        try:
            train(trainer)
        except BaseException:
            with contextlib.suppress(Exception):  # why the training ended is to be said
                wait_for_checkpoint()
            raise
        finally:
            _is_training = False
        wait_for_checkpoint()

    return train_and_wait
