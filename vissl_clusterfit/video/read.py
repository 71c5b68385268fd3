"""Clips of a video as tensors, however it is stored."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch

from vissl_clusterfit.storage.untrusted import UnsafeFileError, require_regular
from vissl_clusterfit.video.clips import ClipSettings, clip_frames
from vissl_clusterfit.video.frame_folder import FrameFolder
from vissl_clusterfit.video.unreadable import FramesRecountedError, UnreadableVideoError

if TYPE_CHECKING:
    from vissl_clusterfit.video.decode import VideoFile


def open_video(source: str | BinaryIO) -> VideoFile | FrameFolder:
    """A video file, or a folder with a picture for each frame; to be closed, or used in a ``with`` statement.

    Args:
        source: a path of this machine, or an open file that can seek.

    Raises:
        UnreadableVideoError: it gives no frame.
    """
    if isinstance(source, str) and os.path.isdir(source):
        return FrameFolder(source)
    from vissl_clusterfit.video.decode import VideoFile

    if isinstance(source, str):
        try:
            require_regular(source)
        except UnsafeFileError as error:
            raise UnreadableVideoError(f"it is {error}") from None
    return VideoFile(source)


def read_clips(source: str | BinaryIO, settings: ClipSettings, positions: Sequence[float]) -> list[torch.Tensor]:
    """Clips of one video; a frame that several hold is decoded once.

    Args:
        source: as for :func:`open_video`.
        settings: the length of the clips, and their stride or rate.
        positions: where each begins; see ``clips.clip_position``.

    Returns:
        For each position uint8 (num_frames, 3, H, W), with the channels last in memory.

    Raises:
        UnreadableVideoError: it is no video, is empty, holds sound alone, or is damaged.
    """
    with open_video(source) as video:
        try:
            return _clips(video, settings, positions)
        except FramesRecountedError:
            return _clips(video, settings, positions)


def _clips(video: VideoFile | FrameFolder, settings: ClipSettings, positions: Sequence[float]) -> list[torch.Tensor]:
    numbers = [clip_frames(video.seconds, settings, position) for position in positions]
    wanted = np.unique(np.concatenate(numbers))
    frames = np.ascontiguousarray(video.frames(wanted))
    # One clip alone needs no copy, nor do others that are all of these frames.
    clips = (frames if np.array_equal(clip, wanted) else frames[np.searchsorted(wanted, clip)] for clip in numbers)
    return [torch.from_numpy(clip).permute(0, 3, 1, 2) for clip in clips]
