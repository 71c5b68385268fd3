"""Artefacts on other file systems have the bytes that they have on this machine's, and are as safe there."""

import dataclasses
import errno
import os
import pickle
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import fake_s3  # noqa: F401  (its import is its effect)
import numpy as np
import object_store
import pytest
import stage_work
import tiny_store
from iopath.common.file_io import g_pathmgr
from object_store import contents, handler_of
from processes import exit_code, running
from repository import ROOT
from stage_work import COUNT, SHARD_SIZE, Numbers
from tiny_run import make_run
from tiny_store import save_store

from vissl_clusterfit import dependencies, import_features, import_labels, make_codebook, make_labels
from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.clustering.fit import fit_codebook
from vissl_clusterfit.config.clusterfit import ClusterFitConfig, EncodingSettings, FeatureSettings
from vissl_clusterfit.errors import ArtifactError, ConfigError
from vissl_clusterfit.features.extract import extract_features
from vissl_clusterfit.features.sample_list import dataset_inputs
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.report.results import ResultRow, append_results, read_results
from vissl_clusterfit.storage import artifacts, paths
from vissl_clusterfit.storage.paths import artifact_path
from vissl_clusterfit.verification.verify import verify_artifact, verify_artifacts

TOOL = ROOT / "tools/check_artifacts.py"
ALL = ("codebook", "features/train", "labels/train")
URIS = ["store://bucket/some/run", "share://host/some/run", "s3://bucket/some/run"]
SETTINGS = ClusterFitConfig(num_clusters=7, num_iter=4, features=FeatureSettings(normalize=False))
#: k-means runs so many...
NUM_ITER_RUN = 4


@pytest.fixture(params=URIS, ids=lambda uri: uri.partition(":")[0])
def run(request, tmp_path):
    """The folder of a run on each kind of file system."""
    handler = handler_of(request.param)
    handler.root = tmp_path
    handler.forget()
    return artifact_path(request.param)


def extract(folder, encoded=None):
    """Features of numbers, of which every tenth cannot be read."""
    images = Numbers(COUNT, frozenset(range(3, COUNT, 10)))

    def encode(pixels):
        if encoded is not None:
            encoded.update(int(image.flatten()[0]) for image in pixels)
        return stage_work.encode(pixels)

    settings = EncodingSettings(batch_size=stage_work.BATCH_SIZE, shard_size=SHARD_SIZE, max_unreadable=0.5)
    return extract_features(images, lambda: encode, folder, {"dataset": dataset_inputs(images.samples)}, settings)


def make(run, encoded=None):
    """All stages, those that are done left as they are."""
    store = extract(run / "features" / "train", encoded)
    if not artifacts.has_manifest(run / "codebook"):
        fit_codebook(store, SETTINGS, "cpu", run / "codebook")
    codebook = Codebook.open(run / "codebook")
    if not artifacts.has_manifest(run / "labels" / "train"):
        label_store(store, codebook, "cpu", run / "labels" / "train", max_distance=9.0)
    return PseudoLabels.open(run / "labels" / "train")


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """The same run on this machine."""
    folder = tmp_path_factory.mktemp("local")
    make(folder)
    return folder


def wrong(*folders):
    return {str(folder): problems for folder, problems in verify_artifacts(folders)}


def test_all_stages_give_the_bytes_that_they_give_on_this_machine(run, local):
    labels = make(run)
    assert contents(run) == tiny_store.contents(local)
    there = PseudoLabels.open(local / "labels" / "train")
    for name in ("labels", "distances", "margins", "cluster_sizes"):
        np.testing.assert_array_equal(getattr(labels, name), getattr(there, name))
    assert wrong(run) == {f"{run}/{name}": [] for name in ALL}


def test_clustering_on_two_levels(run, tmp_path):
    settings = dataclasses.replace(SETTINGS, num_clusters=20, num_coarse_clusters=4)
    for folder in (run, tmp_path / "local"):
        fit_codebook(extract(folder / "features" / "train"), settings, "cpu", folder / "codebook")
    assert contents(run / "codebook") == tiny_store.contents(tmp_path / "local/codebook")
    assert wrong(run / "codebook") == {f"{run}/codebook": []}


def test_what_is_done_is_not_done_again(run):
    make(run)
    handler_of(run).forget()
    encoded = Counter()
    make(run, encoded)
    assert (handler_of(run).written, encoded) == ([], {})


def test_features_are_read_by_index(run, tmp_path):
    rows = np.random.default_rng(0).standard_normal((250, 6)).astype(np.float32)
    store = save_store(run / "features", rows, dtype="float16")
    np.testing.assert_array_equal(store.read(90, 210), rows.astype(np.float16)[90:210])
    np.testing.assert_array_equal(store.take(np.array([3, 99, 100, 249])), rows.astype(np.float16)[[3, 99, 100, 249]])
    assert store.content_hash == save_store(tmp_path / "features", rows, dtype="float16").content_hash


def test_a_projection_and_a_held_out_split(run, tmp_path):
    settings = {"dimensionality_reduction": 4, "whiten": True, "metric": "cosine", "max_distance": 0.2}
    assert contents(make_run(run, **settings)) == tiny_store.contents(make_run(tmp_path / "local", **settings))
    assert not any(wrong(run).values())


# Stopped, and going on


def test_a_run_that_is_stopped_at_any_file_goes_on(run, local, tmp_path):
    handler, expected = handler_of(run), tiny_store.contents(local)
    num_files = 2 + 2 * 6 + 2 + (NUM_ITER_RUN + 1) * 3 + 6
    for number in range(num_files):
        handler.root = tmp_path / f"{number}"
        handler.forget()
        handler.refuses_write = number
        encoded = Counter()
        with pytest.raises(ArtifactError, match=r"cannot be written: RuntimeError: 503 Slow Down\. What is"):
            make(run, encoded)
        handler.refuses_write = -1
        make(run, encoded)
        assert contents(run) == expected
        assert encoded.total() <= COUNT + SHARD_SIZE
        iterations = [path for path in handler.written if "/iteration-" in path and path.endswith("/manifest.json")]
        assert len(iterations) == len(set(iterations)) == NUM_ITER_RUN  # none was done again
    assert len(handler.written) == num_files + 5  # labels begin anew: only the last of their six files was refused


@pytest.mark.parametrize("stage", ["features/train", "codebook", "labels/train"])
def test_a_run_that_is_interrupted_goes_on(run, local, stage, monkeypatch):
    """In the middle of a file, when nothing of it has been handed over."""

    def interrupted(path, write, **options):
        def half(file):
            file.write(b"half")
            raise KeyboardInterrupt

        return write_file(path, half if f"/{stage}/" in str(path) else write, **options)

    write_file = artifacts.write_file
    monkeypatch.setattr(artifacts, "write_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(run)
    monkeypatch.undo()
    make(run)
    assert contents(run) == tiny_store.contents(local)


def extract_elsewhere(root, uri, *args, **options):
    handler_of(uri).root = root
    stage_work.extract(artifact_path(uri), *args, **options)


def test_the_processes_of_a_run_share_the_work_without_leases(run, tmp_path, local):
    log, root, uri, count = tmp_path / "log", handler_of(run).root, str(run / "features"), 30 * SHARD_SIZE
    (tmp_path / "meeting").mkdir()
    options = {"log": log, "pause_s": 0.02}
    alone = Numbers(count, frozenset(range(3, count, 10)))
    with (
        running(extract_elsewhere, root, uri, count, group=(0, 2, tmp_path / "meeting/file"), **options) as first,
        running(extract_elsewhere, root, uri, count, group=(1, 2, tmp_path / "meeting/file"), **options) as second,
    ):
        assert [exit_code(first), exit_code(second)] == [0, 0]
    encoded = Counter(map(int, log.read_text().split()))
    assert sorted(encoded) == list(range(count))
    assert encoded.total() <= count + 2 * SHARD_SIZE
    settings = EncodingSettings(batch_size=stage_work.BATCH_SIZE, shard_size=SHARD_SIZE, max_unreadable=0.5)
    inputs = {"dataset": dataset_inputs(alone.samples)}
    extract_features(alone, lambda: stage_work.encode, tmp_path / "alone", inputs, settings)
    assert contents(uri) == tiny_store.contents(tmp_path / "alone")


# Found


@pytest.mark.parametrize(
    "name", ["features/train/rows-000000000008-000000000016.npy", "codebook/centroids.npy", "labels/train/labels.npy"]
)
def test_a_flipped_byte_is_found(run, name):
    make(run)
    file = handler_of(run).file(f"{run}/{name}")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    artifact = name.rpartition("/")[0]
    problems = wrong(run)
    assert problems[f"{run}/{artifact}"][0].startswith(f"{run}/{name} is not the file that was written")
    assert verify_artifact(run / artifact) == problems[f"{run}/{artifact}"]


def test_features_that_were_damaged_are_not_clustered(run):
    make(run)
    name = "features/train/rows-000000000008-000000000016.npy"
    handler_of(run).file(f"{run}/{name}").write_bytes(b"short")
    with pytest.raises(ArtifactError, match=f"{run}/{name} is not the file that was written"):
        fit_codebook(FeatureStore.open(run / "features" / "train"), SETTINGS, "cpu", run / "again")


@pytest.mark.parametrize(
    "name", ["features/train/rows-000000000008-000000000016.npy", "features/train/samples.npy", "codebook/counts.npy"]
)
def test_a_missing_file_is_named(run, name):
    make(run)
    handler_of(run).file(f"{run}/{name}").unlink()
    assert f"{run}/{name} is missing." in wrong(run)[f"{run}/{name.rpartition('/')[0]}"]


def test_opening_finds_a_missing_shard(run):
    make(run)
    name = "rows-000000000008-000000000016.npy"
    handler_of(run).file(f"{run}/features/train/{name}").unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        FeatureStore.open(run / "features" / "train")


def test_labels_of_another_length_are_refused_when_they_are_read(run):
    labels = make(run)
    artifacts.write_array(labels.folder / "labels.npy", np.zeros(3, dtype=np.int64))
    opened = PseudoLabels.open(labels.folder)
    with pytest.raises(ArtifactError, match=r"labels\.npy must hold \(45,\) of int64"):
        _ = opened.labels


def test_an_artefact_that_was_made_again_is_read_again(run):
    rows = np.arange(24, dtype=np.float32).reshape(12, 2)
    for folder, shift in ((run / "features", 0), (run / "features", 100)):
        handler_of(run).file(str(folder / "manifest.json")).unlink(missing_ok=True)
        for shard in ("rows-000000000000-000000000012.npy", "rows-000000000000-000000000012.json"):
            handler_of(run).file(str(folder / shard)).unlink(missing_ok=True)
        store = save_store(folder, rows + shift)
        np.testing.assert_array_equal(store.read(0, 12), rows + shift)


def test_the_command_checks_a_uri(run, tmp_path):
    make(run)
    environment = {
        **os.environ,
        dependencies.IMPORT_VARIABLE: "fake_s3",
        object_store.ROOT_VARIABLE: str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run([sys.executable, TOOL, f"{run}/"], capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [f"ok     {run}/{name}" for name in ALL]
    assert done.returncode == 0


# Mistakes of the user


def test_a_scheme_without_a_handler_is_named_with_the_setting():
    with pytest.raises(ConfigError) as caught:
        ClusterFitConfig.from_block(
            {"OUTPUT_DIR": "gs://bucket/run", "FEATURES": {"PATH": "gs://bucket/run/features"}, "NUM_CLUSTERS": 4}
        )
    message = str(caught.value)
    assert message.startswith(
        "config.CLUSTERFIT.OUTPUT_DIR: found 'gs://bucket/run', and iopath has no handler for gs://; allowed: a path "
        "of this machine, or a URI that begins with "
    )
    assert "store://" in message
    assert f"name the module in {dependencies.IMPORT_VARIABLE}" in message
    assert "\n" not in message  # FEATURES.PATH follows from OUTPUT_DIR


@pytest.mark.parametrize(
    ("block", "setting"),
    [
        ({"FEATURES": {"PATH": "gs://b/f"}}, "FEATURES.PATH"),
        ({"ASSIGN": {"CODEBOOK": "gs://b/c"}}, "ASSIGN.CODEBOOK"),
        ({"TEACHER": {"WEIGHTS": "gs://b/w.torch"}}, "TEACHER.WEIGHTS"),
    ],
)
def test_every_setting_is_checked(block, setting):
    with pytest.raises(ConfigError, match=rf"^config\.CLUSTERFIT\.{setting}: found 'gs://b/"):
        ClusterFitConfig.from_block(block)


def test_the_command_says_what_it_cannot_reach(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["check_artifacts.py", "gs://bucket/run"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOL), run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: FOLDER: found 'gs://bucket/run', and iopath has no handler")


def test_a_module_of_handlers_that_cannot_be_imported_is_named(monkeypatch):
    monkeypatch.setenv(dependencies.IMPORT_VARIABLE, "no_such_module")
    paths.register_handlers.cache_clear()
    dependencies.import_user_modules.cache_clear()
    with pytest.raises(
        ConfigError, match=f"{dependencies.IMPORT_VARIABLE}: found 'no_such_module', which cannot be imported"
    ):
        artifact_path("store://bucket/run")


@pytest.mark.parametrize(
    ("method", "work"),
    [
        ("_exists", lambda run: artifacts.write_json(run / "file.json", {}, new=True)),
        ("_mkdirs", lambda run: artifacts.write_json(run / "file.json", {})),
        ("_isfile", artifacts.has_manifest),
        ("_ls", wrong),
    ],
)
def test_a_file_system_that_fails_is_named(run, method, work, monkeypatch):
    def fail(path):
        raise RuntimeError("no route to host")

    monkeypatch.setattr(g_pathmgr._path_handlers[f"{str(run).partition(':')[0]}://"], method, fail)
    with pytest.raises(ArtifactError, match=rf"^{run}.* cannot be \w+.*: RuntimeError: no route to host\. What is"):
        work(run)


# The paths themselves


@pytest.mark.parametrize("root", ["store://bucket", "store:///some", "store://"])
def test_a_path_has_the_parts_of_its_uri(root):
    base = artifact_path(root)
    folder = base / "run" / "labels"
    between = "" if root.endswith("/") else "/"
    assert str(folder) == f"{root}{between}run/labels" == f"{folder}"
    assert folder.name == "labels"
    assert str(folder.parent) == f"{root}{between}run"
    assert str(folder.with_name("labels.lease")) == f"{root}{between}run/labels.lease"
    assert folder.parent.parent == base
    assert base.parent.parent == base.parent
    assert pickle.loads(pickle.dumps(folder)) == folder
    assert len({folder, artifact_path(str(folder))}) == 1
    assert sorted([folder, base]) == [base, folder]


def test_builtin_functions_refuse_a_path_of_another_file_system():
    with pytest.raises(TypeError):
        open(artifact_path("store://bucket/file"))  # noqa: SIM115  (it is never open)
    with pytest.raises(TypeError):
        os.listdir(artifact_path("store://bucket/folder"))


@pytest.mark.parametrize("text", ["run", "/data/run", "./a:b", "C:/run", ""])
def test_a_path_of_this_machine_stays_one(text):
    assert artifact_path(text) == Path(text)


def test_results_are_added_to_those_that_are_there(run):
    row = {"benchmark": "knn", "dataset": "d", "split": "test", "metric": "top-1", "protocol": "p", "seed": 0}
    rows = [ResultRow(model=name, value=0.5, **row) for name in ("teacher", "student")]
    append_results(run, rows[:1])
    append_results(run, rows[1:])
    assert read_results(run) == rows
    with pytest.raises(ArtifactError, match="nothing has been evaluated"):
        read_results(run / "elsewhere")


# File systems of this machine that cannot do much


def test_a_file_system_without_maps_links_and_locks(local, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(errno.ENODEV, "no such thing here")

    monkeypatch.setattr(np.lib.format, "open_memmap", refuse)
    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr("fcntl.flock", refuse)
    make(tmp_path / "run")
    monkeypatch.undo()
    assert tiny_store.contents(tmp_path / "run") == tiny_store.contents(local)
    assert not any(wrong(tmp_path / "run").values())


def test_features_from_elsewhere_are_copied_and_named(run, tmp_path):
    rows = np.random.default_rng(0).standard_normal((30, 5)).astype(np.float32)
    names = [f"{number}.jpg" for number in range(30)]
    np.save(tmp_path / "rows.npy", rows)
    store = import_features(tmp_path / "rows.npy", str(run / "features"), names=names)
    np.testing.assert_array_equal(store.read(0, 30), rows)
    codebook = make_codebook(store, str(run / "codebook"), 3)
    labels = make_labels(str(run / "features"), codebook, str(run / "labels"))
    given = import_labels(dict(zip(names, labels.labels.tolist(), strict=True)), str(run / "given"), store)
    assert store.names == labels.names == given.names == names
    assert wrong(run) == {str(run / name): [] for name in ("codebook", "features", "given", "labels")}
