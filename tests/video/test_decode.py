"""The frames that are read are the right ones, to the number, whatever the codec, the container and the frame rate."""

from fractions import Fraction

import numpy as np
import pytest
from videos import numbers_of, write_video

from vissl_clusterfit.video.decode import FramesRecountedError, VideoFile

COUNT = 100
VARIABLE = np.cumsum(np.random.default_rng(0).integers(5, 120, COUNT)).tolist()
KINDS = {
    "H.264 in MP4": ("mp4", "libx264", {}),
    "H.264 with many B-frames": ("mp4", "libx264", {"b_frames": 6, "options": {"b_strategy": "0"}}),
    "H.264 with open groups": ("mp4", "libx264", {"options": {"x264-params": "open-gop=1"}}),
    "H.264 in Matroska": ("mkv", "libx264", {}),
    "H.264 in MPEG-TS": ("ts", "libx264", {"time_base": Fraction(1, 90000)}),
    "MPEG-4 in MP4": ("mp4", "mpeg4", {}),
    "MPEG-4 in AVI": ("avi", "mpeg4", {"time_base": Fraction(1, 25)}),
    "VP8 with hidden frames": ("webm", "libvpx", {"options": {"auto-alt-ref": "1", "lag-in-frames": "16"}}),
    "VP9 in WebM": ("webm", "libvpx-vp9", {"options": {"cpu-used": "8", "deadline": "realtime"}}),
    "H.265 in MP4": ("mp4", "libx265", {"options": {"preset": "ultrafast"}}),
    "animated GIF": ("gif", "gif", {"time_base": Fraction(1, 100), "pix_fmt": "rgb8"}),
}


def read(path, numbers):
    with VideoFile(str(path)) as video:
        try:
            frames = video.frames(np.array(numbers))
        except FramesRecountedError:
            frames = video.frames(np.array(numbers))
        return numbers_of(frames.transpose(0, 3, 1, 2)), video.seconds


@pytest.mark.parametrize("variable", [False, True], ids=["constant rate", "variable rate"])
@pytest.mark.parametrize("kind", KINDS)
def test_frames_are_those_of_the_number(tmp_path, kind, variable):
    ending, codec, options = KINDS[kind]
    times = VARIABLE if variable else None
    if variable and "time_base" in options:
        if ending in ("avi", "gif"):
            pytest.skip("the container has one rate, or counts in hundredths of a second")
        times = [time * 90 for time in VARIABLE]
    path = write_video(tmp_path / f"a.{ending}", COUNT, codec=codec, times=times, **options)
    for numbers in (range(COUNT), [0], [COUNT - 1], [37], [11, 12, 13], range(2, COUNT, 9), [3, 4, 50, 51, 99]):
        found, seconds = read(path, numbers)
        assert found == list(numbers)
    expected = np.array(VARIABLE) / 1000 if variable else np.arange(COUNT) / 25
    np.testing.assert_allclose(seconds - seconds[0], expected - expected[0], atol=2e-3)
