"""``config.STUDY``: the methods that are compared, over what, on which targets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from vissl_clusterfit.config.schema import read_settings, setting
from vissl_clusterfit.datasets.synthetic.study_images import PicturesSettings
from vissl_clusterfit.errors import ConfigError, problem

POINT = "<point>"


@dataclass(frozen=True)
class MethodSettings:
    """``METHODS.<name>``: a way to a network, as overrides of the study's own config.

    ``<point>``, ``<seed>``, ``<teacher>`` and ``<teachers>`` stand in overrides for the value of the point, the seed,
    the first teacher's checkpoint, and ``<run 1>``, ``<run 2>`` … for the folders of runs of the methods in ``after``.
    """

    #: What it is called in tables and plots; its key, where this is empty.
    name: str = setting("")
    #: Overrides that make the network, in its training and wherever it is used.
    network: list = setting([])
    #: Overrides of its training.
    training: list = setting([])
    #: The length of its training, as a multiple of OPTIMIZER.num_epochs. 0: it is not trained.
    epochs: float = setting(1.0, at_least=0.0)
    #: It trains on so many times as many pictures as the others, and sees each so much more rarely.
    more: float = setting(1.0, above=0.0)
    #: A checkpoint that is there, in the place of a training.
    weights: str = setting("")
    #: The methods whose runs this one needs, of the same seed and point.
    after: list = setting([])
    #: Train on the labels of the training data, a share of them made wrong: see WRONG_LABELS.
    labelled: bool = setting(False)
    #: It has no seed: one run for all.
    once: bool = setting(False)
    #: It is a row of the table and a line of the plot.
    shown: bool = setting(True)

    @property
    def on_other_data(self) -> bool:
        """Whether it trains on other images than those that the study names, whose labels are not known."""
        return any("config.DATA.TRAIN.DATA_PATHS=" in str(text) for text in self.training)


@dataclass(frozen=True)
class TargetSettings:
    """``TARGETS.<name>``: data with labels that networks are scored on."""

    #: Folders of images: a probe is fitted on TRAIN; choices are made on VALIDATION ("": none can be made).
    train: str = setting("")
    validation: str = setting("")
    test: str = setting("")
    #: The labels are in ``<folder>.<labels>.npy``; "" where the class folders are the labels.
    labels: str = setting("")


@dataclass(frozen=True)
class TuningSettings:
    """``TUNING``: every method tries the same values of one key, with a seed that is used for nothing else."""

    key: str = setting("config.OPTIMIZER.param_schedulers.lr.start_value")
    #: One value: nothing is tuned.
    values: list = setting([0.1])
    seed: int = setting(0, at_least=0)
    #: The point where the value of a method is chosen for all, by its name in the table; "": at every point by itself.
    point: str = setting("")


@dataclass(frozen=True)
class StudySettings:
    """The block ``config.STUDY``."""

    name: str = setting("study")
    #: What the points are, for the table and the plot.
    axis: str = setting("")
    #: The values that stand for ``<point>``, one after the other.
    points: list = setting([])
    #: They are shares, and called 25 % where they are 0.25.
    percent: bool = setting(False)
    #: The share of labels that is made wrong: a number, or "<point>".
    wrong_labels: str = setting("0")
    #: One training of each method per seed and point.
    seeds: list = setting([1, 2, 3])
    #: The methods by a key that a command line can name: see ``MethodSettings``. All are compared with BASELINE.
    methods: dict = setting({})
    #: The keys of methods that are not run.
    leave_out: list = setting([])
    baseline: str = setting("teacher")
    #: The keys of the students of which the report takes one, by the validation data, to say whether it helps.
    candidates: list = setting([])
    #: The targets by name: see ``TargetSettings``.
    targets: dict = setting({})
    tuning: TuningSettings = field(default_factory=TuningSettings)
    pictures: PicturesSettings = field(default_factory=PicturesSettings)
    #: How many runs at a time, and the threads of each. Figures depend on the threads.
    num_parallel: int = setting(2, at_least=1)
    num_threads: int = setting(1, at_least=1)

    @classmethod
    def from_config(cls, block: object) -> StudySettings:
        """Reads ``config.STUDY``, methods and targets too.

        Raises:
            ConfigError: naming every unknown key and bad value.
        """
        settings = read_settings(cls, block, "config.STUDY")
        for name, values in settings.methods.items():
            settings.methods[name] = read_settings(MethodSettings, values, f"config.STUDY.METHODS.{name}")
        for name, values in settings.targets.items():
            settings.targets[name] = read_settings(TargetSettings, values, f"config.STUDY.TARGETS.{name}")
        if problems := list(settings._contradictions()):
            raise ConfigError("\n".join(problems))
        for name in settings.leave_out:
            del settings.methods[name]
        return settings

    def _contradictions(self) -> Iterator[str]:
        for name in ("points", "seeds", "methods", "targets"):
            if not getattr(self, name):
                yield problem(f"config.STUDY.{name.upper()}", found="nothing", allowed="one or more")
        if not self.tuning.values:
            yield problem("config.STUDY.TUNING.VALUES", found="nothing", allowed="one value, or several to choose from")
        if self.is_tuned and self.tuning.point not in ("", *self.named_points):
            allowed = " | ".join(map(repr, self.named_points)) + ", or '' for every point by itself"
            yield problem("config.STUDY.TUNING.POINT", found=repr(self.tuning.point), allowed=allowed)
        yield from self._wrongly_left_out()
        if len({*self.candidates}) < len(self.candidates) or not {*self.candidates} <= self.methods.keys():
            allowed = f"some of {', '.join(self.methods)}"
            yield problem("config.STUDY.CANDIDATES", found=self.candidates, allowed=allowed)
        names = [self.shown_name(name) for name in self.methods]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            yield problem("config.STUDY.METHODS", found=f"{twice[0]!r} as NAME of two", allowed="a name for each")
        if self.baseline not in self.methods or self.baseline in self.leave_out:
            allowed = " | ".join(name for name in self.methods if name not in self.leave_out)
            yield problem("config.STUDY.BASELINE", found=repr(self.baseline), allowed=allowed)
        seeds = [*self.seeds, *([self.tuning.seed] if self.is_tuned else [])]
        if any(isinstance(seed, bool) or not isinstance(seed, int) for seed in seeds) or len({*seeds}) < len(seeds):
            allowed = "different whole numbers, none of them TUNING.SEED, as what was chosen on a seed favours it"
            yield problem("config.STUDY.SEEDS", found=self.seeds, allowed=allowed)
        for name, method in self.methods.items():
            before = list(self.methods)[: list(self.methods).index(name)]
            if not {*method.after} <= {*before}:
                allowed = "methods that stand before it: " + (", ".join(before) or "none")
                yield problem(f"config.STUDY.METHODS.{name}.AFTER", found=method.after, allowed=allowed)
        for point in self.named_points:
            if not 0 <= self.share_of_wrong_labels(point) <= 1:
                found = f"{self.wrong_labels}, at the point {point}"
                yield problem("config.STUDY.WRONG_LABELS", found=found, allowed=f"a share of 0 to 1, or {POINT}")
        for name, target in self.targets.items():
            needed = ("train", "validation", "test") if self.is_tuned else ("train", "test")
            if missing := [split.upper() for split in needed if not getattr(target, split)]:
                yield problem(
                    f"config.STUDY.TARGETS.{name}",
                    found=f"no {' and no '.join(missing)}",
                    allowed="a folder of images for each split",
                    remedy="Without a VALIDATION nothing can be tuned: name one value in STUDY.TUNING.VALUES.",
                )

    def _wrongly_left_out(self) -> Iterator[str]:
        if len({*self.leave_out}) < len(self.leave_out) or not {*self.leave_out} <= self.methods.keys():
            yield problem("config.STUDY.LEAVE_OUT", found=self.leave_out, allowed=f"some of {', '.join(self.methods)}")
        for name, method in self.methods.items():
            if name not in self.leave_out and (needed := [each for each in method.after if each in self.leave_out]):
                yield problem(
                    "config.STUDY.LEAVE_OUT",
                    found=f"{needed[0]}, which {name} comes after",
                    allowed=f"{needed[0]} together with {name}, or neither",
                )

    def shown_name(self, method: str) -> str:
        """What a method is called in tables, plots and folders."""
        return self.methods[method].name or method

    @property
    def is_tuned(self) -> bool:
        """Whether there is something to choose."""
        return len(self.tuning.values) > 1

    def share_of_wrong_labels(self, point: str) -> float:
        """Of 1, at a point."""
        return _number(self.wrong_labels.replace(POINT, str(self.named_points[point])))

    @property
    def named_points(self) -> dict[str, Any]:
        """The value of each point by what it is called."""
        return {f"{100 * value:g} %" if self.percent else str(value): value for value in self.points}


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def replaced(texts: list, names: Mapping[str, Any]) -> list[str]:
    """Overrides with what stands for their ``<names>``."""
    made = []
    for text in map(str, texts):
        for name, value in names.items():
            text = text.replace(f"<{name}>", str(value))
        made.append(text)
    return made
