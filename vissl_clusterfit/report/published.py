"""Scores that others published, to be shown beside one's own: ``published.json`` of this package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vissl_clusterfit.errors import problem
from vissl_clusterfit.report.results import ResultRow

_FILE = Path(__file__).with_name("published.json")

#: What may be said of a published score's protocol and ours.
AGREEMENTS = ("agrees", "not known to agree", "reported elsewhere, protocol not reproduced")

_KEYS = {"model", "dataset", "benchmark", "metric", "percent"}


@dataclass(frozen=True)
class PublishedScore:
    """One score of one publication.

    Attributes:
        model: As the publication has it.
        dataset: As our rows name it.
        benchmark: As our rows name it.
        any_layer: The publication does not say of which layer; it is beside all layers of the benchmark.
        metric: As our rows name it.
        value: As a fraction.
        source: The publication.
        protocol: One of AGREEMENTS.
    """

    model: str
    dataset: str
    benchmark: str
    any_layer: bool
    metric: str
    value: float
    source: str
    protocol: str

    def belongs_beside(self, row: ResultRow) -> bool:
        """Whether the row is of the same data, benchmark and metric; the protocol may be another one."""
        if (row.dataset, row.metric) != (self.dataset, self.metric):
            return False
        # The engine for VISSL's own config writes SVM in capitals.
        benchmark = row.benchmark.lower()
        return benchmark.startswith(f"{self.benchmark}, ") if self.any_layer else benchmark == self.benchmark


def published_rows(rows: Sequence[ResultRow]) -> list[ResultRow]:
    """The published scores that belong beside some rows, as rows themselves.

    Their benchmark says that they are published, their protocol the source and whether the protocols agree: so they
    share no column with scores that were measured here.
    """
    found = []
    for score in read_published():
        beside = [row for row in rows if score.belongs_beside(row)]
        if beside:
            layer = ", layer not stated" if score.any_layer else ""
            found.append(
                ResultRow(
                    model=score.model,
                    benchmark=f"{score.benchmark}{layer}, published",
                    dataset=score.dataset,
                    split=beside[0].split,
                    metric=score.metric,
                    value=score.value,
                    protocol=f"published: {score.source}; protocol: {score.protocol}",
                    seed=0,
                )
            )
    return found


def read_published(path: Path = _FILE) -> list[PublishedScore]:
    """All published scores of a file, checked.

    Raises:
        ValueError: an entry is not what it should be; the file is a part of this package.
    """
    scores = []
    for number, publication in enumerate(json.loads(path.read_text(encoding="utf-8"))):
        where = f"{path.name}, publication {number}"
        if set(publication) != {"source", "protocol", "figures"} or not publication["source"]:
            raise ValueError(problem(where, found=", ".join(publication), allowed="source, protocol, figures"))
        if publication["protocol"] not in AGREEMENTS:
            raise ValueError(problem(where, found=publication["protocol"], allowed=" | ".join(AGREEMENTS)))
        for place, entry in enumerate(publication["figures"]):
            scores.append(_score(entry, publication["source"], publication["protocol"], f"{where}, figure {place}"))
    return scores


def _score(entry: dict[str, Any], source: str, protocol: str, where: str) -> PublishedScore:
    if set(entry) - {"layer"} != _KEYS or entry.get("layer", "any") != "any":
        raise ValueError(problem(where, found=entry, allowed=f"{', '.join(sorted(_KEYS))}, and layer: any"))
    texts = [entry[key] for key in ("model", "dataset", "benchmark", "metric")]
    if not all(isinstance(text, str) and text for text in texts):
        raise ValueError(problem(where, found=texts, allowed="texts that are not empty"))
    percent = entry["percent"]
    if isinstance(percent, bool) or not isinstance(percent, (int, float)) or not 0 < percent <= 100:
        raise ValueError(problem(f"{where}, percent", found=repr(percent), allowed="above 0 and at most 100"))
    model, dataset, benchmark, metric = texts
    return PublishedScore(model, dataset, benchmark, "layer" in entry, metric, percent / 100, source, protocol)
