"""Labels are those of exact arithmetic, whatever computes them: brute force in float64 agrees."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.overrides import TorchFunctionMode

from vissl_clusterfit.errors import DataError
from vissl_clusterfit.search import torch_search
from vissl_clusterfit.search.torch_search import TorchSearch, fast_product_type

TYPES = [torch.bfloat16, torch.float32]
TYPE_NAMES = ["bfloat16", "float32"]
DIMS = [1, 2, 3, 7, 16, 28, 29, 30, 31, 32, 33, 64, 100]
SIZES = [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 130]


@pytest.fixture(params=TYPES, ids=TYPE_NAMES)
def product_type(request):
    return request.param


def brute_force(rows, centroids):
    """Squared distances (N, K) in float64."""
    squared = np.zeros((len(rows), len(centroids)))
    for k, centroid in enumerate(centroids.astype(np.float64)):
        squared[:, k] = np.square(rows.astype(np.float64) - centroid).sum(axis=1)
    return squared


def same_centroids(centroids):
    """Of each centroid the first one that equals it, (K,)."""
    _, first, inverse = np.unique(centroids, axis=0, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)]


def check_labels(labels, rows, centroids, squared):
    """The nearest centroids, to within the last bits of float64, and the first one of several that are equal."""
    chosen = squared[np.arange(len(rows)), labels]
    assert (chosen <= squared.min(axis=1) * (1 + (rows.shape[1] + 2) * 2.0**-52)).all()
    np.testing.assert_array_equal(labels, same_centroids(centroids)[labels])


def check_nearest(labels, distances, rows, centroids, squared):
    """As :func:`check_labels` for each of several."""
    count = labels.shape[1]
    expected = np.sort(squared, axis=1)[:, :count]
    chosen = np.take_along_axis(squared, labels, axis=1)
    last_bits = 1 + (rows.shape[1] + 2) * 2.0**-52
    assert (chosen <= expected * last_bits).all()
    assert (expected <= chosen * last_bits).all()
    np.testing.assert_allclose(distances, chosen, rtol=1e-6, atol=2e-45)
    assert (np.diff(distances, axis=1) >= 0).all()
    same = same_centroids(centroids)
    for row in labels:
        assert len(set(row)) == count
        for group in set(same[row]):
            equal = np.flatnonzero(same == group)
            picked = row[same[row] == group]
            np.testing.assert_array_equal(picked, equal[: len(picked)])


@st.composite
def problems(draw):
    """Rows and centroids of all magnitudes, with duplicates, zeros, a common offset and rows on centroids."""
    dim, num_rows = draw(st.sampled_from(DIMS)), draw(st.sampled_from([0, *SIZES]))
    num_clusters = draw(st.sampled_from(["few", "as many"])) == "few" and draw(st.sampled_from(SIZES))
    num_clusters = num_clusters or max(1, num_rows)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from([1e-30, 1e-20, 1e-3, 1.0, 50.0, 1e8, 1e18]))
    offset = draw(st.sampled_from([0.0, 0.0, 1.0, 30.0, 1e4])) * min(scale, 1e14)
    mixed = draw(st.sampled_from(["no", "no", "rows", "centroids", "both"]))
    decades = draw(st.sampled_from([2, 8]))

    def vectors(count, name):
        values = rng.standard_normal((count, dim)) * scale + offset
        if mixed in (name, "both"):
            values *= 10.0 ** rng.integers(-decades, decades if scale <= 1e8 else 1, (count, 1))
        if draw(st.booleans()):
            values[rng.random(count) < 0.3] = 0
        if count and draw(st.booleans()):
            values = values[rng.integers(0, count, count)]
        return values.clip(-5e17, 5e17).astype(np.float32)  # so that no distance overflows

    rows, centroids = vectors(num_rows, "rows"), vectors(num_clusters, "centroids")
    if draw(st.booleans()):
        shared = min(num_rows, num_clusters)
        centroids[:shared] = rows[:shared]
    return rows, centroids


@settings(max_examples=250, deadline=None, derandomize=True)
@given(problem=problems(), dtype=st.sampled_from(TYPES), count=st.integers(1, 7))
def test_brute_force_in_float64_agrees(problem, dtype, count):
    rows, centroids = problem
    squared = brute_force(rows, centroids)
    search = TorchSearch(centroids, product_type=dtype)
    labels = search.labels(rows)
    assert labels.shape == (len(rows),)
    check_labels(labels, rows, centroids, squared)
    count = min(count, len(centroids))
    labels, distances = search.nearest(rows, count)
    assert labels.shape == distances.shape == (len(rows), count)
    check_nearest(labels, distances, rows, centroids, squared)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32),
    dim=st.integers(1, 6),
    num_rows=st.sampled_from(SIZES),
    num_clusters=st.sampled_from(SIZES),
    power=st.sampled_from([-60, -20, 0, 1, 40]),
    offset=st.sampled_from([0, 0, 1000]),
    dtype=st.sampled_from(TYPES),
)
def test_of_centroids_that_are_equally_near_it_is_the_first(seed, dim, num_rows, num_clusters, power, offset, dtype):
    """On a lattice float64 makes no error at all, and most vectors are as near to several centroids."""
    rng = np.random.default_rng(seed)
    rows, centroids = (rng.integers(-2, 3, (count, dim)) + offset for count in (num_rows, num_clusters))
    rows, centroids = (np.ldexp(vectors.astype(np.float32), power) for vectors in (rows, centroids))
    squared = brute_force(rows, centroids)
    search = TorchSearch(centroids, product_type=dtype)
    np.testing.assert_array_equal(search.labels(rows), squared.argmin(axis=1))
    count = min(4, num_clusters)
    order = squared.argsort(axis=1, kind="stable")[:, :count]
    labels, distances = search.nearest(rows, count)
    np.testing.assert_array_equal(labels, order)
    np.testing.assert_array_equal(distances, np.take_along_axis(squared, order, axis=1).astype(np.float32))


def near_bisectors(num_rows, margin, dim=64, num_clusters=50, offset=0.0):
    """Rows half-way between a centroid and its neighbour, off by a share of their distance, and the centroids."""
    rng = np.random.default_rng(0)
    centroids = (rng.standard_normal((num_clusters, dim)) + offset).astype(np.float32)
    between = brute_force(centroids, centroids)
    np.fill_diagonal(between, np.inf)
    first = rng.integers(0, num_clusters, num_rows)
    one, other = (centroids[index].astype(np.float64) for index in (first, between.argmin(axis=1)[first]))
    aside = margin * rng.choice([-1.0, 1.0], (num_rows, 1))
    return ((one + other) / 2 + aside * (other - one)).astype(np.float32), centroids


@pytest.mark.parametrize("offset", [0.0, 20.0])
@pytest.mark.parametrize("margin", [0.0, 1e-7, 1e-5, 1e-3])
def test_rows_within_a_hair_of_a_bisector(product_type, margin, offset):
    rows, centroids = near_bisectors(4000, margin, offset=offset)
    squared = brute_force(rows, centroids)
    # What float64 cannot tell apart is none of the data.
    nearest, second = np.partition(squared, 1, axis=1)[:, :2].T
    assert (second - nearest > 1e-12 * nearest).all() or margin == 0
    labels = TorchSearch(centroids, product_type=product_type).labels(rows)
    check_labels(labels, rows, centroids, squared)
    told_apart = second - nearest > 1e-12 * nearest
    np.testing.assert_array_equal(labels[told_apart], squared.argmin(axis=1)[told_apart])
    assert told_apart.mean() > 0.9


@pytest.mark.parametrize(("margin", "least_wrong"), [(1e-7, 1500), (1e-5, 1000), (1e-3, 200)])
def test_the_product_alone_would_be_wrong(margin, least_wrong):
    """The data of the test above need the exact decision."""
    rows, centroids = near_bisectors(4000, margin)
    shift = centroids.mean(axis=0)
    x, c = (torch.from_numpy(vectors - shift) for vectors in (rows, centroids))
    scores = (x.bfloat16() @ c.bfloat16().T).float() - c.square().sum(dim=1) / 2
    alone = scores.argmax(dim=1).numpy()
    assert (alone != brute_force(rows, centroids).argmin(axis=1)).sum() >= least_wrong


def test_the_bound_is_what_finds_the_uncertain_rows(monkeypatch):
    """Without it labels are wrong, and it leaves most rows of ordinary data certain."""
    rows, centroids = near_bisectors(4000, 1e-7)
    expected = brute_force(rows, centroids).argmin(axis=1)
    with monkeypatch.context() as patch:
        patch.setattr(torch_search.error_bounds, "score_threshold", lambda best, error, dtype: best)
        assert (TorchSearch(centroids, product_type=torch.bfloat16).labels(rows) != expected).sum() > 500


def test_most_rows_are_certain_at_once(blobs, monkeypatch):
    """Bounds so wide that everything is decided from differences would be right, and slow."""
    pairs, decided = [], []
    distances, decide = torch_search._Tile._distances, torch_search._Tile._decide

    def counting_pairs(self, rows, row, *args):
        pairs.append(len(row))
        return distances(self, rows, row, *args)

    def counting(self, rows, row, candidate, wanted, count):
        decided.append(int(wanted.sum()))
        return decide(self, rows, row, candidate, wanted, count)

    monkeypatch.setattr(torch_search._Tile, "_distances", counting_pairs)
    monkeypatch.setattr(torch_search._Tile, "_decide", counting)
    search = TorchSearch(blobs[::50], product_type=torch.bfloat16)
    search.labels(blobs)
    assert 0 < sum(pairs) < 400
    assert sum(decided) < 10


@pytest.fixture(scope="module")
def awkward():
    """Rows and centroids where much has to be decided: near bisectors, duplicates, zeros, and one very long row."""
    rows, centroids = near_bisectors(700, 1e-6, dim=37, num_clusters=77)
    centroids = np.concatenate([centroids, centroids[::3], np.zeros((5, 37), dtype=np.float32)])
    rows = np.concatenate([rows, centroids, np.full((1, 37), 1e17, dtype=np.float32)])
    return rows, centroids


@pytest.fixture(scope="module")
def expected(awkward):
    search = TorchSearch(awkward[1], product_type=torch.float32)
    check_labels(search.labels(awkward[0]), *awkward, brute_force(*awkward))
    return [search.labels(awkward[0]), *search.nearest(awkward[0], 5)]


def found(awkward, dtype):
    search = TorchSearch(awkward[1], product_type=dtype)
    return [search.labels(awkward[0]), *search.nearest(awkward[0], 5)]


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_BLOCK_ROWS", {"cpu": (1, 1)}),
        ("_BLOCK_ROWS", {"cpu": (7, 7)}),
        ("_BLOCK_ROWS", {"cpu": (1 << 12, 1 << 12)}),
        ("_BLOCK_SCORES", {"cpu": 1}),
        ("_BLOCK_SCORES", {"cpu": 1 << 14}),
        ("_TILE", 1),
        ("_TILE", 3),
        ("_TILE", 40),
        ("_GROUP", 1),
        ("_GROUP", 5),
        ("_GROUP", 256),
        ("_WIDTH_MULTIPLE", 1),
        ("_WIDTH_MULTIPLE", 64),
        ("_PAIR_VALUES", {"cpu": 1}),
        ("_PAIR_VALUES", {"cpu": 500}),
        ("_MANY_CANDIDATES", 0),
        ("_MANY_CANDIDATES", 10**9),
    ],
)
def test_no_size_of_a_block_changes_a_bit(awkward, expected, product_type, name, value, monkeypatch):
    monkeypatch.setattr(torch_search, name, value)
    assert_same(found(awkward, product_type), expected)


@pytest.mark.parametrize("num_threads", [1, 2, 3, 8])
def test_the_number_of_threads_changes_no_bit(awkward, expected, product_type, num_threads):
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        assert_same(found(awkward, product_type), expected)
        assert torch.get_num_threads() == num_threads
    finally:
        torch.set_num_threads(before)


def test_rows_are_labelled_alike_alone_and_together(awkward, expected, product_type):
    rows, centroids = awkward
    search = TorchSearch(centroids, product_type=product_type)
    order = np.random.default_rng(0).permutation(len(rows))
    np.testing.assert_array_equal(search.labels(rows[order]), expected[0][order])
    assert [int(search.labels(row[None])[0]) for row in rows[::20]] == expected[0][::20].tolist()


class ReducedPrecision(TorchFunctionMode):
    """Units that compute products of float32 in bfloat16 where the settings allow it, as Intel's AMX does.

    What the settings are is asked of PyTorch at each product: so this stands in for the processor, not for the code.
    """

    num_reduced = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        allowed = torch.backends.mkldnn.matmul.fp32_precision not in ("none", "ieee")
        if name in ("matmul", "__matmul__", "mm") and args[0].dtype == torch.float32 and allowed:
            self.num_reduced += 1
            args = [operand.bfloat16().float() for operand in args]
        return func(*args, **(kwargs or {}))


@pytest.fixture
def medium_precision():
    """What users set so that training is faster."""
    before, tf32 = torch.get_float32_matmul_precision(), torch.backends.cuda.matmul.allow_tf32
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        torch.set_float32_matmul_precision(before)


@pytest.mark.usefixtures("medium_precision")
def test_a_user_who_allows_less_precision_changes_no_bit(awkward, expected, product_type):
    with ReducedPrecision() as units:
        torch.ones(2, 2) @ torch.ones(2, 2)
        assert units.num_reduced == 1
        assert_same(found(awkward, product_type), expected)
    assert torch.get_float32_matmul_precision() == "medium"


def test_tf32_of_a_user_changes_no_bit(awkward, expected, product_type):
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert_same(found(awkward, product_type), expected)
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("count", [1, 2])
def test_a_distance_that_overflows_is_an_error_and_a_label_is_not(product_type, count):
    rows = np.array([[3e38, -3e38], [-3e38, 3e38], [0, 0]], dtype=np.float32)
    search = TorchSearch(np.array([[-3e38, 3e38], [1, 1], [3e38, -3e38]], dtype=np.float32), product_type=product_type)
    assert search.labels(rows).tolist() == [2, 0, 1]
    with pytest.raises(DataError, match=r"too large.*FEATURES\.NORMALIZE=true"):
        search.nearest(np.full((1, 2), -3e38, dtype=np.float32), count)


@pytest.mark.parametrize("scale", [1e-45, 1e-42, 1e-38, 1e37, 3e38])
def test_vectors_at_the_ends_of_float32(product_type, scale):
    rng = np.random.default_rng(0)
    rows = (rng.uniform(-1, 1, (500, 5)) * scale).astype(np.float32)
    centroids = (rng.uniform(-1, 1, (40, 5)) * scale).astype(np.float32)
    squared = brute_force(rows, centroids)
    np.testing.assert_array_equal(
        TorchSearch(centroids, product_type=product_type).labels(rows), squared.argmin(axis=1)
    )


def test_float16_rows_and_centroids_are_taken(blobs):
    half = blobs.astype(np.float16)
    np.testing.assert_array_equal(TorchSearch(half[::25]).labels(half), brute_force(half, half[::25]).argmin(axis=1))


def test_the_product_type_is_measured_and_one_of_two():
    assert fast_product_type("cpu") in TYPES


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_labels(awkward, expected, product_type):
    search = TorchSearch(awkward[1], device="cuda", product_type=product_type)
    labels, distances = search.nearest(awkward[0], 5)
    np.testing.assert_array_equal(search.labels(awkward[0]), expected[0])
    np.testing.assert_array_equal(labels, expected[1])
    np.testing.assert_allclose(distances, expected[2], rtol=1e-6)
