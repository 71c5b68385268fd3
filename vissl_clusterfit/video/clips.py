"""Which frames make a clip, by their number; nothing here opens a file."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vissl_clusterfit.config.schema import setting
from vissl_clusterfit.errors import ConfigError, problem


@dataclass(frozen=True)
class ClipSettings:
    """``config.DATA.<SPLIT>.CLIPS``: how a video becomes clips."""

    #: Frames of a clip.
    num_frames: int = setting(32, at_least=1)
    #: Every how many frames one is taken.
    stride: int = setting(1, at_least=1)
    #: Frames per second by the time stamps, whatever the file's own rate; 0 to take them by STRIDE.
    fps: float = setting(0.0, at_least=0.0)
    #: Clips of each video.
    num_clips: int = setting(1, at_least=1)
    #: Spread evenly ("uniform"; one alone in the middle), or each anywhere in its own part of the video ("random").
    sampling: str = setting("random", choices=("random", "uniform"))
    #: Whether a sample is a video with all of its clips, or each clip is a separate sample.
    per: str = setting("video", choices=("video", "clip"))

    def __post_init__(self) -> None:
        """Refuses two rates at once.

        Raises:
            ConfigError: naming both.
        """
        if self.fps and self.stride != 1:
            found = f"FPS: {self.fps:g} with STRIDE: {self.stride}"
            raise ConfigError(problem("FPS and STRIDE", found=found, allowed="one of them: FPS: 0, or STRIDE: 1"))

    @property
    def samples_per_video(self) -> int:
        """How many samples a video is."""
        return self.num_clips if self.per == "clip" else 1


def clip_position(clip: int, settings: ClipSettings, draw: float) -> float:
    """Where a clip begins, from 0, the first of the possible starts, to 1, the last one.

    The position of an evenly spread clip is within the part from which the random clip of that number is drawn, so
    labels of the former are those of nearly the same pictures in training.

    Args:
        clip: its number, below ``settings.num_clips``.
        settings: how many clips there are, and how they are placed.
        draw: a random number in [0, 1), used where clips are random.
    """
    if settings.sampling == "random":
        return (clip + draw) / settings.num_clips
    return clip / (settings.num_clips - 1) if settings.num_clips > 1 else 0.5


def clip_frames(seconds: np.ndarray, settings: ClipSettings, position: float) -> np.ndarray:
    """The numbers of the frames of a clip, int64 (num_frames,), in order.

    Of a video that is shorter than the clip, the last frame is repeated. With ``fps``, the frame at a moment is the one
    that is shown then: the last that does not begin later.

    Args:
        seconds: when each frame of the video is shown, float64 (N,), rising, N at least 1.
        settings: the length of the clip, and its stride or rate.
        position: where it begins; see :func:`clip_position`.
    """
    steps = np.arange(settings.num_frames)
    if settings.fps:
        last_start = max(seconds[0], seconds[-1] - (settings.num_frames - 1) / settings.fps)
        start = seconds[0] + position * (last_start - seconds[0])
        # Times are sums of fractions: one that falls on a frame must not round to just before it.
        moments = start + steps / settings.fps + 1e-6
        return np.searchsorted(seconds, moments, side="right") - 1
    last_start = max(0, len(seconds) - 1 - (settings.num_frames - 1) * settings.stride)
    start = min(int(position * (last_start + 1)), last_start)
    return np.minimum(start + steps * settings.stride, len(seconds) - 1)
