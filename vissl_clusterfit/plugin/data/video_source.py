"""``video_folder`` and ``video_filelist``: data sources whose samples are clips, or videos of several clips."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from iopath.common.file_io import g_pathmgr
from torch.utils.data import Dataset
from torchvision.tv_tensors import Video
from vissl.config import AttrDict

from vissl_clusterfit.config.schema import read_settings
from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.video.clips import ClipSettings, clip_position
from vissl_clusterfit.video.file_lists import read_list, videos_in
from vissl_clusterfit.video.read import read_clips
from vissl_clusterfit.video.unreadable import UnreadableVideoError

logger = logging.getLogger(__name__)

FOLDER, LIST = "video_folder", "video_filelist"
SOURCES = (FOLDER, LIST)
_GREY = 128


def clip_settings(data: AttrDict, split: str) -> ClipSettings:
    """``config.DATA.<split>.CLIPS``.

    Raises:
        ConfigError: naming every unknown key and bad value.
    """
    return read_settings(ClipSettings, data[split].get("CLIPS") or {}, f"config.DATA.{split}.CLIPS")


def extracted_clips(
    data: AttrDict, split: str, kinds: Sequence[str], num_clips: int, made_from: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """The clips of which features are extracted: those of training, but evenly spread; None for images.

    Args:
        data: ``config.DATA``.
        split: ``TRAIN`` or ``TEST``.
        kinds: the data sources of the split, unpaired.
        num_clips: ``FEATURES.NUM_CLIPS``; 0 for as many as in training.
        made_from: what an artefact says of its clips, which then holds.

    Raises:
        ConfigError: images together with videos, or a number of clips that does not go with the rest.
    """
    of_videos = {kind in SOURCES for kind in kinds}
    if len(of_videos) > 1:
        name, allowed = f"config.DATA.{split}.DATA_SOURCES", "videos or images, not both"
        raise ConfigError(problem(name, found=list(kinds), allowed=allowed))
    if of_videos != {True}:
        return None
    if made_from is not None:
        return dict(made_from)
    settings = clip_settings(data, split)
    if num_clips and settings.per == "clip":
        raise ConfigError(
            problem(
                "FEATURES.NUM_CLIPS",
                found=f"{num_clips} where config.DATA.{split}.CLIPS.PER is clip",
                allowed=f"0: there is a feature for each of the {settings.num_clips} clips of a video",
            )
        )
    settings = dataclasses.replace(settings, num_clips=num_clips or settings.num_clips, sampling="uniform")
    return {name.upper(): value for name, value in dataclasses.asdict(settings).items()}


class VideoSource(Dataset):
    """Clips of videos of a folder or of a list, by the number of the sample.

    A sample is a :class:`torchvision.tv_tensors.Video`, uint8 (T, 3, H, W), and whether it could be read. With several
    clips per video (``CLIPS.NUM_CLIPS``) it is a list of them, or, with ``CLIPS.PER: clip``, each of them is a sample.
    Grey clips stand for a video that cannot be read. Random places are drawn from PyTorch's generator, as transforms
    draw.
    """

    def __init__(self, cfg: AttrDict, path: str, split: str, dataset_name: str, data_source: str) -> None:
        del dataset_name
        data = cfg.DATA[split]
        self.clips = clip_settings(cfg.DATA, split)
        self._grey_size = data.DEFAULT_GRAY_IMG_SIZE
        self._old_prefix, self._new_prefix = data.REMOVE_IMG_PATH_PREFIX, data.NEW_IMG_PATH_PREFIX
        if data.ENABLE_QUEUE_DATASET:
            raise ConfigError(
                problem(f"config.DATA.{split}.ENABLE_QUEUE_DATASET", found="true for videos", allowed="false")
            )
        if data_source == FOLDER:
            assert g_pathmgr.isdir(path), f"Directory {path} does not exist"
            self._videos, self._folder = videos_in(path), ""
        else:
            assert g_pathmgr.isfile(path), f"File {path} does not exist"
            self._videos = read_list(path, lambda name: g_pathmgr.open(name, "rb"))
            self._folder = os.path.dirname(path)
        self._source, self._split = data_source, split
        self._last_fault = (-1, "")

    def __len__(self) -> int:
        return len(self._videos) * self.clips.samples_per_video

    def num_samples(self) -> int:
        """Samples of the whole split, as VISSL asks for them."""
        return len(self)

    def __getitem__(self, index: int) -> tuple[Video | list[Video], bool]:
        """The clip or the clips of a sample, and whether they could be read."""
        video, clip = divmod(index, self.clips.samples_per_video)
        numbers = [clip] if self.clips.per == "clip" else range(self.clips.num_clips)
        positions = [clip_position(number, self.clips, float(torch.rand(()))) for number in numbers]
        try:
            clips = self._read(self._path(video), positions)
        except UnreadableVideoError as error:
            self._last_fault = (index, str(error))
            logger.warning("%s cannot be read: %s", self._path(video), error)
            shape = (self.clips.num_frames, 3, self._grey_size, self._grey_size)
            clips = [torch.full(shape, _GREY, dtype=torch.uint8) for _ in positions]
            return self._sample(clips), False
        return self._sample(clips), True

    def _sample(self, clips: list[torch.Tensor]) -> Video | list[Video]:
        videos = [Video(clip) for clip in clips]
        return videos if self.clips.per == "video" and self.clips.num_clips > 1 else videos[0]

    def _read(self, path: str, positions: list[float]) -> list[torch.Tensor]:
        if "://" not in path:
            return read_clips(path, self.clips, positions)
        try:
            with g_pathmgr.open(path, "rb") as file:
                return read_clips(file, self.clips, positions)
        except Exception as error:  # a store may raise whatever it likes
            raise UnreadableVideoError(f"{type(error).__name__}: {error}") from None

    def _path(self, video: int) -> str:
        path = self._videos.path(video)
        if self._old_prefix and path.startswith(self._old_prefix):
            path = self._new_prefix + path.removeprefix(self._old_prefix)
        return path if "://" in path else os.path.join(self._folder, path)

    def why_unreadable(self, index: int) -> str:
        """The reason of the sample that was read last, if it could not be."""
        return self._last_fault[1] if self._last_fault[0] == index else ""

    def get_image_paths(self) -> list[str]:
        """The file of each sample; the name is VISSL's."""
        each = range(self.clips.samples_per_video)
        return [path for video in range(len(self._videos)) for path in [self._path(video)] for _ in each]

    def get_labels(self) -> np.ndarray:
        """The class of the folder, or the labels in the list, of each sample: int64 (N,), or (N, M) padded with -1.

        Raises:
            DataError: the list has none.
        """
        if self._videos.labels is None:
            raise DataError(
                problem(
                    f"config.DATA.{self._split}.LABEL_SOURCES",
                    found=f"{self._source}, whose list has no labels",
                    allowed="a text list with labels, or disk_filelist with LABEL_PATHS",
                )
            )
        return np.repeat(self._videos.labels, self.clips.samples_per_video, axis=0)
