"""The states of a clustering after each iteration, to resume from any of them."""

from vissl_clusterfit.clustering.kmeans import KMeansResult, Sums
from vissl_clusterfit.clustering.minibatches import NUM_PARTS


class IterationStates:
    """Give :meth:`record` to k-means as ``on_iteration``."""

    def __init__(self) -> None:
        self.states: list[KMeansResult] = []
        self._sums: list[Sums] = []

    def record(self, state: KMeansResult, sums: Sums) -> None:
        self.states.append(state)
        self._sums.append(sums)

    def after(self, number: int) -> tuple[KMeansResult, Sums]:
        """What k-means resumes from after so many iterations; of their sums it has the last few."""
        state, known = self.states[number - 1], {}
        for sums in self._sums[max(0, number - NUM_PARTS) : number]:
            known |= sums
        return state, {share: known[share] for share in state.retained}
