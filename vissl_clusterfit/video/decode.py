"""The frames of a video file by their number, decoded by PyAV (FFmpeg); the only module that knows it.

A file says what it holds in packets, in the order of decoding. Reading these without decoding gives the time of every
frame, and from where it can be decoded: exact whatever the frame rate does. Where a file has no such times, or what is
decoded does not bear them out, all of its frames are decoded and counted.
"""

from __future__ import annotations

import bisect
import logging
from collections.abc import Iterator
from typing import Any, BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Discard, Disposition
from av.video.reformatter import VideoReformatter

from vissl_clusterfit.video.unreadable import FramesRecountedError, UnreadableVideoError

logger = logging.getLogger(__name__)

# Names are taken for files whatever they look like, and files that name others get nothing from a network.
_LOCAL_FILES_ONLY = {"protocol_whitelist": "file"}
# Of a stream that says nothing of its rate.
_ASSUMED_FPS = 25.0
# Decoding that many frames more is as quick as to begin at another place.
_FRAMES_A_SEEK_TAKES = 8
_DISPLAY_MATRIX = SideDataType.DISPLAYMATRIX
_DECODER_ERRORS = (av.error.FFmpegError, OSError, ValueError)


class _WrongTimesError(Exception):
    """The decoder gives other frames than the packets promised."""


class VideoFile:
    """The frames of one file.

    Args:
        source: a path of this machine, or an open file that can seek.

    Attributes:
        seconds: when each frame is shown, float64 (N,), rising; N is at least 1.

    Raises:
        UnreadableVideoError: it is none, is empty, holds sound alone, or is damaged. So do the methods.
    """

    def __init__(self, source: str | BinaryIO) -> None:
        self._source = source
        try:
            self._container, self._stream = _opened(source)
        except _DECODER_ERRORS as error:
            raise _unreadable(error) from None
        try:
            self._read_packets()
            if not self._has_times:
                self._count_frames()
        except _DECODER_ERRORS as error:
            self.close()
            raise _unreadable(error) from None
        except UnreadableVideoError:
            self.close()
            raise

    def __enter__(self) -> VideoFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives back the file and the memory of the decoder."""
        self._container.close()

    def frames(self, numbers: np.ndarray) -> np.ndarray:
        """Pixels of some frames, uint8 (len(numbers), H, W, 3) RGB, turned as the file says it is to be shown.

        Args:
            numbers: int64, rising, each below N.

        Raises:
            FramesRecountedError: ``seconds`` was wrong, and has been made right.
        """
        try:
            if self._has_times:
                try:
                    return self._pixels(self._decode_wanted(numbers), len(numbers))
                except _WrongTimesError as error:
                    logger.debug("%s: %s; its frames are counted.", self._source, error)
                    self._count_frames()
                    raise FramesRecountedError from None
            self._rewind()
            wanted = set(numbers.tolist())
            chosen = (frame for number, frame in enumerate(self._decode_all()) if number in wanted)
            return self._pixels(chosen, len(numbers))
        except _DECODER_ERRORS as error:
            raise _unreadable(error) from None

    def _rewind(self) -> None:
        self.close()
        self._container, self._stream = _opened(self._source)

    def _packets(self) -> Iterator[av.Packet]:
        return self._container.demux(self._stream)

    def _read_packets(self) -> None:
        """Times of frames, and where decoding can begin, from all packets; nothing is decoded."""
        times: list[int] = []
        starts: list[int] = []
        without_time = 0
        for packet in self._packets():
            if packet.size == 0:  # the end
                continue
            if packet.is_corrupt:
                raise UnreadableVideoError(f"it is cut off or damaged after {len(times)} frames")
            if packet.pts is None:
                without_time += 1
                continue
            if not packet.is_discard:
                times.append(packet.pts)
            if packet.is_keyframe:
                starts.append(packet.pts)
        if not times and not without_time:
            raise UnreadableVideoError("it holds no frame")
        self._times = sorted(times)
        self._starts = sorted(starts)
        self._has_times = not without_time and bool(starts) and len(set(times)) == len(times)
        self.seconds = np.array(self._times, dtype=np.float64) * float(self._stream.time_base or 1)

    def _count_frames(self) -> None:
        self._has_times = False
        self._rewind()
        times = [frame.time for frame in self._decode_all()]
        if not times:
            raise UnreadableVideoError("none of its frames can be decoded")
        known = np.array([np.nan if time is None else time for time in times], dtype=np.float64)
        rising = bool((np.diff(known) > 0).all())
        self.seconds = known if rising else np.arange(len(times)) / float(self._stream.average_rate or _ASSUMED_FPS)

    def _decode_all(self) -> Iterator[av.VideoFrame]:
        for packet in self._packets():
            yield from packet.decode()

    def _decode_wanted(self, numbers: np.ndarray) -> Iterator[av.VideoFrame]:
        """The frames of these numbers, passing over what need not be decoded between them."""
        for run in self._runs([int(number) for number in numbers]):
            yield from self._decode_run(run)

    def _runs(self, numbers: list[int]) -> Iterator[list[int]]:
        """Parts of ``numbers`` between which a seek saves decoding."""
        run = numbers[:1]
        for number in numbers[1:]:
            if bisect.bisect_left(self._times, self._start_of(number)) - run[-1] > _FRAMES_A_SEEK_TAKES:
                yield run
                run = []
            run.append(number)
        yield run

    def _decode_run(self, numbers: list[int]) -> Iterator[av.VideoFrame]:
        wanted, found = {self._times[number] for number in numbers}, 0
        for packet in self._packets_from(self._start_of(numbers[0])):
            # What no other frame is made from need not be decoded where it is not wanted itself.
            needed = packet.size == 0 or packet.pts in wanted
            self._stream.codec_context.skip_frame = "DEFAULT" if needed else "NONREF"
            for frame in packet.decode():
                number = self._number_at(frame.pts)
                if number > numbers[found]:
                    raise _WrongTimesError(f"frame {numbers[found]} is missing")
                if number < numbers[found]:
                    continue
                yield frame
                found += 1
                if found == len(numbers):
                    return
        raise _WrongTimesError(f"frame {numbers[found]} is missing at the end")

    def _packets_from(self, start: int) -> Iterator[av.Packet]:
        """Packets from the one at the time ``start`` at the latest."""
        self._container.seek(start, stream=self._stream)
        packets = self._packets()
        first = next(packets)
        if first.pts is None or first.pts > start:  # some formats find places by guessing
            self._rewind()
            packets = self._packets()
        else:
            yield first
        yield from packets

    def _start_of(self, number: int) -> int:
        """The time of the packet from which a frame can be decoded."""
        place = bisect.bisect_right(self._starts, self._times[number]) - 1
        return self._starts[max(place, 0)]

    def _number_at(self, time: int | None) -> int:
        place = bisect.bisect_left(self._times, time) if time is not None else len(self._times)
        if place == len(self._times) or self._times[place] != time:
            raise _WrongTimesError(f"a frame is shown at {time}, where no packet said so")
        return place

    def _pixels(self, frames: Iterator[av.VideoFrame], count: int) -> np.ndarray:
        reformatter = VideoReformatter()
        turn: Any = None
        pixels: np.ndarray | None = None
        for place, frame in enumerate(frames):
            if frame.is_corrupt:
                raise UnreadableVideoError(f"its frame at {frame.time} s is damaged")
            if pixels is None:
                pixels = np.empty((count, frame.height, frame.width, 3), dtype=np.uint8)
                # PyAV's own description of its types has no kinds of side data.
                turn = frame.side_data.get(_DISPLAY_MATRIX)  # type: ignore[call-overload]
            _, height, width, _ = pixels.shape
            # A stream may change its size: frames become as large as the first.
            rgb = reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1)
            pixels[place] = rgb.to_ndarray()
        assert pixels is not None, "frames are asked for"
        return pixels if turn is None else _turned(pixels, np.frombuffer(memoryview(turn), dtype=np.int32))


def _opened(source: str | BinaryIO) -> tuple[InputContainer, av.VideoStream]:
    """A file, and its stream of pictures; a cover of a sound file is none."""
    if isinstance(source, str):
        container = av.open(f"file:{source}", "r", options=_LOCAL_FILES_ONLY)
    else:
        source.seek(0)
        container = av.open(source, "r")
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        kinds = sorted({str(stream.type) for stream in container.streams}) or ["nothing"]
        container.close()
        raise UnreadableVideoError(f"it has no video stream (it holds {', '.join(kinds)})")
    for stream in container.streams:
        if stream is not streams[0]:
            stream.discard = Discard.all
    # Each process that reads decodes its own video.
    streams[0].codec_context.thread_count = 1
    return container, streams[0]


def _turned(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Frames (N, H, W, 3) turned and mirrored by a display matrix, int32 (9,), to the nearest right angle.

    It moves a point (x, y) to (a x + c y, b x + d y): a, b begin its first row of three, c, d its second.
    """
    a, b, c, d = (int(matrix[place]) for place in (0, 1, 3, 4))
    if abs(b) > abs(a):
        return pixels.swapaxes(1, 2)[:, :: -1 if b < 0 else 1, :: -1 if c < 0 else 1]
    return pixels[:, :: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _unreadable(error: Exception) -> UnreadableVideoError:
    return UnreadableVideoError(f"{type(error).__name__}: {getattr(error, 'strerror', None) or error}")
