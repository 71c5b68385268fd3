import json

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from vissl_clusterfit.errors import ConfigError, DataError
from vissl_clusterfit.transfer.knn import KnnSettings, knn_hits
from vissl_clusterfit.transfer.taxonomy import Taxonomy, taxonomy_knn_accuracies

# Two plants and an animal of one genus name, two animals of another.
SPECIES = [
    ["Plantae", "Morus", "M. alba"],
    ["Animalia", "Morus", "M. bassanus"],
    ["Animalia", "Sula", "S. sula"],
    ["Animalia", "Sula", "S. nebouxii"],
    ["Plantae", "Morus", "M. nigra"],
]
LEVELS = ["kingdom", "genus", "species"]


def write(path, levels=LEVELS, classes=SPECIES):
    path.write_text(json.dumps({"levels": levels, "classes": classes}))
    return path


def test_labels_of_a_level_are_paths_down_to_it(tmp_path):
    taxonomy = Taxonomy.load(write(tmp_path / "taxonomy.json"))
    assert taxonomy.labels_at("kingdom").tolist() == [0, 1, 1, 1, 0]
    assert taxonomy.labels_at("genus").tolist() == [0, 1, 2, 2, 0]
    assert taxonomy.labels_at("species").tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("vote", ["weighted", "majority"])
def test_each_level_is_nearest_neighbours_on_the_labels_of_that_level(tmp_path, vote):
    rng = np.random.default_rng(0)
    wanted, present = rng.integers(5, size=60), rng.integers(5, size=120)
    centres = rng.normal(size=(5, 8))
    queries, gallery = (centres[labels] + 1.5 * rng.normal(size=(len(labels), 8)) for labels in (wanted, present))
    taxonomy, settings = Taxonomy.load(write(tmp_path / "t.json")), KnnSettings(num_neighbors=9, vote=vote)
    found = taxonomy_knn_accuracies(queries, wanted, gallery, present, taxonomy, LEVELS, settings)
    for level in LEVELS:
        group = taxonomy.labels_at(level)
        [hits] = knn_hits(queries, group[wanted], gallery, group[present], settings)
        assert found[level] == hits / len(queries), level
        weights = "uniform" if vote == "majority" else lambda distances: np.exp((1 - distances) / settings.temperature)
        peer = KNeighborsClassifier(9, weights=weights, algorithm="brute", metric="cosine")
        peer.fit(gallery, group[present])
        assert found[level] == pytest.approx(peer.score(queries, group[wanted]), abs=1e-12)
    assert 0.3 < found["species"] < found["kingdom"] < 1


def test_a_level_that_it_lacks_is_refused(tmp_path):
    taxonomy = Taxonomy.load(write(tmp_path / "taxonomy.json"))
    message = "config.TRANSFER.TAXONOMY.LEVELS: found order; allowed: kingdom, genus, species"
    with pytest.raises(ConfigError, match=message):
        taxonomy.require(["genus", "order"], "config.TRANSFER.TAXONOMY.LEVELS")


def test_a_class_beyond_the_taxonomy_is_refused(tmp_path):
    taxonomy = Taxonomy.load(write(tmp_path / "taxonomy.json"))
    with pytest.raises(DataError, match="query_labels: found label 5, and a taxonomy of 5 classes"):
        taxonomy_knn_accuracies(
            np.eye(2), np.array([0, 5]), np.eye(2), np.zeros(2, int), taxonomy, LEVELS, KnnSettings(num_neighbors=1)
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is missing: the taxonomy"),
        ("{", "cannot be read as JSON"),
        ("[]", "levels: found None; allowed: a list of different names"),
        ('{"levels": ["a", "a"], "classes": [["x", "y"]]}', r"levels: found \['a', 'a'\]"),
        ('{"levels": ["a"], "classes": []}', r"classes: found \[\]"),
        (
            '{"levels": ["a", "b"], "classes": [["x", "y"], ["x"]]}',
            r"class 1: found \['x'\]; allowed: 2 names, .* a, b",
        ),
        ('{"levels": ["a"], "classes": [[3]]}', r"class 0: found \[3\]"),
    ],
)
def test_files_that_are_no_taxonomy_are_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "t.json").write_text(content)
    with pytest.raises(DataError, match=message):
        Taxonomy.load(tmp_path / "t.json")
