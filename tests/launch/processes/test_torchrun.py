"""What torchrun says in the environment, as overrides of the command."""

import pytest

from vissl_clusterfit.errors import ConfigError
from vissl_clusterfit.launch.processes.torchrun import with_torchrun

#: The last of four processes on two nodes.
ENVIRONMENT = {
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "GROUP_WORLD_SIZE": "2",
    "MASTER_ADDR": "fd00::1",
    "MASTER_PORT": "29500",
}
SAID = [
    "config.DISTRIBUTED.NUM_NODES=2",
    "config.DISTRIBUTED.NUM_PROC_PER_NODE=2",
    "config.DISTRIBUTED.INIT_METHOD=tcp",
    'config.DISTRIBUTED.RUN_ID="fd00::1:29500"',
    "node_id=1",
]


def test_the_environment_completes_the_command():
    assert with_torchrun(["config=x", "a=1"], ENVIRONMENT) == ["config=x", "a=1", *SAID]


def test_what_the_user_says_too_is_said_once():
    given = ["config=x", "config.DISTRIBUTED.NUM_NODES=2", "node_id=1", "config.DISTRIBUTED.RUN_ID=auto"]
    assert with_torchrun(given, ENVIRONMENT) == ["config=x", *SAID]


def test_without_torchrun_nothing_is_added():
    """VISSL sets three of these variables in every process."""
    some = {name: ENVIRONMENT[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    assert with_torchrun(["config=x"], some) == ["config=x"]


def test_all_contradictions_in_one_message():
    given = ["config.DISTRIBUTED.NUM_NODES=4", "config.DISTRIBUTED.RUN_ID=10.0.0.1:5"]
    with pytest.raises(ConfigError) as error:
        with_torchrun(given, ENVIRONMENT)
    first, second = str(error.value).splitlines()
    assert first.startswith("config.DISTRIBUTED.NUM_NODES: found 4, and torchrun says 2; allowed: 2. Leave it out")
    assert second.startswith("config.DISTRIBUTED.RUN_ID: found 10.0.0.1:5, and torchrun says fd00::1:29500")


@pytest.mark.parametrize(
    "changed", [{"WORLD_SIZE": "5", "RANK": "4"}, {"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0", "WORLD_SIZE": "4"}]
)
def test_nodes_with_different_numbers_of_processes(changed):
    with pytest.raises(ConfigError, match=r"torchrun --nproc-per-node: .*allowed: the same number on every node"):
        with_torchrun(["config=x"], ENVIRONMENT | changed)
