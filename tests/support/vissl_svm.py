"""VISSL's SVM trainers on today's NumPy, which refuses an array of one number where a number belongs: for comparisons.

No engine of the package runs them, so their repairs are here and not in ``compat``.
"""

from __future__ import annotations

import functools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from vissl.utils.io import load_file
from vissl.utils.svm_utils import svm_low_shot_trainer, svm_trainer
from vissl.utils.svm_utils.svm_low_shot_trainer import SVMLowShotTrainer
from vissl.utils.svm_utils.svm_trainer import SVMTrainer

__all__ = ["SVMLowShotTrainer", "SVMTrainer"]


class _NumpyWithScalarMean:
    """NumPy, but for the mean of one column, which is a number."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def mean(self, *args: Any, **kwargs: Any) -> Any:
        result = np.mean(*args, **kwargs)
        return result[0] if np.shape(result) == (1,) else result


def _with_a_number(get_precision_recall: Any) -> Any:
    @functools.wraps(get_precision_recall)
    def with_a_number(*args: Any, **kwargs: Any) -> tuple[Any, Any, Any, float]:
        precision, recall, score, average_precision = get_precision_recall(*args, **kwargs)
        return precision, recall, score, float(np.asarray(average_precision).item())

    return with_a_number


def _load_own_file(file: str) -> Any:
    """What the trainer has just written; the reader of files from outside refuses a pickle of a classifier."""
    return pickle.loads(Path(file).read_bytes()) if file.endswith(".pickle") else load_file(file)


for trainer in (svm_trainer, svm_low_shot_trainer):
    trainer.load_file = _load_own_file
    trainer.get_precision_recall = _with_a_number(trainer.get_precision_recall)
svm_low_shot_trainer.np = _NumpyWithScalarMean()
