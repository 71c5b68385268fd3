"""The images of a split in a fixed order and their names, through VISSL's own data sets."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from vissl.config import AttrDict
from vissl.data import build_dataset

from vissl_clusterfit.errors import ConfigError, DataError, problem
from vissl_clusterfit.features.batches import stack_images
from vissl_clusterfit.features.sample_list import dataset_inputs, names_and_sizes
from vissl_clusterfit.features.sample_names import NameList, list_samples
from vissl_clusterfit.images.decode import in_8_bits
from vissl_clusterfit.images.pixels import Finish, unfinished
from vissl_clusterfit.plugin.data.image_files import RegularFiles, count_orientations
from vissl_clusterfit.plugin.data.image_source import SOURCE as IMAGES
from vissl_clusterfit.plugin.data.image_source import ImagesSource
from vissl_clusterfit.plugin.data.source_names import (
    base_source,
    data_errors,
    paired_paths,
    tolerant_source_name,
    unused_label_paths,
)
from vissl_clusterfit.plugin.data.transform_steps import TransformFailed, grey_sample
from vissl_clusterfit.plugin.data.transforms import require_fixed
from vissl_clusterfit.plugin.data.video_source import FOLDER, extracted_clips
from vissl_clusterfit.plugin.data.video_transforms import ClipsToViews, ClipToTensor

# Data sources whose samples have names with what shows a change: the sizes of files.
_WITH_SIZES = ("disk_folder", FOLDER, IMAGES)
_COUNTING = ("disk_folder", "disk_filelist")


class SplitImages(Dataset):
    """One split of ``config.DATA`` in its fixed order: transformed images, and why which could not be read.

    The whole split, whatever its ``DATA_LIMIT``: that one restricts training, and labels are addressed by the position
    of a sample in the whole split. Unreadable samples are not replaced by others.

    Of several data sources, as VISSL means them, the images at one position are views of one sample. All of them name
    it, and it is unreadable if one of them is. Clips of a video are views of it, too, as are crops of clips.

    Args:
        cfg: VISSL's ``config``.
        split: ``TRAIN`` or ``TEST``.
        transforms: in the form of VISSL's ``TRANSFORMS``.
        num_clips: of each video, spread evenly; 0 for as many as ``DATA.<split>.CLIPS`` says.
        clips: all that says which frames are clips, of a manifest; None for what this config says.
        keep_names: keep the names of the samples; see ``name_list``.
        setting: where the transforms are, for messages.
        may_be_random: whether random transforms are allowed, as those of a training.

    Raises:
        ConfigError: data sources that do not go together, clips that cannot be, or transforms that are none, are random
            or fail on every image.
        DataError: the data are not there.
    """

    def __init__(
        self,
        cfg: AttrDict,
        split: str,
        transforms: list,
        *,
        num_clips: int = 0,
        clips: Mapping[str, Any] | None = None,
        keep_names: bool = False,
        setting: str = "config.CLUSTERFIT.FEATURES.TRANSFORMS",
        may_be_random: bool = False,
    ) -> None:
        self._keep_names = keep_names
        self._setting, data = setting, copy.deepcopy(cfg.DATA)
        self._source_names = [base_source(name) for name in data[split].DATA_SOURCES]
        self.clips = extracted_clips(data, split, self._source_names, num_clips, clips)
        if self.clips is not None:
            data[split].CLIPS = AttrDict(self.clips)
            transforms = [{"name": ClipsToViews.__name__}, *transforms]
        if not may_be_random:
            require_fixed(transforms, setting, of_clips=self.clips is not None)
        data[split].update(
            DATA_SOURCES=[tolerant_source_name(kind) for kind in self._source_names],
            DATA_PATHS=paired_paths(self._source_names, data[split].DATA_PATHS),
            LABEL_SOURCES=[],
            LABEL_PATHS=unused_label_paths(self._source_names),
            LABEL_TYPE="sample_index",
            TRANSFORMS=[AttrDict(transform) for transform in transforms],
            DATA_LIMIT=-1,
            ENABLE_QUEUE_DATASET=False,
        )
        self._split = split
        self._names = data[split].DATASET_NAMES
        with data_errors(split):
            self._dataset = build_dataset(cfg=AttrDict({"DATA": data}), split=split)
        self._dataset.transforms_setting = setting
        self._sources = [tolerant.images for tolerant in self._dataset.data_objs]
        for kind, source in zip(self._source_names, self._sources, strict=True):
            if kind in _COUNTING:
                count_orientations(source)
        self._require_views_of_the_same_samples()

    def _require_views_of_the_same_samples(self) -> None:
        lengths = [len(source) for source in self._sources]
        if len(set(lengths)) != 1:
            raise ConfigError(
                problem(
                    f"config.DATA.{self._split}.DATA_SOURCES",
                    found=f"{self._source_names} with {lengths} samples",
                    allowed="one data source, or several of the same length: image i of each is a view of sample i",
                )
            )

    def __len__(self) -> int:
        return len(self._sources[0])

    def __getitem__(self, index: int) -> tuple[torch.Tensor, str]:
        failure = ""
        try:
            sample = self._dataset[index]
        except TransformFailed as error:
            sample, failure = grey_sample(self._dataset, error), str(error)
        images = sample["data"]
        views, odd = divmod(len(images), len(self._sources))
        if odd or (views > 1 and self.clips is None) or not all(isinstance(image, torch.Tensor) for image in images):
            last = "ToTensor" if self.clips is None else ClipToTensor.__name__
            raise DataError(
                problem(
                    self._setting,
                    found=f"transforms that give {[type(image).__name__ for image in images]} for a sample",
                    allowed=f"transforms that give one tensor for each data source (here {len(self._sources)})",
                    remedy=f"Add {last}; leave out what copies images.",
                )
            )
        valid = sample["data_valid"][::views]
        reasons = [failure or self._why_unreadable(number, index, read == 1) for number, read in enumerate(valid)]
        alone = len(images) == 1 and self.clips is None  # a clip is always one of several views
        return (images[0] if alone else stack_images(images)), "; ".join(dict.fromkeys(filter(None, reasons)))

    def _why_unreadable(self, number: int, index: int, read: bool) -> str:
        """Why a data source has no right image of a sample; "" if it has. VISSL keeps the reason to its log."""
        files = self._files[number]
        reason = "" if read else "VISSL could not read it"
        if self.clips is not None or isinstance(self._sources[number], ImagesSource):
            reason = reason and self._sources[number].why_unreadable(index)
        elif files is not None and not read:
            reason = _what_is_wrong(str(files[index])) or reason
        return f"data source {number}: {reason}" if reason and len(self._sources) > 1 else reason

    def unfinished(self) -> tuple[SplitImages, Finish] | None:
        """The same images in 8 bits, and what is left to do to a batch of them; None where that is not known."""
        found = unfinished(self._dataset.transform.transforms)
        if found is None or len(self._sources) > 1 or self.clips is not None:
            return None
        steps, finish = found
        others, others_dataset = copy.copy(self), copy.copy(self._dataset)
        others_dataset.transform = type(self._dataset.transform)(steps)
        others._dataset = others_dataset
        return others, finish

    @property
    def samples(self) -> np.ndarray:
        """The ordered sample list, uint64 (N,): names, and for files of a folder their sizes, wherever it is."""
        return self._named_samples[0]

    @property
    def name_list(self) -> NameList | None:
        """The names that the sample list is made of; None unless they are to be kept."""
        return self._named_samples[1]

    @functools.cached_property
    def _named_samples(self) -> tuple[np.ndarray, NameList | None]:
        of_each = [self._sample_names(number) for number in range(len(self._sources))]
        names = of_each[0] if len(of_each) == 1 else map("\0".join, zip(*of_each, strict=True))
        with_sizes = len(of_each) == 1 and self._source_names[0] in _WITH_SIZES and self._clips_of_each(0) == 1
        return list_samples(names, keep_names=self._keep_names, with_sizes=with_sizes)

    def inputs(self) -> dict[str, Any]:
        """What identifies the data, for manifests."""
        return dataset_inputs(self.samples)

    @property
    def num_ignored_orientations(self) -> int:
        """How many of the images that were read have an EXIF orientation that their data source ignores."""
        return sum(
            source.collection.num_ignored_orientations
            if isinstance(source, ImagesSource)
            else int(source.ignored_orientations.sum())
            for kind, source in zip(self._source_names, self._sources, strict=True)
            if kind in (*_COUNTING, IMAGES)
        )

    @property
    def have_files(self) -> bool:
        """Whether every data source knows the files of its samples, so that their names identify the data."""
        return all(files is not None for files in self._files)

    def name_of(self, index: int) -> str:
        """The file of a sample in each data source, or its place where a source has no files."""
        return " | ".join(f"number {index}" if files is None else str(files[index]) for files in self._files)

    @functools.cached_property
    def _files(self) -> list[Sequence[str] | None]:
        return [source.get_image_paths() if hasattr(source, "get_image_paths") else None for source in self._sources]

    def _clips_of_each(self, number: int) -> int:
        """How many samples a file of a data source is."""
        return 1 if self.clips is None else self._sources[number].clips.samples_per_video

    def _sample_names(self, number: int) -> Iterator[str]:
        kind, path, files = self._source_names[number], self._dataset.data_paths[number], self._files[number]
        clips = self._clips_of_each(number)
        if clips > 1:
            videos = list(files)[::clips]
            named = names_and_sizes(videos, path) if kind == FOLDER else map(str, videos)
            yield from (f"{name} clip {clip}" for name in named for clip in range(clips))
        elif kind == IMAGES:
            yield from self._sources[number].collection.identities()
        elif files is not None and kind in _WITH_SIZES:
            yield from names_and_sizes(files, path)
        elif files is not None:
            yield from map(str, files)
        else:
            name = f"{kind} {[self._names[number]]} {self._split}"
            yield from (f"{name} {index}" for index in range(len(self)))


def _what_is_wrong(file: str) -> str:
    """What Pillow says of a file that VISSL has not read; "" if nothing."""
    try:
        with RegularFiles.open(file, "rb") as opened, Image.open(opened) as image:
            in_8_bits(image).convert("RGB")
    except Exception as error:  # whatever a decoder may raise is the reason
        return f"{type(error).__name__}: {error}"
    return ""
