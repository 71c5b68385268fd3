"""Videos as VISSL's data sources: clips of the right frames, labels, and what becomes of videos that cannot be read."""

import copy
import functools
import os
import tempfile

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import STUDENT
from torchvision.tv_tensors import Video
from videos import numbers_of, write_sound, write_video
from vissl.config import AttrDict
from vissl.data import build_dataset

from vissl_clusterfit.config.features import EncodingSettings
from vissl_clusterfit.errors import ConfigError, DataError
from vissl_clusterfit.features.extract import extract_features
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.plugin.data.split_images import SplitImages
from vissl_clusterfit.plugin.data.true_labels import true_labels

LENGTH = 60


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Class folders; video 2 is empty, 4 has no picture, 5 three frames only."""
    folder = tmp_path_factory.mktemp("videos")
    for number in (0, 1, 3):
        write_video(folder / f"{'abab'[number]}/{number}.mp4", LENGTH, first=60 * number)
    (folder / "a/2.mp4").write_bytes(b"")
    write_sound(folder / "b/4.mp4")
    write_video(folder / "b/5.mp4", 3)
    return folder


@functools.cache
def composed():
    """Composing takes longer than what is tested here."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = ["config.DATA.TRAIN.DATA_SOURCES=[video_folder]", f"config.DATA.TRAIN.DATA_PATHS=[{folder}]"]
        return compose([*STUDENT, *overrides, f"config.CHECKPOINT.DIR={folder}"])[2]


def config(tmp_path, videos, *, kinds=("video_folder",), split="TRAIN", clips=None, **more):
    """With the data of one split, as a config of pseudo-labels has them."""
    cfg = copy.deepcopy(composed())
    cfg.CHECKPOINT.DIR = str(tmp_path / "run")
    cfg.DATA[split].update(
        DATA_SOURCES=[f"clusterfit_{kind}" for kind in kinds],
        DATA_PATHS=[str(videos)] * len(kinds),
        DATASET_NAMES=["tiny"] * len(kinds),
        CLIPS=AttrDict(clips or {"NUM_FRAMES": 4, "STRIDE": 3}),
        **{"TRANSFORMS": [AttrDict({"name": "ClipToTensor"})], **more},
    )
    return cfg


def dataset(tmp_path, videos, kind="video_folder", **options):
    """As VISSL builds it without pseudo-labels."""
    cfg = config(tmp_path, videos, **options)
    cfg.DATA.TRAIN.update(DATA_SOURCES=[kind], LABEL_SOURCES=[kind], LABEL_PATHS=[str(videos)])
    return build_dataset(cfg, "TRAIN")


def of_sample(sample):
    return numbers_of((sample["data"][0].transpose(0, 1) * 255).round())


def test_a_sample_is_a_clip_at_a_random_place(tmp_path, videos):
    found = dataset(tmp_path, videos)
    clip, read = found.data_objs[0][2]  # b/1.mp4
    assert (type(clip), clip.dtype, clip.shape, read) == (Video, torch.uint8, (4, 3, 64, 96), True)
    torch.manual_seed(0)
    starts = {of_sample(found[2])[0] for _ in range(40)}
    assert len(starts) > 20
    assert min(starts) >= 60
    assert max(starts) + 9 < 120
    numbers = of_sample(found[2])
    assert np.diff(numbers).tolist() == [3, 3, 3]
    torch.manual_seed(5)
    again = of_sample(found[2])
    torch.manual_seed(5)
    assert of_sample(found[2]) == again


def test_labels_are_the_class_folders(tmp_path, videos):
    found = dataset(tmp_path, videos)
    assert [int(found[index]["label"][0]) for index in range(len(found))] == [0, 0, 1, 1, 1, 1]


def test_each_clip_can_be_a_sample(tmp_path, videos):
    found = dataset(tmp_path, videos, clips={"NUM_FRAMES": 2, "NUM_CLIPS": 3, "SAMPLING": "uniform", "PER": "clip"})
    assert len(found) == 18
    assert [of_sample(found[index]) for index in range(3)] == [[0, 1], [29, 30], [58, 59]]
    assert [of_sample(found[index])[0] for index in (6, 7, 8)] == [60, 89, 118]
    assert [int(found[index]["label"][0]) for index in (0, 2, 5, 6, 17)] == [0, 0, 0, 1, 1]


def test_the_clips_of_a_sample_are_views_in_training(tmp_path, videos):
    transforms = [AttrDict({"name": name}) for name in ("ClipsToViews", "ClipToTensor")]
    sample = dataset(tmp_path, videos, clips={"NUM_FRAMES": 2, "NUM_CLIPS": 2}, TRANSFORMS=transforms)[0]
    assert [view.shape for view in sample["data"]] == [(3, 2, 64, 96)] * 2
    assert [int(label) for label in sample["label"]] == [0, 0]


def test_lists_name_files_and_folders_of_frames(tmp_path, videos):
    frames = tmp_path / "lists/frames"
    frames.mkdir(parents=True)
    for number in range(9):
        Image.new("RGB", (20, 10), (number * 20,) * 3).save(frames / f"{number:05d}.png")
    relative = os.path.relpath(videos / "a/0.mp4", tmp_path / "lists")
    (tmp_path / "lists/list.txt").write_text(f"{relative} 7\n{videos / 'b/1.mp4'} 2\nframes 5\n")
    found = dataset(tmp_path, tmp_path / "lists/list.txt", kind="video_filelist", clips={"NUM_FRAMES": 9})
    assert np.diff(of_sample(found[0])).tolist() == [1] * 8
    assert of_sample(found[1])[0] >= 60
    grey = found[2]["data"][0][0].mean(dim=(1, 2)) * 255
    assert grey.round().tolist() == [20 * number for number in range(9)]
    assert [int(found[index]["label"][0]) for index in range(3)] == [7, 2, 5]


def test_a_file_of_labels_has_a_row_for_each_video(tmp_path, videos):
    np.save(tmp_path / "labels.npy", np.arange(6) * 10)
    np.save(tmp_path / "few.npy", np.arange(5))
    labels = {"LABEL_PATHS": [str(tmp_path / "labels.npy")], "LABEL_SOURCES": ["disk_filelist"]}
    clips = {"NUM_FRAMES": 2, "NUM_CLIPS": 3, "SAMPLING": "uniform", "PER": "clip"}
    cfg = config(tmp_path, videos, clips=clips, split="TEST", **labels)
    np.testing.assert_array_equal(true_labels(cfg, "TEST"), np.repeat(np.arange(6) * 10, 3))
    cfg.DATA.TEST.LABEL_PATHS = [str(tmp_path / "few.npy")]
    with pytest.raises(DataError, match="found 5 rows for 6 videos; allowed: a row for each video"):
        true_labels(cfg, "TEST")


def test_videos_that_cannot_be_read_are_listed_with_the_reason(tmp_path, videos):
    cfg = config(tmp_path, videos)
    images = SplitImages(cfg, "TRAIN", [{"name": "ClipToTensor"}])
    reasons = [images[index][1] for index in range(len(images))]
    assert [bool(reason) for reason in reasons] == [False, True, False, False, True, False]
    assert reasons[1].startswith("InvalidDataError: ")
    assert reasons[4] == "it has no video stream (it holds audio)"
    assert images.name_of(4) == str(videos / "b/4.mp4")
    grey = dataset(tmp_path, videos)[4]
    assert grey["data_valid"] == [-1]
    assert grey["data"][0].unique().numel() == 1
    short = dataset(tmp_path, videos)[5]  # its last frame is repeated
    assert of_sample(short) == [0, 2, 2, 2]


def rows_of(tmp_path, videos, name, clips, num_clips=0, batch_size=3):
    images = SplitImages(config(tmp_path, videos, clips=clips), "TRAIN", SMALL, num_clips=num_clips)
    inputs = {"dataset": images.inputs(), "clips": images.clips}
    settings = EncodingSettings(batch_size=batch_size, shard_size=4, max_unreadable=1.0)
    return extract_features(images, lambda: encode, tmp_path / name, inputs, settings)


SMALL = [{"name": "ClipResize", "size": [8, 12]}, {"name": "ClipToTensor"}]


def encode(clips):
    """(B, 3, T, 8, 12) to (B, 24): of the first and of the last frame."""
    assert clips.shape[1:] == (3, 2, 8, 12)
    return clips[:, :, [0, -1], 5].mean(dim=1).flatten(1)


def test_the_feature_of_a_video_is_the_mean_over_its_clips(tmp_path, videos):
    clips = {"NUM_FRAMES": 2, "NUM_CLIPS": 3}
    of_videos = rows_of(tmp_path, videos, "videos", {"NUM_FRAMES": 2}, num_clips=3)
    of_clips = rows_of(tmp_path, videos, "clips", {**clips, "PER": "clip"}, batch_size=5)
    assert (of_videos.num_samples, of_clips.num_samples) == (6, 18)
    assert (of_videos.unreadable.tolist(), of_clips.unreadable.tolist()) == ([1, 4], [3, 4, 5, 12, 13, 14])
    rows = of_clips.read(0, 18).reshape(6, 3, 24)
    np.testing.assert_allclose(of_videos.read(0, 6), rows.mean(axis=1), rtol=1e-5)
    assert np.ptp(rows[0], axis=0).max() > 0.1
    # As many clips as in training, if nothing is said; and one alone is the middle one.
    np.testing.assert_array_equal(rows_of(tmp_path, videos, "three", clips).read(0, 6), of_videos.read(0, 6))
    middle = rows_of(tmp_path, videos, "middle", {"NUM_FRAMES": 2}).read(0, 6)
    np.testing.assert_allclose(middle[0], rows[0, 1], rtol=1e-5)


def test_names_of_clips_differ_and_images_stay_as_they_were(tmp_path, videos):
    clips = {"NUM_FRAMES": 2, "NUM_CLIPS": 3, "PER": "clip"}
    images = SplitImages(config(tmp_path, videos, clips=clips), "TRAIN", SMALL)
    assert len(set(images.samples.tolist())) == 18
    assert images.clips["SAMPLING"] == "uniform"
    whole = SplitImages(config(tmp_path, videos), "TRAIN", SMALL)
    assert not set(whole.samples.tolist()) & set(images.samples.tolist())


@pytest.mark.parametrize(
    "change, num_clips, message",
    [
        ({"clips": {"PER": "clip", "NUM_CLIPS": 3}}, 2, r"FEATURES\.NUM_CLIPS: found 2 where .*PER is clip"),
        ({"clips": {"NUM_FRAME": 3}}, 0, r"CLIPS\.NUM_FRAME: found an unknown key; .* Did you mean NUM_FRAMES\?"),
        ({"kinds": ("video_folder", "disk_folder")}, 0, "DATA_SOURCES: .*videos or images, not both"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, videos, change, num_clips, message):
    with pytest.raises(ConfigError, match=message):
        SplitImages(config(tmp_path, videos, **change), "TRAIN", SMALL, num_clips=num_clips)
