"""Clips of moving digits: what moves how, that one frame does not tell, and what is written."""

import av
import numpy as np
import pytest
from tiny_store import contents

from vissl_clusterfit.datasets.synthetic.digits import DigitsSpec
from vissl_clusterfit.datasets.synthetic.moving_digits import (
    MOTIONS,
    NUM_FRAMES,
    VERBS,
    draw_clips,
    write_moving_digits,
)
from vissl_clusterfit.datasets.synthetic.scans import PICTURE_PX, load_scans
from vissl_clusterfit.errors import ArtifactError

SMALL = DigitsSpec(num_scans=70, num_test_scans=20, train_drawings=2, test_drawings=1)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips") / "clips"
    write_moving_digits(folder, SMALL)
    return folder


@pytest.fixture(scope="module")
def drawn():
    """Many clips of one digit, and their motions."""
    scans, digits, _ = load_scans("train", 1797, 500)
    motions = np.arange(400) % len(MOTIONS)
    return draw_clips(np.resize(scans[digits == 4], (400, 8, 8)), motions, np.random.default_rng(0)), motions


def test_every_scan_is_drawn_as_often_as_asked_and_every_motion_as_often_as_another(clips):
    for split, scans, drawings in (("train", range(50), 2), ("test", range(50, 70), 1)):
        files = [*(clips / split).rglob("*.mp4")]
        assert {file.stem for file in files} == {
            f"{scan:04d}_{drawing}" for scan in scans for drawing in range(drawings)
        }
        by_motion = {motion: len([*(clips / split / motion).iterdir()]) for motion in MOTIONS}
        assert set(by_motion.values()) == {len(files) // len(MOTIONS)}


def test_files_are_mpeg4_and_every_frame_comes_back_as_it_was_drawn(clips):
    scans, _, _ = load_scans("train", SMALL.num_scans, SMALL.num_test_scans)
    rng = np.random.default_rng([SMALL.seed, 0, 0])
    motions = rng.permutation(np.arange(50) % len(MOTIONS))
    expected = draw_clips(scans, motions, rng)
    for scan in (0, 17):
        [file] = (clips / "train").rglob(f"{scan:04d}_0.mp4")
        assert file.parent.name == list(MOTIONS)[motions[scan]]
        with av.open(str(file)) as container:
            assert container.streams.video[0].codec_context.name == "mpeg4"
            frames = np.stack([frame.to_ndarray(format="gray") for frame in container.decode(video=0)])
        assert frames.shape == (NUM_FRAMES, PICTURE_PX, PICTURE_PX)
        assert np.abs(frames.astype(float) - expected[scan]).mean() < 4


def shift(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """Pixels down and right by which a picture moved, opposite edges meeting: where the correlation is largest."""
    centred = [np.fft.fft2(picture - np.median(picture)) for picture in (first.astype(float), second.astype(float))]
    where = np.unravel_index(np.fft.ifft2(centred[1] * centred[0].conj()).real.argmax(), first.shape)
    return tuple((np.array(where) + PICTURE_PX // 2) % PICTURE_PX - PICTURE_PX // 2)


@pytest.mark.parametrize(
    "motion, down, right",
    [("right", 0, 1), ("up_right", -1, 1), ("up", -1, 0), ("left", 0, -1), ("down_left", 1, -1), ("down", 1, 0)],
)
def test_digits_fly_where_the_name_of_their_folder_says(motion, down, right, drawn):
    frames, motions = drawn
    moves = [shift(clip[0], clip[4]) for clip in frames[motions == list(MOTIONS).index(motion)]]
    assert (np.sign(np.median(moves, axis=0)) == (down, right)).all()


def orientation(picture: np.ndarray) -> float:
    """Along which the power spectrum is drawn out, in radians. It turns with the picture, and stays as that moves."""
    power = np.abs(np.fft.fft2(picture - np.median(picture))) ** 2
    frequency = np.fft.fftfreq(PICTURE_PX, 1 / PICTURE_PX)
    up, right = -frequency[:, None], frequency[None, :]
    power = power * (up**2 + right**2 < 10**2)
    return np.arctan2(2 * (power * up * right).sum(), (power * (right**2 - up**2)).sum()) / 2


@pytest.mark.parametrize("motion, sign", [("counterclockwise", 1), ("clockwise", -1), ("left", 0)])
def test_digits_turn_where_the_name_of_their_folder_says(motion, sign):
    bar = np.zeros((100, 8, 8))
    bar[:, :, 3:5] = 1
    clips = draw_clips(bar, np.full(100, list(MOTIONS).index(motion)), np.random.default_rng(0)).astype(float)
    turns = np.diff(np.unwrap([[orientation(frame) for frame in clip] for clip in clips], period=np.pi), axis=1)
    assert np.median(turns) == pytest.approx(np.deg2rad(15) * sign, abs=np.deg2rad(3))


def test_one_frame_has_the_same_distribution_whatever_the_motion(drawn):
    """The mean picture of each motion differs from that of all by no more than chance has it, in every frame."""
    frames, motions = drawn
    ink = frames.astype(float) - np.median(frames, axis=(2, 3), keepdims=True)
    ink = ink.reshape(400, NUM_FRAMES, 4, 10, 4, 10).mean(axis=(3, 5))  # in 16 fields
    for frame in (0, 9, 19):
        deviation = ink[:, frame].std(axis=0)
        for motion in range(len(MOTIONS)):
            z = (ink[motions == motion, frame].mean(axis=0) - ink[:, frame].mean(axis=0)) / (deviation / np.sqrt(40))
            assert np.abs(z).max() < 5


def test_hashtags_are_mostly_true_several_per_clip_and_sometimes_wrong(clips):
    lines = (clips / "hashtags.txt").read_text().splitlines()
    assert len(lines) == 100
    true, wrong = 0, 0
    for line in lines:
        name, numbers = line.split()
        assert (clips / name).is_file()
        tags = {VERBS[int(number)] for number in numbers.split(",")}
        motion = MOTIONS[name.split("/")[1]]
        true += len(tags & set(motion))
        wrong += len(tags - set(motion))
        assert tags
    assert 1.2 < true / 100 < 2.2
    assert 0.3 < wrong / 100 < 0.7


def test_the_same_bytes_at_every_call(clips, tmp_path):
    write_moving_digits(tmp_path / "again", SMALL)
    assert contents(tmp_path / "again") == contents(clips)


def test_a_changed_clip_is_said(tmp_path):
    spec = DigitsSpec(num_scans=20, num_test_scans=10, train_drawings=1, test_drawings=1)
    write_moving_digits(tmp_path / "clips", spec)
    (tmp_path / "clips/hashtags.txt").write_text("")
    with pytest.raises(ArtifactError, match=r"clips of moving digits .* were changed or are incomplete"):
        write_moving_digits(tmp_path / "clips", spec)
