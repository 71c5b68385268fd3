"""``results.json``: one row per evaluation of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vissl_clusterfit.errors import ArtifactError, problem
from vissl_clusterfit.storage.artifacts import write_json
from vissl_clusterfit.storage.remote import as_remote
from vissl_clusterfit.storage.untrusted import UnsafeFileError, load_json

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

RESULTS_NAME = "results.json"
#: What follows a metric's name where the row is the half-width of its interval over draws: low-shot rows come in pairs.
OVER_DRAWS = ", half-width of the 95 % interval"
_LOCK_NAME = ".results.json.lock"


@dataclass(frozen=True)
class ResultRow:
    """One score. All fields but ``value`` together are its identity.

    Attributes:
        model: What was evaluated.
        benchmark: How, in a word, for example "linear".
        dataset: On what data.
        split: The split that was scored.
        metric: For example "top-1 accuracy".
        value: As a fraction: 0.5 for 50 %.
        protocol: A text that lets someone else compute the same number.
        seed: The seed of the run that made the model.
    """

    model: str
    benchmark: str
    dataset: str
    split: str
    metric: str
    value: float
    protocol: str
    seed: int

    def __post_init__(self) -> None:
        """Refuses what would not come back from JSON as it went in.

        Raises:
            ValueError: naming the field.
        """
        for name in ("model", "benchmark", "dataset", "split", "metric", "protocol"):
            text = getattr(self, name)
            if not isinstance(text, str) or not text:
                raise ValueError(problem(name, found=repr(text), allowed="a text that is not empty"))
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ValueError(problem("seed", found=repr(self.seed), allowed="a whole number"))
        number = isinstance(self.value, (int, float)) and not isinstance(self.value, bool)
        if not number or not abs(self.value) <= sys.float_info.max:  # a whole number may be beyond it
            raise ValueError(problem("value", found=repr(self.value), allowed="a finite number"))

    @property
    def identity(self) -> tuple[str, str, str, str, str, str, int]:
        """What a repeated evaluation has in common with this one."""
        return self.model, self.benchmark, self.dataset, self.split, self.metric, self.protocol, self.seed


def append_results(folder: Path, rows: Iterable[ResultRow]) -> None:
    """Adds rows to ``folder/results.json``; a row takes the place of an earlier one with the same identity.

    Several processes of one machine may append at the same time: they take turns by a lock file. A reader
    sees the old file or the new one.

    Raises:
        ArtifactError: the file that is there is damaged; it is left as it is.
    """
    rows = list(rows)
    path = folder / RESULTS_NAME
    with _locked(folder):
        by_identity = {row.identity: row for row in (_read(path) if path.exists() else [])}
        by_identity.update((row.identity, row) for row in rows)
        content = [dataclasses.asdict(row) for row in by_identity.values()]
        write_json(path, content)


def record_scores(folder: Path, rows: Iterable[ResultRow], say: Callable[[str], object] = logger.info) -> None:
    """Adds the rows of one evaluation to ``folder/results.json`` and reports each of them, with ``say``.

    Raises:
        ArtifactError: as :func:`append_results`.
    """
    rows = list(rows)
    append_results(folder, rows)
    for row in rows:
        say(f"{row.benchmark} of {row.model} on {row.dataset}: {100 * row.value:.2f} % {row.metric}.")


def read_results(folder: Path) -> list[ResultRow]:
    """All rows of ``folder/results.json``, in the order in which they first came.

    Raises:
        ArtifactError: there is no such file, or it is damaged.
    """
    return _read(folder / RESULTS_NAME)


def read_runs(places: Iterable[Path]) -> list[ResultRow]:
    """The rows of several runs: folders with a ``results.json``, or such files under any name that ends in ``.json``.

    A row that is there twice counts once, as when a run is named twice, or a suite's rows are in its training's folder.

    Raises:
        ArtifactError: a file is missing, damaged or without a row, or two give another value for the same thing.
    """
    found: dict[tuple[str, str, str, str, str, str, int], tuple[ResultRow, Path]] = {}
    for place in places:
        path = place if place.name.endswith(".json") else place / RESULTS_NAME
        rows = _read(path)
        if not rows:
            raise ArtifactError(f"{path} has no rows: nothing has been evaluated there yet.")
        for row in rows:
            known, where = found.setdefault(row.identity, (row, path))
            if known.value != row.value:
                what = f"{row.benchmark} of {row.model} on {row.dataset}, {row.metric}, seed {row.seed}"
                raise ArtifactError(
                    problem(
                        what,
                        found=f"{known.value:g} in {where} and {row.value:g} in {path}, by the same protocol",
                        allowed="one value",
                        remedy="If two models bear this name, name them apart (config.TRANSFER.MODEL_NAME); if two "
                        "seeds do, set config.SEED_VALUE. Otherwise leave one of the two out.",
                    )
                )
    return [row for row, _ in found.values()]


def _read(path: Path) -> list[ResultRow]:
    """The rows of one file. Anything that writing it again would lose is refused."""
    try:
        content = load_json(path)
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing: nothing has been evaluated there yet.") from None
    except (OSError, UnsafeFileError) as error:
        raise ArtifactError(f"{path} cannot be read as JSON: {error}. Repair it, or move it away.") from None
    if not isinstance(content, list):
        raise ArtifactError(f"{path} must hold a JSON list of rows, found {type(content).__name__}.")
    return [_row(path, place, entry) for place, entry in enumerate(content)]


def _row(path: Path, place: int, entry: Any) -> ResultRow:
    names = [field.name for field in dataclasses.fields(ResultRow)]
    if not isinstance(entry, dict) or set(entry) != set(names):
        found = ", ".join(sorted(entry)) if isinstance(entry, dict) else type(entry).__name__
        allowed = f"an object of {', '.join(names)}"
        raise ArtifactError(problem(f"{path}, row {place}", found=found or "no keys", allowed=allowed))
    try:
        return ResultRow(**entry)
    except ValueError as error:
        raise ArtifactError(f"{path}, row {place}: {error}") from None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Waits for its turn among the processes of this machine. The lock of a process that dies is freed."""
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None or as_remote(folder):
        yield
        return
    with (folder / _LOCK_NAME).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # some network file systems have no locks
            logger.warning("%s cannot be locked (%s): append to it from one process only", folder, error)
        yield
