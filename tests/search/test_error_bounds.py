"""The bound holds for what the matrix units give, and is no wider than it must be."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vissl_clusterfit.search import error_bounds

TYPES = [torch.bfloat16, torch.float32]
UNIT_ROUNDOFF = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-24}
# Of the result; in float32 it is one more addition.
RESULT = {torch.bfloat16: 2.0**-8, torch.float32: 0.0}


def errors_and_bounds(rows, centroids, shift, scale, dtype):
    """|T - G| of every score (n, K), the bound on it less the rounding of the result (n,), and the scores G."""
    left, right = (torch.ones(len(vectors), rows.shape[1] + 3, dtype=dtype) for vectors in (rows, centroids))
    prepared, of_centroids = (
        error_bounds.shifted(torch.from_numpy(vectors), torch.from_numpy(shift), scale, operand[:, :-3])
        for vectors, operand in ((rows, left), (centroids, right))
    )
    exact_rows, exact_centroids = (
        (vectors.astype(np.float64) - shift.astype(np.float64)) * scale for vectors in (rows, centroids)
    )
    halves = np.square(exact_centroids).sum(axis=1) / 2
    true = exact_rows @ exact_centroids.T - halves
    # As the search does it: the halved squares are three more columns of the product.
    right[:, -3:] = error_bounds.split_float64(torch.from_numpy(-halves), dtype)
    scores = (left @ right.T).double().numpy()
    bound = error_bounds.score_error(prepared, of_centroids, rows.shape[1]).double().numpy()
    return np.abs(true - scores), bound, scores


def vectors_of(kind, rng, count, dim):
    """(count, dim) float32 near 1: random ones, and such whose rounding errors add up."""
    if kind == "random":
        values = rng.standard_normal((count, dim))
    elif kind == "wide":
        values = rng.standard_normal((count, dim)) * 10.0 ** rng.uniform(-12, 0, (count, dim))
    elif kind == "halfway":  # between two bfloat16 numbers, all rounded down
        values = np.full((count, dim), 1 + 2.0**-8) * 2.0 ** rng.integers(-2, 1, (count, 1))
    elif kind == "cancelling":
        values = np.tile([1 + 2.0**-8, -1 - 2.0**-8], (count, dim))[:, :dim] * rng.uniform(0.5, 1, (count, 1))
    else:  # one large number among small ones
        values = rng.standard_normal((count, dim)) * 1e-5
        values[np.arange(count), rng.integers(0, dim, count)] = 1 + 2.0**-8
    return values.astype(np.float32)


KINDS = ["random", "wide", "halfway", "cancelling", "one"]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
    dim=st.sampled_from([1, 2, 16, 31, 64, 300, 2000]),
    magnitudes=st.tuples(st.sampled_from([1e-9, 1e-3, 1.0, 100.0]), st.sampled_from([1e-3, 1.0, 100.0])),
    offset=st.sampled_from([0.0, 1.0, 1e3]),
    power=st.sampled_from([0, 0, -30, 40]),
    dtype=st.sampled_from(TYPES),
)
def test_no_score_is_farther_from_the_truth_than_the_bound(seed, kinds, dim, magnitudes, offset, power, dtype):
    rng = np.random.default_rng(seed)
    rows, centroids = (
        np.ldexp(vectors_of(kind, rng, 40, dim) * np.float32(magnitude) + np.float32(offset), -power)
        for kind, magnitude in zip(kinds, magnitudes, strict=True)
    )
    shift = centroids.mean(axis=0) if offset else np.zeros(dim, dtype=np.float32)
    errors, bound, scores = errors_and_bounds(rows, centroids, shift, 2.0**power, dtype)
    assert (errors <= bound[:, None] + RESULT[dtype] * np.abs(scores)).all()


@pytest.mark.parametrize("dim", [64, 512, 2048])
def test_the_bound_is_not_wide(dim):
    """Of bfloat16: at most three times the unit roundoff times the norms, and what errors that add up do reach."""
    rng = np.random.default_rng(0)
    zero = np.zeros(dim, dtype=np.float32)
    for kind in KINDS:
        rows, centroids = (vectors_of(kind, rng, 100, dim) for _ in range(2))
        _, bound, _ = errors_and_bounds(rows, centroids, zero, 1.0, torch.bfloat16)
        norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(centroids, axis=1).max()
        assert (bound <= 3 * UNIT_ROUNDOFF[torch.bfloat16] * norms).all()
    rows = np.full((10, dim), 1 + 2.0**-8, dtype=np.float32)
    errors, bound, _ = errors_and_bounds(rows, rows[:1], zero, 1.0, torch.bfloat16)
    assert (errors[:, 0] > 0.5 * bound).all()


def test_in_float32_the_bound_is_that_of_the_additions():
    rng = np.random.default_rng(0)
    rows, centroids = (rng.standard_normal((100, 500)).astype(np.float32) for _ in range(2))
    _, bound, _ = errors_and_bounds(rows, centroids, np.zeros(500, dtype=np.float32), 1.0, torch.float32)
    norms = np.linalg.norm(rows, axis=1) + np.linalg.norm(centroids, axis=1).max()
    assert (bound <= 4 * 510 * UNIT_ROUNDOFF[torch.float32] * norms**2).all()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    best=st.floats(-(2.0**40), 2.0**40, width=32),
    error=st.one_of(st.just(0.0), st.floats(2.0**-100, 2.0**40, width=32)),
    dtype=st.sampled_from(TYPES),
)
def test_what_is_certainly_lower_is(best, error, dtype):
    best = torch.tensor([best]).to(dtype)
    limit = error_bounds.score_threshold(best, torch.tensor([error]), dtype)
    assert limit.dtype == torch.float32
    # The largest score that counts as lower.
    lower = torch.nextafter(limit, torch.full_like(limit, -torch.inf)).double().item()
    least_of_best = best.double().item() - RESULT[dtype] * abs(best.double().item()) - error
    most_of_lower = lower + RESULT[dtype] * abs(lower) + error
    # The search enlarges the error for the rounding in float32, of numbers as large as these.
    assert most_of_lower <= least_of_best + 2.0**-22 * (abs(best.double().item()) + error)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("best", "error"), [(1.0, np.inf), (np.nan, 1.0), (np.inf, 1.0), (1.0, np.nan), (1e38, 3e38)])
def test_where_nothing_is_known_nothing_is_lower(dtype, best, error):
    limit = error_bounds.score_threshold(torch.tensor([best], dtype=dtype), torch.tensor([error]), dtype)
    assert limit.item() == -np.inf


@pytest.mark.parametrize("dtype", TYPES)
def test_pieces_add_up(dtype):
    values = torch.from_numpy(-np.logspace(-30, 30, 1000))
    parts = error_bounds.split_float64(values, dtype)
    assert parts.dtype == dtype
    assert parts.shape == (1000, 3)
    np.testing.assert_allclose(parts.double().sum(dim=1), values, rtol=UNIT_ROUNDOFF[torch.float32])


@pytest.mark.parametrize("dtype", TYPES)
def test_norms_and_residuals_are_no_less_than_they_are(dtype):
    rng = np.random.default_rng(0)
    rows = np.concatenate([vectors_of(kind, rng, 50, 33) * np.float32(10.0**p) for kind in KINDS for p in (-25, 0, 15)])
    shift = rng.standard_normal(33).astype(np.float32)
    for origin, scale in ((np.zeros_like(shift), 1.0), (shift, 1.0), (shift, 2.0**-20)):
        operand = torch.empty(rows.shape, dtype=dtype)
        found = error_bounds.shifted(torch.from_numpy(rows), torch.from_numpy(origin), scale, operand)
        exact = (rows.astype(np.float64) - origin) * scale
        assert (found.norms.double().numpy() >= np.linalg.norm(exact, axis=1) * (1 - 2.0**-20)).all()
        lost = np.linalg.norm(exact - operand.double().numpy(), axis=1)
        assert (found.residuals.double().numpy() >= lost).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_operands_that_are_made_in_parts_are_those_of_the_whole(dtype, monkeypatch):
    rows = torch.from_numpy(vectors_of("random", np.random.default_rng(0), 300, 33))
    shift = rows.mean(dim=0)
    operands = [torch.empty(rows.shape, dtype=dtype) for _ in range(2)]
    whole = error_bounds.shifted(rows, shift, 0.5, operands[0])
    monkeypatch.setattr(error_bounds, "_PART_VALUES", 33 * 7)
    parts = error_bounds.shifted(rows, shift, 0.5, operands[1])
    assert torch.equal(*operands)
    assert torch.equal(whole.norms, parts.norms)
    assert torch.equal(whole.residuals, parts.residuals)
