"""A head of which a share is drawn: against the full softmax, by hand, over processes, and from any number of files."""

import math

import head_work
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from head_work import BATCH, DIM, NUM_CLUSTERS, RATE, WEIGHT_DECAY
from processes import exit_code, running

from vissl_clusterfit.config.head import HeadSettings
from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.plugin.training import cluster_rows
from vissl_clusterfit.plugin.training.cluster_rows import ClusterRows
from vissl_clusterfit.plugin.training.partial_softmax import PartialSoftmax

ALL = HeadSettings(kind="partial", rate=1.0)
SOME = HeadSettings(kind="partial", rate=0.4)
COSINE = HeadSettings(kind="partial", rate=1.0, cosine=True, scale=8.0, margin=0.3)


def a_head(settings=ALL, num_clusters=NUM_CLUSTERS, dim=DIM):
    return PartialSoftmax(ClusterRows(num_clusters, dim, seed=3), settings)


def full(features, matrix, settings=ALL):
    """The loss of the batch by a softmax over all rows."""
    _, clusters, shares, weights = head_work.batch()
    targets = torch.zeros(BATCH, len(matrix)).scatter(1, clusters, shares)
    logits = features @ matrix.T
    if settings.cosine:
        cosines = F.normalize(features, dim=1) @ F.normalize(matrix, dim=1).T
        logits = settings.scale * (cosines - settings.margin * (targets > 0))
    per_sample = F.cross_entropy(logits, targets, reduction="none")
    return (per_sample * weights).sum() / (weights > 0).sum()


@pytest.mark.parametrize("settings", [ALL, COSINE])
def test_with_all_rows_it_is_the_full_softmax(settings):
    head = a_head(settings)
    matrix = head.rows.weights.clone().requires_grad_()
    features = head_work.batch()[0].requires_grad_()
    expected = full(features, matrix, settings)
    expected.backward()
    loss, gradient = head_work.step(head)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradient, features.grad)
    before = head.rows.weights.clone()
    head.update(RATE, WEIGHT_DECAY)
    torch.testing.assert_close(head.rows.weights, before - RATE * (matrix.grad + WEIGHT_DECAY * before))


def test_hard_labels_are_the_cross_entropy_of_pytorch():
    head, features = a_head(), head_work.batch()[0]
    labels = torch.tensor([3, 0, 22, 7, 7, 11, 19, 4])
    alone = head.loss(features, labels[:, None], torch.ones(BATCH, 1), torch.ones(BATCH), 0)
    torch.testing.assert_close(alone.detach(), F.cross_entropy(features @ head.rows.weights.T, labels))


def test_where_nothing_is_trained_all_rows_count(monkeypatch):
    monkeypatch.setattr("vissl_clusterfit.plugin.training.partial_softmax._ROWS_AT_ONCE", 5)
    head = a_head(SOME)
    with torch.no_grad():
        features, *others = head_work.batch()
        torch.testing.assert_close(head.loss(features, *others, 0), full(features, head.rows.weights))


def test_a_step_draws_the_clusters_of_its_samples_and_a_share_of_the_others():
    rows = ClusterRows(1000, 4, seed=0)
    own = torch.tensor([5, 17, 999])
    drawn, log_chance = rows.draw(own, 0.1, 0)
    assert len(drawn) == 100
    assert drawn.tolist() == sorted({*drawn.tolist()})
    assert {*own.tolist()} <= {*drawn.tolist()}
    is_own = torch.isin(drawn, own)
    assert (log_chance[is_own] == 0).all()
    torch.testing.assert_close(log_chance[~is_own], torch.full((97,), math.log(97 / 997)))
    again, another = rows.draw(own, 0.1, 0)[0], rows.draw(own, 0.1, 1)[0]
    assert torch.equal(drawn, again)
    assert len({*drawn.tolist()} & {*another.tolist()}) < 40


def test_every_row_is_drawn_as_often_as_its_chance_says():
    rows, counts = ClusterRows(50, 2, seed=0), torch.zeros(50)
    for step in range(2000):
        counts[rows.draw(torch.tensor([7]), 0.2, step)[0]] += 1
    assert counts[7] == 2000
    others = torch.cat([counts[:7], counts[8:]]) / 2000
    assert (others - 9 / 49).abs().max() < 5 * math.sqrt(9 / 49 * 40 / 49 / 2000)


@pytest.mark.parametrize("correction", [True, False])
def test_the_correction_makes_the_sum_over_clusters_right_on_average(correction):
    """Of one sample with the share 0, the loss would be 0: the sum is read off that of a sample with its cluster."""
    head = a_head(HeadSettings(kind="partial", rate=0.3, correction=correction), num_clusters=60)
    head.rows.weights *= 100  # so that rows differ
    features, label = head_work.batch()[0][:1], torch.tensor([[4]])
    logits = (features @ head.rows.weights.T)[0]
    sums = []
    for step in range(3000):
        loss = head.loss(features, label, torch.ones(1, 1), torch.ones(1), step)
        sums.append(math.exp(loss.item() + logits[4].item()))
    whole = float(logits.exp().sum())
    error = abs(np.mean(sums) - whole) / (np.std(sums) / math.sqrt(len(sums)))
    assert error < 4 if correction else error > 10


def test_rows_that_are_not_drawn_stay():
    head = a_head(SOME)
    before = head.rows.weights.clone()
    head_work.step(head)
    drawn = head._drawn.positions
    head.update(RATE, WEIGHT_DECAY)
    changed = (head.rows.weights != before).any(dim=1)
    assert changed.nonzero()[:, 0].tolist() == drawn.tolist()
    after = head.rows.weights.clone()
    head.update(RATE, WEIGHT_DECAY)  # without another step there is nothing to do
    assert torch.equal(head.rows.weights, after)


def test_the_rows_above_a_network_that_is_not_trained_move_as_above_one_that_is():
    trained, fixed = a_head(SOME), a_head(SOME)
    head_work.step(trained)
    fixed.loss(*head_work.batch(), step=7).backward()
    for head in (trained, fixed):
        head.update(RATE, WEIGHT_DECAY)
    assert torch.equal(fixed.rows.weights, trained.rows.weights)
    assert not torch.equal(fixed.rows.weights, a_head().rows.weights)


def test_gradients_of_mixed_precision_are_scaled_back_or_left_out():
    plain, scaled, broken = (a_head() for _ in range(3))
    for head, factor in ((plain, 1.0), (scaled, 1024.0), (broken, math.inf)):
        features, *others = head_work.batch()
        (factor * head.loss(features, *others, 0)).backward()
        head.update(RATE, WEIGHT_DECAY, factor)
    torch.testing.assert_close(scaled.rows.weights, plain.rows.weights)
    assert torch.equal(broken.rows.weights, a_head().rows.weights)


def together(processes, folder, settings=ALL, saved=None):
    """Does the work in some processes, and gives the loss, the gradients of all features, and the rows after it."""
    folder.mkdir()
    from contextlib import ExitStack

    with ExitStack() as stack:
        arguments = (processes, str(folder / "meeting"), folder, saved, settings)
        started = [stack.enter_context(running(head_work.work, rank, *arguments)) for rank in range(processes)]
        assert [exit_code(process) for process in started] == [0] * processes
    gradients = np.concatenate([np.load(folder / f"gradient{rank}.npy") for rank in range(processes)])
    losses = {float(np.load(folder / f"loss{rank}.npy")) for rank in range(processes)}
    assert len(losses) == 1
    rows = ClusterRows(NUM_CLUSTERS, DIM, seed=99)
    rows.load(folder / "rows")
    return losses.pop(), gradients, rows.weights


@pytest.mark.parametrize("settings", [ALL, COSINE])
def test_two_processes_give_what_one_gives(tmp_path, settings):
    one, two = together(1, tmp_path / "one", settings), together(2, tmp_path / "two", settings)
    assert two[0] == pytest.approx(one[0], rel=1e-6)
    np.testing.assert_allclose(two[1], one[1], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(two[2], one[2])


def test_rows_saved_by_three_are_those_of_one_and_of_two(tmp_path):
    saved = together(3, tmp_path / "three", HeadSettings(kind="partial", rate=0.4))[2]
    files = sorted((tmp_path / "three/rows").glob("*.npy"))
    assert [file.name for file in files] == [f"rows-{a:09d}-{b:09d}.npy" for a, b in ((0, 7), (7, 15), (15, 23))]
    assert torch.equal(torch.from_numpy(np.concatenate([np.load(file) for file in files])), saved)
    for processes in (1, 2):
        loss = together(processes, tmp_path / str(processes), saved=tmp_path / "three/rows")[0]
        assert loss == pytest.approx(float(full(head_work.batch()[0], saved)), rel=1e-6)


def test_the_first_weights_do_not_depend_on_the_processes(monkeypatch):
    monkeypatch.setattr(cluster_rows, "_BLOCK", 4)
    expected, parts = ClusterRows(23, 3, seed=5).weights, []
    for rank in range(3):
        monkeypatch.setattr(cluster_rows.distributed, "rank", lambda rank=rank: rank)
        monkeypatch.setattr(cluster_rows.distributed, "world_size", lambda: 3)
        parts.append(ClusterRows(23, 3, seed=5).weights)
    assert torch.equal(torch.cat(parts), expected)
    assert len(expected.unique()) == 23 * 3
    assert float(expected.std()) == pytest.approx(0.01, rel=0.3)


def test_damaged_missing_and_foreign_rows_are_refused(tmp_path):
    rows = ClusterRows(8, 3, seed=0)
    rows.save(tmp_path / "rows")
    with pytest.raises(ArtifactError, match=r"has a head of \(8, 3\), this run has \(9, 3\)\. Put the files"):
        ClusterRows(9, 3, seed=0).load(tmp_path / "rows")
    [file] = (tmp_path / "rows").glob("*.npy")
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="is not the file that was written"):
        ClusterRows(8, 3, seed=0).load(tmp_path / "rows")
    file.unlink()
    with pytest.raises(ArtifactError, match=r"rows-0.* is missing"):
        ClusterRows(8, 3, seed=0).load(tmp_path / "rows")
    with pytest.raises(ArtifactError, match=r"rows\.json is missing"):
        ClusterRows(8, 3, seed=0).load(tmp_path / "nowhere")
    for files in ("[3]", '[{"name": "../rows-0-8.npy", "first": 0, "sha256": ""}]', "[]"):
        (tmp_path / "rows/rows.json").write_text(f'{{"num_clusters": 8, "dim": 3, "files": {files}}}')
        with pytest.raises(ArtifactError, match=r"rows\.json is damaged|has not all rows from 0 to 8"):
            ClusterRows(8, 3, seed=0).load(tmp_path / "rows")
