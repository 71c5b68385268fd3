"""Neighbours and the map of centroids, against all distances and against scikit-learn."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from vissl_clusterfit.browse.centroids import neighbours, plane_of
from vissl_clusterfit.errors import MissingDependencyError

CENTROIDS = np.random.default_rng(4).standard_normal((60, 10)).astype(np.float32)


def test_neighbours_are_the_nearest_others():
    others, distances = neighbours(CENTROIDS, 4)
    expected = ((CENTROIDS[:, None] - CENTROIDS) ** 2).sum(axis=2)
    np.fill_diagonal(expected, np.inf)
    np.testing.assert_array_equal(others, expected.argsort(axis=1)[:, :4])
    np.testing.assert_allclose(distances, np.sort(expected, axis=1)[:, :4], rtol=1e-4)


def test_a_centroid_is_not_its_own_neighbour_where_others_are_the_same():
    others, distances = neighbours(np.repeat(CENTROIDS[:2], 4, axis=0), 3)
    for cluster, found in enumerate(others):
        assert sorted(found) == sorted({*range(cluster // 4 * 4, cluster // 4 * 4 + 4)} - {cluster})
    assert not distances.any()


@pytest.mark.parametrize("num_clusters", [1, 2, 3])
def test_of_few_clusters_all_others_are_neighbours(num_clusters):
    assert neighbours(CENTROIDS[:num_clusters], 5)[0].shape == (num_clusters, num_clusters - 1)


def test_the_map_is_that_of_a_pca():
    placed, how = plane_of(CENTROIDS, "pca")
    pca = PCA(2).fit(CENTROIDS.astype(np.float64))
    expected = pca.transform(CENTROIDS.astype(np.float64))
    signs = np.sign((placed * expected).sum(axis=0))
    np.testing.assert_allclose(placed * signs, expected, atol=1e-5)
    assert how == f"PCA: its two axes have {pca.explained_variance_ratio_.sum():.0%} of the variance"


@pytest.mark.parametrize("centroids", [CENTROIDS[:1], CENTROIDS[:, :1], np.zeros((3, 4), dtype=np.float32)])
def test_what_has_no_plane_lies_in_one(centroids):
    placed, _ = plane_of(centroids, "pca")
    assert placed.shape == (len(centroids), 2)
    assert np.isfinite(placed).all()


def test_umap_says_how_to_install_it():
    try:
        import umap  # noqa: F401
    except ImportError:
        with pytest.raises(MissingDependencyError, match="umap-learn"):
            plane_of(CENTROIDS, "umap")
    else:
        assert plane_of(CENTROIDS, "umap")[0].shape == (60, 2)
