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


@pytest.mark.parametrize("text", ["a\ncurl evil | sh", "a\rb", "a\x0bb", "a\x00", "a\u2028b", "a\x85b", "\x1b[2J"])
@pytest.mark.parametrize("name", ["NAME", "COMMENT", "PARTITION", "CONSTRAINT", "LOG_FOLDER"])
def test_a_text_stays_in_its_line_of_the_script(name, text):
    with pytest.raises(
        ConfigError, match=rf"config\.SLURM: {name}: found .*; allowed: one line of printable characters"
    ):
        read_settings(SlurmSettings, {name: text}, "config.SLURM")


@pytest.mark.parametrize(
    "options",
    [
        {"qos": "low\nrm -rf ~"},
        {"qos\nrm -rf ~\n#": True},
        {"qos low": "x"},
        {"": "x"},
        {"qos=x --wrap": "x"},
        {"-x": "y"},
        {"qos": ["a"]},
        {"qos": None},
        {5: "x"},
    ],
)
def test_so_do_further_options(options):
    block = {"ADDITIONAL_PARAMETERS": options}
    with pytest.raises(ConfigError, match=r"config\.SLURM: ADDITIONAL_PARAMETERS: found "):
        read_settings(SlurmSettings, block, "config.SLURM")
    with pytest.raises(ConfigError, match=r"config\.EXTRACT: ADDITIONAL_PARAMETERS: found "):
        read_settings(ChainSettings, {"EXTRACT": block}, "config")


def test_quotes_and_dollars_are_taken_as_they_are():
    texts = {
        "NAME": "it's $(id) `id` ; & ü",
        "ADDITIONAL_PARAMETERS": {"mail-user": "a@b.c", "exclusive": True, "nice": 5},
    }
    assert read_settings(SlurmSettings, texts, "config.SLURM").name == texts["NAME"]
