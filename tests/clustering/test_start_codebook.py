"""Going on from a codebook: it is known by its content, and what became of its clusters is said."""

import logging
import shutil

import numpy as np
import pytest
from tiny_store import rewrite_manifest

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.clustering.codebook_inputs import codebook_inputs
from vissl_clusterfit.clustering.fit import fit_codebook
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.config.features import FeatureSettings
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.storage import artifacts


def settings(**changes):
    return ClusterFitConfig(**{"num_clusters": 12, "num_iter": 15, **changes})


def fit(store, folder, **changes):
    return fit_codebook(store, settings(**changes), "cpu", folder)


def test_a_start_is_known_by_its_content(make_store, blobs, tmp_path):
    store = make_store(blobs)
    fit(store, tmp_path / "first", num_iter=3)
    fit(store, tmp_path / "other", num_iter=4)
    shutil.copytree(tmp_path / "first", tmp_path / "elsewhere")

    def of(start):
        return settings(output_dir=str(tmp_path / "run"), num_iter=1, start=str(tmp_path / start))

    made = fit_codebook(store, of("first"), "cpu", of("first").paths.codebook)
    inputs = {name: codebook_inputs(store.inputs, of(name)) for name in ("first", "elsewhere", "other")}
    assert inputs["first"] == inputs["elsewhere"] == made.manifest["inputs"]
    Codebook.open(made.folder, inputs["elsewhere"])
    with pytest.raises(ArtifactError, match=r"settings\.start: it was made with"):
        Codebook.open(made.folder, inputs["other"])
    # What is made does not need it any more.
    shutil.rmtree(tmp_path / "first")
    assert codebook_inputs(store.inputs, of("first")) == made.manifest["inputs"]


@pytest.mark.parametrize("complete", [True, False])
def test_an_older_codebook_knows_its_start_by_name(make_store, blobs, tmp_path, complete):
    store = make_store(blobs)
    fit(store, tmp_path / "first", num_iter=3)
    of = settings(output_dir=str(tmp_path / "run"), num_iter=1, start=str(tmp_path / "first"))
    made = fit_codebook(store, of, "cpu", of.paths.codebook)
    older = made.folder if complete else made.folder / "in_progress" / "iteration-000001"
    if not complete:
        shutil.copytree(made.folder, older)
        artifacts.remove_manifest(made.folder)
    said = {**made.manifest["inputs"], "settings": {**made.manifest["inputs"]["settings"], "start": of.start}}
    rewrite_manifest(older, inputs=said)
    assert codebook_inputs(store.inputs, of) == said
    Codebook.open(older, codebook_inputs(store.inputs, of))


def test_what_became_of_the_clusters_is_said(make_store, tmp_path, caplog):
    """Groups that stay keep their numbers when data are added; one that goes gives its number to a new one."""
    rng = np.random.default_rng(0)
    middles = 20 * np.eye(6, dtype=np.float32)

    def around(which):
        rows = np.repeat(middles[which], 100, axis=0)
        return (rows + 0.1 * rng.standard_normal(rows.shape)).astype(np.float32)

    options = {"num_clusters": 4, "features": FeatureSettings(normalize=False)}
    first = fit(make_store(around([0, 1, 2, 3]), name="first"), tmp_path / "first", num_iter=20, **options)
    of_middle = {int(np.abs(first.centroids - middles[k]).sum(axis=1).argmin()): k for k in range(4)}
    assert len(of_middle) == 4
    more = {"num_iter": 20, "start": str(tmp_path / "first"), **options}
    grown = fit(make_store(around([0, 0, 1, 2, 3, 3]), name="grown"), tmp_path / "grown", **more)
    facts = grown.manifest["since_start"]
    assert (facts["num_moved"], facts["num_split"], facts["num_emptied"]) == (0, 0, 0)
    assert facts["codebook"] == first.content_hash
    np.testing.assert_allclose(grown.centroids, first.centroids, atol=0.2)
    with caplog.at_level(logging.INFO):
        other = fit(make_store(around([0, 1, 2, 2, 4]), name="other"), tmp_path / "other", **more)
    gone = next(number for number, k in of_middle.items() if k == 3)
    kept = [number for number, k in of_middle.items() if k < 3]
    facts = other.manifest["since_start"]
    assert not set(facts["moved"]) & set(kept)
    np.testing.assert_allclose(other.centroids[kept], first.centroids[kept], atol=0.2)
    np.testing.assert_allclose(other.centroids[gone], middles[4], atol=0.2)
    assert "Of the clusters it started from" in caplog.text
