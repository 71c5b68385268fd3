import logging

import numpy as np
import pytest
from sklearn.decomposition import PCA

from vissl_clusterfit.clustering import sources
from vissl_clusterfit.clustering.preprocessing import Preprocessing, fit_preprocessing, unit_rows
from vissl_clusterfit.clustering.sources import ArraySource
from vissl_clusterfit.errors import ConfigError


@pytest.fixture
def correlated() -> np.ndarray:
    """(900, 12) float32, with a mean far from zero and variances that differ."""
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((900, 12)) * np.linspace(1, 4, 12) @ rng.standard_normal((12, 12)) + 50
    return rows.astype(np.float32)


@pytest.mark.parametrize("whiten", [False, True])
def test_projection_equals_sklearn(monkeypatch, correlated, whiten):
    monkeypatch.setattr(sources, "_CHUNK_ROWS", 256)
    ours = fit_preprocessing(ArraySource(correlated), normalize=False, num_components=5, whiten=whiten)
    theirs = PCA(5, whiten=whiten, svd_solver="full").fit(correlated.astype(np.float64))
    expected = theirs.transform(correlated.astype(np.float64))
    np.testing.assert_allclose(ours.apply(correlated), expected, atol=2e-5 * np.abs(expected).max())


def test_projection_is_fitted_on_normalised_features(correlated):
    ours = fit_preprocessing(ArraySource(correlated), normalize=True, num_components=12)
    unit = correlated / np.linalg.norm(correlated.astype(np.float64), axis=1, keepdims=True)
    expected = PCA(12, svd_solver="full").fit_transform(unit)
    np.testing.assert_allclose(ours.apply(correlated), expected, atol=1e-5 * np.abs(expected).max())


def test_a_large_offset_costs_no_digits():
    rng = np.random.default_rng(0)
    rows = (1000 + rng.standard_normal((500, 4)) * [1, 0.5, 0.25, 0.125]).astype(np.float32)
    ours = fit_preprocessing(ArraySource(rows), normalize=False, num_components=4, whiten=True)
    np.testing.assert_allclose(np.cov(ours.apply(rows).T.astype(np.float64)), np.eye(4), atol=1e-3)


def test_whitening_sets_components_without_variance_to_zero(caplog):
    rows = np.random.default_rng(0).standard_normal((50, 2)).astype(np.float32)
    rows = np.hstack([rows, rows])
    ours = fit_preprocessing(ArraySource(rows), normalize=False, num_components=4, whiten=True)
    out = ours.apply(rows)
    assert np.abs(out[:, 2:]).max() == 0
    np.testing.assert_allclose(out[:, :2].std(axis=0, ddof=1), 1, rtol=1e-5)
    assert "2 of 4 principal components have no variance" in caplog.text


def test_whitening_of_equal_features_gives_zeros():
    rows = np.ones((10, 3), dtype=np.float32)
    ours = fit_preprocessing(ArraySource(rows), normalize=False, num_components=2, whiten=True)
    np.testing.assert_array_equal(ours.apply(rows), np.zeros((10, 2)))


def test_held_out_features_go_through_the_same_map(correlated):
    ours = fit_preprocessing(ArraySource(correlated[:600]), normalize=True, num_components=3, whiten=True)
    np.testing.assert_allclose(ours.apply(correlated)[600:], ours.apply(correlated[600:]), rtol=1e-5, atol=1e-6)


def test_share_of_variance_is_logged(caplog, correlated):
    with caplog.at_level(logging.INFO):
        fit_preprocessing(ArraySource(correlated), normalize=False, num_components=12)
    assert "PCA keeps 12 of 12 dimensions and 100.0 % of the variance." in caplog.text


@pytest.mark.parametrize(("rows", "limit"), [((900, 12), 12), ((9, 12), 9)])
def test_too_many_components_are_refused(correlated, rows, limit):
    source = ArraySource(correlated[: rows[0], : rows[1]])
    with pytest.raises(ConfigError, match=rf"DIMENSIONALITY_REDUCTION: found 13; allowed: 0 to {limit} .*Lower it"):
        fit_preprocessing(source, normalize=False, num_components=13)


def test_no_projection_needs_no_pass_over_the_data(correlated):
    source = ArraySource(np.full((3, 2), np.nan, dtype=np.float32))
    fitted = fit_preprocessing(source, normalize=True, unit_output=True)
    assert (fitted.normalize, fitted.mean, fitted.components, fitted.unit_output) == (True, None, None, True)


def test_identity_by_default(correlated):
    np.testing.assert_array_equal(Preprocessing().apply(correlated), correlated)


def test_output_is_of_unit_norm_when_asked(correlated):
    ours = fit_preprocessing(ArraySource(correlated), normalize=False, num_components=3, unit_output=True)
    np.testing.assert_allclose(np.linalg.norm(ours.apply(correlated), axis=1), 1, rtol=1e-6)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1.0, 1e20, 3e38])
def test_unit_rows_of_any_magnitude(scale):
    rows = np.array([[0.6, 0.8], [1, 1], [0, 0]], dtype=np.float32) * np.float32(scale)
    expected = [[0.6, 0.8], [0.5**0.5, 0.5**0.5], [0, 0]]
    found = unit_rows(rows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
