"""``engine_name: clusterfit_tune``: hyper-parameters chosen on a validation split, the test split scored once.

Every setting of a grid is trained by VISSL on TRAIN minus a validation split and scored on that split after the last
epoch; the best is trained again on all of TRAIN; TEST is scored once. Heads on a frozen trunk learn alone, so each
layer has its own choice; the network that is scored is put together of the trainings that were chosen.

A tuning is no engine inside a run: it starts runs, one after the other. Each has its own folder, resumes as
any training of VISSL does, and is not run again when it has finished.
"""

from __future__ import annotations

import time
from pathlib import Path

from vissl.config import AttrDict

from vissl_clusterfit.errors import ArtifactError, ClusterFitError, ConfigError, problem
from vissl_clusterfit.launch.processes.launcher import launch
from vissl_clusterfit.launch.processes.torchrun import is_torchrun
from vissl_clusterfit.launch.processes.worker import require_gpus_and_weights
from vissl_clusterfit.launch.runs.tune.heads import head_names, write_network
from vissl_clusterfit.launch.runs.tune.inputs import check_tuning_labels, inputs_of
from vissl_clusterfit.launch.runs.tune.settings import TuneSettings, chosen_by
from vissl_clusterfit.launch.runs.tune.split import ValidationSplit
from vissl_clusterfit.launch.runs.tune.trainings import Trial, grid, of_test, on_validation, with_setting
from vissl_clusterfit.plugin.benchmarks.readable import describe_counts
from vissl_clusterfit.plugin.benchmarks.rows import model_in_rows
from vissl_clusterfit.plugin.benchmarks.trained import describe_training, last_test, scores, test_views
from vissl_clusterfit.plugin.data.prepared import require_prepared
from vissl_clusterfit.plugin.engines.tune import NETWORK_NAME, VALIDATION_NAME
from vissl_clusterfit.plugin.training.divergence import DIVERGED
from vissl_clusterfit.plugin.training.progress import read_metrics
from vissl_clusterfit.progress.state import duration
from vissl_clusterfit.report.results import ResultRow, record_scores
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.paths import artifact_path

_FOLDER_NAME = "tune"
_INPUTS_NAME = "inputs.json"
_DIVERGED_NAME = "diverged.json"
_FINISHED_NAME = "finished.json"


def run_tuning(cfg: AttrDict) -> None:
    """Does the trainings that are not done, and the test; puts its rows into ``results.json``.

    Args:
        cfg: VISSL's ``config``.

    Raises:
        ClusterFitError: bad settings or data, or a folder with trainings of others.
        RankFailed: a training failed otherwise than by a mistake of the user.
    """
    tuning = _Tuning(cfg)
    if not tuning.is_finished:
        tuning.run()
    else:
        _say("This tuning was finished before: nothing is trained or scored again.")
    tuning.report()


class _Tuning:
    """One tuning: what is to be tried, and the folders of its trainings. Nothing is written when it is made."""

    def __init__(self, cfg: AttrDict) -> None:
        if is_torchrun():
            allowed = "a command without torchrun: it starts one training after the other"
            raise ConfigError(problem("engine_name", found="clusterfit_tune under torchrun", allowed=allowed))
        self._cfg = cfg
        self._settings = TuneSettings.from_config(cfg)
        self._grid = grid(cfg, self._settings)
        self._metric, self._heads = chosen_by(cfg), head_names(cfg)
        place = artifact_path(cfg.CHECKPOINT.DIR, "config.CHECKPOINT.DIR")
        if not isinstance(place, Path):
            allowed = "a folder of this machine's file system for a tuning"
            raise ConfigError(problem("config.CHECKPOINT.DIR", found=str(place), allowed=allowed))
        self._place, self._folder = place, place / _FOLDER_NAME
        require_prepared(cfg)
        require_gpus_and_weights(cfg, resuming=False)
        labels = check_tuning_labels(cfg)
        self._num_samples = len(labels)
        self._split = ValidationSplit(cfg, self._settings, labels) if len(self._grid) > 1 else None
        self._inputs = inputs_of(cfg, self._settings, labels, is_split=self._split is not None)
        self._names = [str(setting) for setting in self._grid]
        self._begun, self._num_trained = time.monotonic(), 0
        self._require_nothing_of_others()

    def _require_nothing_of_others(self) -> None:
        before, finished = self._folder / _INPUTS_NAME, self._folder / _FINISHED_NAME
        if finished.is_file() and (tried := artifacts.read_json(finished, "grid")["grid"]) != self._names:
            raise ArtifactError(
                f"{self._folder} has scored the test split for what was chosen of {', '.join(tried)}; this run has "
                f"{', '.join(self._names)}. Name another config.CHECKPOINT.DIR to choose again."
            )
        if before.is_file() and any(self._folder.rglob("*.torch")):  # else the first command had a mistake
            found, places = artifacts.read_json(before), "config.CHECKPOINT.DIR"
            artifacts.require_same_inputs(self._folder, found, self._inputs, places)

    @property
    def is_finished(self) -> bool:
        """Whether the test split was scored."""
        return (self._folder / _FINISHED_NAME).is_file()

    def run(self) -> None:
        """Chooses, trains what was chosen on all of TRAIN, and scores it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        artifacts.write_json(self._folder / _INPUTS_NAME, self._inputs)
        chosen = self._choose()
        finals = {setting: self._folder / f"final,{setting}" for setting in dict.fromkeys(chosen.values())}
        for number, (setting, folder) in enumerate(finals.items(), 1):
            _say(f"Training {number} of {len(finals)} on all of TRAIN: {setting}{self._left(len(finals) - number + 1)}")
            self._train(with_setting(self._cfg, setting, folder))
        network = self._folder / NETWORK_NAME
        write_network(self._cfg, {head: finals[chosen[head]] for head in self._heads}, network)
        test = self._folder / "test"
        if not read_metrics(str(test)):
            _say("Test: TEST is scored, once.")
            launch("train", 0, of_test(self._cfg, network, test), in_subprocess=True)
        artifacts.write_json(self._folder / _FINISHED_NAME, {"grid": self._names})

    def _choose(self) -> dict[str, Trial]:
        """The setting of each head; what was tried goes to a file before anything is trained on all of TRAIN."""
        if self._split is None:
            return dict.fromkeys(self._heads, self._grid[0])
        lists = self._folder / "split"
        self._split.write(lists)
        validated: dict[Trial, dict[str, float] | None] = {}
        for number, setting in enumerate(self._grid, 1):
            left = self._left(len(self._grid) - number + 2)  # at least one on all of TRAIN follows
            _say(f"Training {number} of {len(self._grid)} without the validation split: {setting}{left}")
            validated[setting] = self._score(on_validation(self._cfg, setting, self._folder / str(setting), lists))
        tried = {setting: of_each for setting, of_each in validated.items() if of_each is not None}
        if not tried:
            found, allowed = "a loss that is no number with every one", "rates with which it stays one"
            raise ConfigError(problem("config.TUNE.LEARNING_RATES", found=found, allowed=allowed))
        # The first of those that are equally good.
        chosen = {head: max(tried, key=lambda setting: tried[setting][head]) for head in self._heads}
        record = {
            "metric": self._metric,
            "validation": str(self._split),
            "tried": {str(setting): of_each or "diverged" for setting, of_each in validated.items()},
            "chosen": {head: str(setting) for head, setting in chosen.items()},
        }
        artifacts.write_json(self._place / VALIDATION_NAME, record)
        return chosen

    def _left(self, num_left: int) -> str:
        """How long the trainings take that are left, by those that have ended."""
        if not self._num_trained:
            return ""
        seconds = (time.monotonic() - self._begun) / self._num_trained * num_left
        return f"; about {duration(seconds)} left in all"

    def _train(self, cfg: AttrDict) -> None:
        """A training to its end; of its checkpoints the last one stays."""
        launch("train", 0, cfg, in_subprocess=True)
        self._num_trained += 1
        _remove(Path(cfg.CHECKPOINT.DIR), "model_phase*.torch", "model_iteration*.torch")

    def _score(self, cfg: AttrDict) -> dict[str, float] | None:
        """Of each head, after the last epoch; None where the loss became no number."""
        folder = Path(cfg.CHECKPOINT.DIR)
        diverged = folder / _DIVERGED_NAME
        if not diverged.is_file():
            try:
                self._train(cfg)
            except ClusterFitError as error:
                if DIVERGED not in str(error):
                    raise
                artifacts.write_json(diverged, {"said": str(error).splitlines()[-1]})
                _remove(folder, "*.torch", "rank*.pth")
        if diverged.is_file():
            _say("The loss became no number: this setting is out.")
            return None
        scored = {head: value for metric, head, value in scores(last_test(str(folder))) if metric == self._metric}
        _say(", ".join(f"{head}: {100 * value:.1f} %" for head, value in scored.items()) + f" {self._metric}")
        return scored

    def report(self) -> None:
        """Puts the scores of the test into ``results.json``."""
        chosen = dict.fromkeys(self._heads, self._grid[0])
        if self._split is not None:
            names = artifacts.read_json(self._place / VALIDATION_NAME, "chosen")["chosen"]
            by_name = dict(zip(self._names, self._grid, strict=True))
            chosen = {head: by_name[name] for head, name in names.items()}
        rows = []
        line = last_test(str(self._folder / "test"))
        for metric, head, value in scores(line):
            layer = head.removeprefix("layer ") if head.startswith("layer ") else ""
            rows.append(
                ResultRow(
                    model=model_in_rows(self._cfg, self._settings.model_name),
                    benchmark=self._settings.benchmark + (f", {layer}" if layer else ""),
                    dataset=self._settings.dataset_name,
                    split="test",
                    metric=metric,
                    value=value,
                    protocol="; ".join(filter(None, [self._protocol(chosen[head]), describe_counts(line)])),
                    seed=self._cfg.SEED_VALUE,
                )
            )
        record_scores(self._place, rows, _say)

    def _protocol(self, chosen: Trial) -> str:
        if self._split is None:
            choice = f"one setting, {chosen}: nothing was chosen"
        else:
            choice = (
                f"{chosen} of [{', '.join(self._names)}] by {self._metric} on {self._split}, after the last "
                "epoch of a training without these; then trained on all"
            )
        parts = [
            describe_training(with_setting(self._cfg, chosen, self._folder)),
            f"learning rate and weight decay: {choice}",
            test_views(self._cfg),
            f"test samples scored once, after {self._cfg.OPTIMIZER.num_epochs} epochs on {self._num_samples} samples",
        ]
        return "; ".join(parts)


def _remove(folder: Path, *patterns: str) -> None:
    for file in [file for pattern in patterns for file in folder.glob(pattern)]:
        file.unlink()


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201  (VISSL's log is that of each training)
