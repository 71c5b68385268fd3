"""The benchmarks that follow a training: the block ``config.CLUSTERFIT.BENCHMARKS``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vissl_clusterfit.config.schema import read_settings, setting
from vissl_clusterfit.errors import ConfigError, problem

_BLOCK = "config.CLUSTERFIT.BENCHMARKS"
#: What the suite itself says to each benchmark.
_TAKEN = (
    "config",
    "config.MODEL.WEIGHTS_INIT.PARAMS_FILE",
    "config.CHECKPOINT.DIR",
    "config.CHECKPOINT.AUTO_RESUME",
    "config.CHECKPOINT.OVERWRITE_EXISTING",
)


@dataclass(frozen=True)
class Benchmark:
    """One entry of ``BENCHMARKS.RUN``: a config and overrides, as on the command line."""

    #: A benchmark config of ours, of VISSL or of the user, as after ``config=``.
    config: str = setting("")
    #: For its folder and its jobs; the last part of CONFIG if empty.
    name: str = setting("")
    overrides: list = setting([])

    @property
    def label(self) -> str:
        """Its name."""
        return self.name or self.config.rpartition("/")[2]


@dataclass(frozen=True)
class SuiteSettings:
    """``CLUSTERFIT.BENCHMARKS``: what is measured when a training has ended, and of which checkpoints."""

    #: Mappings of CONFIG, OVERRIDES and NAME.
    run: list = setting([])
    #: "last" for the checkpoint at the end of the training, "every" for each that it leaves. None is chosen by a test.
    checkpoints: str = setting("last", choices=("last", "every"))
    #: The name of the network in the results; that of the training's folder if empty.
    model_name: str = setting("")

    @property
    def benchmarks(self) -> list[Benchmark]:
        """The entries of RUN, in their order.

        Raises:
            ConfigError: one is none.
        """
        return [_entry(place, entry) for place, entry in enumerate(self.run)]

    def problems(self) -> Iterator[str]:
        """What is wrong with the entries of RUN."""
        found = []
        for place, entry in enumerate(self.run):
            try:
                benchmark = _entry(place, entry)
            except ConfigError as error:
                yield str(error)
                continue
            found.append(benchmark.label)
            yield from _wrong(f"{_BLOCK}.RUN[{place}]", benchmark)
        for name in [name for name, times in Counter(found).items() if times > 1]:
            yield problem(
                f"{_BLOCK}.RUN",
                found=f"{found.count(name)} benchmarks of the name {name}",
                allowed="a name for each",
                remedy="Add NAME to all of them but one.",
            )


def _entry(place: int, entry: object) -> Benchmark:
    return read_settings(Benchmark, entry, f"{_BLOCK}.RUN[{place}]")


def _wrong(name: str, benchmark: Benchmark) -> Iterator[str]:
    if not benchmark.config:
        yield problem(f"{name}.CONFIG", found="nothing", allowed="a config, such as clusterfit/transfer")
    for override in benchmark.overrides:
        key = _key(override)
        if key is None:
            allowed = "key=value, as on the command line"
            yield problem(f"{name}.OVERRIDES", found=repr(override), allowed=allowed, remedy=_QUOTES)
        elif key in _TAKEN:
            yield problem(f"{name}.OVERRIDES", found=override, allowed="other keys: the suite sets this one")


_QUOTES = "A mapping or a list here is a text without its quotation marks."


def _key(override: Any) -> str | None:
    if not isinstance(override, str) or isinstance(override, Mapping) or "=" not in override:
        return None
    return override.split("=", 1)[0].lstrip("+") or None
