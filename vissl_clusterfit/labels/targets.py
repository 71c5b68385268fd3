"""What a sample is trained on, from its label, its nearest clusters and the distances to them; and how much it counts.

Arrays of samples may be memory maps: what is asked of all samples is read in parts, a batch by its indices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from vissl_clusterfit.config.targets import TargetSettings
from vissl_clusterfit.errors import ArtifactError, DataError, problem
from vissl_clusterfit.labels.files import MARGINS_FILE
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels

_BLOCK = "config.CLUSTERFIT.TARGETS"
#: The samples by which a temperature is found: these many, evenly spread, of more.
_FITTED_ON = 1 << 17
_ROWS = 1 << 18
#: How closely, as a share of itself.
_FITTED_TO = 1e-12


def shares_by_distance(distances: np.ndarray, temperature: float) -> np.ndarray:
    """A softmax over distances: ``q_l = exp(-d_l / T) / Σ_m exp(-d_m / T)``, float64 (B, L).

    The responsibilities of soft k-means (MacKay, *Information Theory, Inference, and Learning Algorithms*, 2003,
    algorithm 20.7, with stiffness 1 / T), over the L nearest clusters alone.

    Args:
        distances: (B, L), squared L2, nearest first.
        temperature: T, above 0, in the unit of the distances.
    """
    away = np.asarray(distances, dtype=np.float64)
    shares = np.exp((away[:, :1] - away) / temperature)
    return shares / shares.sum(axis=1, keepdims=True)


def perplexity(shares: np.ndarray) -> np.ndarray:
    """Of how many clusters each row is: ``exp(-Σ_l q_l log q_l)``, (B,), from 1 to L.

    As in van der Maaten and Hinton, *Visualizing Data using t-SNE*, JMLR 9 (2008), section 2.
    """
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return np.exp(-(shares * logs).sum(axis=1))


def fitted_temperature(distances: np.ndarray, wanted: float) -> float:
    """The temperature at which the mean perplexity of samples is as wanted; one for all, unlike that of t-SNE.

    It rises with the temperature, from the number of clusters that are equally near to L, so halving finds it.

    Args:
        distances: (N, L), squared L2; of more than 131,072 samples about as many are taken, evenly spread. Those
            without a label have -1 and take no part.
        wanted: above 1 and below L.

    Raises:
        DataError: no sample has a label, or too many have nearest clusters that are equally near.
    """
    rows = np.asarray(distances[:: -(-len(distances) // _FITTED_ON)], dtype=np.float64)
    rows = rows[rows[:, 0] >= 0]
    spread = (rows[:, -1] - rows[:, 0]).max(initial=0.0)
    low, high = spread * 1e-12, spread * 1e12
    if not spread or perplexity(shares_by_distance(rows, low)).mean() >= wanted:
        found = f"{wanted:g} for {len(rows)} samples whose nearest clusters are equally near, or that have no label"
        raise DataError(problem(f"{_BLOCK}.PERPLEXITY", found=found, allowed="a larger one, or a TEMPERATURE"))
    while high > low * (1 + _FITTED_TO):
        middle = math.sqrt(low * high)
        if perplexity(shares_by_distance(rows, middle)).mean() < wanted:
            low = middle
        else:
            high = middle
    return high


def relative_margins(distances: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """``(d_2 - d_1) / d_2`` of squared distances to the two nearest centroids, float64 (B,), from 0 to 1.

    0 between two clusters, 1 on a centroid. With the distances to centroids it is the simplified silhouette (Hruschka,
    de Castro and Campello, *Evolutionary algorithms for clustering gene-expression data*, ICDM 2004).

    Args:
        distances: (B,), d_1.
        margins: (B,), d_2 - d_1; infinite where there is one cluster.
    """
    first, margin = np.asarray(distances, dtype=np.float64), np.maximum(np.asarray(margins, dtype=np.float64), 0)
    second = first + margin
    with np.errstate(invalid="ignore"):
        return np.where(np.isinf(margin), 1.0, np.divide(margin, second, out=np.zeros_like(second), where=second > 0))


@dataclass(frozen=True, eq=False)
class Majorities:
    """Which clusters of two codebooks go together, by the samples that they share.

    Attributes:
        second_of_first: (K,) int64, the cluster of the second codebook with the most samples of each of the first.
        first_of_second: (K',) int64, the other way round. -1 for clusters without samples; ties go to the lower index.
    """

    second_of_first: np.ndarray
    first_of_second: np.ndarray

    @classmethod
    def of(cls, first: np.ndarray, second: np.ndarray, num_first: int, num_second: int) -> Majorities:
        """Those of labels (N,) and (N,), -1 where there is none."""
        pairs, counts = np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        for start in range(0, len(first), _ROWS):
            own, other = first[start : start + _ROWS], second[start : start + _ROWS]
            both = (own >= 0) & (other >= 0)
            found, times = np.unique(own[both].astype(np.int64) * num_second + other[both], return_counts=True)
            pairs, places = np.unique(np.concatenate([pairs, found]), return_inverse=True)
            counts = np.bincount(places, weights=np.concatenate([counts, times])).astype(np.int64)
        of_first, of_second = np.divmod(pairs, num_second)
        return cls(_most(of_first, of_second, counts, num_first), _most(of_second, of_first, counts, num_second))

    def agree(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Whether samples are where most of their cluster are, in either direction, bool (B,).

        Each cluster stands for the class that most of its samples have, as purity counts it (Manning, Raghavan and
        Schütze, *Introduction to Information Retrieval*, 2008, section 16.3). Either direction will do, so that one of
        the codebooks may be the finer one. Where a label is missing there is nothing to disagree with.
        """
        first, second = np.asarray(first), np.asarray(second)
        agree = (self.second_of_first[first] == second) | (self.first_of_second[second] == first)
        return agree | (first < 0) | (second < 0)


def _most(of: np.ndarray, other: np.ndarray, counts: np.ndarray, number: int) -> np.ndarray:
    order = np.lexsort((other, -counts, of))
    clusters, places = np.unique(of[order], return_index=True)
    found = np.full(number, -1, dtype=np.int64)
    found[clusters] = other[order][places]
    return found


class Targets:
    """The targets of the samples of one codebook, and their weights.

    Of a sample with the nearest clusters c_1 … c_L at squared distances d_1 … d_L, the shares are

    - ``hard``, ``nested``: 1 for the label.
    - ``top_l``: 1 / L for each of c_1 … c_L, as several labels share a softmax in Mahajan et al., *Exploring the Limits
      of Weakly Supervised Pretraining*, ECCV 2018 (arXiv:1805.00932), section 2.
    - ``soft``, ``soft_nested``: :func:`shares_by_distance`.

    A codebook with fewer than L clusters has all of them: L is then its K.

    The weight of a sample is ``r^p / mean(r^p)`` for its relative margin r and p = MARGIN_POWER, where the mean is that
    of all samples that count; 0 where r is below MIN_MARGIN, or it disagrees with the second codebook.

    Args:
        labels: of one codebook.
        settings: ``TARGETS``, with the perplexity of this codebook.
        second: labels of the same samples from another codebook, by which samples are left out.
        temperature: T where it is known already, such as that of the split that is trained on.

    Raises:
        ArtifactError: the labels keep too few of the nearest clusters, no distances, or several columns.
        DataError: no temperature gives the perplexity, or no sample is left.
    """

    def __init__(
        self,
        labels: PseudoLabels,
        settings: TargetSettings,
        second: PseudoLabels | None = None,
        temperature: float | None = None,
    ) -> None:
        require_targets(labels, settings)
        self._labels, self._settings, self._second = labels, settings, second
        self.temperature = settings.temperature if temperature is None else temperature
        if settings.is_soft and not self.temperature:
            self.temperature = fitted_temperature(self._distances(slice(None)), settings.perplexity)
        self._majorities, self._scale = None, 1.0
        if second is not None:
            numbers = (labels.num_clusters[0], second.num_clusters[0])
            self._majorities = Majorities.of(labels.labels, second.labels, *numbers)
        if settings.weighs_samples:
            self._scale = self._mean_of_one()

    def of(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Clusters, shares and weights of a batch.

        Args:
            samples: (B,) int64, their indices; -1 for samples without a label, whose weight is 0.

        Returns:
            int64 (B, L), float32 (B, L), float32 (B,): L is 1 for hard labels.
        """
        hard = self._labels.labels[samples]
        labelled = (samples >= 0) & (hard >= 0)
        if self._settings.of_nearest:
            clusters = self._labels.nearest[samples, : self._num_nearest]
        else:
            clusters = hard[:, None]
        if self._settings.is_soft:
            shares = shares_by_distance(self._distances(samples), self.temperature)
        else:
            shares = np.full(clusters.shape, 1 / clusters.shape[1])
        weights = self._raw_weights(samples) * self._scale * labelled
        return np.maximum(clusters, 0), shares.astype(np.float32), weights.astype(np.float32)

    def _distances(self, samples: slice | np.ndarray) -> np.ndarray:
        return self._labels.nearest_distances[samples, : self._num_nearest]

    @property
    def _num_nearest(self) -> int:
        return min(self._settings.num_nearest, self._labels.num_clusters[0])

    def _raw_weights(self, samples: np.ndarray) -> np.ndarray:
        """Before they are scaled; of samples without a label any."""
        settings, weights = self._settings, np.ones(len(samples))
        if settings.min_margin or settings.margin_power:
            margins = relative_margins(self._labels.distances[samples], self._labels.margins[samples])
            weights = np.where(margins >= settings.min_margin, margins**settings.margin_power, 0.0)
        if self._majorities is not None and self._second is not None:
            weights *= self._majorities.agree(self._labels.labels[samples], self._second.labels[samples])
        return weights

    def _mean_of_one(self) -> float:
        """What scales weights so that those above 0 have the mean 1."""
        total, number = 0.0, 0
        for start in range(0, self._labels.num_samples, _ROWS):
            samples = np.arange(start, min(start + _ROWS, self._labels.num_samples))
            weights = self._raw_weights(samples) * (self._labels.labels[samples] >= 0)
            total, number = total + float(weights.sum()), number + int((weights > 0).sum())
        if not number:
            found = "weights by which no sample is trained on"
            raise DataError(
                problem(_BLOCK, found=found, allowed="a smaller MIN_MARGIN, or other labels in AGREES_WITH")
            )
        return number / total

    @property
    def num_left_out(self) -> int:
        """How many samples have a label and the weight 0."""
        number = 0
        for start in range(0, self._labels.num_samples, _ROWS):
            samples = np.arange(start, min(start + _ROWS, self._labels.num_samples))
            number += int(((self._labels.labels[samples] >= 0) & (self._raw_weights(samples) == 0)).sum())
        return number


def require_targets(labels: PseudoLabels, settings: TargetSettings) -> None:
    """Refuses labels that do not have what the targets are made of, by what their manifest says.

    Raises:
        ArtifactError: naming the setting, what the labels keep, and the remedy.
    """
    kept = labels.top_clusters
    again = "Name another config.CLUSTERFIT.OUTPUT_DIR, with FEATURES.PATH where the features are: they are used again."
    if settings.of_nearest and kept < max(2, min(settings.num_nearest, labels.num_clusters[0])):
        few = "the nearest cluster of each sample alone" if kept == 1 else f"the {kept} nearest clusters of each sample"
        raise ArtifactError(
            problem(
                f"{_BLOCK}.KIND",
                found=f"{settings.kind} with NUM_NEAREST={settings.num_nearest}, and labels in {labels.folder} that "
                f"keep {few} (TOP_CLUSTERS={kept})",
                allowed=f"labels with TOP_CLUSTERS={settings.num_nearest} or more"
                + ("" if kept == 1 else f", or NUM_NEAREST={kept}")
                + ", or KIND=hard",
                remedy=again,
            )
        )
    if settings.by_sample and len(labels.num_clusters) > 1:
        found = f"labels of {len(labels.num_clusters)} codebooks in {labels.folder}"
        raise ArtifactError(problem(_BLOCK, found=found, allowed="labels of one codebook", remedy="Set KIND=hard."))
    if settings.is_soft and not settings.temperature and settings.perplexity >= labels.num_clusters[0]:
        found = f"{settings.perplexity:g}, and labels of {labels.num_clusters[0]} clusters in {labels.folder}"
        allowed = "less than there are clusters, or a TEMPERATURE"
        raise ArtifactError(problem(f"{_BLOCK}.PERPLEXITY", found=found, allowed=allowed))
    has_margins = labels.has_distances and MARGINS_FILE in labels.manifest.get("sha256", ())
    if (settings.min_margin or settings.margin_power) and not has_margins:
        found = f"weights by margins, and labels in {labels.folder} without margins"
        allowed = "labels that this package made, of which distances are known"
        raise ArtifactError(problem(f"{_BLOCK}.MARGIN_POWER, MIN_MARGIN", found=found, allowed=allowed, remedy=again))
