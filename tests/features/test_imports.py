"""Features of one's own as a store: each format, and that a file that was changed since is found."""

import os

import numpy as np
import pytest
from feature_files import FORMATS, NAMES, ROWS, save
from tiny_store import contents, edit_manifest

from vissl_clusterfit.clustering.fit import fit_codebook
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.features import imports
from vissl_clusterfit.features.arrays import ArrayFeatures
from vissl_clusterfit.features.imports import import_features
from vissl_clusterfit.features.sample_list import hash_samples
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.verification.verify import verify_artifact

MAPPED = [".npy", ".pt", ".pth", ".safetensors"]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_each_format_becomes_a_store_that_holds_its_rows(tmp_path, suffix, dtype):
    rows = ROWS.astype(dtype)
    path = save(tmp_path / f"features{suffix}", rows)
    store = import_features(path, tmp_path / "store", names=NAMES)
    np.testing.assert_array_equal(store.read(0, 30), rows.astype(np.float32))
    np.testing.assert_array_equal(store.take(np.array([3, 4, 29])), rows[[3, 4, 29]].astype(np.float32))
    assert store.names == NAMES
    np.testing.assert_array_equal(store.samples, hash_samples(NAMES))
    assert verify_artifact(store.folder) == []
    assert bool(list((tmp_path / "store").glob("rows-*.npy"))) == (suffix not in MAPPED)


@pytest.mark.parametrize("suffix", MAPPED)
def test_rows_that_can_be_mapped_are_mapped(tmp_path, suffix):
    store = import_features(save(tmp_path / f"features{suffix}"), tmp_path / "store")
    (rows,) = store._elsewhere.values()
    where = rows.rows((30, 5), "float32").__array_interface__["data"][0]
    with open("/proc/self/maps") as maps:
        ranges = [line.split() for line in maps if f"features{suffix}" in line]
    assert any(int(low, 16) <= where < int(high, 16) for low, high in (line[0].split("-") for line in ranges))


def test_a_folder_of_files_of_several_sizes_is_one_store(tmp_path):
    (tmp_path / "parts").mkdir()
    for number, (low, high) in {2: (0, 4), 10: (4, 25), 11: (25, 30)}.items():  # in the order of the numbers
        save(tmp_path / "parts" / f"part-{number}.npy", ROWS[low:high])
    (tmp_path / "parts" / "README.md").write_text("not features")
    store = import_features(tmp_path / "parts", tmp_path / "store", names=NAMES)
    for start, stop in [(0, 30), (3, 5), (4, 25), (24, 26), (29, 30), (7, 7), (30, 30)]:
        np.testing.assert_array_equal(store.read(start, stop), ROWS[start:stop])
    np.testing.assert_array_equal(store.take(np.array([0, 3, 4, 24, 25, 29])), ROWS[[0, 3, 4, 24, 25, 29]])
    assert verify_artifact(store.folder) == []


def test_a_reference_and_a_copy_give_the_same_codebook_and_labels(tmp_path, make_store):
    rows = np.random.default_rng(1).standard_normal((3000, 8)).astype(np.float32)
    stores = [
        import_features(save(tmp_path / "rows.npy", rows), tmp_path / "referring"),
        import_features(tmp_path / "rows.npy", tmp_path / "copied", copy=True),
        import_features(rows, tmp_path / "array"),
        ArrayFeatures(rows),
        make_store(rows),
    ]
    made = []
    for number, store in enumerate(stores):
        settings = ClusterFitConfig.from_block({"NUM_CLUSTERS": 7, "NUM_ITER": 14})
        codebook = fit_codebook(store, settings, "cpu", tmp_path / f"codebook{number}")
        labels = label_store(store, codebook, "cpu", tmp_path / f"labels{number}")
        assert [*verify_artifact(codebook.folder), *verify_artifact(labels.folder)] == []
        made.append((codebook.centroids.tobytes(), labels.labels.tobytes(), labels.distances.tobytes()))
    assert len(set(made)) == 1


def test_a_file_that_changes_while_it_is_imported_is_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "features.npy")

    def hash_then_change(file):
        digest = artifacts.file_sha256(file)
        np.lib.format.open_memmap(path, mode="r+")[0] = 7
        os.utime(path)
        return digest

    monkeypatch.setattr(imports, "file_sha256", hash_then_change)
    with pytest.raises(ArtifactError, match="was changed since its features were imported"):
        import_features(path, tmp_path / "store")


def test_the_same_features_are_opened_again_and_others_refused(tmp_path):
    path = save(tmp_path / "features.npy")
    import_features(path, tmp_path / "store", names=NAMES)
    before = contents(tmp_path / "store")
    import_features(path, tmp_path / "store", names=NAMES)
    assert contents(tmp_path / "store") == before
    save(path, ROWS + 1)
    with pytest.raises(ArtifactError, match=r"was made from other data or settings:\n  files"):
        import_features(path, tmp_path / "store", names=NAMES)
    assert contents(tmp_path / "store") == before


def test_a_store_that_refers_is_not_given_for_a_copy(tmp_path):
    path = save(tmp_path / "features.npy")
    import_features(path, tmp_path / "store")
    with pytest.raises(ArtifactError, match="refers to your files, and copy=True asks for another store"):
        import_features(path, tmp_path / "store", copy=True)
    copied = import_features(path, tmp_path / "copied", copy=True)
    assert import_features(path, tmp_path / "copied").content_hash == copied.content_hash


def test_a_killed_import_resumes(tmp_path):
    path = save(tmp_path / "features.npy")
    store = import_features(path, tmp_path / "store", names=NAMES)
    expected = contents(store.folder)
    manifest = artifacts.read_manifest(store.folder)
    artifacts.write_manifest(
        store.folder,
        "feature_store",
        manifest["inputs"],
        {name: manifest[name] for name in ("num_samples", "shard_size", "shard_rows", "dtype")} | {"complete": False},
    )
    (store.folder / "unreadable.npy").unlink()
    import_features(path, tmp_path / "store", names=NAMES)
    assert contents(store.folder) == expected


def test_a_file_that_changed_since_is_refused_when_opened_and_when_verified(tmp_path):
    path = save(tmp_path / "features.npy")
    folder = import_features(path, tmp_path / "store").folder
    os.utime(path, ns=(1, 1))  # the same bytes of another time: copied, or touched
    FeatureStore.open(folder)
    other = ROWS.copy()
    other[3, 3] += 1
    save(path, other)
    with pytest.raises(ArtifactError, match=r"features\.npy was changed since its features were imported\. Put the"):
        FeatureStore.open(folder)
    (problem,) = verify_artifact(folder)
    assert "features.npy is not the file that was imported" in problem
    path.unlink()
    with pytest.raises(ArtifactError, match=r"features\.npy, which holds features of this store, is missing"):
        FeatureStore.open(folder)


def test_a_manifest_leads_to_no_other_kind_of_file(tmp_path):
    folder = import_features(save(tmp_path / "features.npy"), tmp_path / "store").folder
    manifest = artifacts.read_manifest(folder)
    (name,) = manifest["rows_in"]
    for path in ("/etc/hostname", "../features.npy"):
        rows_in = {name: {**manifest["rows_in"][name], "path": path}}
        facts = {key: value for key, value in manifest.items() if key not in ("kind", "format", "inputs")}
        artifacts.write_manifest(folder, "feature_store", manifest["inputs"], {**facts, "rows_in": rows_in})
        with pytest.raises(ArtifactError, match="is damaged"):
            FeatureStore.open(folder)
        assert verify_artifact(folder)
    edit_manifest(folder, num_samples=31)
    with pytest.raises(ArtifactError, match="was edited"):
        FeatureStore.open(folder)
