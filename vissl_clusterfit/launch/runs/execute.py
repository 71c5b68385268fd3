"""One run of an engine, and what is reported when it is finished."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vissl.config import AttrDict
from vissl.engines.engine_registry import get_engine

from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.launch.processes.launcher import launch
from vissl_clusterfit.launch.runs.tune.run import run_tuning
from vissl_clusterfit.plugin.benchmarks.trained import add_trained_rows
from vissl_clusterfit.plugin.engines.tune import ENGINE as TUNE
from vissl_clusterfit.plugin.export.at_end import export_at_end
from vissl_clusterfit.plugin.training.checkpoints import final_checkpoint
from vissl_clusterfit.plugin.training.progress import METRICS_NAME, run_folder
from vissl_clusterfit.plugin.training.record import CARD_NAME, EXPORT_NAME
from vissl_clusterfit.progress.ending import ending
from vissl_clusterfit.report.costs import costs_said
from vissl_clusterfit.report.results import RESULTS_NAME
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.paths import artifact_path

_NAMES_ENGINE = re.compile(r"\+*engine_name=")
#: The stage that follows another, as its artefacts are for it.
_FOLLOWING = {"clusterfit_extract": "clusterfit_cluster", "clusterfit_cluster": "clusterfit_label"}


def summarize(engine: str, config: AttrDict, overrides: Sequence[str] = ()) -> str:
    """Ends a run that is finished: a benchmark that VISSL has trained gets its rows.

    Args:
        engine: of the run.
        config: VISSL's.
        overrides: of the run, as on the command line; none in a job, after which others follow by themselves.

    Returns:
        That it is finished, where what it made is, and what to type next; for the user, in five lines at most.

    Raises:
        ArtifactError: the benchmark has no score.
    """
    folder = run_folder(config)
    said = ""
    then: list[object] = ["report", folder]
    if engine == "train":
        add_trained_rows(config, folder)
        said = export_at_end(config, folder)
        head = f"This training is finished; its checkpoints and scores are in {folder}."
        made = {
            "checkpoint": final_checkpoint(folder),
            "scores": f"{folder}/{METRICS_NAME}",
            "results": f"{folder}/{RESULTS_NAME}",
            "export": f"{folder}/{EXPORT_NAME}/{CARD_NAME}",
        }
        if config.LOSS.name == "clusterfit_loss":
            settings = ClusterFitConfig.from_config(config)
            made |= {f"labels of {split}": settings.paths.labels(split) for split in settings.splits}
    else:
        head = f"This run of {engine} is finished; its log is in {folder}."
        made = getattr(get_engine(engine), "results", lambda *_: {})(config, folder)
        if overrides and engine in _FOLLOWING:
            then = ["run", *(each for each in overrides if not _NAMES_ENGINE.match(each))]
            then.append(f"engine_name={_FOLLOWING[engine]}")
        elif engine in (*_FOLLOWING, "clusterfit_label", "clusterfit_assign"):
            then = ["report", ClusterFitConfig.from_config(config).output_dir]
    if (artifact_path(folder) / RESULTS_NAME).is_file():
        then = ["table", folder]
    if engine == "train" and config.TEST_ONLY:
        return ending(f"This test is finished; its scores are in {folder}/{METRICS_NAME}.", then=then)
    places = {name: place for name, place in made.items() if _is_there(place)}
    return ending(head, places, [costs_said(artifact_path(folder)), said], then=then)


def _is_there(place: Path | str | None) -> bool:
    """Whether a result is whole: a file, or a folder with its manifest."""
    if place is None:
        return False
    path = artifact_path(place) if isinstance(place, str) else place
    return path.is_file() or artifacts.has_manifest(path)


def execute(engine: str, node_id: int, config: Any, *, in_subprocess: bool = False) -> None:
    """Runs an engine on this node; arguments and errors are those of ``launch.processes.launcher.launch``."""
    if engine == TUNE:
        run_tuning(config)
    else:
        launch(engine, node_id, config, in_subprocess=in_subprocess)
