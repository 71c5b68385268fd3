"""Clips per second of the video data source, against a plain loop over the same decoder; its memory over many files.

    make bench BENCH=video                  three minutes on one core
    python benchmarks/video.py --files 1000 --pairs 1

Both sides take the same clips of the same files, and must give the same pixels. The plain loop opens a file with PyAV,
believes its header how many frames there are, and decodes from the first one to the last of the clip; a second loop
seeks to the key frame before, which is right only where the rate is constant, as here. torchvision's VideoClips, which
Classy Vision's video data sets are built on, is tried, and it is said whether it runs. The last line is one JSON
object; `ratio` is the plain loop's time by ours, the geometric mean over the kinds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import torch
from vissl.config import AttrDict

from vissl_clusterfit.compat import repairs
from vissl_clusterfit.plugin import registration

NUM_FRAMES, HEIGHT, WIDTH, RATE = 300, 256, 340, 30
FILES_PER_KIND, CLIPS_PER_FILE = 4, 3
# name: encoder, frames between key frames at most
KINDS = {"H.264, key frames 12 apart": ("libx264", 12), "H.264, 250": ("libx264", 250), "MPEG-4, 12": ("mpeg4", 12)}
# frames of a clip, stride
CLIPS = ((32, 1), (16, 4))


def write(path: Path, codec: str, gop_size: int, num_frames: int, height: int, width: int, seed: int) -> None:
    """A video of blocks that move over a background that moves, as large as those of Kinetics are kept."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(256, size=(height // 8 + 40, width // 8 + 120, 3), dtype=np.uint8)
    background = blocks.repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.thread_count = gop_size, 1
        if codec == "mpeg4":
            stream.bit_rate = 500_000
        for number in range(num_frames):
            x = 2 * number
            frame = background[number % 200 : number % 200 + height, x : x + width].copy()
            frame[height // 5 : height // 3, width // 3 : width // 2] = 255 * (number // 5 % 2)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        file.mux(stream.encode())


def source_of(folder: Path, num_frames: int, stride: int):
    """The data source of a folder, as VISSL builds it."""
    from vissl_clusterfit.plugin.data.video_source import FOLDER, VideoSource

    data = {
        "CLIPS": {"NUM_FRAMES": num_frames, "STRIDE": stride},
        "DEFAULT_GRAY_IMG_SIZE": 64,
        "REMOVE_IMG_PATH_PREFIX": "",
        "NEW_IMG_PATH_PREFIX": "",
        "ENABLE_QUEUE_DATASET": False,
    }
    return VideoSource(AttrDict({"DATA": {"TRAIN": data}}), str(folder), "TRAIN", "", FOLDER)


def by_loop(path: str, num_frames: int, stride: int, draw: float, *, seek: bool) -> torch.Tensor:
    """The clip that the source takes with this draw, by PyAV as its documentation goes."""
    with av.open(path) as file:
        stream = file.streams.video[0]
        stream.codec_context.thread_count = 1
        count = stream.frames
        last_start = count - 1 - (num_frames - 1) * stride
        start = min(int(draw * (last_start + 1)), last_start)
        wanted = range(start, start + num_frames * stride, stride)
        per_frame = 1 / (stream.average_rate * stream.time_base)  # these files have one rate
        if seek:
            file.seek(int(start * per_frame), stream=stream)
        frames = []
        for frame in file.decode(stream):
            if round(frame.pts / per_frame) in wanted:
                frames.append(torch.from_numpy(frame.to_ndarray(format="rgb24")))
            if len(frames) == num_frames:
                break
    return torch.stack(frames).permute(0, 3, 1, 2)


def seconds(clips: Iterator) -> float:
    """How long it takes to read clips, each of which is let go."""
    begun = time.perf_counter()
    for _ in clips:
        pass
    return time.perf_counter() - begun


def speed(folder: Path, pairs: int) -> list[dict]:
    rows = []
    for kind, (codec, gop_size) in KINDS.items():
        place = folder / str(len(rows))
        place.mkdir()
        for number in range(FILES_PER_KIND):
            write(place / f"{number}.mp4", codec, gop_size, NUM_FRAMES, HEIGHT, WIDTH, number)
        for num_frames, stride in CLIPS:
            source = source_of(place, num_frames, stride)
            files = source.get_image_paths()
            indices = list(range(FILES_PER_KIND)) * CLIPS_PER_FILE

            def ours(source=source, indices=indices):
                torch.manual_seed(0)
                return (source[index][0] for index in indices)

            def loop(seek, files=files, indices=indices, clip=(num_frames, stride)):
                torch.manual_seed(0)
                draws = [float(torch.rand(())) for _ in indices]
                return (
                    by_loop(files[index], *clip, draw, seek=seek) for index, draw in zip(indices, draws, strict=True)
                )

            for seek in (False, True):
                torch.manual_seed(0)
                own = [source[index][0] for index in indices]
                equal = all(torch.equal(one, other) for one, other in zip(own, loop(seek), strict=True))
                assert equal, f"{kind}: the loop and the source give other pixels"
            times = [(seconds(loop(False)), seconds(loop(True)), seconds(ours())) for _ in range(pairs)]
            plain_s, seek_s, ours_s = (statistics.median(column) for column in zip(*times, strict=True))
            rows.append(
                {
                    "kind": kind,
                    "clip": f"{num_frames} frames, stride {stride}",
                    "clips_per_second": round(len(indices) / ours_s, 1),
                    "plain_loop": round(len(indices) / plain_s, 1),
                    "seeking_loop": round(len(indices) / seek_s, 1),
                    "ratio": round(statistics.median(plain / own for plain, _, own in times), 2),
                    "seeking_ratio": round(statistics.median(seeking / own for _, seeking, own in times), 2),
                }
            )
            print(rows[-1], flush=True)
    return rows


def resident_mib() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


def memory(folder: Path, num_files: int) -> dict:
    """Resident memory while so many files are read once each; one in twenty cannot be read."""
    originals = []
    for number, (codec, ending) in enumerate((("libx264", "mp4"), ("mpeg4", "mp4"), ("libvpx-vp9", "webm"))):
        originals.append(folder / f"{number}.{ending}")
        write(originals[-1], codec, 12, 40, 64, 96, number)
    bad = folder / "bad.mp4"
    bad.write_bytes(originals[0].read_bytes()[:2000])
    place = folder / "many"
    place.mkdir()
    for number in range(num_files):
        original = bad if number % 20 == 0 else originals[number % len(originals)]
        os.link(original, place / f"{number:05d}{original.suffix}")
    source = source_of(place, 8, 2)
    sizes, read = [], 0
    for index in range(len(source)):
        read += source[index][1]
        if (index + 1) % (num_files // 10) == 0:
            sizes.append(round(resident_mib(), 1))
    assert read == num_files - len(range(0, num_files, 20))
    print("resident memory (MiB) after each tenth of the files:", sizes, flush=True)
    return {"files": num_files, "resident_mib": sizes, "growth": round(sizes[-1] / sizes[0], 4)}


def torchvisions(folder: Path) -> str:
    """Whether torchvision's own video data set reads a file."""
    try:
        from torchvision.datasets.video_utils import VideoClips

        VideoClips([str(next(folder.rglob("*.mp4")))], 8, 2).get_clip(0)
    except ImportError as error:
        return f"does not run: {str(error).split('.')[0]}"
    return "runs"


def main() -> None:
    """Measures, and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000, help="to read for the memory, at least 10")
    parser.add_argument("--pairs", type=int, default=3, help="measurements of which the median is taken")
    options = parser.parse_args()
    repairs.apply()
    registration.register()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        of_many = memory(folder, options.files)  # first: what the rest holds and gives back would hide a leak
        rows = speed(folder, options.pairs)
        report = {
            "benchmark": "video",
            "ratio": round(statistics.geometric_mean(row["ratio"] for row in rows), 2),
            "seeking_ratio": round(statistics.geometric_mean(row["seeking_ratio"] for row in rows), 2),
            "rows": rows,
            "torchvision_VideoClips": torchvisions(folder),
            "memory": of_many,
            "versions": {"av": av.__version__, "torch": torch.__version__},
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
