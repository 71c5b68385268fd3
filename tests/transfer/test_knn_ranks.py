"""The kNN benchmark of VISSL against its formula in float64, and against VISSL's steps in float32 where those hold."""

import numpy as np
import pytest
import torch

from vissl_clusterfit.transfer.knn import KnnSettings, knn_hits, true_class_ranks
from vissl_clusterfit.transfer.neighbors import nearest_neighbors


def ranks_of(queries, expected, gallery, labels, **settings):
    return true_class_ranks(queries, expected, gallery, labels, KnnSettings(topk=(1, 5), **settings))


def problem_of(seed: int, num_classes: int = 7):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(num_classes, 12))
    labels, expected = rng.integers(num_classes, size=150), rng.integers(num_classes, size=60)
    labels[:num_classes] = np.arange(num_classes)
    gallery, queries = (
        (centres[of] + 2 * rng.normal(size=(len(of), 12))).astype(np.float32) for of in (labels, expected)
    )
    return queries, expected, gallery, labels


def ranks_by_hand(queries, expected, gallery, labels, *, num_neighbors, temperature, similarity):
    queries, gallery = queries.astype(np.longdouble), gallery.astype(np.longdouble)
    if similarity == "cosine":
        queries, gallery = (part / np.sqrt((part**2).sum(axis=1))[:, None] for part in (queries, gallery))
    ranks = []
    for query, wanted in zip(queries, expected, strict=True):
        products = gallery @ query
        nearest = np.argsort(-products, kind="stable")[:num_neighbors]
        votes = np.full(labels.max() + 1, -np.inf, dtype=np.longdouble)  # their logarithms
        np.logaddexp.at(votes, labels[nearest], products[nearest] / temperature)
        voted = [number for number in np.argsort(-votes, kind="stable") if votes[number] > -np.inf]
        ranks.append(voted.index(wanted) if wanted in voted else len(votes))
    return np.array(ranks)


@pytest.mark.parametrize("similarity, temperature", [("cosine", 0.1), ("cosine", 0.07), ("dot", 0.1), ("dot", 3.0)])
@pytest.mark.parametrize("num_neighbors", [1, 5, 150])
def test_the_formula(similarity, temperature, num_neighbors):
    settings = {"similarity": similarity, "temperature": temperature, "num_neighbors": num_neighbors}
    for seed in range(3):
        data = problem_of(seed)
        np.testing.assert_array_equal(ranks_of(*data, **settings), ranks_by_hand(*data, **settings))


def vissls_steps(queries, expected, gallery, labels, *, num_neighbors, temperature, normalize):
    """Top-1 and top-5 as ``tools/nearest_neighbor_test.py`` computes them, in float32, which it does on GPUs only."""
    queries, gallery = torch.from_numpy(queries), torch.from_numpy(gallery)
    if normalize:
        queries, gallery = (torch.nn.functional.normalize(part, dim=1) for part in (queries, gallery))
    products, indices = (queries @ gallery.T).topk(num_neighbors)
    classes = torch.nn.functional.one_hot(torch.from_numpy(labels)[indices], int(labels.max()) + 1)
    order = (classes * (products / temperature).exp()[..., None]).sum(dim=1).sort(dim=1, descending=True)[1]
    right = order == torch.from_numpy(expected)[:, None]
    return float(right[:, :1].sum()) / len(queries), float(right[:, :5].sum()) / len(queries)


@pytest.mark.parametrize("normalize", [True, False])
def test_vissls_figures(normalize):
    for seed in range(3):
        queries, expected, gallery, labels = problem_of(seed)
        data = queries / 4, expected, gallery / 4, labels  # or exp would be infinite: see below
        ranks = ranks_of(*data, num_neighbors=20, temperature=0.5, similarity="cosine" if normalize else "dot")
        theirs = vissls_steps(*data, num_neighbors=20, temperature=0.5, normalize=normalize)
        assert ((ranks == 0).mean(), (ranks < 5).mean()) == pytest.approx(theirs)
        assert 0.2 < theirs[0] < 0.95


def test_large_features_do_not_overflow():
    """exp(s / T) of float32 is infinite here, and infinity times zero is what VISSL then compares."""
    queries, expected, gallery, labels = problem_of(0)
    settings = {"num_neighbors": 20, "temperature": 0.1}
    large = 100 * queries, expected, 100 * gallery, labels
    ranks = ranks_of(*large, similarity="dot", **settings)
    np.testing.assert_array_equal(ranks, ranks_by_hand(*large, similarity="dot", **settings))


def test_a_class_that_the_gallery_lacks_stands_last():
    queries, expected, gallery, labels = problem_of(0)
    expected = np.where(np.arange(len(expected)) == 3, 99, expected)
    ranks = ranks_of(queries, expected, gallery, labels, num_neighbors=5, temperature=0.1, similarity="dot")
    assert ranks[3] == 7


def test_equal_votes_go_to_the_smaller_class():
    gallery = np.array([[1.0, 0], [1, 0], [0, 1]])
    ranks = ranks_of(
        np.array([[1.0, 0]]).repeat(4, axis=0),
        np.array([0, 1, 2, 3]),
        gallery,
        np.array([3, 1, 0]),
        num_neighbors=2,
        temperature=0.1,
        similarity="dot",
    )
    # 1 and 3 share all votes; 0 and 2 have none, and stand nowhere.
    assert ranks.tolist() == [4, 0, 4, 1]


def test_classes_without_a_vote_are_no_guesses():
    """One neighbour names one class: who is right among the first five is right at once."""
    queries, expected, gallery, labels = problem_of(2, num_classes=8)
    ranks = ranks_of(queries, expected, gallery, labels, num_neighbors=1, temperature=0.1, similarity="cosine")
    assert set(ranks) == {0, 8}
    assert (ranks < 5).mean() == (ranks == 0).mean()


def test_dot_products_come_back_in_their_own_units():
    queries, _, gallery, _ = problem_of(1)
    exact = queries.astype(np.float64) @ gallery.astype(np.float64).T
    for chunk in (7, 1000):
        found = list(nearest_neighbors(queries, gallery, 9, similarity="dot", query_chunk=chunk, gallery_chunk=chunk))
        products, indices = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
        np.testing.assert_array_equal(indices, np.argsort(-exact, axis=1, kind="stable")[:, :9])
        np.testing.assert_allclose(products, -np.sort(-exact, axis=1)[:, :9], atol=1e-6)


@pytest.mark.parametrize("vote", ["weighted", "majority"])
def test_the_first_rank_is_the_prediction(vote):
    for seed in range(3):
        data = problem_of(seed)
        several, one = (
            knn_hits(*data, KnnSettings(9, 0.1, vote=vote, topk=topk)).tolist() for topk in ((1, 2, 5), (1,))
        )
        assert several[0] == one[0]
        assert several[0] < several[1] < several[2]
