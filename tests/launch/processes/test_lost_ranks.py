"""A process of a run on two nodes dies or fails in the middle: all end soon and say why, and the next start resumes.

Both nodes are on this machine, and each has one process.
"""

import os
import re
import shutil
import signal
import time
from subprocess import CompletedProcess

import pytest
from command import Command
from hosts import free_port
from tiny import write_images
from tiny_store import contents


@pytest.fixture
def start_nodes(start_command, tmp_path):
    """``start_nodes(*overrides)`` begins a run on two nodes; it gives the command of each."""

    def start(*overrides: str, each: tuple = ((), ())) -> list[Command]:
        address = f"config.DISTRIBUTED.RUN_ID=127.0.0.1:{free_port()}"
        common = ["config.DISTRIBUTED.NUM_NODES=2", "config.DISTRIBUTED.NUM_PROC_PER_NODE=1", address]
        return [start_command(*overrides, *each[node], *common, f"node_id={node}", cwd=tmp_path) for node in range(2)]

    return start


def results(commands: list[Command]) -> list[CompletedProcess]:
    """What they have said, and their exit codes."""
    said = [command.communicate(timeout=100) for command in commands]
    return [CompletedProcess((), command.returncode, *texts) for command, texts in zip(commands, said, strict=True)]


STAGES = {
    # Which artefacts are there before, and what shows that the stage has begun.
    "extraction": ([], "clusterfit/features/train/rows-*.npy"),
    "clustering": (["features"], "clusterfit/codebook*/**/*"),
    "training": (["features", "codebook", "labels"], "model_phase0.torch"),
}


@pytest.mark.slow
@pytest.mark.parametrize("stage, node", [("extraction", 1), ("clustering", 0), ("training", 1)])
def test_a_rank_that_is_killed(start_nodes, student_run, student_overrides, run_command, tmp_path, stage, node):
    folder = tmp_path / "run"
    before, sign = STAGES[stage]
    for name in before:
        shutil.copytree(student_run / "clusterfit" / name, folder / "clusterfit" / name)
    command = [*student_overrides, f"config.CHECKPOINT.DIR={folder}"]
    if stage == "training":
        command.append("config.OPTIMIZER.num_epochs=6")  # the last of which is far when the first has ended
    running = start_nodes(*command)
    while not any(folder.glob(sign)):
        assert all(one.poll() is None for one in running), [one.communicate() for one in running if one.poll()]
        time.sleep(0.005)
    (rank,) = running[node].ranks()
    os.kill(rank, signal.SIGKILL)
    begin = time.monotonic()
    ended = results(running)
    assert time.monotonic() - begin < 60
    for result in ended:
        assert result.returncode == 1
        cause = f"Rank {node} (node {node}, {os.uname().nodename}): it was ended by SIGKILL."
        assert result.stderr.splitlines()[-1].startswith(cause), result.stderr
        assert "Traceback" not in result.stderr
    again = run_command(*command, cwd=tmp_path)
    if stage == "training":  # whose steps have a batch of each process
        assert again.returncode == 2
        assert "  DISTRIBUTED.NUM_NODES * NUM_PROC_PER_NODE: it was made with 2, this run has 1\nUndo" in again.stderr
        again, _ = results(start_nodes(*command))
    assert again.returncode == 0, again.stderr
    assert contents(folder / "clusterfit") == contents(student_run / "clusterfit")
    assert any(folder.glob("model_final_checkpoint_phase*.torch"))
    assert ("Starting phase 0 " in again.stdout) == (stage != "training")


@pytest.mark.slow
def test_the_cause_is_the_last_thing_on_both_screens(start_nodes, student_run, student_overrides, tmp_path):
    """One rank of the two cannot continue; the other then notices that its connection is closed."""
    folder = tmp_path / "run"
    shutil.copytree(student_run / "clusterfit", folder / "clusterfit")
    running = start_nodes(
        *student_overrides,
        f"config.CHECKPOINT.DIR={folder}",
        each=((), ("config.DATA.TRAIN.TRANSFORMS=[{name:RandomCrop,size:4000},{name:ToTensor}]",)),
    )
    for result in results(running):
        assert result.returncode == 2
        assert "Traceback" not in result.stderr
        said = result.stderr.splitlines()[-1]
        assert re.search(r"^error: .*Required crop size \(4000, 4000\) is larger", said)
        assert said.endswith(f"(This was found by rank 1 (node 1, {os.uname().nodename}).)")


@pytest.mark.slow
@pytest.mark.parametrize("before", [False, True], ids=["extraction", "training"])
def test_a_node_with_other_images_is_refused(start_nodes, student_run, student_overrides, tmp_path, before):
    """As many, and not the same: its features and labels would be those of other images."""
    folder, images = tmp_path / "run", write_images(tmp_path / "images", 30, seed=1)
    renamed = images / "class0/00000.png"
    renamed.rename(renamed.with_name("00000a.png"))
    if before:
        shutil.copytree(student_run / "clusterfit", folder / "clusterfit")
    overrides = [*student_overrides, f"config.CHECKPOINT.DIR={folder}"]
    each = ((), (f"config.DATA.TRAIN.DATA_PATHS=[{images}]",))
    for result in results(start_nodes(*overrides, each=each)):
        assert result.returncode == 2, result.stderr
        assert re.search(
            r"^error: .*train was made for other data: \d+ of 30 samples differ", result.stderr, re.MULTILINE
        )
        assert f"is now '{renamed.with_name('00000a.png')}'" in result.stderr
        assert result.stderr.strip().endswith(f"(This was found by rank 1 (node 1, {os.uname().nodename}).)")


@pytest.mark.slow
def test_folders_that_are_not_shared_are_refused(start_nodes, student_overrides, tmp_path):
    each = tuple((f"config.CHECKPOINT.DIR={tmp_path / str(node)}",) for node in range(2))
    for result in results(start_nodes(*student_overrides, each=each)):
        assert result.returncode == 2
        assert result.stderr.startswith(
            f"error: config.CLUSTERFIT.OUTPUT_DIR: found {tmp_path}/1/clusterfit, which on "
        )
        assert "(This was found by node 1, " in result.stderr
        assert "Traceback" not in result.stderr
    assert not [file for file in tmp_path.rglob("clusterfit/**/*") if file.is_file()]
