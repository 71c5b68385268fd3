"""Several data sources, of which VISSL means the i-th images to be views of the i-th sample."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import STUDENT, write_images

from vissl_clusterfit.config.features import EncodingSettings
from vissl_clusterfit.errors import ArtifactError, ConfigError, DataError
from vissl_clusterfit.features.extract import extract_features
from vissl_clusterfit.features.imports import import_features
from vissl_clusterfit.features.sample_list import require_same_samples
from vissl_clusterfit.features.sample_names import names_of
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.launch.compose.compose import compose
from vissl_clusterfit.plugin.data.split_images import SplitImages

TRANSFORMS = [{"name": "Resize", "size": [8, 8]}, {"name": "ToTensor"}]
COUNT = 30


@pytest.fixture
def lists(tmp_path):
    """Two lists of files, of one length."""
    for number in range(2):
        folder = write_images(tmp_path / f"images{number}", COUNT, seed=number)
        save_list(tmp_path / f"{number}.npy", sorted(map(str, folder.rglob("*.png"))))
    return [tmp_path / "0.npy", tmp_path / "1.npy"]


def save_list(path, files):
    np.save(path, np.array(files))


def of(kind, *paths, **more):
    """Overrides for data sources of one kind, or of several kinds."""
    kinds = [kind] * len(paths) if isinstance(kind, str) else kind
    settings = {"DATA_SOURCES": kinds, "DATASET_NAMES": ["tiny"] * len(paths), "DATA_PATHS": paths, **more}
    return [f"config.DATA.TRAIN.{key}=[{','.join(map(str, value))}]" for key, value in settings.items()]


def split_images(tmp_path, kind, *paths, transforms=TRANSFORMS, keep_names=False):
    cfg = compose([*STUDENT, *of(kind, *paths), f"config.CHECKPOINT.DIR={tmp_path / 'run'}"])[2]
    return SplitImages(cfg, "TRAIN", transforms, keep_names=keep_names)


def test_features_are_the_mean_over_the_sources(tmp_path, lists):
    def rows(name, *paths):
        images = split_images(tmp_path, "disk_filelist", *paths)
        inputs = {"dataset": images.inputs()}
        settings = EncodingSettings(batch_size=4, shard_size=7)
        return extract_features(
            images, lambda: lambda pixels: pixels.mean(dim=3).flatten(1), tmp_path / name, inputs, settings
        )

    one, two, both = rows("one", lists[0]), rows("two", lists[1]), rows("both", *lists)
    np.testing.assert_allclose(both.read(0, COUNT), (one.read(0, COUNT) + two.read(0, COUNT)) / 2, rtol=1e-6)
    assert (both.num_samples, both.dim) == (COUNT, one.dim)
    assert not np.allclose(one.read(0, COUNT), two.read(0, COUNT), rtol=1e-3)


@pytest.mark.parametrize("kind", ["disk_folder", "disk_filelist"])
@pytest.mark.parametrize("number", [0, 1])
def test_an_image_that_one_source_cannot_read_marks_the_sample(tmp_path, lists, kind, number):
    files = np.load(lists[number])
    with open(files[11], "r+b") as file:
        file.truncate(100)
    paths = {"disk_folder": [tmp_path / "images0", tmp_path / "images1"], "disk_filelist": lists}[kind]
    reasons = [reason for _, reason in split_images(tmp_path, kind, *paths)]
    assert [index for index, reason in enumerate(reasons) if reason] == [11]
    assert reasons[11].startswith(f"data source {number}: ")


def test_names_are_those_of_the_sample_list(tmp_path, lists):
    for kind, paths in (
        ("disk_filelist", lists[:1]),
        ("disk_folder", [tmp_path / "images0"]),
        ("disk_filelist", lists),
    ):
        images = split_images(tmp_path, kind, *paths, keep_names=True)
        np.testing.assert_array_equal(images.samples, split_images(tmp_path, kind, *paths).samples)
        folder = tmp_path / f"{kind}{len(paths)}"
        pickle.loads(pickle.dumps(images)).name_list.write(folder)
        np.save(folder / "samples.npy", images.samples)
        files = [list(np.load(path)) for path in lists]
        expected = {
            "disk_filelist1": files[0],
            "disk_folder1": [str(Path(file).relative_to(tmp_path / "images0")) for file in files[0]],
            "disk_filelist2": ["\0".join(pair) for pair in zip(*files, strict=True)],
        }
        assert names_of(folder) == expected[folder.name]


def test_features_from_elsewhere_are_of_the_samples_that_a_training_reads(tmp_path, lists):
    rows = np.eye(COUNT, dtype=np.float32)
    listed = import_features(rows, tmp_path / "listed", names=lists[0])
    np.testing.assert_array_equal(listed.samples, split_images(tmp_path, "disk_filelist", lists[0]).samples)
    folder = tmp_path / "images0"
    names = [str(Path(file).relative_to(folder)) for file in np.load(lists[0])]
    below = import_features(rows, tmp_path / "below", names=names, images=folder)
    np.testing.assert_array_equal(below.samples, split_images(tmp_path, "disk_folder", folder).samples)


def test_other_order_in_one_source_is_other_data(tmp_path, lists):
    images = split_images(tmp_path, "disk_filelist", *lists)
    folder = tmp_path / "artifact"
    folder.mkdir()
    np.save(folder / "samples.npy", images.samples)
    require_same_samples(folder, split_images(tmp_path, "disk_filelist", *lists).samples, images.name_of)

    files = list(np.load(lists[1]))
    files[4], files[9] = files[9], files[4]
    save_list(lists[1], files)
    now = split_images(tmp_path, "disk_filelist", *lists)
    assert (np.flatnonzero(now.samples != images.samples) == [4, 9]).all()
    with pytest.raises(
        ArtifactError, match=rf"other data: 2 of 30 samples differ .*sample 4 is now '.*0/.* \| {files[4]}'"
    ):
        require_same_samples(folder, now.samples, now.name_of)
    for paths in (lists[:1], lists[::-1]):  # one source less, the sources exchanged
        other = split_images(tmp_path, "disk_filelist", *paths)
        assert (other.samples != images.samples).all()


def test_sources_of_several_kinds_go_together(tmp_path, lists):
    images = split_images(tmp_path, ["disk_folder", "disk_filelist"], tmp_path / "images0", lists[1])
    pixels, reason = images[3]
    assert (pixels.shape, reason) == ((2, 3, 8, 8), "")
    torch.testing.assert_close(pixels, split_images(tmp_path, "disk_filelist", *lists)[3][0])


def test_sources_of_different_lengths_are_refused(tmp_path, lists):
    save_list(lists[1], np.load(lists[1])[:-1])
    message = r"DATA_SOURCES: found \['disk_filelist', 'disk_filelist'\] with \[30, 29\] samples; .* image i of each"
    with pytest.raises(ConfigError, match=message):
        split_images(tmp_path, "disk_filelist", *lists)


def test_transforms_that_copy_images_are_refused(tmp_path, lists):
    transforms = [{"name": "ImgReplicatePil", "num_times": 2}, *TRANSFORMS]
    with pytest.raises(DataError, match=r"give \['Tensor', 'Tensor', 'Tensor', 'Tensor'\] for a sample"):
        split_images(tmp_path, "disk_filelist", *lists, transforms=transforms)[0]


def test_images_of_a_sample_that_differ_in_shape_are_refused(tmp_path, lists):
    Image.new("RGB", (50, 50)).save(np.load(lists[1])[0])
    with pytest.raises(DataError, match=r"images of several shapes \(\(3, 40, 36\), \(3, 50, 50\)\)"):
        split_images(tmp_path, "disk_filelist", *lists, transforms=[{"name": "ToTensor"}])[0]


@pytest.mark.slow
def test_the_whole_way_with_two_sources(tmp_path, lists, teacher, run_command):
    with open(np.load(lists[1])[11], "r+b") as file:
        file.truncate(100)
    command = [*STUDENT, *of("disk_filelist", *lists), f"config.CHECKPOINT.DIR={tmp_path / 'run'}"]
    command += [f"config.CLUSTERFIT.TEACHER.WEIGHTS={teacher}", "config.CHECKPOINT.AUTO_RESUME=false"]
    result = run_command(*command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "COLLATE_FUNCTION: 'default_collate' becomes 'simclr_collator'" in result.stdout
    labels = PseudoLabels.open(tmp_path / "run/clusterfit/labels/train")
    assert np.flatnonzero(labels.labels == -1).tolist() == [11]
    assert "data source 1: " in labels.manifest["unreadable"][0]["reason"]
    checkpoint = torch.load(tmp_path / "run/model_final_checkpoint_phase0.torch")
    assert np.isfinite(checkpoint["classy_state_dict"]["losses"]).all()

    save_list(lists[1], np.load(lists[1])[::-1])
    for file in (tmp_path / "run").glob("*.torch"):
        file.unlink()
    result = run_command(*command, cwd=tmp_path)
    assert result.returncode == 2
    assert "has a training that was made from" in result.stderr
    assert not list((tmp_path / "run").glob("*.torch"))


@pytest.mark.slow
def test_a_codebook_labels_data_of_two_sources(tmp_path, student_run, student_overrides, images, teacher, run_command):
    """Twice the images that it was made from get the labels that they have there."""
    result = run_command(
        "config=clusterfit/assign",
        f"config.CLUSTERFIT.ASSIGN.CODEBOOK={student_run / 'clusterfit/codebook'}",
        f"config.CLUSTERFIT.TEACHER.WEIGHTS={teacher}",
        *of("disk_folder", images, images),
        f"config.CHECKPOINT.DIR={tmp_path / 'new'}",
        "config.MACHINE.DEVICE=cpu",
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    there = PseudoLabels.open(student_run / "clusterfit/labels/train")
    here = PseudoLabels.open(tmp_path / "new/clusterfit/labels/train")
    np.testing.assert_array_equal(here.labels, there.labels)
    fingerprints = [
        json.loads((labels.folder / "manifest.json").read_text())["inputs"]["features"]["dataset"]["fingerprint"]
        for labels in (here, there)
    ]
    assert fingerprints[0] != fingerprints[1]
