"""The block ``config.TRANSFER``."""

from __future__ import annotations

from dataclasses import dataclass, field

from vissl_clusterfit.config.features import EncodingSettings
from vissl_clusterfit.config.schema import read_settings, setting
from vissl_clusterfit.errors import ConfigError, problem
from vissl_clusterfit.transfer.knn import KnnSettings
from vissl_clusterfit.transfer.linear import LinearProbeSettings
from vissl_clusterfit.transfer.low_shot_probe import LowShotProbeSettings
from vissl_clusterfit.transfer.svm import SvmSettings

PROTOCOLS = ("linear", "knn", "taxonomy_knn", "retrieval", "svm", "low_shot")


@dataclass(frozen=True)
class TaxonomySettings:
    """Nearest neighbours at the levels of a taxonomy."""

    #: The taxonomy, a JSON file: see ``transfer/taxonomy.py``.
    file: str = setting("")
    #: The levels that are scored; all of the file if empty.
    levels: list = setting([])


@dataclass(frozen=True)
class RetrievalSettings:
    """Category-level retrieval, with every test sample as a query."""

    #: Who is ranked: the other test samples, or the training split.
    gallery: str = setting("test", choices=("test", "train"))


@dataclass(frozen=True)
class TransferSettings:
    """The block ``config.TRANSFER``."""

    #: The name of the network in the results.
    model_name: str = setting("model")
    #: The name of the data in the results.
    dataset_name: str = setting("dataset")
    #: Which protocols to run, some of PROTOCOLS.
    protocols: list = setting(["linear", "knn"])
    features: EncodingSettings = field(default_factory=EncodingSettings)
    linear: LinearProbeSettings = field(default_factory=LinearProbeSettings)
    knn: KnnSettings = field(default_factory=KnnSettings)
    taxonomy: TaxonomySettings = field(default_factory=TaxonomySettings)
    retrieval: RetrievalSettings = field(default_factory=RetrievalSettings)
    svm: SvmSettings = field(default_factory=SvmSettings)
    low_shot: LowShotProbeSettings = field(default_factory=LowShotProbeSettings)

    @classmethod
    def from_config(cls, block: object) -> TransferSettings:
        """Reads ``config.TRANSFER``.

        Raises:
            ConfigError: naming every unknown key and bad value.
        """
        settings = read_settings(cls, block, "config.TRANSFER")
        unknown = sorted(set(settings.protocols) - set(PROTOCOLS))
        if unknown or not settings.protocols:
            allowed = "one or more of " + ", ".join(PROTOCOLS)
            raise ConfigError(problem("config.TRANSFER.PROTOCOLS", found=settings.protocols, allowed=allowed))
        if "taxonomy_knn" in settings.protocols and not settings.taxonomy.file:
            allowed = "the JSON file of a taxonomy, for the protocol taxonomy_knn"
            raise ConfigError(problem("config.TRANSFER.TAXONOMY.FILE", found="nothing", allowed=allowed))
        for key, name in (("MODEL_NAME", settings.model_name), ("DATASET_NAME", settings.dataset_name)):
            if not name:
                raise ConfigError(problem(f"config.TRANSFER.{key}", found="nothing", allowed="a name for the results"))
        return settings
