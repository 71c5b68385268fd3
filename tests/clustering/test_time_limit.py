"""A clustering whose time is limited: the very one of more time, cut off, wherever it is stopped and resumed."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_store import contents

from vissl_clusterfit.clustering import fit
from vissl_clusterfit.clustering import kmeans as kmeans_module
from vissl_clusterfit.clustering.minibatches import is_out_of_time, steps, width
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.storage import artifacts


@pytest.fixture(scope="module")
def store(grouped_store):
    return FeatureStore.open(grouped_store)


@pytest.fixture
def clock(monkeypatch):
    """A second passes each time that somebody looks."""
    seconds = itertools.count()
    monkeypatch.setattr(kmeans_module, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))


def cluster(store, folder, **changes):
    usual = {"num_clusters": 12, "num_iter": 30, "growing_sample": False}
    return fit.fit_codebook(store, ClusterFitConfig(**{**usual, **changes}), "cpu", folder)


@given(
    per_pass=st.floats(0.1, 100),
    start=st.floats(0, 100),
    limit=st.floats(0.1, 1000),
    num_iter=st.integers(1, 60),
    growing=st.booleans(),
)
def test_what_is_run_ends_in_time_and_one_more_would_not(per_pass, start, limit, num_iter, growing):
    plan = steps(num_iter, 100_000, 100, growing=growing)
    seconds = [start]
    while len(seconds) <= len(plan) and not is_out_of_time(seconds, plan, limit):
        seconds.append(per_pass * width(plan[len(seconds) - 1]))
    done = len(seconds) - 1
    assert done >= 1
    assert done == 1 or sum(seconds) <= limit * (1 + 1e-9)
    assert done == num_iter or sum(seconds) + per_pass * width(plan[done]) >= limit * (1 - 1e-9)


def test_no_limit_is_never_over():
    assert not is_out_of_time([1e9, 1e9], [((0.0, 1.0),)] * 5, 0.0)


def test_it_is_the_clustering_of_more_time_cut_off(store, tmp_path, clock, caplog):
    limited = cluster(store, tmp_path / "limited", time_limit=10.0)
    facts = limited.manifest
    # The start, nine iterations; a tenth would end after eleven seconds.
    assert (facts["num_iter_run"], facts["timed_out"], facts["converged"]) == (9, True, False)
    assert "seconds" not in facts
    whole = cluster(store, tmp_path / "whole", num_iter=9)
    np.testing.assert_array_equal(limited.centroids, whole.centroids)
    enough = cluster(store, tmp_path / "enough", num_iter=9, time_limit=1000.0)
    assert (enough.manifest["num_iter_run"], enough.manifest["timed_out"]) == (9, False)
    np.testing.assert_array_equal(enough.centroids, whole.centroids)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("after", [1, 5, 9])
def test_the_seconds_before_a_stop_count(store, tmp_path, clock, monkeypatch, after):
    cluster(store, tmp_path / "whole", time_limit=10.0)
    save = fit.save_checkpoint

    def save_some(place, state, *rest):
        save(place, state, *rest)
        if len(state.objective) == after:
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(fit, "save_checkpoint", save_some)
        with pytest.raises(Stopped):
            cluster(store, tmp_path / "stopped", time_limit=10.0)
    kept = artifacts.read_manifest(tmp_path / f"stopped/in_progress/iteration-{after:06d}")
    assert kept["seconds"] == [1.0] * (after + 1)
    cluster(store, tmp_path / "stopped", time_limit=10.0)
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


@pytest.mark.parametrize("other", [{"num_coarse_clusters": 3}, {"also_num_clusters": [5]}])
def test_it_is_for_one_clustering(other):
    block = {"NUM_CLUSTERS": 9, "TIME_LIMIT": 60} | {name.upper(): value for name, value in other.items()}
    with pytest.raises(ConfigError, match="TIME_LIMIT: found 60 with"):
        ClusterFitConfig.from_block(block)
