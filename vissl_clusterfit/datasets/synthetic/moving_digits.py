"""Clips of moving handwritten digits as video files: the data of the video quickstart.

What moves is a scan that scikit-learn ships; how it moves is the class. One frame says nothing about it: whatever the
motion, a digit's place and its turn have the same, uniform distribution at every moment, as what leaves the picture on
one side comes in on the other. Beside the classes every training clip has a few verbs, as people put hashtags under
videos: each is true of several motions, some are missing, and some are wrong.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import av
import numpy as np

from vissl_clusterfit.datasets.synthetic.digits import DigitsSpec
from vissl_clusterfit.datasets.synthetic.generated_folder import write_drawn_set
from vissl_clusterfit.datasets.synthetic.scans import PICTURE_PX, distractors, load_scans, paste

_KIND = "clips of moving digits"
#: Verbs that are true of each motion.
MOTIONS: dict[str, tuple[str, ...]] = {
    "right": ("advance", "fly"),
    "up_right": ("advance", "rise", "fly"),
    "up": ("rise", "fly"),
    "up_left": ("retreat", "rise", "fly"),
    "left": ("retreat", "fly"),
    "down_left": ("retreat", "fall", "fly"),
    "down": ("fall", "fly"),
    "down_right": ("advance", "fall", "fly"),
    "counterclockwise": ("unwind", "spin"),
    "clockwise": ("wind", "spin"),
}
#: Every verb, by its number in ``hashtags.txt``.
VERBS = tuple(sorted({verb for verbs in MOTIONS.values() for verb in verbs}))

NUM_FRAMES = 20
_SIDE_PX = (16.0, 24.0)
_SPEED_PX = (1.5, 3.0)
_TURN_DEG = (10.0, 20.0)
_CONTRAST = (0.5, 0.9)
_SCRAP_INK = 0.6
_NOISE = 0.02
# Of a true verb, and of a verb that is not.
_TAGGED = 0.7
_MISTAGGED = 0.5
_QUALITY_UNIT = 118  # FFmpeg's FF_QP2LAMBDA


def write_moving_digits(folder: Path, spec: DigitsSpec) -> None:
    """Writes ``folder/{train,test}/<motion>/<scan>_<drawing>.mp4``, MPEG-4, and ``folder/hashtags.txt``.

    A line of that file is the path of a training clip and the numbers of its verbs. The folder appears whole or not at
    all, with the same bytes at every call. Where the same clips already are, nothing is written.

    Args:
        folder: Made by this function; its parents, too.
        spec: Which scans are drawn, and how often.

    Raises:
        ArtifactError: the folder holds other clips, clips that were changed, or something else.
        DataError: the file has fewer scans than ``spec.num_scans``.
    """
    write_drawn_set(folder, _KIND, asdict(spec), lambda temporary: _write_splits(temporary, spec))


def _write_splits(folder: Path, spec: DigitsSpec) -> dict[str, dict[str, int]]:
    hashtags: list[str] = []
    counts = {}
    for number, (split, drawings) in enumerate((("train", spec.train_drawings), ("test", spec.test_drawings))):
        scans, _, first = load_scans(split, spec.num_scans, spec.num_test_scans)
        for motion in MOTIONS:
            (folder / split / motion).mkdir(parents=True)
        for drawing in range(drawings):
            rng = np.random.default_rng([spec.seed, number, drawing])
            # As many of each motion, whatever the digit.
            motions = rng.permutation(np.arange(len(scans)) % len(MOTIONS))
            for scan, (clip, motion) in enumerate(zip(draw_clips(scans, motions, rng), motions, strict=True), first):
                name = f"{split}/{list(MOTIONS)[motion]}/{scan:04d}_{drawing}.mp4"
                _encode(folder / name, clip)
                if split == "train":
                    hashtags.append(f"{name} {','.join(map(str, _tags(motion, rng)))}\n")
        counts[split] = len(scans) * drawings
    (folder / "hashtags.txt").write_text("".join(hashtags), "utf-8")
    return {"num_clips": counts}


def draw_clips(scans: np.ndarray, motions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One clip of each scan.

    Args:
        scans: (N, 8, 8), ink from 0 to 1.
        motions: (N,), numbers of ``MOTIONS``.
        rng: Draws where the digits begin, how fast they move, and what is around.

    Returns:
        uint8 (N, T, P, P), grey.
    """
    num = len(scans)
    side = rng.uniform(*_SIDE_PX, num)
    start, angle = rng.uniform(0, PICTURE_PX, (num, 2)), rng.uniform(0, 2 * np.pi, num)
    course = motions * np.pi / 4
    flies = (motions < 8)[:, None]
    step = rng.uniform(*_SPEED_PX, (num, 1)) * np.stack([-np.sin(course), np.cos(course)], axis=1) * flies
    turn = np.deg2rad(rng.uniform(*_TURN_DEG, num)) * np.select([motions == 8, motions == 9], [1, -1], 0)
    scrap = _SCRAP_INK * _place_round(
        distractors(scans, rng), side, rng.uniform(0, PICTURE_PX, (num, 2)), rng.uniform(0, 2 * np.pi, num)
    )
    contrast = rng.uniform(*_CONTRAST, num)[:, None, None]
    paper = rng.uniform(0, 1, num)[:, None, None] * (1 - contrast)
    clips = np.empty((num, NUM_FRAMES, PICTURE_PX, PICTURE_PX), np.uint8)
    for frame in range(NUM_FRAMES):
        centre = (start + frame * step) % PICTURE_PX
        ink = np.maximum(_place_round(scans, side, centre, angle + frame * turn), scrap)
        picture = paper + contrast * ink + rng.normal(0, _NOISE, ink.shape)
        clips[:, frame] = (np.clip(picture, 0, 1) * 255).round()
    return clips


def _place_round(scans: np.ndarray, side: np.ndarray, centre: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """``place`` in pictures whose opposite edges meet."""
    ink = paste(scans, side, centre, angle)
    reach = (side * np.sqrt(0.5) + 1)[:, None]
    for down in (-PICTURE_PX, 0, PICTURE_PX):
        for right in (-PICTURE_PX, 0, PICTURE_PX):
            moved = centre + np.array([down, right])
            near = ((moved > -reach) & (moved < PICTURE_PX + reach)).all(axis=1)
            if (down or right) and near.any():
                again = paste(scans[near], side[near], moved[near], angle[near])
                ink[near] = np.maximum(ink[near], again)
    return ink


def _tags(motion: int, rng: np.random.Generator) -> list[int]:
    """The numbers of a clip's verbs, at least one."""
    true = [VERBS.index(verb) for verb in list(MOTIONS.values())[motion]]
    tags = {verb for verb in true if rng.random() < _TAGGED}
    false = rng.choice([verb for verb in range(len(VERBS)) if verb not in true])
    if rng.random() < _MISTAGGED:
        tags.add(int(false))
    return sorted(tags or {int(rng.choice(true))})


def _encode(file: Path, clip: np.ndarray) -> None:
    """Writes frames (T, P, P) as MPEG-4, 25 per second. This encoder gives the same bytes every time; x264 does not."""
    with av.open(str(file), "w") as container:
        best = {"flags": "+qscale+bitexact", "global_quality": str(2 * _QUALITY_UNIT)}
        stream = container.add_stream("mpeg4", rate=25, options=best)
        stream.height, stream.width = clip.shape[1:]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(stream.encode())
