"""What a run asks of SLURM: VISSL's block ``config.SLURM`` with two keys more, and the jobs of ``CLUSTERFIT.SLURM``."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from vissl_clusterfit.config.schema import setting
from vissl_clusterfit.errors import ConfigError, problem

#: The stages that may be separate jobs, in the order in which they run.
STAGES = ("extract", "cluster", "label", "train")
#: The port that VISSL's defaults name. Two jobs on one node cannot both have it, so it stands for no wish.
VISSLS_PORT = 40050
_OPTION = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_SCALARS = (str, int, float, bool)
_OUR_KEYS = ("CLUSTER", "MAX_TIMEOUTS")


def require_one_line(settings: object) -> None:
    """Refuses texts that would not stay in their line of a job's script, where the next line is run by a shell.

    Within the line submitit quotes them, but for the names of additional options.

    Raises:
        ConfigError: naming the setting.
    """
    for name, value in vars(settings).items():
        further = value if isinstance(value, Mapping) else {}
        for text in (value, *further.values()):
            if isinstance(text, str) and not text.isprintable():
                allowed = "one line of printable characters"
                raise ConfigError(problem(name.upper(), found=repr(text), allowed=allowed))
        for option, text in further.items():
            if not (isinstance(option, str) and _OPTION.fullmatch(option)) or not isinstance(text, _SCALARS):
                allowed = "names of options of sbatch (letters, digits, - and _), each with a number, a text or true"
                raise ConfigError(problem(name.upper(), found=f"{option!r}: {text!r}", allowed=allowed))


@dataclass(frozen=True)
class SlurmSettings:
    """The block ``config.SLURM``; names and meanings are VISSL's."""

    use_slurm: bool = setting(False)
    #: Ours: who runs the jobs, SLURM or submitit's local executor, on this machine.
    cluster: str = setting("slurm", choices=("slurm", "local"))
    #: Ours: how often a job is queued again that was stopped by its time limit. Preemptions do not count.
    max_timeouts: int = setting(3, at_least=0)
    name: str = setting("vissl")
    comment: str = setting("vissl job")
    #: Left out where it is empty: then SLURM takes the default partition.
    partition: str = setting("")
    #: For logs and what jobs are started from. Every node must see it, under this name.
    log_folder: str = setting(".")
    time_hours: int = setting(72, at_least=0)
    time_minutes: int = setting(0, at_least=0)
    #: Left out where it is empty.
    constraint: str = setting("")
    #: Per node.
    mem_gb: float = setting(250.0, at_least=0)
    #: Where processes of several nodes meet. VISSL's own stands for a port that follows from the job's number.
    port_id: int = setting(VISSLS_PORT, at_least=1, at_most=65535)
    num_cpu_per_proc: int = setting(8, at_least=1)
    #: Further options of sbatch, such as {qos: low}.
    additional_parameters: dict = setting({})

    def __post_init__(self) -> None:
        require_one_line(self)

    @property
    def timeout_min(self) -> int:
        """The time limit, in minutes."""
        return 60 * self.time_hours + self.time_minutes


@dataclass(frozen=True)
class StageJob:
    """``CLUSTERFIT.SLURM.<STAGE>``: what the job of one stage has for itself; in the YAML, each is the run's."""

    device: str = setting("gpu", choices=("cpu", "gpu"))
    num_nodes: int = setting(1, at_least=1)
    num_proc_per_node: int = setting(1, at_least=1)
    partition: str = setting("")
    time_hours: int = setting(72, at_least=0)
    time_minutes: int = setting(0, at_least=0)
    constraint: str = setting("")
    mem_gb: float = setting(250.0, at_least=0)
    num_cpu_per_proc: int = setting(8, at_least=1)
    additional_parameters: dict = setting({})

    def __post_init__(self) -> None:
        require_one_line(self)

    @property
    def overrides(self) -> list[str]:
        """What of it goes into the config of the stage."""
        return [
            f"config.MACHINE.DEVICE={self.device}",
            f"config.DISTRIBUTED.NUM_NODES={self.num_nodes}",
            f"config.DISTRIBUTED.NUM_PROC_PER_NODE={self.num_proc_per_node}",
        ]

    def applied_to(self, settings: SlurmSettings) -> SlurmSettings:
        """What the job of this stage asks of SLURM."""
        names = {entry.name for entry in dataclasses.fields(settings)}
        mine = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self) if entry.name in names}
        return dataclasses.replace(settings, **mine)


@dataclass(frozen=True)
class ChainSettings:
    """``CLUSTERFIT.SLURM``: the stages that are separate jobs, each of which begins when the one before is done."""

    #: Some of ``STAGES``; [] for one job that does everything.
    stages: list = setting([])
    extract: StageJob = field(default_factory=StageJob)
    cluster: StageJob = field(default_factory=StageJob)
    label: StageJob = field(default_factory=StageJob)
    train: StageJob = field(default_factory=StageJob)
    #: Each of the benchmarks that follow the training, which are always separate jobs.
    benchmark: StageJob = field(default_factory=StageJob)

    @property
    def in_order(self) -> list[tuple[str, StageJob]]:
        """The stages that are separate jobs, as they run."""
        return [(stage, getattr(self, stage)) for stage in STAGES if stage in self.stages]

    def problems(self) -> Iterator[str]:
        """What is wrong with the names of the stages."""
        for stage in self.stages:
            if stage not in STAGES:
                near = difflib.get_close_matches(str(stage), STAGES, n=1)
                yield problem(
                    "config.CLUSTERFIT.SLURM.STAGES",
                    found=f"the unknown stage {stage!r}",
                    allowed=f"some of [{', '.join(STAGES)}], or [] for one job",
                    remedy=f"Did you mean {near[0]}?" if near else "",
                )


def with_our_keys(overrides: Sequence[str]) -> list[str]:
    """Overrides of our keys under ``config.SLURM`` as Hydra takes them with a config that does not have them."""
    ours = tuple(f"config.SLURM.{key}=" for key in _OUR_KEYS)
    return [f"++{override}" if override.startswith(ours) else override for override in overrides]
