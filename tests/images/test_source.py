"""Collections of images go through the extraction: names, identity, unreadable ones, other data, a resumed run."""

import numpy as np
import pytest
import torch
from collections_on_disk import WRITERS
from pictures import NAMES, encoded, write_pictures
from tiny import write_images
from torch.utils.data import ConcatDataset, DataLoader
from torchvision.transforms.v2.functional import pil_to_tensor, resize

from vissl_clusterfit.config.features import EncodingSettings
from vissl_clusterfit.errors import ArtifactError, DataError
from vissl_clusterfit.features.extract import extract_features
from vissl_clusterfit.features.sample_names import names_of
from vissl_clusterfit.images import TransformedImages, open_images


def small(image) -> torch.Tensor:
    return resize(pil_to_tensor(image), [4, 8]).float() / 255


def extract(place, folder, *, encode=lambda pixels: pixels.flatten(1), max_unreadable=0.0, workers=0, **opened):
    images = TransformedImages(open_images(place, **opened), small)
    settings = EncodingSettings(batch_size=2, shard_size=2, max_unreadable=max_unreadable)
    inputs = {"dataset": images.inputs()}
    return extract_features(
        images, lambda: encode, folder, inputs, settings, num_workers=workers, names=images.name_list
    )


def test_a_process_that_is_spawned_reads_every_kind(tmp_path):
    """One process has all of them: to start it takes longer than what it reads."""
    kinds = []
    for kind, writers in WRITERS.items():
        place = writers[0](write_images(tmp_path / kind / "images", 6), tmp_path / kind / "my images")
        kinds.append(TransformedImages(open_images(place), small))
    loader = DataLoader(ConcatDataset(kinds), batch_size=3, num_workers=1, multiprocessing_context="spawn")
    read = torch.cat([pixels for pixels, _ in loader]).split([len(images) for images in kinds])
    for kind, images, pixels in zip(WRITERS, kinds, read, strict=True):
        expected = torch.stack([image for image, _ in images])
        assert torch.equal(pixels, expected), kind


@pytest.mark.parametrize("workers", [0, 2])
def test_features_are_those_of_the_images_and_have_their_names(tmp_path, workers):
    store = extract(write_pictures(tmp_path / "images"), tmp_path / "features", workers=workers)
    images = open_images(tmp_path / "images")
    expected = np.stack([small(images.read(index)).flatten().numpy() for index in range(len(images))])
    np.testing.assert_array_equal(store.read(0, len(images)), expected)
    assert names_of(tmp_path / "features") == sorted(NAMES)


def test_an_unreadable_image_is_counted_with_its_reason(tmp_path, caplog):
    write_pictures(tmp_path / "images")
    (tmp_path / "images/plain.png").write_bytes(encoded(0)[:60])
    with pytest.raises(DataError, match=r"found 1 of \d samples unreadable .*plain\.png \(OSError: "):
        extract(tmp_path / "images", tmp_path / "features")
    store = extract(tmp_path / "images", tmp_path / "features", max_unreadable=0.5)
    assert store.unreadable.tolist() == [sorted(NAMES).index("plain.png")]


def test_features_of_other_images_are_refused_by_name(tmp_path):
    write_pictures(tmp_path / "images")
    extract(tmp_path / "images", tmp_path / "features")
    (tmp_path / "images/plain.png").write_bytes(encoded(9) + b"longer")
    with pytest.raises(ArtifactError, match=r"1 of 6 samples differ .*plain\.png"):
        extract(tmp_path / "images", tmp_path / "features")


def test_features_of_images_that_were_not_turned_are_others(tmp_path):
    write_pictures(tmp_path / "images")
    extract(tmp_path / "images", tmp_path / "features")
    with pytest.raises(ArtifactError, match="6 of 6 samples differ"):
        extract(tmp_path / "images", tmp_path / "features", exif=False)


def test_an_extraction_that_was_stopped_resumes_to_the_same_bytes(tmp_path):
    write_pictures(tmp_path / "images")
    whole = extract(tmp_path / "images", tmp_path / "whole")
    batches = []

    def stop_at_the_second(pixels):
        batches.append(len(pixels))
        if len(batches) == 2:
            raise KeyboardInterrupt
        return pixels.flatten(1)

    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path / "images", tmp_path / "stopped", encode=stop_at_the_second)
    batches.clear()
    resumed = extract(tmp_path / "images", tmp_path / "stopped")
    assert resumed.num_samples == whole.num_samples
    for file in (tmp_path / "whole").rglob("*.npy"):
        assert file.read_bytes() == (tmp_path / "stopped" / file.relative_to(tmp_path / "whole")).read_bytes()
