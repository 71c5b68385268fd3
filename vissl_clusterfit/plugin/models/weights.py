"""Checkpoints that VISSL opens: one that is damaged, missing or runs code is the user's to fix."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable
from typing import Any

from safetensors import SafetensorError

from vissl_clusterfit.compat import TRUST_VARIABLE
from vissl_clusterfit.errors import TeacherError
from vissl_clusterfit.models.weight_files import read_safetensors, reason_of
from vissl_clusterfit.storage.paths import artifact_path


def told_in_one_message(load: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps VISSL's ``load_and_broadcast_checkpoint``: a file that PyTorch refuses is the user's to fix."""

    @functools.wraps(load)
    def load_or_tell(checkpoint_folder: str, checkpoint_path: str, device: Any) -> Any:
        if not artifact_path(checkpoint_path).exists():  # PyTorch would be given nothing
            raise TeacherError(f"{checkpoint_path} is missing: a checkpoint that a training was to go on from.")
        try:
            tensors = read_safetensors(artifact_path(checkpoint_path))  # which PyTorch would take for a pickle
            return load(checkpoint_folder, checkpoint_path, device) if tensors is None else tensors
        except SafetensorError as error:
            raise TeacherError(f"{checkpoint_path} is damaged: {error}") from None
        except pickle.UnpicklingError as error:
            raise TeacherError(
                f"{checkpoint_path} is no checkpoint, or one that runs code when it is opened: {reason_of(error)} "
                f"If you made or trust it, set the environment variable {TRUST_VARIABLE}=1; else name another file or "
                "folder."
            ) from None

    return load_or_tell
