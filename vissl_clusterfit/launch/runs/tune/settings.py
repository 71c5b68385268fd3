"""The block ``config.TUNE``, and what of VISSL's config goes with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vissl.config import AttrDict
from vissl.models import is_feature_extractor_model

from vissl_clusterfit.config.schema import read_settings, setting
from vissl_clusterfit.errors import ConfigError, problem

_BLOCK = "config.TUNE"
#: What a setting is chosen by, for the meters of VISSL that give it.
_CHOSEN_BY = {"accuracy_list_meter": "top-1 accuracy", "mean_ap_list_meter": "mAP"}


@dataclass(frozen=True)
class TuneSettings:
    """The block ``config.TUNE``. A grid of one setting is trained once, and nothing is chosen."""

    #: The name of the network in the results.
    model_name: str = setting("model")
    #: The name of the data in the results.
    dataset_name: str = setting("dataset")
    #: The name of the protocol in the results.
    benchmark: str = setting("fine-tuning")
    #: Values of ``OPTIMIZER.param_schedulers.lr.auto_lr_scaling.base_value`` where ``auto_scale`` is on, else of the
    #: greatest value of that schedule, all of which is scaled alike; [] for the config's own.
    learning_rates: list = setting([])
    #: Values of ``OPTIMIZER.weight_decay``; [] for the config's own.
    weight_decays: list = setting([])
    #: Where the validation split comes from: "drawn" of TRAIN, or "prepared", the list val of ``prepare``.
    validation: str = setting("drawn", choices=("drawn", "prepared"))
    #: The share of TRAIN that is drawn.
    validation_share: float = setting(0.1, above=0, at_most=0.5)
    #: Draws the validation split.
    seed: int = setting(0, at_least=0, at_most=2**32 - 1)

    @classmethod
    def from_config(cls, cfg: AttrDict) -> TuneSettings:
        """Reads ``config.TUNE``, which may be missing, and checks that the rest of the config goes with it.

        Raises:
            ConfigError: naming everything that is wrong.
        """
        settings = read_settings(cls, cfg.get("TUNE") or {}, _BLOCK)
        problems = [*settings._problems(), *_problems_of(cfg)]
        if problems:
            raise ConfigError("\n".join(problems))
        return settings

    def _problems(self) -> list[str]:
        found = []
        for key in ("model_name", "dataset_name", "benchmark"):
            if not getattr(self, key):
                found.append(problem(f"{_BLOCK}.{key.upper()}", found="nothing", allowed="a name for the results"))
        for key, values, limit, fits in (
            ("LEARNING_RATES", self.learning_rates, "above 0", lambda value: 0 < value < math.inf),
            ("WEIGHT_DECAYS", self.weight_decays, "of at least 0", lambda value: 0 <= value < math.inf),
        ):
            numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
            if not numbers or not all(map(fits, values)) or len({*values}) < len(values):
                allowed = f"numbers {limit}, each once; [] for the config's own"
                found.append(problem(f"{_BLOCK}.{key}", found=values, allowed=allowed))
        return found


def chosen_by(cfg: AttrDict) -> str:
    """The metric, as the results name it, that settings are chosen by."""
    return next(metric for meter, metric in _CHOSEN_BY.items() if meter in cfg.METERS.names)


def _problems_of(cfg: AttrDict) -> list[str]:
    found = []
    meters = [meter for meter in _CHOSEN_BY if meter in cfg.METERS.get("names", [])]
    if not meters or (meters[0] == "accuracy_list_meter" and 1 not in cfg.METERS[meters[0]].topk_values):
        allowed = "accuracy_list_meter with 1 among topk_values, or mean_ap_list_meter: settings are chosen by them"
        found.append(problem("config.METERS", found=cfg.METERS.get("names", []) or "none", allowed=allowed))
    elif cfg.METERS[meters[0]].num_meters > 1 and not is_feature_extractor_model(cfg.MODEL):
        allowed = "one, or a layer of a frozen trunk for each (FEATURE_EVAL_SETTINGS): others share weights"
        found.append(problem(f"config.METERS.{meters[0]}.num_meters", found="several heads", allowed=allowed))
    if cfg.DISTRIBUTED.NUM_NODES > 1:
        allowed = "1: the trainings of a grid run on one machine, one after the other"
        found.append(problem("config.DISTRIBUTED.NUM_NODES", found=cfg.DISTRIBUTED.NUM_NODES, allowed=allowed))
    if cfg.TEST_ONLY:
        found.append(problem("config.TEST_ONLY", found="true", allowed="false: the test follows the trainings"))
    for split in ("TRAIN", "TEST"):
        data = cfg.DATA[split]
        if len(data.DATA_SOURCES) != 1 or len(data.LABEL_SOURCES) != 1:
            sources = f"{list(data.DATA_SOURCES)} and {list(data.LABEL_SOURCES)}"
            allowed = "one data source and one label source"
            found.append(problem(f"config.DATA.{split}: DATA_SOURCES, LABEL_SOURCES", found=sources, allowed=allowed))
        if data.DATA_LIMIT != -1:
            allowed = "-1: splits are used whole"
            found.append(problem(f"config.DATA.{split}.DATA_LIMIT", found=data.DATA_LIMIT, allowed=allowed))
    return found
