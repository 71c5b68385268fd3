"""Files that are not what was written, and those that cannot be opened safely."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pickled_calls import Reduced
from run_artifacts import CODEBOOK, DONE, LABELS, OPEN, SHARD, STORE, wrong
from tiny_store import edit_manifest, flip_a_bit, rewrite_array, rewrite_manifest

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.verification.verify import verify_artifact


@pytest.mark.parametrize(
    "name",
    [
        *(f"{STORE}/{name}" for name in (SHARD, "samples.npy", "unreadable.npy")),
        *(f"{CODEBOOK}/{name}" for name in ("centroids.npy", "counts.npy", "pca_mean.npy", "pca_components.npy")),
        *(f"{LABELS}/{name}.npy" for name in ("labels", "distances", "margins", "sizes", "samples")),
    ],
)
def test_a_flipped_bit_is_named(run, name):
    file = run / name
    flip_a_bit(file)
    assert set(wrong(run)) == {file.parent}
    [problem] = verify_artifact(file.parent)
    found, expected = artifacts.file_sha256(file), artifacts.read_manifest(file.parent)["sha256"][file.name]
    assert problem == f"{file} is not the file that was written: its SHA-256 is {found}, not {expected}."


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_bit_that_flips_anywhere_is_found(made, data):
    files = sorted(path for path in made.rglob("*") if path.is_file())
    file = data.draw(st.sampled_from(files))
    position, bit = data.draw(st.integers(0, file.stat().st_size - 1)), data.draw(st.integers(0, 7))
    try:
        flip_a_bit(file, position, bit)
        assert file.parent in wrong(made)
    finally:
        flip_a_bit(file, position, bit)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{STORE}/{SHARD}", "cannot be read as an array"),
        (f"{CODEBOOK}/centroids.npy", "cannot be read as an array"),
        (f"{LABELS}/labels.npy", "cannot be read as an array"),
        (f"{STORE}/{DONE}", "cannot be read as JSON"),
        (f"{CODEBOOK}/manifest.json", "cannot be read as JSON"),
    ],
)
def test_a_truncated_file_is_named(run, name, message):
    file = run / name
    file.write_bytes(file.read_bytes()[:-20])
    assert [problem for problem in wrong(run)[file.parent] if problem.startswith(f"{file} {message}")]


@pytest.mark.parametrize(
    "name", [f"{STORE}/{SHARD}", f"{STORE}/{DONE}", f"{LABELS}/margins.npy", "codebook/counts.npy"]
)
def test_a_missing_file_is_named(run, name):
    file = run / name
    file.unlink()
    assert f"{file} is missing." in wrong(run)[file.parent]


@pytest.mark.parametrize("folder", [STORE, CODEBOOK, LABELS])
def test_a_missing_manifest_is_named(run, folder):
    (run / folder / "manifest.json").unlink()
    message = f"{run / folder} is incomplete: it has no manifest.json. Run its stage again; it resumes."
    assert wrong(run)[run / folder] == [message]


@pytest.mark.parametrize("folder", [STORE, CODEBOOK, LABELS])
def test_an_edited_manifest_is_named(run, folder):
    edit_manifest(run / folder, inputs={**artifacts.read_manifest(run / folder)["inputs"], "seed": 1})
    [problem] = wrong(run)[run / folder]
    assert problem.startswith(f"{run / folder}/manifest.json was edited or damaged: it is not what was written.")
    with pytest.raises(ArtifactError, match="was edited or damaged"):
        OPEN[folder](run / folder)


@pytest.mark.parametrize("folder", [STORE, CODEBOOK, LABELS])
def test_a_newer_format_is_named(run, folder):
    edit_manifest(run / folder, format=2)
    [problem] = wrong(run)[run / folder]
    assert problem.startswith(f"{run / folder}: found format 2; this version of vissl-clusterfit reads formats up to 1")
    with pytest.raises(ArtifactError, match="found format 2"):
        OPEN[folder](run / folder)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (f"{STORE}/{SHARD}", np.zeros((99, 6), np.float32), r"must hold (100, 6) of float32, found (99, 6) of float32"),
        (
            f"{STORE}/{SHARD}",
            np.zeros((100, 6), np.float16),
            r"must hold (100, 6) of float32, found (100, 6) of float16",
        ),
        (f"{LABELS}/labels.npy", np.zeros(250, np.int32), r"must hold (250,) of int64, found (250,) of int32"),
        (f"{LABELS}/samples.npy", np.zeros(251, np.uint64), r"must hold (250,) of uint64, found (251,) of uint64"),
    ],
)
def test_another_shape_or_dtype_is_named(run, name, array, message):
    rewrite_array((run / name).parent, (run / name).name, array)
    with pytest.raises(ArtifactError, match=f"{Path(name).name} must hold"):
        OPEN[str(Path(name).parent)](Path(run / name).parent)
    assert any(problem.startswith(f"{run / name} {message}") for problem in wrong(run)[(run / name).parent])


# What cannot be opened safely


@pytest.mark.parametrize(
    "name",
    ["../../codebook/centroids.npy", "/etc/hostname", "..", "leases/../../x.npy", "rows-000000000300-000000000400.npy"],
)
@pytest.mark.parametrize("folder", [STORE, CODEBOOK, LABELS])
def test_a_name_that_is_not_ours_is_named_and_not_read(run, folder, name):
    rewrite_manifest(run / folder, sha256={**artifacts.read_manifest(run / folder)["sha256"], name: "0" * 64})
    message = f"manifest.json names {name!r}, which is no file of this artefact; it was not read."
    assert f"{run / folder}/{message}" in verify_artifact(run / folder)


@pytest.mark.parametrize(
    "name", [f"{STORE}/{SHARD}", f"{STORE}/{DONE}", f"{CODEBOOK}/manifest.json", f"{LABELS}/labels.npy"]
)
def test_a_link_out_of_the_folder_is_named_and_not_read(run, tmp_path, name):
    file = run / name
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert f"{file} is a link that leaves the folder of the artefact; it was not read." in wrong(run)[file.parent]


def test_a_link_inside_of_the_folder_is_well(run):
    (run / STORE / SHARD).rename(run / STORE / "kept.npy")
    (run / STORE / SHARD).symlink_to("kept.npy")
    assert wrong(run) == {}


@pytest.mark.parametrize("name", [SHARD, DONE, "manifest.json"])
def test_a_pipe_is_not_read(run, name):
    (run / STORE / name).unlink()
    os.mkfifo(run / STORE / name)
    assert f"{run / STORE / name} is not a regular file." in wrong(run)[run / STORE]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", [STORE, f"{STORE}/{SHARD}", f"{STORE}/manifest.json"])
def test_what_may_not_be_read_is_named(run, name):
    (run / name).chmod(0)
    problems = wrong(run)
    (run / name).chmod(0o700)
    assert "Permission denied" in problems[run / STORE][0]


@pytest.mark.parametrize("packed", ["array", "pickle", "archive"])
@pytest.mark.parametrize(
    "name", [f"{STORE}/{SHARD}", f"{STORE}/unreadable.npy", "codebook/counts.npy", f"{LABELS}/labels.npy"]
)
def test_a_malicious_pickle_is_not_run(run, tmp_path, name, packed):
    file, objects = run / name, np.array([Reduced(Path.touch, (tmp_path / "marker",))], dtype=object)
    with open(file, "wb") as target:
        if packed == "array":
            np.save(target, objects, allow_pickle=True)
        elif packed == "archive":
            np.savez(target, objects)
        else:
            pickle.dump(objects[0], target)
    digests = {**artifacts.read_manifest(file.parent)["sha256"], file.name: artifacts.file_sha256(file)}
    rewrite_manifest(file.parent, sha256=digests)
    assert any(problem.startswith(str(file)) for problem in wrong(run)[file.parent])
    if packed != "archive":
        with pytest.raises(ArtifactError, match="cannot be read as an array"):
            OPEN[str(Path(name).parent)](file.parent)
    assert not (tmp_path / "marker").exists()
    if packed == "array":
        np.load(file, allow_pickle=True)
        assert (tmp_path / "marker").exists(), "the pickle would have run"
