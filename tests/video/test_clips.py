"""Which frames make a clip."""

import numpy as np
import pytest

from vissl_clusterfit.config.schema import read_settings
from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.video.clips import ClipSettings, clip_frames, clip_position

AT_25 = np.arange(100) / 25
VARIABLE = np.cumsum(np.random.default_rng(0).integers(5, 120, 100)) / 1000


def clip(seconds, position=0.0, **settings):
    return clip_frames(seconds, ClipSettings(**settings), position).tolist()


def test_frames_follow_the_stride():
    assert clip(AT_25, num_frames=4, stride=3) == [0, 3, 6, 9]
    assert clip(AT_25, position=1.0, num_frames=4, stride=3) == [90, 93, 96, 99]
    assert clip(VARIABLE, position=0.5, num_frames=3) == [49, 50, 51]  # frames are counted, whatever their times


@pytest.mark.parametrize("seconds", [AT_25, VARIABLE], ids=["constant", "variable"])
@pytest.mark.parametrize("position", [0.0, 0.31, 0.999])
def test_a_rate_takes_what_is_shown_at_each_moment(seconds, position):
    numbers = clip(seconds, position=position, num_frames=10, fps=5.0)
    start = seconds[0] + position * (seconds[-1] - 9 / 5 - seconds[0])
    for step, number in enumerate(numbers):
        moment = start + step / 5 + 1e-6
        assert seconds[number] <= moment
        assert number == len(seconds) - 1 or moment < seconds[number + 1]


def test_a_rate_that_is_a_part_of_the_files_is_a_stride():
    assert clip(AT_25, num_frames=20, fps=5.0) == list(range(0, 100, 5))
    assert clip(np.arange(300) / 30, num_frames=30, fps=10.0, position=0.0) == list(range(0, 90, 3))


@pytest.mark.parametrize("settings", [{"stride": 2}, {"fps": 12.5}])
def test_of_a_short_video_the_last_frame_is_repeated(settings):
    for position in (0.0, 0.5, 1.0):
        assert clip(AT_25[:5], position=position, num_frames=5, **settings) == [0, 2, 4, 4, 4]
    assert clip(AT_25[:1], num_frames=3) == [0, 0, 0]


def test_clips_are_spread_from_the_first_start_to_the_last():
    settings = ClipSettings(num_frames=10, num_clips=4, sampling="uniform")
    starts = [clip_frames(AT_25, settings, clip_position(number, settings, 0.7))[0] for number in range(4)]
    assert starts == [0, 30, 60, 90]
    assert clip_position(0, ClipSettings(sampling="uniform"), 0.7) == 0.5


def test_a_random_clip_is_anywhere_in_its_part_which_holds_the_evenly_spread_one():
    draws = np.random.default_rng(0).random(2000)
    one = ClipSettings(num_frames=10)
    starts = [clip_frames(AT_25, one, clip_position(0, one, draw))[0] for draw in draws]
    assert (min(starts), max(starts)) == (0, 90)
    assert np.bincount(starts).min() >= 5  # 22 expected
    for number in range(5):
        spread = clip_position(number, ClipSettings(num_clips=5, sampling="uniform"), 0.0)
        assert number / 5 <= spread <= (number + 1) / 5
        for draw in (0.0, 0.999):
            assert number / 5 <= clip_position(number, ClipSettings(num_clips=5), draw) < (number + 1) / 5


def test_what_is_wrong_is_said_at_once():
    with pytest.raises(ConfigError, match=r"NUM_FRAMES: found 0; .*\n.*SAMPLING: found 'even'; allowed: 'random'"):
        read_settings(ClipSettings, {"NUM_FRAMES": 0, "SAMPLING": "even"}, "config.DATA.TRAIN.CLIPS")
    with pytest.raises(ConfigError, match=r"CLIPS: FPS and STRIDE: found FPS: 5 with STRIDE: 2"):
        read_settings(ClipSettings, {"FPS": 5, "STRIDE": 2}, "config.DATA.TRAIN.CLIPS")
