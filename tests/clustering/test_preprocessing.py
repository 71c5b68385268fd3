import logging
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits
from tiny_store import save_codebook

from vissl_clusterfit.clustering import sources
from vissl_clusterfit.clustering.preprocessing import IN_FLOAT32, Preprocessing, fit_preprocessing, unit_rows
from vissl_clusterfit.clustering.projection import rounded_components
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


def projections(dim: int, num_components: int, offset: float = 0.0) -> Preprocessing:
    rng = np.random.default_rng(dim)
    components = rng.standard_normal((num_components, dim)) * 10.0 ** rng.integers(-3, 3, (num_components, 1))
    return Preprocessing(False, np.full(dim, offset, dtype=np.float32), rounded_components(components))


@pytest.mark.parametrize(("dim", "num_components"), [(1, 1), (3, 2), (48, 40), (2048, 64), (8193, 5)])
def test_the_projection_of_a_row_does_not_depend_on_its_place(dim, num_components):
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((300, dim)) * 10.0 ** rng.integers(-20, 20, (300, 1))).astype(np.float32)
    steps = projections(dim, num_components)
    expected = steps.apply(rows)
    exact = rows.astype(np.float64) @ steps.components.T.astype(np.float64)
    longest = np.linalg.norm(rows.astype(np.float64), axis=1)[:, None] * np.linalg.norm(steps.components, axis=1)
    assert (np.abs(expected - exact) <= 2.0**-23 * longest).all()
    for threads in (1, 2, 3):
        with threadpool_limits(threads):
            for low, high in ((0, 1), (7, 8), (5, 7), (1, 258), (44, 300), (299, 300)):
                np.testing.assert_array_equal(steps.apply(rows[low:high]), expected[low:high])


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_products_of_rounded_operands_are_exact(data):
    """Held against whole numbers of any length."""
    dim, rng = data.draw(st.integers(1, 300)), np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    steps = projections(dim, 3)
    # Numbers of up to 24 bits below the largest: nothing is rounded but the result.
    rows = np.ldexp(rng.integers(-(2**24), 2**24, (4, dim)), data.draw(st.integers(-60, 60))).astype(np.float32)
    expected = [
        [
            float(sum(Fraction(float(x)) * Fraction(float(c)) for x, c in zip(row, of, strict=True)))
            for of in steps.components
        ]
        for row in rows
    ]
    np.testing.assert_array_equal(steps.apply(rows), np.array(expected).astype(np.float32))


@pytest.mark.parametrize("dim", [2, 8192, 8193, 10_000, 20_000])
def test_the_norm_of_a_row_does_not_depend_on_its_place(dim):
    rows = np.random.default_rng(0).standard_normal((5, dim)).astype(np.float32)
    expected = unit_rows(rows)
    for low, high in ((0, 1), (4, 5), (1, 3)):
        np.testing.assert_array_equal(unit_rows(rows[low:high]), expected[low:high])


def test_the_number_of_threads_changes_no_bit_of_a_projection(correlated):
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((3000, 600)).astype(np.float32) @ rng.standard_normal((600, 600)).astype(np.float32)
    fitted, before = [], torch.get_num_threads()
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            fitted.append(fit_preprocessing(ArraySource(rows), normalize=True, num_components=40, whiten=True))
    torch.set_num_threads(before)
    assert fitted[0].equals(fitted[1])
    assert fitted[0].equals(fitted[2])


def test_an_older_codebook_projects_as_it_did(correlated, tmp_path):
    """Its manifest does not say how: by a product in float32."""
    mean, components = correlated.mean(axis=0), np.linalg.svd(correlated - correlated.mean(axis=0))[2][:5]
    older = Preprocessing(False, mean, components, product=IN_FLOAT32)
    made = save_codebook(tmp_path / "older", older.apply(correlated[:3]), older, input_dim=12)
    assert "product" not in made.manifest["preprocessing"]
    np.testing.assert_array_equal(made.preprocessing.apply(correlated), (correlated - mean) @ components.T)
    newer = Preprocessing(False, mean, rounded_components(components))
    made = save_codebook(tmp_path / "newer", newer.apply(correlated[:3]), newer, input_dim=12)
    assert made.manifest["preprocessing"]["product"] == "exact"
    assert made.preprocessing.equals(newer)
    assert not made.preprocessing.equals(older)
