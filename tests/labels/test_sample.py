import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_store import save_codebook, save_store

from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.errors import ArtifactError, ConfigError, DataError
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.labels.sample import draw_balanced, even_shares, shares_over_levels

SIZES = st.lists(st.integers(0, 60), min_size=1, max_size=12)


def poured(sizes, total):
    """One by one, each time to whoever has least and has room."""
    given = np.zeros(len(sizes), dtype=np.int64)
    for _ in range(total):
        room = np.flatnonzero(given < sizes)
        given[room[given[room].argmin()]] += 1
    return given


@settings(max_examples=200, deadline=None)
@given(sizes=SIZES, data=st.data())
def test_shares_are_those_of_water_that_is_poured(sizes, data):
    sizes = np.array(sizes, dtype=np.int64)
    total = data.draw(st.integers(0, int(sizes.sum())))
    keys = np.random.default_rng(data.draw(st.integers(0, 9))).random(len(sizes))
    given = even_shares(sizes, total, keys)
    assert (given <= sizes).all()
    assert sorted(given) == sorted(poured(sizes, total))


@settings(max_examples=100, deadline=None)
@given(sizes=SIZES, data=st.data())
def test_the_coarsest_level_is_balanced_first_and_then_each_below(sizes, data):
    sizes = np.array(sizes, dtype=np.int64)
    middle = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(sizes), max_size=len(sizes))))
    num_middle = int(middle.max()) + data.draw(st.integers(1, 2))  # the last one may be empty
    top = np.array(data.draw(st.lists(st.integers(0, 1), min_size=num_middle, max_size=num_middle)))
    total = data.draw(st.integers(0, int(sizes.sum())))
    given = shares_over_levels(sizes, [middle, top], total, seed=3)
    assert given.sum() == total
    assert (given <= sizes).all()
    of_middle = np.bincount(middle, weights=given, minlength=num_middle).astype(int)
    middle_sizes = np.bincount(middle, weights=sizes, minlength=num_middle).astype(int)
    of_top = np.bincount(top, weights=of_middle).astype(int)
    top_sizes = np.bincount(top, weights=middle_sizes).astype(int)
    assert sorted(of_top) == sorted(poured(top_sizes, total))
    for parent, above, values, below in ((top, of_top, middle_sizes, of_middle), (middle, of_middle, sizes, given)):
        for group, amount in enumerate(above):
            members = parent == group
            assert sorted(below[members]) == sorted(poured(values[members], amount))


@pytest.fixture
def labels(tmp_path):
    """Six clusters on a line, in two groups, of 5 to 160 samples; some samples cannot be read."""
    centroids = np.array([[0], [1], [2], [100], [101], [102]], dtype=np.float32)
    rows = np.repeat(centroids, [160, 80, 40, 20, 10, 5], axis=0)
    rows = np.random.default_rng(0).permutation(rows)
    store = save_store(tmp_path / "features", rows, [0, 7])
    return label_store(store, save_codebook(tmp_path / "codebook", centroids), "cpu", tmp_path / "labels")


def test_clusters_give_alike_or_all_that_they_have(labels):
    drawn = draw_balanced(labels, 60)
    assert len(drawn) == len(set(drawn.tolist())) == 60
    assert (np.diff(drawn) > 0).all()
    assert (labels.labels[drawn] >= 0).all()
    sizes = np.bincount(labels.labels[drawn], minlength=6)
    assert sorted(sizes) == sorted(poured(labels.cluster_sizes, 60))


def test_levels_balance_the_groups(labels, tmp_path):
    drawn = draw_balanced(labels, 60, codebook=tmp_path / "codebook", levels=[2])
    sizes = np.bincount(labels.labels[drawn], minlength=6)
    assert (sizes[:3].sum(), sizes[3:].sum()) == (30, 30)
    assert sizes[:3].tolist() == [10, 10, 10]
    assert len(draw_balanced(labels, 60, codebook=Codebook.open(tmp_path / "codebook"), levels=[3, 1])) == 60


def test_the_same_seed_draws_the_same_and_another_does_not(labels):
    first, again, other = (draw_balanced(labels, 100, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert set(first) != set(other)


def test_all_and_none(labels):
    everyone = draw_balanced(labels, labels.num_samples - labels.num_unlabelled)
    np.testing.assert_array_equal(everyone, np.flatnonzero(labels.labels >= 0))
    assert len(draw_balanced(labels, 0)) == 0


def test_lists_for_others(labels, tmp_path):
    drawn = draw_balanced(labels, 50, path=tmp_path / "list.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "list.npy"), drawn)
    draw_balanced(labels, 50, path=tmp_path / "list.csv")
    with open(tmp_path / "list.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == drawn.tolist()
    assert [int(row["label"]) for row in rows] == labels.labels[drawn].tolist()
    with pytest.raises(ArtifactError, match=r"list\.csv"):
        draw_balanced(labels, 50, path=tmp_path / "list.csv")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"count": 314}, ConfigError, "count: found 314; allowed: 0 to 313"),
        ({"count": -1}, ConfigError, "count: found -1"),
        ({"levels": [2]}, ConfigError, r"levels: found \[2\]; allowed: none without the codebook"),
        ({"levels": [6], "codebook": "codebook"}, ConfigError, r"levels: found \[6\]; allowed: numbers that fall"),
        ({"levels": [2, 3], "codebook": "codebook"}, ConfigError, r"levels: found \[2, 3\]"),
        ({"codebook": "other"}, DataError, "codebook: found another one"),
        ({"path": "list.txt"}, DataError, r"path: found .*list\.txt"),
    ],
)
def test_what_cannot_be_is_refused(labels, tmp_path, options, error, message):
    save_codebook(tmp_path / "other", np.zeros((6, 1), dtype=np.float32))
    places = {name: tmp_path / options[name] for name in ("codebook", "path") if name in options}
    with pytest.raises(error, match=message):
        draw_balanced(labels, **{"count": 10, **options, **places})
    assert not (tmp_path / "list.txt").exists()
