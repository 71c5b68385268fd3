"""Features, codebook, labels: each stage made if it is missing, opened if it is valid, refused if it is of another run.

    stages = Stages(cfg)
    stages.labels("TRAIN")      # makes whatever is missing on the way

All processes of a run call the same stage together. They share extraction and clustering; labelling runs on the primary
process while the others wait.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from vissl.config import AttrDict

from vissl_clusterfit import distributed
from vissl_clusterfit.clustering.codebook import Codebook
from vissl_clusterfit.clustering.codebook_inputs import codebook_inputs
from vissl_clusterfit.clustering.fit import fit_codebooks
from vissl_clusterfit.compute.chosen import PLAIN, Compute
from vissl_clusterfit.config.clusterfit import ClusterFitConfig
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.features.batches import Encoder
from vissl_clusterfit.features.computing import NOTE_NAME
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.assign import label_store
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels, label_inputs
from vissl_clusterfit.labels.targets import require_targets
from vissl_clusterfit.planner.announce import announce_clustering
from vissl_clusterfit.plugin.costs import counted
from vissl_clusterfit.plugin.data.split_images import SplitImages
from vissl_clusterfit.plugin.device import run_device
from vissl_clusterfit.plugin.extraction import compute_of_run, extract_split, feature_provenance
from vissl_clusterfit.plugin.labels_of_other_data import open_labels, open_labels_of_others
from vissl_clusterfit.plugin.models.encoder import EncoderBuilder, teacher_spec
from vissl_clusterfit.progress.step import followed_by
from vissl_clusterfit.search.backends import require_backend
from vissl_clusterfit.storage import artifacts
from vissl_clusterfit.storage.leases import Lease, only_one
from vissl_clusterfit.storage.paths import artifact_path

logger = logging.getLogger(__name__)


class Stages:
    """The three stages of one run.

    Args:
        cfg: VISSL's ``config``.
        settings: its block ``CLUSTERFIT``, where it has been read; read here if None.
    """

    def __init__(self, cfg: AttrDict, settings: ClusterFitConfig | None = None) -> None:
        self._cfg = cfg
        self.settings = settings or ClusterFitConfig.from_config(cfg)

    @functools.cached_property
    def _device(self) -> torch.device:
        """Asked for when a stage computes: a machine that only submits a job may have none."""
        return run_device(self._cfg)

    @functools.cache  # noqa: B019  (an object of this class lives as long as its run)
    def _images(self, split: str) -> SplitImages:
        features = self.settings.features
        return SplitImages(
            self._cfg, split, features.transforms, num_clips=features.num_clips, keep_names=features.keep_names
        )

    @functools.cache  # noqa: B019
    def feature_inputs(self, split: str) -> dict[str, Any]:
        """What the features of a split are made from: data, teacher, layer, pooling, transforms, dtype, precision."""
        return self._uncomputed_inputs(split) | self._compute.inputs()

    @functools.cache  # noqa: B019
    def _uncomputed_inputs(self, split: str) -> dict[str, Any]:
        """Without the precision, which may have to be measured."""
        return feature_provenance(self._images(split), self._teacher_inputs, self.settings.features, PLAIN)

    @functools.cached_property
    def _compute(self) -> Compute:
        """How the teacher computes: of all splits in the same way, that of the first artefact that is there."""
        paths, splits = self.settings.paths, self.settings.splits
        made = [*map(paths.features, splits), paths.codebook, *map(paths.labels, splits)]
        images = self._images(self.settings.features.data_partition)
        note = paths.features_dir / NOTE_NAME
        return compute_of_run(self._cfg, images, self._teacher_inputs, self._build, made, note)

    @functools.cached_property
    def _builder(self) -> EncoderBuilder:
        return EncoderBuilder(self._teacher(), self._device)

    def _build(self, compute: Compute) -> Encoder:
        return self._builder(compute)

    @functools.cache  # noqa: B019
    def _teacher_inputs(self) -> dict[str, Any]:
        return {"teacher": self._teacher().inputs()}

    def _dataset_inputs(self, split: str) -> dict[str, Any]:
        return distributed.on_primary(lambda: self._images(split).inputs())

    def _teacher(self):
        return teacher_spec(self._cfg.MODEL, self.settings.teacher, self.settings.features)

    def features(self, split: str) -> FeatureStore:
        """The features of one split. Called by all processes together."""
        folder = self.settings.paths.features(split)
        if not self.settings.features.extract:
            FeatureStore.open(folder)  # or what is not there would be measured first
            return FeatureStore.open(folder, self.feature_inputs(split))
        self._require_enough_samples()
        with counted(self._cfg, "extract"):
            of_split = self._images(split), self._teacher_inputs, self._build
            return extract_split(self._cfg, *of_split, self.settings.features, folder, self._compute)

    def _require_enough_samples(self) -> None:
        available = len(self._images(self.settings.features.data_partition))
        wanted = max(self.settings.num_clusters, *self.settings.also_num_clusters, 0)
        if available < wanted:
            raise ConfigError(
                problem(
                    "config.CLUSTERFIT.NUM_CLUSTERS",
                    found=f"{wanted} for {available} samples",
                    allowed=f"1 to {available}",
                    remedy="Lower it, or add samples.",
                )
            )

    def codebook(self) -> Codebook:
        """The codebook of the clustered split. Called by all processes together."""
        if _is_there(self.settings.paths.codebook):
            return self._open_codebook(self.settings)
        return self.codebooks()[0]

    def codebooks(self) -> list[Codebook]:
        """The codebook, and one for each of ALSO_NUM_CLUSTERS; those that are missing are made in the same passes."""
        of_all = [self.settings, *self.settings.also]

        def missing() -> list[ClusterFitConfig]:
            return [settings for settings in of_all if not artifacts.has_manifest(settings.paths.codebook)]

        for settings in of_all:  # what is there of another run is refused before anything is made
            if _is_there(settings.paths.codebook):
                self._open_codebook(settings)
        if distributed.on_primary(lambda: bool(missing())):
            # Before the extraction, which may take days.
            require_backend(self.settings.cluster_backend, self._device.type)
            store = followed_by("clustering")(self.features)(self.settings.features.data_partition)

            def fit() -> None:
                wanted = distributed.on_primary(missing)
                for settings in wanted:
                    announce_clustering(store, settings, self._device.type)
                fit_codebooks(store, wanted, self._device.type)

            with counted(self._cfg, "cluster"):
                make_together(self.settings.paths.codebook, "Clustering", fit, lambda: not missing())
        return [self._open_codebook(settings) for settings in of_all]

    def _open_codebook(self, settings: ClusterFitConfig) -> Codebook:
        inputs = codebook_inputs(self.feature_inputs(settings.features.data_partition), settings)
        return Codebook.open(settings.paths.codebook, inputs)

    def labels(self, split: str) -> PseudoLabels:
        """The labels of one split, all from the codebook of the clustered split. Called by all processes together."""
        return self._labels(split, self.settings, self.codebook)

    def _labels(self, split: str, settings: ClusterFitConfig, codebook_of: Callable[[], Codebook]) -> PseudoLabels:
        folder = settings.paths.labels(split)
        if _is_there(folder):
            labels = self._valid_labels(split, settings)
            logger.info("Labels of %d samples are in %s already.", labels.num_samples, folder)
            return labels
        with followed_by("labelling"):
            codebook = codebook_of()
            store = self.features(split)

        def label() -> None:
            label_store(
                store,
                codebook,
                self._device.type,
                folder,
                top_clusters=settings.top_clusters,
                max_cluster_size=_max_cluster_size(split, settings),
            )

        with counted(self._cfg, "label"):
            make_together(folder, "Labelling", label, lambda: artifacts.has_manifest(folder))
        return self._valid_labels(split, settings)

    def target_inputs(self) -> dict[str, Any]:
        """What the targets of a training are made from, labels or a teacher's predictions; makes nothing.

        Of labels that were brought from elsewhere, without their teacher, what their manifests say. Not how the teacher
        computes, which may not have been measured yet: labels are held against that when they are opened.
        """
        settings, clustered = self.settings, self.settings.features.data_partition
        if self._cfg.LOSS.name != "clusterfit_loss":
            return {"features": self._uncomputed_inputs(clustered)}
        joined = [PseudoLabels.open(artifact_path(folder)).inputs for folder in settings.joined_labels]
        found, *also = map(self._target_inputs, settings.heads)
        targets = settings.targets.inputs()
        if settings.targets.agrees_with:
            targets["agrees_with"] = PseudoLabels.open(artifact_path(settings.targets.agrees_with)).inputs
        more = {"joined": joined, "also": also, "targets": targets, "balanced_samples": settings.balanced_samples}
        return found | {name: inputs for name, inputs in more.items() if inputs}

    def _target_inputs(self, settings: ClusterFitConfig) -> dict[str, Any]:
        found: dict[str, Any] = {"num_clusters": settings.num_clusters}
        for split in settings.splits:
            folder = settings.paths.labels(split)
            if settings.teacher.weights:
                found[split] = self._label_inputs(split, settings, self._uncomputed_inputs)
            elif artifacts.has_manifest(folder):
                found[split] = PseudoLabels.open(folder).inputs
        return found

    def _label_inputs(
        self, split: str, settings: ClusterFitConfig, of_features: Callable[[str], dict[str, Any]]
    ) -> dict[str, Any]:
        return label_inputs(
            of_features(split),
            codebook_inputs(of_features(settings.features.data_partition), settings),
            top_clusters=settings.top_clusters,
            max_cluster_size=_max_cluster_size(split, settings),
        )

    def _valid_labels(self, split: str, settings: ClusterFitConfig) -> PseudoLabels:
        return open_labels(
            split, settings, self._images(split), lambda: self._label_inputs(split, settings, self.feature_inputs)
        )

    def check_labels(self) -> None:
        """Refuses labels that are there and are not of this run; makes nothing.

        Raises:
            ArtifactError: naming every difference.
        """
        for settings in self.settings.heads:
            for split in settings.splits:
                if artifacts.has_manifest(settings.paths.labels(split)):
                    self._valid_labels(split, settings)

    def all_labels(self) -> PseudoLabels:
        """Labels of the clustered split, which are returned, and of the held-out one if there is one."""
        for split in reversed(self.settings.splits):
            labels = self.labels(split)
        return labels

    @followed_by("training")
    def training_labels(self) -> dict[str, list[PseudoLabels]]:
        """The labels of each split, one for each head of a training; those of this run are made if they are missing."""
        settings, found = self.settings, {}
        for split in reversed(settings.splits):
            found[split] = [
                self._labels(split, each, functools.partial(self._codebook_of, number))
                for number, each in enumerate(settings.heads)
            ]
            found[split] += self._labels_of_others(settings.joined_labels, split)
        return found

    def joined_labels(self) -> list[PseudoLabels]:
        """Those of JOINED_LABELS, which other runs made, of the clustered split.

        Raises:
            ArtifactError: they are missing, of other data, or keep too little for the targets.
        """
        found = self._labels_of_others(self.settings.joined_labels, self.settings.features.data_partition)
        for labels in found:
            require_targets(labels, self.settings.targets)
        return found

    def second_labels(self) -> PseudoLabels | None:
        """Those of TARGETS.AGREES_WITH, of the clustered split."""
        folder = self.settings.targets.agrees_with
        [*found] = self._labels_of_others([folder] if folder else [], self.settings.features.data_partition)
        return found[0] if found else None

    def _codebook_of(self, number: int) -> Codebook:
        return self.codebooks()[number] if number else self.codebook()

    def _labels_of_others(self, folders: Sequence[str], split: str) -> list[PseudoLabels]:
        places = [self.settings.labels_of_others(folder, split) for folder in folders]
        dataset = self._dataset_inputs(split) if places else {}
        return [open_labels_of_others(place, dataset) for place in places]

    def also_labels(self) -> list[PseudoLabels]:
        """The same for each of ALSO_NUM_CLUSTERS."""
        found = []
        for number, settings in enumerate(self.settings.also, 1):
            for split in settings.splits:
                found.append(self._labels(split, settings, functools.partial(self._codebook_of, number)))
        return found


def _max_cluster_size(split: str, settings: ClusterFitConfig) -> float:
    """The bound for the clustered split; a held-out one is labelled as new data are, sample by sample."""
    return settings.max_cluster_size if split == settings.features.data_partition else 0.0


def _is_there(folder: Path) -> bool:
    """Whether an artefact is complete, by the word of the primary process, so that all do the same."""

    def look() -> bool:
        if not artifacts.has_manifest(folder):
            return False
        Lease(_lease_of(folder)).remove_abandoned()  # of a process that was killed when it had just made it
        return True

    return distributed.on_primary(look)


def _lease_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lease")


def make_together(folder: Path, work: str, make: Callable[[], None], is_made: Callable[[], bool]) -> None:
    """Makes artefacts on all processes, unless another run is making them: then this one waits for it.

    The lease is beside ``folder``; ``is_made`` is asked on the primary process.
    """
    with contextlib.ExitStack() as stack:

        def begin() -> bool:
            return stack.enter_context(only_one(_lease_of(folder), work, is_made))

        if distributed.on_primary(begin):
            make()
