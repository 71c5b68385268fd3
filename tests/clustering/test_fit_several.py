"""Codebooks of several K in the same passes: the very files that each has alone."""

import contextlib
import dataclasses

import numpy as np
import pytest
import stage_work
from processes import exit_code, running
from tiny_store import contents, save_store

from vissl_clusterfit.clustering import checkpoints, fit, sources
from vissl_clusterfit.clustering.fit import fit_codebook, fit_codebooks
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ConfigError

ALSO = [3, 40]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(sources, "_CHUNK_ROWS", 256)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng = np.random.default_rng(5)
    group = rng.integers(0, 40, 3000)
    rows = (3 * rng.standard_normal((40, 8))[group] + rng.standard_normal((3000, 8))).astype("f4")
    return save_store(tmp_path_factory.mktemp("rows") / "features", rows, [0, 77, 500, 2999], shard_size=700)


def settings_of(folder, kind):
    changes = {"num_clusters": 12, "num_iter": 6, **(stage_work.CLUSTERINGS | stage_work.OTHER_CLUSTERINGS)[kind]}
    return ClusterFitConfig(output_dir=str(folder), also_num_clusters=ALSO, **changes)


def fit_all(store, folder, kind):
    settings = settings_of(folder, kind)
    return fit_codebooks(store, [settings, *settings.also], "cpu")


@pytest.fixture
def expected(store, tmp_path):
    """The files of a run, from codebooks that were made one by one."""

    def make(kind):
        settings = settings_of(tmp_path / "alone", kind)
        for one in (settings, *settings.also):
            fit_codebook(store, one, "cpu", one.paths.codebook)
        return contents(tmp_path / "alone")

    return make


@pytest.mark.parametrize("kind", ["l2", "cosine", "whitened", "raw", "faiss", "random, all features", "a part"])
def test_each_is_what_it_is_alone(store, tmp_path, expected, kind):
    codebooks = fit_all(store, tmp_path / "together", kind)
    assert [codebook.num_clusters for codebook in codebooks] == [12, *ALSO]
    found = contents(tmp_path / "together")
    assert {name.rpartition("/")[0] for name in found} == {"codebook", "also/3/codebook", "also/40/codebook"}
    assert found == expected(kind)


@pytest.mark.parametrize("kind", ["l2", "whitened"])
def test_on_two_processes(store, tmp_path, expected, kind):
    args = (stage_work.cluster, store.folder, tmp_path / "together", kind)
    with contextlib.ExitStack() as stack:
        groups = [(rank, 2, tmp_path / "rendezvous") for rank in range(2)]
        processes = [stack.enter_context(running(*args, group=group, also=ALSO)) for group in groups]
        assert [exit_code(process) for process in processes] == [0, 0]
    assert contents(tmp_path / "together") == expected(kind)


@pytest.mark.parametrize("kind", ["l2", "whitened"])
@pytest.mark.parametrize("num_written", [0, 1, 9, 20, 45])
def test_what_was_stopped_resumes_with_each_from_its_state(store, tmp_path, expected, monkeypatch, kind, num_written):
    save, saved = fit.Codebook.save, iter(range(num_written))

    def save_few(*args, **options):
        if next(saved, None) is None:
            raise KeyboardInterrupt
        return save(*args, **options)

    monkeypatch.setattr(fit.Codebook, "save", save_few)
    try:
        fit_all(store, tmp_path / "together", kind)
    except KeyboardInterrupt:
        stopped = True
    else:
        stopped = False
    assert stopped == (num_written < 3 * 7)
    monkeypatch.setattr(fit.Codebook, "save", save)
    fit_all(store, tmp_path / "together", kind)
    assert contents(tmp_path / "together") == expected(kind)


def test_a_projection_that_differs_in_its_last_bits_is_kept(store, tmp_path, expected, monkeypatch):
    """That of a stopped clustering, when the one that is fitted again is another."""
    wanted = expected("whitened")
    settings = settings_of(tmp_path / "together", "whitened")

    def stop(folder):
        if folder.name == "iteration-000001":
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints, "remove_folder", stop)
    with pytest.raises(KeyboardInterrupt):
        fit_codebook(store, settings, "cpu", settings.paths.codebook)
    monkeypatch.undo()
    monkeypatch.setattr(sources, "_CHUNK_ROWS", 256)
    steps = fit._fit_steps

    def other_steps(raw, settings):
        found = steps(raw, settings)
        return dataclasses.replace(found, components=np.nextafter(found.components, np.float32(9)))

    monkeypatch.setattr(fit, "_fit_steps", other_steps)
    fit_all(store, tmp_path / "together", "whitened")
    found = contents(tmp_path / "together")
    own = {name for name in wanted if name.startswith("codebook/")}
    assert {name: found[name] for name in own} == {name: wanted[name] for name in own}
    assert found["also/3/codebook/pca_components.npy"] != wanted["also/3/codebook/pca_components.npy"]


def test_more_clusters_than_features_are_refused_before_anything_is_made(store, tmp_path):
    settings = dataclasses.replace(settings_of(tmp_path / "together", "l2"), also_num_clusters=[3, 2997])
    with pytest.raises(ConfigError, match="NUM_CLUSTERS: found 2997; allowed: 1 to 2996"):
        fit_codebooks(store, [settings, *settings.also], "cpu")
    assert not (tmp_path / "together").exists()


def test_the_settings_of_further_clusters():
    settings = ClusterFitConfig.from_block({"OUTPUT_DIR": "out/", "NUM_CLUSTERS": 12, "ALSO_NUM_CLUSTERS": [3, 40]})
    assert [one.num_clusters for one in settings.also] == [3, 40]
    assert [str(one.paths.codebook) for one in settings.also] == ["out/also/3/codebook", "out/also/40/codebook"]
    assert {one.paths.features_dir for one in settings.also} == {settings.paths.features_dir}
    assert all(one.also == () for one in settings.also)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"ALSO_NUM_CLUSTERS": [3, 0]}, r"ALSO_NUM_CLUSTERS: found \[3, 0\]; allowed: a list of whole numbers, 1 or"),
        ({"ALSO_NUM_CLUSTERS": [3, "4"]}, "ALSO_NUM_CLUSTERS: found .* allowed: a list of whole numbers"),
        ({"ALSO_NUM_CLUSTERS": [3, True]}, "ALSO_NUM_CLUSTERS: found .* allowed: a list of whole numbers"),
        ({"ALSO_NUM_CLUSTERS": [3, 3]}, r"allowed: different ones, without NUM_CLUSTERS \(12\)"),
        ({"ALSO_NUM_CLUSTERS": [3, 12]}, r"allowed: different ones, without NUM_CLUSTERS \(12\)"),
        ({"ALSO_NUM_CLUSTERS": [300], "DATA_LIMIT": 200}, r"found \[300\]; allowed: at most 200 \(DATA_LIMIT\)\."),
        ({"ALSO_NUM_CLUSTERS": [3], "START": "codebook"}, "START: found 'codebook' with ALSO_NUM_CLUSTERS"),
    ],
)
def test_further_clusters_that_cannot_be_are_refused(block, message):
    with pytest.raises(ConfigError, match=message):
        ClusterFitConfig.from_block({"NUM_CLUSTERS": 12, **block})
