"""The frames that are read are the right ones, to the number, whatever the codec, the container and the frame rate."""

import os
from fractions import Fraction

import av
import numpy as np
import pytest
from videos import numbered_frame, numbers_of, write_sound, write_video

from vissl_clusterfit.video.decode import VideoFile
from vissl_clusterfit.video.unreadable import FramesRecountedError, UnreadableVideoError

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


def counting(monkeypatch, name):
    """How often a method of VideoFile was called since."""
    calls, method = [], getattr(VideoFile, name)

    def counted(self, *arguments):
        calls.append(arguments)
        return method(self, *arguments)

    monkeypatch.setattr(VideoFile, name, counted)
    return calls


@pytest.mark.parametrize("kind", ["H.264 in MP4", "H.264 with open groups", "H.264 in Matroska", "MPEG-4 in AVI"])
def test_only_what_is_needed_is_decoded(tmp_path, monkeypatch, kind):
    ending, codec, options = KINDS[kind]
    path = write_video(tmp_path / f"a.{ending}", COUNT, codec=codec, **options)
    looked_up, counted = counting(monkeypatch, "_number_at"), counting(monkeypatch, "_count_frames")
    assert read(path, [97, 98])[0] == [97, 98]
    # 99 more would have come from the beginning; at most two groups of twelve do.
    assert 2 <= len(looked_up) <= 24
    assert counted == []


def test_frames_are_counted_where_packets_promise_others(tmp_path, monkeypatch):
    """One more packet holds no picture (a "vop" of MPEG-4 that is not coded), which only decoding tells."""
    whole, path = write_video(tmp_path / "whole.mkv", COUNT, codec="mpeg4", b_frames=0), tmp_path / "a.mkv"
    # Its start; a P-vop, no second passed, a marker, 10 bits of time, a marker, not coded.
    nothing = int("000001b6", 16) << 24 | int("0101000000000010", 2) << 8 | 0x7F
    with av.open(str(whole)) as file, av.open(str(path), "w") as copy:
        stream = copy.add_stream_from_template(file.streams.video[0])
        for packet in [packet for packet in file.demux(video=0) if packet.size]:
            packet.stream = stream
            copy.mux(packet)
            if packet.pts == 50 * 40:
                more = av.Packet(nothing.to_bytes(7, "big"))
                more.pts = more.dts = 50 * 40 + 20
                more.time_base, more.stream = Fraction(1, 1000), stream
                copy.mux(more)
    counted = counting(monkeypatch, "_count_frames")
    found, seconds = read(path, range(COUNT))
    assert (found, len(seconds), len(counted)) == (list(range(COUNT)), COUNT, 1)
    np.testing.assert_allclose(seconds, np.arange(COUNT) / 25, atol=1e-3)


def test_frames_without_times_are_counted(tmp_path, monkeypatch):
    path = write_video(tmp_path / "a.h264", COUNT)
    counted = counting(monkeypatch, "_count_frames")
    assert read(path, [3, 40, 41, 99])[0] == [3, 40, 41, 99]
    assert len(counted) == 1


@pytest.mark.parametrize("rotation, flip", [(90, False), (180, False), (270, False), (0, True), (90, True)])
def test_frames_are_turned_as_they_are_to_be_shown(tmp_path, rotation, flip):
    path = write_video(tmp_path / "a.mp4", 3, first=1, rotation=rotation, flip=flip)
    with VideoFile(str(path)) as video:
        found = video.frames(np.array([2]))[0]
    expected = np.rot90(numbered_frame(3), rotation // 90)
    expected = expected[:, ::-1] if flip else expected
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < 12  # of 255; any other of the eight is beyond 40
    others = [np.rot90(side, turn) for turn in range(4) for side in (expected, expected[:, ::-1])]
    assert sorted(np.abs(found - side.astype(int)).mean() for side in others if side.shape == found.shape)[1] > 40


def damaged(path, kind):
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "no video":
        path.write_bytes(np.random.default_rng(0).bytes(5000))
    elif kind == "sound alone":
        write_sound(path)
    elif kind == "without its index":
        whole = write_video(path, 50).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "cut off":
        whole = write_video(path, 50, container={"movflags": "faststart"}).read_bytes()
        path.write_bytes(whole[: len(whole) * 2 // 3])
    elif kind == "a playlist":
        write_video(path.with_name("b.ts"), 5, time_base=Fraction(1, 90000))
        path.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/b.ts\n#EXT-X-ENDLIST\n")
    elif kind == "not there":
        path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    "kind, reason",
    [
        ("empty", "InvalidDataError: Invalid data"),
        ("no video", "InvalidDataError: Invalid data"),
        ("sound alone", r"no video stream \(it holds audio\)"),
        ("without its index", "InvalidDataError: Invalid data"),
        ("cut off", "cut off or damaged|InvalidDataError"),
        ("a playlist", "Error"),
        ("not there", "FileNotFoundError: No such file"),
    ],
)
def test_what_gives_no_frame_says_why(tmp_path, kind, reason):
    path = tmp_path / "a.mp4"
    damaged(path, kind)
    with pytest.raises(UnreadableVideoError, match=reason):
        read(path, [0])


def test_names_are_no_addresses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "concat:a").mkdir()
    for name in ("http:a.mp4", "concat:a/b.mp4", "-1.mp4", "%03d.mp4", "ü \udcff.mp4"):
        write_video(tmp_path / "plain.mp4", 3).rename(tmp_path / name)
        assert read(name, [2])[0] == [2]


def test_an_open_file_is_read(tmp_path):
    path = write_video(tmp_path / "a.mp4", COUNT)
    with open(path, "rb") as file, VideoFile(file) as video:
        assert numbers_of(video.frames(np.array([5, 80])).transpose(0, 3, 1, 2)) == [5, 80]


def test_files_are_closed(tmp_path):
    path = write_video(tmp_path / "a.mp4", 20)
    (tmp_path / "bad.mp4").write_bytes(b"bad")
    write_sound(tmp_path / "sound.mp4")

    def num_open():
        return len(os.listdir("/proc/self/fd"))

    before = num_open()
    for _ in range(5):
        read(path, [3, 19])
        for name in ("bad.mp4", "sound.mp4"):
            with pytest.raises(UnreadableVideoError):
                read(tmp_path / name, [0])
    assert num_open() == before
