"""What happened, as counts that can be added and kept as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Tally:
    """Counts of one sequence of kills and starts, or of many."""

    by_stage: Counter = field(default_factory=Counter)
    by_kind: Counter = field(default_factory=Counter)
    by_scenario: Counter = field(default_factory=Counter)
    #: How the command ended, by what befell it.
    exit_codes: Counter = field(default_factory=Counter)
    starts: int = 0
    finished_runs: int = 0
    cut_files: int = 0
    #: Starts that refused a cut file in a message, until it was removed as that says.
    refusals: int = 0
    lost: int = 0
    shards: int = 0
    shards_in_work: int = 0
    orphans: int = 0
    #: Temporary files and folders of runs that were killed, below TMPDIR.
    left_in_tmp: int = 0
    longest_end_s: float = 0.0
    seconds: float = 0.0
    #: Tracebacks where a message was due, each with how to make it again.
    tracebacks: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """What befell the runs, stops and full disks included."""
        return sum(self.by_kind.values())

    def add(self, other: Tally) -> None:
        """Adds the counts of another."""
        for name, value in vars(other).items():
            if name == "longest_end_s":
                self.longest_end_s = max(self.longest_end_s, value)
            elif isinstance(value, Counter):
                getattr(self, name).update(value)
            else:
                setattr(self, name, getattr(self, name) + value)

    def save(self, path: Path) -> None:
        """Appends it to a file, as one line."""
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(vars(self)) + "\n")

    @property
    def is_good(self) -> bool:
        return not (self.failures or self.lost or self.orphans or self.tracebacks)

    def report(self) -> dict[str, Any]:
        """The JSON object of the benchmark."""
        counts = {name: dict(value) if isinstance(value, Counter) else value for name, value in vars(self).items()}
        counts["exit_codes"] = dict(sorted(counts["exit_codes"].items()))
        share = round(counts.pop("shards_in_work") / max(1, counts.pop("shards")), 4)
        return {
            "benchmark": "kill_resume",
            "kills": self.kills,
            **counts,
            "identical": not self.failures,
            "lost_shards": counts.pop("lost"),
            "redone_share": share,
        }


def read(paths: Iterable[Path]) -> Tally:
    """The sum of what was saved."""
    total = Tally()
    for path in paths:
        for line in path.read_text("utf-8").splitlines():
            values = json.loads(line)
            counters = {name: Counter(values[name]) for name in values if isinstance(values[name], dict)}
            total.add(Tally(**{**values, **counters}))
    return total
