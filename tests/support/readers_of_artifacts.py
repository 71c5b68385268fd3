"""Readers of artefacts, and of what a stage leaves that was killed."""

import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import mutations
import numpy as np
import pytest
from guarded_reading import Reader
from tiny_run import make_run

from vissl_clusterfit.clustering import fit
from vissl_clusterfit.clustering.checkpoints import last_checkpoint, state_of
from vissl_clusterfit.clustering.codebook import IN_PROGRESS, Codebook
from vissl_clusterfit.clustering.codebook_inputs import codebook_inputs
from vissl_clusterfit.clustering.two_level_files import FineFiles
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.features.sample_list import hash_samples
from vissl_clusterfit.features.sample_names import NameList, names_of
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.features.writer import FeatureStoreWriter
from vissl_clusterfit.labels import balanced
from vissl_clusterfit.labels.files import LabelFiles
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.verification.verify import verify_artifact

READERS: dict[str, Reader] = {}


@functools.cache
def _run() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="readers-"))
    make_run(folder / "run", top_clusters=3)
    for split in ("train", "test"):
        _with_names(folder / "run/features" / split)
    return folder / "run"


def _with_names(store: Path) -> None:
    opened = FeatureStore.open(store)
    names = NameList()
    samples = hash_samples(names.passing(f"{store.name} {index}" for index in range(opened.num_samples)))
    assert np.array_equal(samples, opened.samples)
    names.write(store)


def of_run(artifact: str, file: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        shutil.copytree(_run(), folder / "run")
        return folder / "run" / artifact / file

    return make


def open_store() -> FeatureStore:
    return FeatureStore.open(_run() / "features/test")


def _artifact(open_artifact: Callable[[Path], object]) -> Callable[[Path], object]:
    def read(path: Path) -> None:
        verify_artifact(path.parent)  # which says what is wrong, and raises nothing
        open_artifact(path.parent)

    return read


def _all_rows(folder: Path) -> None:
    store = FeatureStore.open(folder)
    store.read(0, store.num_samples)


def _all_labels(folder: Path) -> None:
    labels = PseudoLabels.open(folder)
    assert len(labels.labels) == len(labels.distances) == len(labels.margins) == labels.num_samples


for _name, _artifact_folder, _open, _files in (
    ("features", "features/test", _all_rows, ("rows-000000000000-000000000040.npy", "samples.npy", "unreadable.npy")),
    ("codebook", "codebook", Codebook.open, ("centroids.npy", "counts.npy")),
    ("labels", "labels/test", _all_labels, ("labels.npy", "distances.npy", "sizes.npy", "nearest.npy")),
):
    READERS[f"manifest of {_name}"] = Reader(
        of_run(_artifact_folder, "manifest.json"), _artifact(_open), mutations.in_manifest
    )
    for _file in _files:
        READERS[f"{_name}, {_file}"] = Reader(of_run(_artifact_folder, _file), _artifact(_open))


# Names, features and labels from elsewhere.
NAMES = [f"test {index}" for index in range(40)]
ROWS = np.random.default_rng(0).standard_normal((40, 6)).astype(np.float32)
READERS["names"] = Reader(
    of_run("features/test", "names.jsonl.gz"), lambda path: names_of(path.parent), mutations.in_gzip
)
SAMPLES = hash_samples(NAMES)


def _begun_store(folder: Path) -> FeatureStoreWriter:
    return FeatureStoreWriter(folder, {"dataset": {}}, SAMPLES, shard_size=40, dtype="float32")


def _done_shard(folder: Path) -> Path:
    writer = _begun_store(folder)
    writer.begin()
    (shard,) = writer.missing()
    writer.write(shard, ROWS, {3: "truncated"})
    return folder / shard.done_file


def _finish(path: Path) -> None:
    writer = _begun_store(path.parent)
    writer.begin()
    writer.finish()


READERS["shard that is done"] = Reader(_done_shard, _finish, mutations.in_json)
SETTINGS = ClusterFitConfig(num_clusters=3, num_iter=4)


def _iterations(file: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fit, "remove_folder", lambda _: None)  # what a clustering leaves that was killed
            fit.fit_codebook(open_store(), SETTINGS, "cpu", folder)
        (last,) = (folder / IN_PROGRESS).iterdir()
        return last / file

    return make


def _resume(path: Path) -> None:
    store = open_store()
    place = last_checkpoint(path.parent.parent, codebook_inputs(store.inputs, SETTINGS), store.content_hash)
    if place is not None:
        state_of(Codebook.open(place))


READERS["manifest of an iteration"] = Reader(_iterations("manifest.json"), _resume, mutations.in_manifest)
READERS["iteration, counts.npy"] = Reader(_iterations("counts.npy"), _resume)


def _prices(folder: Path) -> Path:
    path = folder / "prices.npy"
    _bounded(path)
    return path


def _bounded(path: Path) -> None:
    codebook = Codebook.open(_run() / "codebook")
    balanced.solve(open_store(), codebook, "cpu", 1.1, path, "a run")


READERS["prices"] = Reader(_prices, _bounded)


def _fine(folder: Path) -> Path:
    state = state_of(Codebook.open(_iterations("manifest.json")(folder).parent))[0]
    FineFiles(folder, "a run").save(0, state)
    return folder / "fine-000000.json"


READERS["fine clustering"] = Reader(
    _fine, lambda path: FineFiles(path.parent, "a run").load(0, 40, 3), mutations.in_json
)


def _labelling(path: Path) -> None:
    with LabelFiles(path.parent, 40, "a run") as files:
        assert 0 <= files.num_done <= 40


def _begun_labelling(folder: Path) -> Path:
    with LabelFiles(folder, 40, "a run") as files:
        files.append(*(np.zeros(20, dtype) for dtype in (np.int64, np.float32, np.float32)))
        files._mark()
    return folder / "progress.json"


READERS["progress of a labelling"] = Reader(_begun_labelling, _labelling, mutations.in_json)
