import itertools

import numpy as np
import pytest

from vissl_clusterfit.clustering.minibatches import PARTS, steps, width
from vissl_clusterfit.clustering.sampling import in_share, uniform

POSITIONS = np.arange(1 << 18)


@pytest.mark.parametrize("start", [0, 10**12])
@pytest.mark.parametrize("stream", [0, 1, 2, 12345678901])
def test_numbers_are_spread_evenly(start, stream):
    numbers = uniform(POSITIONS + start, stream)
    assert 0 < numbers.min() < numbers.max() < 1
    counts = np.bincount((numbers * 256).astype(int), minlength=256)
    expected = len(numbers) / 256
    chi_square = (np.square(counts - expected) / expected).sum()
    assert abs(chi_square - 255) < 5 * np.sqrt(2 * 255)
    assert abs(numbers.mean() - 0.5) < 5 / np.sqrt(12 * len(numbers))


def test_neighbours_streams_and_strides_are_independent():
    numbers = uniform(POSITIONS, 3)
    others = [
        uniform(POSITIONS, 4),
        uniform(POSITIONS + 1, 3),
        uniform(POSITIONS + 256, 3),
        uniform(POSITIONS, 3 << 32),
    ]
    for other in others:
        assert abs(np.corrcoef(numbers, other)[0, 1]) < 5 / np.sqrt(len(numbers))
        assert (numbers == other).sum() <= 1


def test_numbers_belong_to_positions():
    numbers = uniform(POSITIONS, 7)
    assert len(np.unique(numbers)) == len(numbers)
    np.testing.assert_array_equal(uniform(POSITIONS[5000:5003], 7), numbers[5000:5003])
    np.testing.assert_array_equal(uniform(POSITIONS[::-1], 7), numbers[::-1])


@pytest.mark.parametrize("share", [1 / 16, 0.1, 0.25, 0.5, 0.9])
def test_a_share_has_its_size_and_is_drawn_in_runs(share):
    drawn = in_share(POSITIONS, (0.0, share))
    num_runs = len(POSITIONS) / 16
    assert abs(drawn.sum() / 16 - share * num_runs) < 4 * np.sqrt(num_runs * share * (1 - share))
    runs = drawn.reshape(-1, 16)
    np.testing.assert_array_equal(runs.any(axis=1), runs.all(axis=1))
    # From everywhere: no tenth of the positions is left out.
    for part in np.array_split(drawn, 10):
        assert abs(part.mean() - share) < 0.1


def test_a_smaller_share_is_part_of_a_larger_one():
    drawn = [in_share(POSITIONS, (0.0, share)) for share in (1 / 16, 1 / 8, 0.3, 0.5, 0.99, 1.0)]
    for smaller, larger in itertools.pairwise(drawn):
        assert (larger | ~smaller).all()
        assert larger.sum() > smaller.sum()
    assert drawn[-1].all()


def test_a_share_does_not_depend_on_the_chunks():
    whole = in_share(POSITIONS, (0.3, 0.5))
    parts = [in_share(part, (0.3, 0.5)) for part in np.array_split(POSITIONS, 37)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("num_clusters", [1, 2, 3, 7, 20, 100, 1000])
def test_no_share_of_a_schedule_has_fewer_vectors_than_clusters(num_clusters):
    for factor in (1, 24, 47.9, 48, 50, 96, 100, 192, 384, 400, 1000):
        num_vectors = max(num_clusters, int(factor * num_clusters))
        smallest = width(steps(20, num_vectors, num_clusters, growing=True)[0])
        assert in_share(np.arange(num_vectors), (0.0, smallest)).sum() >= num_clusters


def test_parts_divide_the_positions():
    counts = sum(in_share(POSITIONS, part).astype(int) for part in PARTS)
    assert (counts == 1).all()
