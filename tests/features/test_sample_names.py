"""Names of samples: where they come from, what carries them, and that a changed file of them is found."""

import os

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from feature_files import NAMES, ROWS

from vissl_clusterfit.clustering.fit import fit_codebook
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ArtifactError, DataError
from vissl_clusterfit.features.imports import import_features
from vissl_clusterfit.features.sample_list import hash_samples
from vissl_clusterfit.features.sample_names import NAMES_FILE
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.verification.verify import verify_artifact


def test_names_come_from_lists_of_every_kind(tmp_path):
    names = [f"a,b {number}.jpg" for number in range(30)]
    (tmp_path / "list.txt").write_text("\n".join(names) + "\n")
    (tmp_path / "list.csv").write_text("path,class\n" + "".join(f'"{name}",3\n' for name in names))
    np.save(tmp_path / "list.npy", names)
    for kind in ("txt", "csv", "npy"):
        store = import_features(ROWS, tmp_path / kind, names=tmp_path / f"list.{kind}")
        assert store.names == names
    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(ROWS.reshape(-1)), 5)
    pyarrow.parquet.write_table(pyarrow.table({"image": names, "features": column}), tmp_path / "rows.parquet")
    assert import_features(tmp_path / "rows.parquet", tmp_path / "store").names == names


def test_with_the_folder_of_the_images_sizes_are_part_of_the_sample_list(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(30):
        (tmp_path / "images" / f"{number:02d}.jpg").write_bytes(b"x" * number)
    names = [f"{number:02d}.jpg" for number in range(30)]
    store = import_features(ROWS, tmp_path / "store", names=names, images=tmp_path / "images")
    assert store.names == names
    np.testing.assert_array_equal(store.samples, hash_samples(f"{name} {int(name[:2])}" for name in names))
    assert verify_artifact(store.folder) == []
    (tmp_path / "images/07.jpg").unlink()
    with pytest.raises(DataError, match=r"images: found 1 names of no file in .*images, the first is '07\.jpg'"):
        import_features(ROWS, tmp_path / "other", names=names, images=tmp_path / "images")
    assert not (tmp_path / "other").exists()


def test_names_that_were_changed_are_found(tmp_path):
    """When an artefact is opened, since they travel with all that is made of it; and by reading them."""
    store = import_features(ROWS, tmp_path / "store", names=NAMES)
    other = import_features(ROWS, tmp_path / "other", names=NAMES[::-1])
    content = (other.folder / NAMES_FILE).read_bytes()
    (store.folder / NAMES_FILE).write_bytes(content)
    with pytest.raises(ArtifactError, match="holds names of other samples"):
        _ = store.names
    assert any(NAMES_FILE in problem for problem in verify_artifact(store.folder))
    for damaged in (content, content[: len(content) // 2], b"not compressed"):
        (store.folder / NAMES_FILE).write_bytes(damaged)
        with pytest.raises(ArtifactError, match=r"is not the file that was written.* Delete the file to do without"):
            FeatureStore.open(store.folder)
    with pytest.raises(ArtifactError, match="cannot be read as names"):
        _ = store.names
    (store.folder / NAMES_FILE).unlink()
    assert FeatureStore.open(store.folder).names is None


def test_names_of_labels_that_a_crash_cut_are_found(tmp_path):
    store = import_features(ROWS, tmp_path / "store", names=NAMES)
    codebook = fit_codebook(
        store, ClusterFitConfig.from_block({"NUM_CLUSTERS": 3, "NUM_ITER": 2}), "cpu", tmp_path / "codebook"
    )
    labels = label_store(store, codebook, "cpu", tmp_path / "labels")
    os.truncate(labels.folder / NAMES_FILE, (labels.folder / NAMES_FILE).stat().st_size // 2)
    with pytest.raises(ArtifactError, match=f"{NAMES_FILE} is not the file that was written"):
        PseudoLabels.open(labels.folder)


def test_labels_carry_the_names_and_those_without_names_open(tmp_path, make_store):
    stores = [import_features(ROWS, tmp_path / "store", names=NAMES), make_store(ROWS)]
    settings = ClusterFitConfig.from_block({"NUM_CLUSTERS": 3, "NUM_ITER": 2})
    for store, expected in zip(stores, (NAMES, None), strict=True):
        codebook = fit_codebook(store, settings, "cpu", tmp_path / f"codebook {store.names is None}")
        labels = label_store(store, codebook, "cpu", tmp_path / "labels")
        assert PseudoLabels.open(labels.folder).names == expected
        assert verify_artifact(labels.folder) == []
        assert (labels.folder / NAMES_FILE).exists() == (expected is not None)  # nor those of labels before
