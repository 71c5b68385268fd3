"""Real video files for tests, each frame carrying its own number in blocks of black and white."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

_BITS = 8
HEIGHT, WIDTH = 64, 96


def numbered_frame(number: int) -> np.ndarray:
    """uint8 (64, 96, 3): eight columns, white where the bit of the number is set, over a red band at the top."""
    bits = [255 * (number >> bit & 1) for bit in range(_BITS)]
    frame = np.repeat(np.array(bits, dtype=np.uint8), WIDTH // _BITS)[None, :, None].repeat(HEIGHT, 0).repeat(3, 2)
    frame[: HEIGHT // 4] = (255, 0, 0)
    return frame


def numbers_of(frames: torch.Tensor | np.ndarray) -> list[int]:
    """The numbers that frames uint8 (T, 3, 64, 96) carry."""
    below = np.asarray(frames)[:, :, HEIGHT // 4 + 4 :].mean(axis=(1, 2))
    columns = below.reshape(len(below), _BITS, WIDTH // _BITS)[:, :, 2:-2].mean(axis=2)
    return [sum(1 << bit for bit in range(_BITS) if row[bit] > 127) for row in columns]


def write_video(
    path: Path,
    num_frames: int,
    *,
    codec: str = "libx264",
    times: list[int] | None = None,
    time_base: Fraction = Fraction(1, 1000),
    gop_size: int = 12,
    b_frames: int = 2,
    rotation: int = 0,
    flip: bool = False,
    first: int = 0,
    options: dict[str, str] | None = None,
    container: dict[str, str] | None = None,
    pix_fmt: str = "yuv420p",
) -> Path:
    """A file of numbered frames.

    Args:
        path: where; its ending chooses the container.
        num_frames: how many.
        codec: an encoder of FFmpeg's.
        times: when each frame is shown, in units of ``time_base``; every 40 ms by default.
        time_base: see ``times``.
        gop_size: frames from one that can be decoded alone to the next, at most.
        b_frames: frames in a row that are made from later ones, too.
        rotation: degrees by which it is to be turned when it is shown, counter-clockwise.
        flip: whether it is to be mirrored, too, left to right.
        first: the number of the first frame.
        options: of the encoder.
        container: options of the container.
    """
    times = times or [round(number * Fraction(1, 25) / time_base) for number in range(num_frames)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container or {}) as file:
        stream = file.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, pix_fmt
        stream.time_base = stream.codec_context.time_base = time_base
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop_size, b_frames
        stream.codec_context.thread_count = 1
        if rotation or flip:
            stream.set_display_rotation(rotation, hflip=flip)
        for number, time in enumerate(times[:num_frames], first):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
            frame.pts, frame.time_base = time, time_base
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """A second of noise and no picture."""
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(rng.uniform(-1, 1, (1, 16000)).astype(np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path
