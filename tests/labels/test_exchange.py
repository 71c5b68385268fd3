"""Labels out to other programs' files and in from them, always by name."""

import csv
import json
import os

import numpy as np
import pyarrow.parquet
import pytest
from sklearn.cluster import KMeans
from tiny_store import contents
from torchvision.datasets import ImageFolder

from vissl_clusterfit.clustering.fit import fit_codebook
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ArtifactError, ClusterFitError
from vissl_clusterfit.features.imports import import_features
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.labels.comparison import format_quality, label_quality
from vissl_clusterfit.labels.export import export_labels
from vissl_clusterfit.labels.imports import import_labels
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.verification.verify import verify_artifact, verify_artifacts

ROWS = np.random.default_rng(2).standard_normal((40, 4)).astype(np.float32)
NAMES = [f'ordner/{number % 3}/bild, "{number}" ü.jpg' for number in range(40)]


@pytest.fixture
def features(tmp_path):
    return import_features(ROWS, tmp_path / "run/features/train", names=NAMES)


@pytest.fixture
def labels(tmp_path, features):
    return label(features, tmp_path / "run", max_distance=0.6)


def label(features, run, **more):
    settings = ClusterFitConfig.from_block({"NUM_CLUSTERS": 5, "NUM_ITER": 3})
    codebook = fit_codebook(features, settings, "cpu", run / "codebook")
    made = label_store(features, codebook, "cpu", run / "labels/train", **more)
    assert "max_distance" not in more or 0 < made.num_unlabelled < 40
    return made


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def test_csv_json_lines_and_parquet_hold_the_same_numbers(tmp_path, features):
    made = label(features, tmp_path / "run", top_clusters=3, max_distance=0.6)
    with export_labels(made, tmp_path / "labels.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = [json.loads(line) for line in export_labels(made, tmp_path / "labels.jsonl").read_text().splitlines()]
    table = pyarrow.parquet.read_table(export_labels(made, tmp_path / "labels.parquet"))
    assert [row["name"] for row in rows] == [line["name"] for line in lines] == table["name"].to_pylist() == NAMES
    ranks = (1, 2, 3)
    for name in ("label", "distance", "margin", "nearest", "nearest_distances"):
        array = getattr(made, {"label": "labels", "distance": "distances", "margin": "margins"}.get(name, name))
        columns = [name] if array.ndim == 1 else [f"{name}_{rank}" for rank in ranks]
        text = np.array([[row[column] for column in columns] for row in rows]).astype(array.dtype)
        np.testing.assert_array_equal(text.reshape(array.shape), array)
        np.testing.assert_array_equal(np.array([line[name] for line in lines], dtype=array.dtype), array)
        np.testing.assert_array_equal(np.array(table[name].to_pylist(), dtype=array.dtype), array)


def test_npy_is_what_a_list_of_files_takes(tmp_path, labels, images):
    np.testing.assert_array_equal(np.load(export_labels(labels, tmp_path / "all.npy")), labels.labels)
    export_labels(labels, tmp_path / "labelled.npy", images=images)
    paths, kept = np.load(tmp_path / "labelled-images.npy"), np.load(tmp_path / "labelled.npy")
    expected = {str(images / name): number for name, number in zip(NAMES, labels.labels, strict=True) if number >= 0}
    assert dict(zip(paths.tolist(), kept.tolist(), strict=True)) == expected
    assert all(os.path.isfile(path) for path in paths)


def test_class_folders_are_links_that_torchvision_reads(tmp_path, labels, images):
    folder = export_labels(labels, tmp_path / "classes", images=images)
    read = ImageFolder(str(folder))
    found = {os.path.realpath(path): int(read.classes[number]) for path, number in read.samples}
    assert found == {
        str(images / name): number for name, number in zip(NAMES, labels.labels, strict=True) if number >= 0
    }
    assert not list(tmp_path.glob(".*"))


def test_one_cluster_has_infinite_margins_in_every_format(tmp_path, features):
    codebook = fit_codebook(features, ClusterFitConfig.from_block({"NUM_CLUSTERS": 1}), "cpu", tmp_path / "codebook")
    made = label_store(features, codebook, "cpu", tmp_path / "labels")
    assert export_labels(made, tmp_path / "one.csv").read_text().splitlines()[1].endswith(",inf")
    assert json.loads(export_labels(made, tmp_path / "one.jsonl").read_text().splitlines()[0])["margin"] is None
    export_labels(made, tmp_path / "one.parquet")
    for name in ("one.csv", "one.jsonl", "one.parquet"):
        again = import_labels(tmp_path / name, tmp_path / f"{name}-in", features)
        np.testing.assert_array_equal(again.margins, made.margins)
        np.testing.assert_array_equal(again.distances, made.distances)


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl", "labels.parquet"])
def test_what_is_exported_comes_in_again_in_whatever_order(tmp_path, labels, features, name):
    path = export_labels(labels, tmp_path / name)
    if name != "labels.parquet":
        lines = path.read_text().splitlines()
        first = lines[:1] if name.endswith("csv") else []
        path.write_text("\n".join([*first, *reversed(lines[len(first) :])]) + "\n")
    for data in (features, labels):
        again = import_labels(path, tmp_path / f"{type(data).__name__}", data, num_clusters=5)
        np.testing.assert_array_equal(again.labels, labels.labels)
        labelled = labels.labels >= 0
        np.testing.assert_array_equal(again.distances[labelled], labels.distances[labelled])
        np.testing.assert_array_equal(again.cluster_sizes, labels.cluster_sizes)
        assert again.names == NAMES
        assert verify_artifact(again.folder) == []
        assert again.inputs["features"]["dataset"] == labels.inputs["features"]["dataset"]


def test_labels_of_scikit_learn_find_their_samples_by_name(tmp_path, features):
    order = np.random.default_rng(0).permutation(40)
    found = KMeans(6, n_init=1, random_state=0).fit_predict(ROWS[order])
    names = [NAMES[number] for number in order]
    np.save(tmp_path / "labels.npy", found)
    np.save(tmp_path / "names.npy", names)
    made = [
        import_labels(found, tmp_path / "run/labels/train", features, names=names),
        import_labels(tmp_path / "labels.npy", tmp_path / "two", features, names=tmp_path / "names.npy"),
        import_labels(dict(zip(names, found.tolist(), strict=True)), tmp_path / "three", features),
    ]
    expected = np.empty(40, dtype=np.int64)
    expected[order] = found
    for labels in made:
        np.testing.assert_array_equal(labels.labels, expected)
        assert labels.num_clusters == (6,)
        assert not PseudoLabels.open(labels.folder).has_distances
    assert all(not problems for _, problems in verify_artifacts([tmp_path]))
    quality = label_quality(made[0].folder, made[1].folder)
    assert quality["labels"][0]["undecided_share"] is None
    assert "-" in format_quality(quality)
    assert export_labels(made[0], tmp_path / "out.csv").read_text().splitlines()[0] == "name,label"
    before = contents(made[0].folder)
    import_labels(found, made[0].folder, features, names=names)
    with pytest.raises(ArtifactError, match=r"codebook\.imported_labels: it was made with"):
        import_labels(found[::-1], made[0].folder, features, names=names)
    assert contents(made[0].folder) == before


def refused(call, *arguments, **more):
    with pytest.raises(ClusterFitError) as error:
        call(*arguments, **more)
    return str(error.value)


def test_what_does_not_fit_by_name_is_refused(tmp_path, features, make_store):
    found = np.zeros(40, dtype=np.int64)

    def message(source, data=features, **more):
        text = refused(import_labels, source, tmp_path / "in", data, **more)
        assert not (tmp_path / "in").exists()
        return text

    assert "names: found labels without names; allowed: the name of each" in message(found)
    assert (
        "found 1 samples without a label, 1 labels of no sample, 0 names there twice; allowed: the name of each sample,"
        " once. The first: 'ordner/0/bild, \"0\" ü.jpg'." in message(found, names=["other.jpg", *NAMES[1:]])
    )
    assert "found 0 samples without a label, 0 labels of no sample, 1 names there twice" in message(
        np.zeros(41, dtype=np.int64), names=[*NAMES, NAMES[0]]
    )
    assert "0 samples without a label, 1 labels of no sample" in message(
        np.zeros(41, dtype=np.int64), names=[*NAMES, "more.jpg"]
    )
    assert "labels: found 40 labels for 39 names" in message(found, names=NAMES[1:])
    assert "labels: found (40,) of float64" in message(found.astype(float), names=NAMES)
    assert "labels: found 40 labels below -1, the first of 'ordner" in message(found - 2, names=NAMES)
    assert "labels: found the label 0; allowed: -1 to -1" in message(found, names=NAMES, num_clusters=0)
    assert "labels: found no sample with a label" in message(found - 1, names=NAMES)
    (tmp_path / "labels.csv").write_text("file,label\na,1\n")
    assert "labels.csv without name (it has file, label)" in message(tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_text("name,label\na,1\nb\n")
    assert "labels.csv cannot be read as labels: rows of different lengths" in message(tmp_path / "labels.csv")
    (tmp_path / "labels.csv").write_text("name,label\na,cat\n")
    assert "labels.csv cannot be read as labels: invalid literal" in message(tmp_path / "labels.csv")
    (tmp_path / "labels.jsonl").write_text('{"name": "a"\n')
    assert "labels.jsonl cannot be read as labels" in message(tmp_path / "labels.jsonl")
    (tmp_path / "labels.parquet").write_text("PAR1")
    assert "labels.parquet cannot be read as Parquet" in message(tmp_path / "labels.parquet")
    assert "source: found" in message(tmp_path / "labels.mat")
    assert "have no names, so labels could only be given to them in hope" in message(
        found, data=make_store(ROWS), names=NAMES
    )


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(tmp_path, labels, images, make_store):
    before = contents(tmp_path)
    unnamed = label(make_store(ROWS), tmp_path / "unnamed").folder
    (images / NAMES[3]).unlink()
    before = contents(tmp_path)

    def message(source, name, **more):
        text = refused(export_labels, source, tmp_path / name, **more)
        assert contents(tmp_path) == before
        return text

    assert "path: found" in message(labels, "labels.xlsx")
    assert "1 images are missing in" in message(labels, "classes", images=images)
    assert "1 images are missing in" in message(labels, "labels.npy", images=images)
    assert "images: found None; allowed: the folder in which" in message(labels, "classes")
    assert "names: found labels without names" in message(unnamed, "classes", images=images)
    assert "40 names lead out of" in message(unnamed, "classes", images=images, names=["../x"] * 40)
    assert "40 names lead out of" in message(unnamed, "classes", images=images, names=["/etc/passwd"] * 40)
    assert "found 39 names for 40 samples" in message(unnamed, "labels.csv", names=NAMES[1:])
    (tmp_path / "there.csv").write_text("mine")
    before = contents(tmp_path)
    assert "there.csv is there already" in message(labels, "there.csv")
    assert "images is there already" in message(labels, "images", images=images, names=["a"] * 40)
    lines = export_labels(unnamed, tmp_path / "new.csv").read_text().splitlines()
    assert lines[0] == "label,distance,margin"
    assert export_labels(unnamed, tmp_path / "named.csv", names=NAMES).read_text().startswith("name,label,")


def test_a_full_disk_leaves_nothing_half_written(tmp_path, labels, images, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    before = contents(tmp_path)
    monkeypatch.setattr(os, "rename", full)
    monkeypatch.setattr(os, "replace", full)
    for name in ("classes", "labels.csv", "labels.npy", "labels.parquet"):
        assert "No space left" in refused(
            export_labels, labels, tmp_path / name, images=images if name[0] == "c" else None
        )
    assert contents(tmp_path) == before
