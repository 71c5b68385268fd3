import pytest

from vissl_clusterfit.config.schema import read_settings
from vissl_clusterfit.config.slurm import ChainSettings, SlurmSettings, with_our_keys
from vissl_clusterfit.errors import ConfigError


def test_vissls_block_is_taken_as_it_is():
    block = {
        "USE_SLURM": True,
        "NAME": "vissl",
        "COMMENT": "vissl job",
        "PARTITION": "",
        "LOG_FOLDER": ".",
        "TIME_HOURS": 1,
        "TIME_MINUTES": 20,
        "CONSTRAINT": "",
        "MEM_GB": 250,
        "PORT_ID": 40050,
        "NUM_CPU_PER_PROC": 8,
        "ADDITIONAL_PARAMETERS": {},
    }
    settings = read_settings(SlurmSettings, block, "config.SLURM")
    assert settings == SlurmSettings(use_slurm=True, time_hours=1, time_minutes=20)
    assert (settings.timeout_min, settings.cluster) == (80, "slurm")


def test_a_key_that_neither_vissl_nor_we_have_is_refused():
    with pytest.raises(ConfigError, match=r"config\.SLURM\.PARTITON: found an unknown key.*Did you mean PARTITION\?"):
        read_settings(SlurmSettings, {"PARTITON": "fast"}, "config.SLURM")


def test_stages_run_in_the_order_of_the_pipeline():
    chain = ChainSettings(stages=["train", "extract"])
    assert [stage for stage, _ in chain.in_order] == ["extract", "train"]
    assert list(chain.problems()) == []


def test_a_stage_changes_what_is_its_own_and_nothing_else():
    chain = read_settings(ChainSettings, {"EXTRACT": {"PARTITION": "cheap", "TIME_HOURS": 2}}, "config")
    run = SlurmSettings(partition="fast", log_folder="logs", name="mine")
    asked = chain.extract.applied_to(run)
    assert (asked.partition, asked.timeout_min, asked.log_folder, asked.name) == ("cheap", 120, "logs", "mine")


def test_only_our_keys_are_added_to_vissls_block():
    overrides = ["config.SLURM.CLUSTER=local", "config.SLURM.NAME=x", "config.CLUSTERFIT.SLURM.CLUSTER.NUM_NODES=2"]
    assert with_our_keys(overrides) == [f"++{overrides[0]}", *overrides[1:]]
