"""A softmax over the rows of all processes, of which each step sees a share: partial and sampled softmax.

For features f of a sample, rows w of the clusters that were drawn, each with the chance p, and shares q of its own:

    z_k = f · w_k  - log p_k        or  s (cos(f, w_k) - m [q_k > 0])  - log p_k
    loss = log Σ_k exp z_k  -  Σ_k q_k z_k

Positives are always drawn (p = 1), negatives without replacement: An et al., *Killing Two Birds with One Stone* (its
Partial FC), CVPR 2022 (arXiv:2203.15565). ``- log p`` makes the sum over the drawn ones right on average for that over
all, as sampled softmax does it (Jean et al., *On Using Very Large Target Vocabulary for Neural Machine Translation*,
arXiv:1412.2007, section 3); Partial FC has no such term. The additive margin m is that of Wang et al., *CosFace*
(arXiv:1801.09414). With all rows drawn it is the full softmax.

Every process has the features of all, and the logits of its own rows; of these the largest and the sums of exponentials
are shared, never the rows or the logits.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from vissl_clusterfit import distributed
from vissl_clusterfit.config.head import HeadSettings
from vissl_clusterfit.plugin.training.cluster_rows import ClusterRows

#: Rows whose logits are there at once where nothing is trained.
_ROWS_AT_ONCE = 1 << 16
#: As in ``torch.nn.functional.normalize``.
_LEAST_LENGTH = 1e-12


class DrawnRows:
    """The rows of one step, and what their step of SGD needs; there is no gradient as large as they are.

    Of rows m, features f and their products p = f mᵀ, with the gradient g of p, the gradient of m is gᵀ f, which is
    added as it is computed. Of unit rows m = w / |w| the gradient of w is ``(gᵀ f - Σ_b (g p) m) / |w|``.

    Args:
        positions: (n,) int64, in the share of this process.
        matrix: (n, D), a copy of these rows, which is changed.
        unit: the products are with unit rows.
    """

    def __init__(self, positions: torch.Tensor, matrix: torch.Tensor, *, unit: bool) -> None:
        self.positions, self.matrix = positions, matrix
        self.lengths = matrix.norm(dim=1).clamp_(min=_LEAST_LENGTH) if unit else None
        if self.lengths is not None:
            matrix.div_(self.lengths.unsqueeze(1))
        self.features = self.products = torch.empty(0)
        #: Of the products, (B, n); there after the backward pass.
        self.gradient: torch.Tensor | None = None

    def moved(self, gradient: torch.Tensor, rate: float, weight_decay: float) -> torch.Tensor:
        """The rows after the step, in the place of the copy."""
        added, kept = -rate * gradient, 1 - rate * weight_decay
        if self.lengths is None:
            return self.matrix.mul_(kept).addmm_(added.T, self.features)
        of_unit = self.lengths * kept - (added * self.products).sum(dim=0) / self.lengths
        return self.matrix.mul_(of_unit.unsqueeze(1)).addmm_((added / self.lengths).T, self.features)


class PartialSoftmax:
    """The head of one codebook: its rows, the loss with a share of them, and the step of SGD on these.

    Args:
        rows: of this process.
        settings: ``CLUSTERFIT.HEAD``.
    """

    def __init__(self, rows: ClusterRows, settings: HeadSettings) -> None:
        self.rows = rows
        self._settings = settings
        self._drawn: DrawnRows | None = None
        # Kept between steps: of a million clusters the system takes longer to give the memory than to fill it.
        self._copy = rows.weights.new_empty(0)

    def loss(
        self, features: torch.Tensor, clusters: torch.Tensor, shares: torch.Tensor, weights: torch.Tensor, step: int
    ) -> torch.Tensor:
        """The mean loss of the samples of all processes that have a weight; the same number on each.

        Args:
            features: (B, D) of this process; B is the same on all.
            clusters: (B, L) int64, any where the share or the weight is 0.
            shares: (B, L) float32.
            weights: (B,) float32, 0 for samples without a label.
            step: draws the negatives.

        Returns:
            A scalar. Its gradient of the features is such that the mean of the processes' gradients of the network is
            that of this loss, as DistributedDataParallel takes it.
        """
        clusters, shares, weights = map(_of_all, (clusters, shares, weights))
        everything = gather_features(features.float())
        places = clusters - self.rows.first
        ours = (places >= 0) & (places < len(self.rows.weights)) & (shares > 0) & (weights > 0).unsqueeze(1)
        if torch.is_grad_enabled():
            log_sum, own = self._of_drawn(everything, places, ours, shares, step)
        else:
            log_sum, own = self._of_all_rows(everything, places, ours, shares)
        per_sample = shares.sum(dim=1) * log_sum - own
        return (per_sample * weights).sum() / (weights > 0).sum().clamp(min=1)

    def _of_drawn(
        self, features: torch.Tensor, places: torch.Tensor, ours: torch.Tensor, shares: torch.Tensor, step: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        positions, log_chance = self.rows.draw(places[ours].unique(), self._settings.rate, step)
        self._drawn = DrawnRows(positions, self._copied(positions), unit=self._settings.cosine)
        if not features.requires_grad:  # of a network that is not trained; its head is
            features = features.detach().requires_grad_()
        if self._settings.cosine:
            features = F.normalize(features, dim=1)
        logits = _Products.apply(features, self._drawn) * (self._settings.scale if self._settings.cosine else 1.0)
        found = torch.searchsorted(positions, places.clamp(0, max(0, len(self.rows.weights) - 1)))
        found = found.clamp(max=max(0, len(positions) - 1))
        if self._settings.margin:
            taken_off = torch.where(ours, -self._settings.scale * self._settings.margin, 0.0)
            logits = logits.scatter_add(1, found, taken_off.to(logits))
        if self._settings.correction:
            logits = logits - log_chance
        return _log_sum_of_all(logits), _Sum.apply((logits.gather(1, found) * shares * ours).sum(dim=1))

    def _copied(self, positions: torch.Tensor) -> torch.Tensor:
        number = len(positions)
        if len(self._copy) < number:
            self._copy = self.rows.weights.new_empty(number, self.rows.dim)
        return torch.index_select(self.rows.weights, 0, positions, out=self._copy[:number])

    @torch.no_grad()
    def _of_all_rows(
        self, features: torch.Tensor, places: torch.Tensor, ours: torch.Tensor, shares: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        log_sum = torch.full((len(features),), -torch.inf, device=features.device)
        own = torch.zeros(len(features), device=features.device)
        for start in range(0, len(self.rows.weights), _ROWS_AT_ONCE):
            logits = self._logits(features, self.rows.weights[start : start + _ROWS_AT_ONCE])
            log_sum = torch.logaddexp(log_sum, torch.logsumexp(logits, dim=1))
            here = ours & (places >= start) & (places < start + logits.shape[1])
            own += (logits.gather(1, torch.where(here, places - start, 0)) * shares * here).sum(dim=1)
        return _log_sum_of_all(log_sum.unsqueeze(1)), _Sum.apply(own)

    def _logits(self, features: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        if not self._settings.cosine:
            return (features @ matrix.T).float()
        return self._settings.scale * (F.normalize(features, dim=1) @ F.normalize(matrix, dim=1).T).float()

    @torch.no_grad()
    def update(self, rate: float, weight_decay: float, scale: float = 1.0) -> None:
        """A step of SGD on the rows that were drawn, and on no other: ``w -= rate · (gradient + weight_decay · w)``.

        Nothing is kept for a row between steps: a row is drawn again after 1 / RATE steps on average, when a momentum
        would have faded. Where the network has a momentum μ, the rate here is 1 / (1 - μ) times as large, the sum of
        what a gradient then does in all steps after it.

        Args:
            rate: of this step.
            weight_decay: of the rows.
            scale: what the loss was multiplied by for mixed precision; where gradients are not finite, nothing is done.
        """
        drawn, self._drawn = self._drawn, None
        if drawn is None or drawn.gradient is None:
            return
        if _finite_on_all(drawn.gradient):
            moved = drawn.moved(drawn.gradient / scale, rate, weight_decay)
            self.rows.weights.index_copy_(0, drawn.positions, moved)


def gather_features(features: torch.Tensor) -> torch.Tensor:
    """The features of all processes, (P · B, D), in the order of their ranks."""
    return _Gather.apply(features)


def _of_all(values: torch.Tensor) -> torch.Tensor:
    if not distributed.is_distributed():
        return values
    parts = [torch.empty_like(values) for _ in range(distributed.world_size())]
    dist.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def _log_sum_of_all(logits: torch.Tensor) -> torch.Tensor:
    """``log Σ exp`` over the columns of all processes, (B,)."""
    largest = logits.detach().amax(dim=1) if logits.shape[1] else logits.new_full((len(logits),), -torch.inf)
    if distributed.is_distributed():
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest + _Sum.apply((logits - largest.unsqueeze(1)).exp().sum(dim=1)).log()


def _finite_on_all(gradient: torch.Tensor) -> bool:
    bad = (~torch.isfinite(gradient)).any().float()
    if distributed.is_distributed():
        dist.all_reduce(bad, op=dist.ReduceOp.MAX)
    return not bool(bad)


class _Products(torch.autograd.Function):
    """Forward: the products of features and drawn rows. Backward: keeps their gradient for the step of the rows."""

    @staticmethod
    def forward(context: Any, features: torch.Tensor, drawn: DrawnRows) -> torch.Tensor:
        context.drawn = drawn
        drawn.features, drawn.products = features, (features @ drawn.matrix.T).float()
        return drawn.products.view_as(drawn.products)

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        context.drawn.gradient = gradient
        return gradient @ context.drawn.matrix, None


class _Gather(torch.autograd.Function):
    """Forward: all features. Backward: the sum of what all processes' rows say of this one's, times their number."""

    @staticmethod
    def forward(_: Any, features: torch.Tensor) -> torch.Tensor:
        return _of_all(features) if distributed.is_distributed() else features.view_as(features)

    @staticmethod
    def backward(_: Any, gradient: torch.Tensor) -> torch.Tensor:
        if not distributed.is_distributed():
            return gradient
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        # DistributedDataParallel takes the mean over the processes, and the loss is that of all samples.
        return gradient.chunk(distributed.world_size())[distributed.rank()] * distributed.world_size()


class _Sum(torch.autograd.Function):
    """Forward: the sum over processes. Backward: the gradient as it is, since every process has the same loss of it."""

    @staticmethod
    def forward(_: Any, values: torch.Tensor) -> torch.Tensor:
        values = values.clone()
        if distributed.is_distributed():
            dist.all_reduce(values)
        return values

    @staticmethod
    def backward(_: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient
