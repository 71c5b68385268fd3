import subprocess
import sys

import numpy as np
import pytest
import torch

from vissl_clusterfit.errors import ConfigError, DataError
from vissl_clusterfit.transfer.neighbors import nearest_neighbors


def collect(*args, **kwargs):
    cosines, indices = zip(*nearest_neighbors(*args, **kwargs), strict=True)
    return torch.cat(cosines).cpu().numpy(), torch.cat(indices).cpu().numpy()


def unit(rows):
    rows = rows.astype(np.float64)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def brute_force(queries, gallery, num_neighbors):
    """All cosines, one pair at a time, sorted; of equal ones the first."""
    cosines = np.round(np.array([[a @ b for b in unit(gallery)] for a in unit(queries)]), 9)
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :num_neighbors]
    return np.take_along_axis(cosines, order, axis=1), order


def crowded(num_distinct, copies, num_queries, dim=16, seed=0):
    """A gallery in which each sample is there several times, so that every query has ties."""
    generator = np.random.default_rng(seed)
    gallery = np.repeat(generator.normal(size=(num_distinct, dim)), copies, axis=0)
    return generator.normal(size=(num_queries, dim)), gallery[generator.permutation(len(gallery))]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("num_neighbors", [1, 7, 90])
def test_agrees_with_brute_force(dtype, num_neighbors):
    generator = np.random.default_rng(1)
    queries = generator.normal(size=(40, 12)).astype(dtype)
    gallery = generator.normal(size=(90, 12)).astype(dtype)
    cosines, indices = collect(queries, gallery, num_neighbors, query_chunk=16, gallery_chunk=32)
    expected_cosines, expected_indices = brute_force(queries, gallery, num_neighbors)
    np.testing.assert_array_equal(indices, expected_indices)
    np.testing.assert_allclose(cosines, expected_cosines, atol=3e-9)


@pytest.mark.parametrize("product_type", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("order", ["drawn", "nearest last", "nearest first"])
@pytest.mark.parametrize("num_neighbors", [1, 20, 200])
def test_a_product_in_few_bits_misses_nobody(monkeypatch, product_type, order, num_neighbors):
    """Far more samples lie within the rounding of bfloat16 of the last neighbour than there are neighbours."""
    monkeypatch.setattr("vissl_clusterfit.transfer.neighbors.fast_product_type", lambda device: product_type)
    generator = np.random.default_rng(5)
    queries = 1 + 0.02 * generator.normal(size=(30, 24))
    gallery = (1 + 0.02 * generator.normal(size=(3000, 24))).astype(np.float32)
    sides = {"drawn": 0, "nearest last": 1, "nearest first": -1}
    gallery = gallery[np.argsort(sides[order] * gallery.sum(axis=1) / np.linalg.norm(gallery, axis=1), kind="stable")]
    grid = np.round(unit(queries) @ unit(gallery).T * 2**30)  # many lie within 1e-9 of each other
    expected = np.argsort(-grid, axis=1, kind="stable")[:, :num_neighbors]
    np.testing.assert_array_equal(collect(queries, gallery, num_neighbors, gallery_chunk=700)[1], expected)


def test_of_equally_similar_samples_the_first_comes_first():
    queries, gallery = crowded(num_distinct=6, copies=30, num_queries=25)
    _, indices = collect(queries, gallery, 45, gallery_chunk=50)
    np.testing.assert_array_equal(indices, brute_force(queries, gallery, 45)[1])


@pytest.mark.parametrize(("query_chunk", "gallery_chunk"), [(1, 1), (3, 7), (200, 64), (1024, 8192)])
def test_chunks_do_not_change_a_bit(query_chunk, gallery_chunk):
    queries, gallery = crowded(num_distinct=20, copies=8, num_queries=23, dim=33)
    expected = collect(queries, gallery, 21, query_chunk=23, gallery_chunk=160)
    cosines, indices = collect(queries, gallery, 21, query_chunk=query_chunk, gallery_chunk=gallery_chunk)
    np.testing.assert_array_equal(cosines, expected[0])
    np.testing.assert_array_equal(indices, expected[1])


def test_the_length_of_a_feature_does_not_matter():
    generator = np.random.default_rng(2)
    queries, gallery = generator.normal(size=(10, 8)), generator.normal(size=(50, 8))
    lengths = generator.uniform(0.01, 100, size=(50, 1))
    np.testing.assert_array_equal(collect(queries * 3, gallery * lengths, 9)[1], collect(queries, gallery, 9)[1])


def test_a_zero_feature_has_cosine_zero_with_everything():
    gallery = np.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    cosines, indices = collect(np.array([[2.0, 0.0], [0.0, 0.0]]), gallery, 3)
    assert indices.tolist() == [[2, 1, 0], [0, 1, 2]]
    assert cosines.tolist() == [[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]]


def test_tensors_and_memory_mapped_files_are_read_like_arrays(tmp_path, recwarn):
    generator = np.random.default_rng(3)
    queries, gallery = generator.normal(size=(9, 5)).astype("f"), generator.normal(size=(30, 5)).astype("f")
    np.save(tmp_path / "gallery.npy", gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    expected = collect(queries, gallery, 4)[1]
    np.testing.assert_array_equal(collect(queries, mapped, 4, gallery_chunk=7)[1], expected)
    np.testing.assert_array_equal(collect(torch.from_numpy(queries), torch.from_numpy(gallery), 4)[1], expected)
    assert not recwarn.list


def test_inputs_are_left_as_they_are():
    queries, gallery = torch.full((2, 3), 2.0, dtype=torch.float64), torch.eye(3, dtype=torch.float64) * 5
    collect(queries, gallery, 2)
    assert queries.eq(2.0).all()
    assert gallery.equal(torch.eye(3, dtype=torch.float64) * 5)


def test_memory_does_not_grow_with_the_pairs():
    # 2,000 x 80,000 similarities would take 1.3 GB.
    script = """
import resource, numpy as np, torch
from vissl_clusterfit.transfer.neighbors import nearest_neighbors
features = np.random.default_rng(0).normal(size=(80_000, 4)).astype("f")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for _ in nearest_neighbors(features[:2000], features, 5): pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 400  # MB; one block of the default size takes 64


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_gives_the_same_bits_as_cpu():
    queries, gallery = crowded(num_distinct=400, copies=5, num_queries=300, dim=64)
    expected = collect(queries, gallery, 30)
    cosines, indices = collect(queries, gallery, 30, device="cuda", gallery_chunk=512)
    np.testing.assert_array_equal(indices, expected[1])
    np.testing.assert_array_equal(cosines, expected[0])


@pytest.mark.parametrize("num_neighbors", [0, 6])
def test_more_neighbors_than_samples_are_refused(num_neighbors):
    message = f"num_neighbors: found {num_neighbors}; allowed: 1 to 5, the number of gallery samples"
    with pytest.raises(ConfigError, match=message):
        collect(np.ones((2, 3)), np.ones((5, 3)), num_neighbors)


@pytest.mark.parametrize(
    ("queries", "gallery", "message"),
    [
        (np.ones((0, 3)), np.ones((5, 3)), r"queries: found shape \(0, 3\); allowed: \(samples, dim\)"),
        (np.ones((2, 3)), np.ones((0, 3)), r"gallery: found shape \(0, 3\)"),
        (np.ones((2, 3)), np.ones((5, 3, 1)), r"gallery: found shape \(5, 3, 1\)"),
        (np.ones((2, 4)), np.ones((5, 3)), "queries: found 4 dimensions; allowed: 3, as in gallery"),
    ],
)
def test_features_that_do_not_fit_are_refused(queries, gallery, message):
    with pytest.raises(DataError, match=message):
        collect(queries, gallery, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused_with_their_row(value):
    gallery = np.ones((20, 3))
    gallery[13, 1] = value
    with pytest.raises(DataError, match="gallery: found NaN or infinity in row 13; allowed: finite features"):
        collect(np.ones((2, 3)), gallery, 1, gallery_chunk=6)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_a_gpu_is_refused_where_there_is_none():
    with pytest.raises(ConfigError, match="device: found cuda, but no GPU is usable here; allowed: cpu"):
        collect(np.ones((2, 3)), np.ones((5, 3)), 1, device="cuda")
