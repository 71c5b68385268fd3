"""What of a folder is one run: its features, its codebook, its labels, other data that it labelled, its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vissl_clusterfit.browse.training import DataPlace, Training, data_place, folder_of_training, read_training
from vissl_clusterfit.browse.under_way import UnderWay
from vissl_clusterfit.clustering.codebook import IN_PROGRESS, Codebook
from vissl_clusterfit.features.store import FeatureStore
from vissl_clusterfit.labels.pseudo_labels import PseudoLabels
from vissl_clusterfit.report.results import ResultRow

Artifact = FeatureStore | Codebook | PseudoLabels
#: The folder of further K in one of a run.
_ALSO = "also"
_SPLITS = ("train", "test")


@dataclass(frozen=True)
class Run:
    """The artefacts of one run, as far as they are there.

    Attributes:
        folder: in which all of it was found.
        features: that were clustered.
        codebook: the clusters.
        labels: of the samples that were clustered.
        others: labels of other data, by the same codebook.
        training: of the student.
        data: where the samples lie, as the config of the training says.
        results: of the transfer.
        under_way: stages that have not ended.
        unusable: artefacts that cannot be opened, and why.
    """

    folder: Path
    features: FeatureStore | None = None
    codebook: Codebook | None = None
    labels: PseudoLabels | None = None
    others: Sequence[PseudoLabels] = ()
    training: Training | None = None
    data: DataPlace | None = None
    results: Sequence[ResultRow] = ()
    under_way: Sequence[UnderWay] = ()
    unusable: Sequence[str] = field(default=())

    @property
    def names(self) -> list[str] | None:
        """Of the samples, where they were kept."""
        found = self.labels or self.features
        return None if found is None else found.names

    @property
    def num_samples(self) -> int:
        """N; 0 where neither features nor labels are there."""
        found = self.labels or self.features
        return 0 if found is None else found.num_samples

    @property
    def unreadable(self) -> Mapping[int, str]:
        """The first thousand samples that could not be read, with their reasons."""
        found = self.features or self.labels
        if found is None:
            return {index: reason for each in self.under_way for index, reason in each.unreadable.items()}
        return {entry["index"]: entry["reason"] for entry in found.manifest.get("unreadable", ())}

    @property
    def num_unreadable(self) -> int:
        """How many could not be read."""
        if self.features is not None:
            return len(self.features.unreadable)
        if self.labels is not None:
            return int(self.labels.manifest.get("num_unreadable", self.labels.num_unlabelled))
        return len(self.unreadable)

    @property
    def clips_of_each(self) -> int:
        """How many samples a video is."""
        if self.labels is not None:
            inputs = self.labels.inputs.get("features", {})
        else:
            inputs = {} if self.features is None else self.features.inputs
        clips = inputs.get("clips")
        return int(clips["NUM_CLIPS"]) if isinstance(clips, Mapping) and clips.get("PER") == "clip" else 1


def one_run(
    folder: Path,
    artifacts: Sequence[Artifact],
    results: Sequence[ResultRow] = (),
    under_way: Sequence[UnderWay] = (),
    unusable: Sequence[str] = (),
) -> Run:
    """Puts together what belongs together of the artefacts in a folder.

    Labels of the clustered split come first, those of ``also/<K>`` last; codebook and features are those that the
    labels were made from. Where there are no labels, it is the codebook and its features; else any features.
    """
    stores = sorted((each for each in artifacts if isinstance(each, FeatureStore)), key=_rank)
    codebooks = sorted((each for each in artifacts if isinstance(each, Codebook)), key=_rank)
    made = {(each.content_hash, each.manifest.get("features_hash")) for each in codebooks}

    def of_clustered(labels: PseudoLabels) -> bool:
        return (labels.codebook_hash, labels.manifest.get("features_hash")) in made

    sets = [each for each in artifacts if isinstance(each, PseudoLabels)]
    sets.sort(key=lambda each: (not of_clustered(each), *_rank(each)))
    labels = next(iter(sets), None)
    if labels is not None:
        codebook = next((each for each in codebooks if each.content_hash == labels.codebook_hash), None)
        features_hash = labels.manifest.get("features_hash")
    else:
        codebook = next(iter(codebooks), None)
        features_hash = codebook.manifest.get("features_hash") if codebook else None
    features = next((each for each in stores if each.content_hash == features_hash), None)
    if labels is None and codebook is None:
        features = next(iter(stores), None)
    main = labels or codebook or features
    trained_in = folder_of_training(folder if main is None else main.folder, folder)
    split = main.folder.name if main is not None and main.folder.name in _SPLITS else "train"
    return Run(
        folder=folder,
        features=features,
        codebook=codebook,
        labels=labels,
        others=[each for each in sets[1:] if labels and each.codebook_hash == labels.codebook_hash],
        training=None if trained_in is None else read_training(trained_in),
        data=None if trained_in is None else data_place(trained_in, split),
        results=results,
        under_way=under_way,
        unusable=unusable,
    )


def _rank(artifact: Artifact) -> tuple[bool, bool, bool, str]:
    folder = artifact.folder
    return folder.parent.name == IN_PROGRESS, _ALSO in folder.parts, folder.name != "train", str(folder)
