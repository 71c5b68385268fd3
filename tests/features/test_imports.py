"""Features of one's own as a store: each format, what is refused, and that a file that was changed is found out."""

import io
import os
import pickle
import zipfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import save_file
from tiny_store import contents, edit_manifest

from vissl_clusterfit.clustering.fit import fit_codebook
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ArtifactError, DataError
from vissl_clusterfit.features import imports
from vissl_clusterfit.features.arrays import ArrayFeatures
from vissl_clusterfit.features.imports import import_features
from vissl_clusterfit.features.sample_list import hash_samples
from vissl_clusterfit.features.sample_names import NAMES_FILE
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.verification.verify import verify_artifact

ROWS = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
NAMES = [f"ordner mit ä/{number}\n.jpg" for number in range(30)]


def npy_bytes(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def save(path, rows=ROWS):
    if path.suffix == ".npy":
        np.save(path, rows)
    elif path.suffix == ".npz":
        np.savez(path, features=rows)
    elif path.suffix == ".pt":
        torch.save(torch.from_numpy(rows), path)
    elif path.suffix == ".pth":
        torch.save({"features": torch.from_numpy(rows), "epoch": 3}, path)
    elif path.suffix == ".safetensors":
        save_file({"features": torch.from_numpy(rows)}, path)
    else:
        flat = pyarrow.array(rows.reshape(-1))
        column = pyarrow.FixedSizeListArray.from_arrays(flat, rows.shape[1])
        pyarrow.parquet.write_table(pyarrow.table({"features": column}), path)
    return path


HUGE = (
    b"\x93NUMPY\x01\x00\x46\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 4)}".ljust(69)
    + b"\n"
)
FORMATS = [".npy", ".npz", ".pt", ".pth", ".safetensors", ".parquet"]
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


def test_a_killed_import_goes_on(tmp_path):
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


class RunsCode:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def refused(tmp_path, content, **more):
    """The message; nothing is written."""
    with pytest.raises(DataError) as error:
        import_features(content, tmp_path / "store", **more)
    assert not (tmp_path / "store").exists()
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def test_rows_that_are_not_finite_are_named(tmp_path):
    rows = ROWS.copy()
    rows[[2, 3, 5, 7, 11, 13]] = np.nan
    message = refused(tmp_path, save(tmp_path / "features.npy", rows))
    assert "6 of 30 rows are NaN, or infinite in float32: rows 2, 3, 5, 7, 11, …" in message
    (tmp_path / "parts").mkdir()
    save(tmp_path / "parts" / "0.npy", ROWS)
    save(tmp_path / "parts" / "1.npy", rows)
    assert "1.npy: 6 of 60 rows are NaN, or infinite in float32: rows 32, 33" in refused(tmp_path, tmp_path / "parts")
    far = ROWS.astype(np.float64)
    far[4, 4] = 1e39
    assert "1 of 30 rows are NaN, or infinite in float32: rows 4." in refused(tmp_path, far)


def test_what_cannot_be_features_is_refused_with_one_message(tmp_path):
    def message(content, **more):
        return refused(tmp_path, content, **more)

    assert "found 29 names for 30 rows" in message(ROWS, names=NAMES[:29])
    assert "found 1 names that occurred before" in message(ROWS, names=[*NAMES[:29], NAMES[0]])
    assert "found (30,) of float32; allowed: (N, D)" in message(ROWS[:, 0])
    assert "found (0, 5) of float32" in message(ROWS[:0])
    assert "found (30, 5) of int64; allowed: (N, D), one row or more, of float16" in message(ROWS.astype(int))
    assert "nowhere.npy, which is not there" in message(tmp_path / "nowhere.npy")
    np.savez(tmp_path / "two.npz", train=ROWS, test=ROWS)
    assert "two.npz with 2 arrays; allowed: the name of one array in it (test, train)" in message(tmp_path / "two.npz")
    assert "'val', which is not in" in message(tmp_path / "two.npz", key="val")
    assert import_features(tmp_path / "two.npz", tmp_path / "good", key="test").num_samples == 30
    (tmp_path / "mixed").mkdir()
    save(tmp_path / "mixed" / "1.npy")
    save(tmp_path / "mixed" / "2.pt")
    assert "mixed with .npy, .pt; allowed: a file, or a folder of files" in message(tmp_path / "mixed")
    (tmp_path / "widths").mkdir()
    save(tmp_path / "widths" / "1.npy")
    save(tmp_path / "widths" / "2.npy", ROWS[:, :4])
    assert "found files of 4 columns of float32, 5 columns of float32" in message(tmp_path / "widths")
    (tmp_path / "list.json").write_text("[]")
    assert "list.json; allowed: a file of one of .txt, .csv" in message(ROWS, names=tmp_path / "list.json")


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_damaged_file_is_refused(tmp_path, suffix):
    path = save(tmp_path / f"features{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert f"features{suffix} cannot be read" in refused(tmp_path, path)
    path.write_bytes(b"")
    assert f"features{suffix} cannot be read" in refused(tmp_path, path)


def bad_npz(path, content, **changes):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("features.npy", content)
    data = bytearray(path.read_bytes())
    central = data.index(b"PK\x01\x02")
    for name, value in changes.items():  # in the header of the member, and in the list at the end
        offset = {"flags": 6, "method": 8}[name]
        data[offset] = data[central + offset + 2] = value
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("content", "changes", "message"),
    [
        (b"\x89PNG\r\n\x1a\n", {}, "a picture (PNG), not a NumPy array"),
        (b"", {}, "an empty file"),
        (b"\x93NUMPY\x01\x00\x10\x00{'descr': (((((\n", {}, "a damaged NumPy array"),
        (HUGE, {}, "by its header, 0 bytes in the file"),
        (HUGE, {"flags": 1}, "password"),
        (HUGE, {"method": 99}, "compression method is not supported"),
    ],
)
def test_what_is_in_an_archive_is_looked_at_as_an_array_of_its_own(tmp_path, content, changes, message):
    found = refused(tmp_path, bad_npz(tmp_path / "a.npz", content, **changes))
    assert "a.npz cannot be read as .npz: " in found
    assert message in found


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(1).expand(10**9, 10**4),  # 4 bytes in the file
        torch.ones(4, 2).to(torch.float8_e4m3fn),
        torch.ones(4, 2).to_sparse(),
        torch.empty(4, 2, device="meta"),
        torch.ones(4, 2, dtype=torch.complex64).conj(),
    ],
)
def test_a_tensor_that_is_no_array_is_refused(tmp_path, tensor):
    torch.save(tensor, tmp_path / "rows.pt")
    assert "allowed: an array of numbers. Save it by" in refused(tmp_path, tmp_path / "rows.pt")


@pytest.mark.parametrize("content", [b"", HUGE, npy_bytes(np.float32(1)), npy_bytes(np.ones((3, 2)))])
def test_a_list_of_names_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "names.npy").write_bytes(content)
    assert "names.npy cannot be read as a list of names: " in refused(tmp_path, ROWS, names=tmp_path / "names.npy")


def test_code_in_a_file_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objects = np.array([RunsCode()], dtype=object)
    np.save(tmp_path / "rows.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "rows.npz", objects)
    torch.save({"features": RunsCode()}, tmp_path / "rows.pt")
    (tmp_path / "old.pt").write_bytes(pickle.dumps(RunsCode()))
    for name in ("rows.npy", "rows.npz", "rows.pt", "old.pt"):
        assert "holds Python objects, and reading them could run code" in refused(tmp_path, tmp_path / name)
    assert not (tmp_path / "ran").exists()


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
