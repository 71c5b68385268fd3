"""The functions of a notebook: from an array to labels on disk, and what they refuse."""

import numpy as np
import pytest
from tiny_store import contents

import vissl_clusterfit as cf
from vissl_clusterfit.errors import ArtifactError, ConfigError, DataError

ROWS = np.random.default_rng(5).standard_normal((3000, 6)).astype(np.float32)


@pytest.fixture
def codebook(tmp_path):
    return cf.make_codebook(ROWS, tmp_path / "codebook", 11, num_iter=5)


def test_ten_lines_from_an_array_to_labels_on_disk(tmp_path):
    features = cf.import_features(ROWS, tmp_path / "features", names=[f"{number}.jpg" for number in range(3000)])
    codebook = cf.make_codebook(features, tmp_path / "codebook", num_clusters=11)
    labels = cf.make_labels(features, codebook, tmp_path / "labels")
    assert labels.names[7] == "7.jpg"
    assert cf.check_artifacts(tmp_path) == {tmp_path / name: [] for name in ("codebook", "features", "labels")}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rows_in_memory_get_the_labels_that_are_written(tmp_path, dtype):
    rows = ROWS.astype(dtype)
    codebook = cf.make_codebook(rows, tmp_path / "codebook", 11, num_components=4, whiten=True)
    made = cf.make_labels(rows, tmp_path / "codebook", tmp_path / "labels", top_clusters=3, max_distance=3.0)
    found = cf.label_rows(rows, codebook, top_clusters=3, max_distance=3.0)
    for name in ("labels", "distances", "margins", "nearest", "nearest_distances"):
        np.testing.assert_array_equal(getattr(found, name), getattr(made, name))
    assert (found.labels < 0).any()
    assert cf.label_rows(rows[:1], codebook).nearest is None


def test_the_same_call_opens_what_is_there_and_another_is_refused(tmp_path, codebook):
    labels = cf.make_labels(ROWS, codebook, tmp_path / "labels")
    before = contents(tmp_path)
    assert cf.make_codebook(ROWS, tmp_path / "codebook", 11, num_iter=5).content_hash == codebook.content_hash
    assert cf.make_labels(ROWS, codebook, tmp_path / "labels").folder == labels.folder
    with pytest.raises(ArtifactError, match=r"num_clusters: it was made with 11, this run has 12\n.*\(folder\)"):
        cf.make_codebook(ROWS, tmp_path / "codebook", 12, num_iter=5)
    with pytest.raises(ArtifactError, match=r"features\.rows: it was made with"):
        cf.make_codebook(ROWS + 1, tmp_path / "codebook", 11, num_iter=5)
    with pytest.raises(ArtifactError, match=r"top_clusters: it was made with null, this run has 2"):
        cf.make_labels(ROWS, codebook, tmp_path / "labels", top_clusters=2)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_clusters": 0}, r"^num_clusters: found 0"),
        ({"num_clusters": 3001}, r"^num_clusters: found 3001; allowed: 1 to 3000"),
        ({"num_components": 7}, r"^num_components: found 7; allowed: 0 to 6"),
        ({"whiten": True}, r"^whiten: found true without num_components"),
        ({"num_coarse_clusters": 11}, r"^num_coarse_clusters: found 11, not less than num_clusters"),
        ({"metric": "dot"}, r"^metric: found 'dot'"),
        ({"start": "nowhere"}, r"^start: found 'nowhere'"),
        ({"seed": -1}, r"^seed: found -1"),
        ({"device": "cuda"}, r"^device: found gpu, but PyTorch sees none"),
        ({"backend": "cuml"}, r"^backend: found 'cuml'"),
    ],
)
def test_a_wrong_setting_is_named_as_it_was_given(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message) as error:
        cf.make_codebook(ROWS, tmp_path / "codebook", **{"num_clusters": 11, **changes})
    assert "CLUSTERFIT" not in str(error.value)
    assert not (tmp_path / "codebook").exists()


def test_rows_and_labels_that_do_not_fit_are_refused(tmp_path, codebook):
    with pytest.raises(DataError, match="rows: found 5 columns; allowed: 6"):
        cf.label_rows(ROWS[:, :5], codebook)
    with pytest.raises(DataError, match=r"rows: 1 of 3000 rows are NaN, or infinite in float32: rows 4\."):
        cf.label_rows(np.where(np.arange(3000)[:, None] == 4, np.nan, ROWS), codebook)
    with pytest.raises(ConfigError, match="top_clusters: found 12; allowed: 1 to 11"):
        cf.label_rows(ROWS, codebook, top_clusters=12)
    with pytest.raises(ConfigError, match="top_clusters: found 12; allowed: 1 to 11"):
        cf.make_labels(ROWS, codebook, tmp_path / "labels", top_clusters=12)
    with pytest.raises(ConfigError, match=r"max_cluster_size: found 0\.5; allowed: 0 for no bound, or 1 or more"):
        cf.make_labels(ROWS, codebook, tmp_path / "labels", max_cluster_size=0.5)
    with pytest.raises(ConfigError, match="max_cluster_size: found both"):
        cf.make_labels(ROWS, codebook, tmp_path / "labels", max_cluster_size=2, max_distance=1)
    with pytest.raises(ArtifactError, match="holds no artefact: its manifest"):
        cf.open_artifact(tmp_path)
    with pytest.raises(ArtifactError, match="There is no artefact in"):
        cf.check_artifacts(tmp_path / "codebook", tmp_path / "nowhere")
    assert not (tmp_path / "labels").exists()


def test_each_kind_is_opened_and_damage_is_told(tmp_path, codebook):
    labels = cf.make_labels(ROWS, codebook, tmp_path / "labels")
    store = cf.import_features(ROWS, tmp_path / "features")
    for artifact in (codebook, labels, store):
        assert type(cf.open_artifact(artifact.folder)) is type(artifact)
    (tmp_path / "labels" / "margins.npy").write_bytes(b"")
    problems = cf.check_artifacts(tmp_path)
    assert [folder.name for folder, found in problems.items() if found] == ["labels"]
