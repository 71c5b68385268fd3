"""The rows of a head, one for each cluster: spread over the processes of a run, drawn from, and saved whole.

Of K rows, process r of P has those from K·r/P on, rounded down, up to the next one's. What is saved knows no processes:
files of rows with their numbers, so that any number of processes reads what any other has written.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import torch

from vissl_clusterfit import distributed
from vissl_clusterfit.errors import ArtifactError, with_remedy
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.unchanged import require_unchanged

#: Written last: which rows each file has.
LIST_NAME = "rows.json"
_FORMAT = 1
#: Rows that are drawn at random together, so that the first weights do not depend on the number of processes.
_BLOCK = 4096
_DEVIATION = 0.01
_REMEDY = "Put the files of this checkpoint back, or resume from another one."


class ClusterRows:
    """The share of this process in a head's K x D matrix, float32.

    Args:
        num_clusters: K.
        dim: D.
        seed: draws the first weights, with a deviation of 0.01 as VISSL's linear heads, and the negatives of each step.
        device: where they are.

    Attributes:
        first, last: the clusters of this process, without the last.
        weights: (last - first, D).
    """

    def __init__(self, num_clusters: int, dim: int, *, seed: int, device: torch.device | str = "cpu") -> None:
        self.num_clusters, self.dim, self._seed = num_clusters, dim, seed
        rank, processes = distributed.rank(), distributed.world_size()
        self.first, self.last = (num_clusters * number // processes for number in (rank, rank + 1))
        self.weights = torch.empty(self.last - self.first, dim, device=device)
        for start in range(self.first - self.first % _BLOCK, self.last, _BLOCK):
            draw = torch.Generator().manual_seed(_mixed(seed, start, 0))
            rows = torch.empty(min(_BLOCK, num_clusters - start), dim).normal_(0.0, _DEVIATION, generator=draw)
            low, high = max(start, self.first), min(start + len(rows), self.last)
            self.weights[low - self.first : high - self.first] = rows[low - start : high - start].to(device)

    def draw(self, own: torch.Tensor, rate: float, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Which rows of this process take part in a step: those that samples have, and negatives, without replacement.

        Args:
            own: (P,) int64, the positions in ``weights`` of the clusters that samples have, each once.
            rate: the share of the rows; more where samples have more.
            step: another one draws other negatives.

        Returns:
            Their positions, int64 (n,), ascending; and the logarithm of the chance of each to be drawn, float32 (n,),
            which is 0 for the clusters that samples have.
        """
        number = len(self.weights)
        wanted = max(len(own), math.ceil(rate * number))
        if wanted >= number:
            everything = torch.arange(number, device=self.weights.device)
            return everything, torch.zeros(number, device=self.weights.device)
        generator = torch.Generator(self.weights.device).manual_seed(_mixed(self._seed, self.first, step + 1))
        lots = torch.rand(number, generator=generator, device=self.weights.device)
        lots[own] = 2.0
        drawn = lots.topk(wanted, sorted=False).indices.sort().values
        chance = math.log((wanted - len(own)) / (number - len(own))) if wanted > len(own) else 0.0
        return drawn, torch.where(lots[drawn] > 1, 0.0, chance)

    def save(self, folder: Path) -> None:
        """Writes the rows of all processes, and their list when all are written; all processes call it together.

        Raises:
            ArtifactError: the file system refuses.
        """
        name = f"rows-{self.first:09d}-{self.last:09d}.npy"
        with distributed.errors_shared():
            folder.mkdir(parents=True, exist_ok=True)
            written = (name, self.first, artifacts.write_array(folder / name, self.weights.cpu().numpy()))
        parts = distributed.gather(written)

        def finish() -> None:
            files = [{"name": part, "first": first, "sha256": digest} for part, first, digest in parts]
            size = {"num_clusters": self.num_clusters, "dim": self.dim}
            artifacts.write_json(folder / LIST_NAME, {"format": _FORMAT, **size, "files": files})

        distributed.on_primary(finish)

    def load(self, folder: Path) -> None:
        """Reads the rows of this process, whoever wrote them.

        Raises:
            ArtifactError: they are missing, damaged, or of another size.
        """
        with distributed.errors_shared(), with_remedy(_REMEDY):
            listed = artifacts.read_json(folder / LIST_NAME, "num_clusters", "dim", "files")
            size = (listed["num_clusters"], listed["dim"])
            if size != (self.num_clusters, self.dim):
                raise ArtifactError(f"{folder} has a head of {size}, this run has {(self.num_clusters, self.dim)}.")
            missing = len(self.weights)
            for name, start, digest in _checked(folder, listed["files"]):
                rows = artifacts.read_array(folder / name, mmap=True)
                low, high = max(start, self.first), min(start + len(rows), self.last)
                if low < high:
                    require_unchanged(folder / name, digest)
                    found = torch.from_numpy(np.array(rows[low - start : high - start]))
                    self.weights[low - self.first : high - self.first] = found.to(self.weights.device)
                    missing -= high - low
            if missing:
                raise ArtifactError(f"{folder} has not all rows from {self.first} to {self.last}.")


def _checked(folder: Path, files: object) -> list[tuple[str, int, str]]:
    """Name, first row and hash of each file, as the list has them; no name leads out of the folder."""
    found = []
    for entry in files if isinstance(files, list) else [None]:
        values = [entry.get(key) for key in ("name", "first", "sha256")] if isinstance(entry, dict) else [None]
        if list(map(type, values)) != [str, int, str] or not re.fullmatch(r"rows-\d+-\d+\.npy", values[0]):
            raise ArtifactError(f"{folder / LIST_NAME} is damaged: it does not say which rows its files have.")
        found.append((values[0], values[1], values[2]))
    return found


def _mixed(*numbers: int) -> int:
    """A seed of several whole numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
