"""Where the pictures of a run lie: where the user says, or where its training has read them."""

from __future__ import annotations

import os

from vissl_clusterfit.browse.pictures import FilePictures, Pictures, open_pictures
from vissl_clusterfit.browse.run import Run
from vissl_clusterfit.errors import ClusterFitError

_LISTS = ("disk_filelist", "video_filelist")
_NAME_THE_PLACE = "Name the place of the images: --images PLACE."


def pictures_of(run: Run, place: str = "") -> tuple[Pictures | None, str]:
    """The pictures of a run's samples; or None, and why there are none.

    Args:
        run: with its features or labels.
        place: see :func:`~vissl_clusterfit.browse.pictures.open_pictures`; "" for where the training has read them.

    Raises:
        ConfigError, DataError: the place that was named has no such pictures.
    """
    names = run.names
    if not run.num_samples:
        return None, ""
    if place:
        return open_pictures(place, names, run.num_samples, clips=run.clips_of_each), ""
    if run.data is None:
        return None, f"No pictures: nothing here says where the images lie. {_NAME_THE_PLACE}"
    path, source = run.data.path, run.data.source
    if names is not None and source in _LISTS:
        folder = os.path.dirname(path)
        return FilePictures(folder, names, anywhere=True, clips=run.clips_of_each), ""
    try:
        return open_pictures(path, names, run.num_samples, clips=run.clips_of_each), ""
    except (ClusterFitError, OSError) as error:
        return (
            None,
            f"No pictures: {path}, where the training has read them, cannot be opened ({error}). {_NAME_THE_PLACE}",
        )
