"""What opening an artefact finds by itself, before any hash is computed."""

from pathlib import Path

import pytest
from run_artifacts import CODEBOOK, LABELS, OPEN, SHARD, STORE
from tiny_store import rewrite_manifest

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.verification.verify import verify_artifact


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{STORE}/{SHARD}", "cannot be read as an array"),
        (f"{STORE}/unreadable.npy", "cannot be read as an array"),
        (f"{STORE}/samples.npy", "cannot be read as an array"),
        (f"{LABELS}/samples.npy", "cannot be read as an array"),
        (f"{CODEBOOK}/centroids.npy", "cannot be read as an array"),
        (f"{LABELS}/margins.npy", "cannot be read as an array"),
    ],
)
def test_opening_finds_what_is_truncated_or_missing(run, name, message):
    file = run / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=f"{file.name} {message}"):
        OPEN[str(Path(name).parent)](file.parent)
    file.unlink()
    with pytest.raises(ArtifactError, match=f"{file.name} is missing"):
        OPEN[str(Path(name).parent)](file.parent)


@pytest.mark.parametrize(
    ("folder", "changes", "message"),
    [
        (STORE, {"num_samples": 350}, "do not cover its 350 samples once"),
        (STORE, {"shard_size": 50}, "do not cover its 250 samples once"),
        (STORE, {"shard_size": 0}, "is damaged"),
        (STORE, {"sha256": {}}, "do not cover its 250 samples once"),
        (STORE, {"num_unreadable": 2}, r"unreadable\.npy must hold 2 samples"),
        (CODEBOOK, {"num_points": 250}, r"counts\.npy counts 247 features, the manifest 250"),
        (CODEBOOK, {"num_clusters": 8}, r"centroids\.npy must hold \(8, 4\)"),
        (LABELS, {"num_unlabelled": 4}, r"sizes\.npy counts 247 labels"),
        (LABELS, {"num_samples": 251}, r"labels\.npy must hold \(251,\)"),
    ],
)
def test_opening_finds_shapes_counts_and_coverage_that_do_not_fit(run, folder, changes, message):
    rewrite_manifest(run / folder, **changes)
    with pytest.raises(ArtifactError, match=message):
        OPEN[folder](run / folder)
    assert verify_artifact(run / folder)
