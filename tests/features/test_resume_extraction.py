"""An extraction is killed, again and again, and then its files are byte-identical to those of an undisturbed one."""

import contextlib
import itertools
import os
import random
import signal
from collections import Counter

import pytest
import stage_work
from processes import context, exit_code, kill_after, outcome, running
from stage_work import COUNT, SHARD_SIZE
from tiny_store import contents

from vissl_clusterfit.compute.chosen import Compute
from vissl_clusterfit.storage import artifacts


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """What an extraction gives that nobody disturbs."""
    folder = tmp_path_factory.mktemp("undisturbed") / "features"
    assert outcome(stage_work.extract, folder, COUNT) == 0
    return contents(folder)


def encoded(log):
    """How often each sample was encoded."""
    return Counter(map(int, log.read_text().split()))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_extraction_that_is_killed_at_random_moments(tmp_path, features, num_workers):
    folder, log, moments = tmp_path / "features", tmp_path / "log", random.Random(num_workers)
    options = {"log": log, "num_workers": num_workers}
    kills = 0
    while kills < 10 and not (artifacts.has_manifest(folder) and artifacts.read_manifest(folder).get("complete")):
        delay_s = moments.uniform(0, 0.1)
        kills += kill_after(stage_work.extract, folder, COUNT, delay_s=delay_s, pause_s=0.02, **options) != 0
    assert kills >= 3  # it takes 0.3 s
    assert outcome(stage_work.extract, folder, COUNT, **options) == 0
    assert contents(folder) == features
    again = encoded(log)
    assert sorted(again) == list(range(COUNT))
    assert again.total() <= COUNT + kills * 2 * SHARD_SIZE  # one that is written, and the next


@pytest.mark.parametrize("world_size", [1, 3])
def test_features_in_lower_precision_have_the_same_bytes_after_kills(tmp_path, features, world_size):
    lower = {"compute": Compute("bfloat16", channels_last=True)}
    assert outcome(stage_work.extract, tmp_path / "undisturbed", COUNT, **lower) == 0
    undisturbed, folder = contents(tmp_path / "undisturbed"), tmp_path / "features"
    assert undisturbed["rows-000000000000-000000000008.npy"] != features["rows-000000000000-000000000008.npy"]
    for delay_s in (0.05, *[0.4] * 20):  # a busy machine writes nothing in that time
        assert kill_after(stage_work.extract, folder, COUNT, delay_s=delay_s, pause_s=0.1, **lower) != 0
        if written := len(list(folder.glob("rows-*.npy"))):
            break
    assert 0 < written < 6
    stack, processes = extract_together(folder, world_size, tmp_path / "meeting", num_workers=1, **lower)
    with stack:
        assert [exit_code(process) for process in processes] == [0] * world_size
    assert contents(folder) == undisturbed


@pytest.mark.parametrize("moved", [False, True], ids=["half written", "written"])
def test_an_extraction_that_is_killed_at_any_file(tmp_path, features, moved):
    for number in itertools.count():
        folder, log = tmp_path / f"{number}", tmp_path / f"log{number}"
        code = outcome(stage_work.extract, folder, COUNT, dies_at=(number, moved), log=log)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        assert outcome(stage_work.extract, folder, COUNT, log=log) == 0
        assert contents(folder) == features
        assert encoded(log).total() <= COUNT + 2 * SHARD_SIZE
    assert number == 2 + 2 * 6 + 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_extraction_that_is_asked_to_end(tmp_path, features, number):
    options = {"number": number, "pause_s": 0.05, "num_workers": 2}
    # Python drops an interrupt that falls into the hooks of a fork: a user would press Ctrl-C again.
    for delay_s in (0.1, 0.2, 0.4):
        folder = tmp_path / f"features{delay_s}"
        if kill_after(stage_work.extract, folder, COUNT, delay_s=delay_s, **options) != 0:
            break
    else:
        pytest.fail("no request was heard")
    assert outcome(stage_work.extract, folder, COUNT) == 0
    assert contents(folder) == features


def test_an_extraction_that_loses_a_process_that_reads_images(tmp_path, features):
    folder = tmp_path / "features"
    assert outcome(stage_work.extract, folder, COUNT, num_workers=2, loses_worker=True, pause_s=0.1) == 1
    assert list((folder / "leases").iterdir()) == []
    assert outcome(stage_work.extract, folder, COUNT) == 0
    assert contents(folder) == features


@pytest.mark.parametrize("start_method", ["fork", "forkserver"])
def test_processes_that_read_images_end_with_the_one_that_they_read_for(tmp_path, start_method):
    """Even if it is killed before they could know it: what adopts them is then their first parent."""
    ours, theirs = context.Pipe(duplex=False)
    options = {"num_workers": 1, "start_method": start_method, "orphan": theirs}
    with running(stage_work.extract, tmp_path / "features", COUNT, **options) as process:
        theirs.close()
        reader = ours.recv()
        process.kill()
        try:
            assert ours.poll(10), "it waits for ever"
            with pytest.raises(EOFError):  # nobody is left who could say anything
                ours.recv()
        except BaseException:
            os.kill(reader, signal.SIGKILL)
            raise


def test_two_extractions_into_one_folder_share_the_work(tmp_path, features):
    folder, log = tmp_path / "features", tmp_path / "log"
    options = {"log": log, "pause_s": 0.01, "num_workers": 1}
    with (
        running(stage_work.extract, folder, COUNT, **options) as first,
        running(stage_work.extract, folder, COUNT, **options) as second,
    ):
        assert [exit_code(first), exit_code(second)] == [0, 0]
    assert contents(folder) == features
    assert encoded(log) == Counter(range(COUNT))


def extract_together(folder, world_size, rendezvous, **options):
    """Starts all processes of one run; a context that gives them."""
    stack = contextlib.ExitStack()
    processes = [
        stack.enter_context(running(stage_work.extract, folder, COUNT, group=(rank, world_size, rendezvous), **options))
        for rank in range(world_size)
    ]
    return stack, processes


@pytest.mark.parametrize("then", [1, 3])
def test_an_extraction_resumes_with_another_number_of_processes(tmp_path, features, then):
    folder, log, begun = tmp_path / "features", tmp_path / "log", context.Event()
    stack, _ = extract_together(folder, 2, tmp_path / "first", log=log, pause_s=0.03, begun=begun)
    with stack:
        assert begun.wait(60)
        while not list(folder.glob("rows-*.json")):
            pass
    done = len(list(folder.glob("rows-*.json")))
    stack, processes = extract_together(folder, then, tmp_path / "second", log=log)
    with stack:
        assert [exit_code(process) for process in processes] == [0] * then
    assert contents(folder) == features
    assert 1 <= done < 6
    assert encoded(log).total() <= COUNT + 2 * 2 * SHARD_SIZE  # of each process one that is written, and the next


def test_an_extraction_keeps_the_size_of_its_shards(tmp_path, features):
    folder = tmp_path / "features"
    assert outcome(stage_work.extract, folder, COUNT, dies_at=(5, True)) == -signal.SIGKILL
    assert outcome(stage_work.extract, folder, COUNT, shard_size=5) == 0
    assert contents(folder) == features
