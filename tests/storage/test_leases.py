import contextlib
import itertools
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import lease_work
import pytest
from processes import context, exit_code, outcome, running

from vissl_clusterfit.errors import ArtifactError
from vissl_clusterfit.storage import leases
from vissl_clusterfit.storage.leases import STALE_AFTER_S, Lease, only_one
from vissl_clusterfit.storage.process_ids import this_process


@pytest.fixture
def path(tmp_path):
    return tmp_path / "leases" / "work.json"


@pytest.fixture
def lease(path):
    """A lease of this process, of which the test may change the file."""
    lease = Lease(path)
    assert lease.acquire()
    yield lease
    lease.release()


def age(path, seconds):
    """Says of a file that it was last touched so long ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))


def rewrite(path, **changes):
    """Changes who holds a lease; it was touched just now."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def eventually(holds, within_s=20.0):
    until = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_lease_that_is_held_is_not_given_again(lease, path):
    assert not Lease(path).acquire()
    lease.release()
    assert not path.exists()
    again = Lease(path)
    assert again.acquire()
    again.release()


def test_the_holder_is_named(lease, path):
    holder = Lease(path).holder()
    assert (holder["host"], holder["pid"]) == (socket.gethostname(), os.getpid())
    lease.release()
    assert lease.holder() == {}


@pytest.mark.parametrize("abandoned", [False, True])
def test_of_many_processes_only_one_gets_a_lease(tmp_path, abandoned):
    num_processes, num_rounds = 8, 100
    if abandoned:
        left = json.dumps({**this_process(), "pid": dead_pid(), "token": "of the dead"})
        for number in range(num_rounds):
            (tmp_path / f"{number}.json").write_text(left)
    barrier = context.Barrier(num_processes)
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(running(lease_work.compete, tmp_path, number, num_rounds, barrier))
            for number in range(num_processes)
        ]
        assert [exit_code(process) for process in processes] == [0] * num_processes
    won = [json.loads((tmp_path / f"won-{number}").read_text()) for number in range(num_processes)]
    assert sorted(itertools.chain(*won)) == list(range(num_rounds))


def test_the_lease_of_a_killed_process_is_taken_over_at_once(path):
    held = context.Event()
    with running(lease_work.hold, path, held) as process:
        assert held.wait(60)
        assert not Lease(path).acquire()
        os.kill(process.pid, signal.SIGKILL)
        exit_code(process)
    successor = Lease(path)
    assert successor.acquire()
    successor.release()


def test_a_stopped_process_of_this_host_keeps_its_lease_until_it_dies(path):
    held = context.Event()
    with running(lease_work.hold, path, held) as process:
        assert held.wait(60)
        os.kill(process.pid, signal.SIGSTOP)
        assert not Lease(path).acquire()
        age(path, STALE_AFTER_S + 5)
        assert not Lease(path).acquire()
        os.kill(process.pid, signal.SIGKILL)
        exit_code(process)
        successor = Lease(path)
        assert successor.acquire()
        successor.release()


def test_a_number_that_was_given_to_another_process_holds_nothing(lease, path):
    rewrite(path, born="1", token="of the dead")
    successor = Lease(path)
    assert successor.acquire()
    successor.release()


def test_a_lease_says_who_holds_it_from_its_first_moment(path):
    """An empty one, of a process that was killed in between, would hold up the work until it is stale."""
    seen = 0
    with running(lease_work.acquire_and_release, path, 10**9):
        while seen < 1000:
            with contextlib.suppress(FileNotFoundError):
                assert json.loads(path.read_text())["token"]
                seen += 1


@pytest.mark.parametrize("changes", [{"host": "elsewhere"}, {"pids": "another container"}], ids=["host", "container"])
def test_the_death_of_a_process_elsewhere_is_seen_by_time_alone(lease, path, changes):
    rewrite(path, pid=dead_pid(), born="1", token="theirs", **changes)
    assert not Lease(path).acquire()
    age(path, STALE_AFTER_S - 30)
    assert not Lease(path).acquire()
    age(path, STALE_AFTER_S + 5)
    successor = Lease(path)
    assert successor.acquire()
    successor.release()


def test_a_holder_touches_its_lease(path, monkeypatch):
    monkeypatch.setattr(leases, "_TOUCHED_EVERY_S", 0.05)
    before = threading.active_count()
    lease = Lease(path)
    assert lease.acquire()
    age(path, 1000)
    assert eventually(lambda: time.time() - path.stat().st_mtime < 500)
    lease.release()
    assert threading.active_count() == before


def test_a_lease_that_was_lost_is_neither_touched_nor_removed(path, monkeypatch):
    monkeypatch.setattr(leases, "_TOUCHED_EVERY_S", 0.05)
    lost = Lease(path)
    assert lost.acquire()
    rewrite(path, host="elsewhere", token="theirs")
    time.sleep(0.2)  # a touch that is under way
    age(path, 1000)
    time.sleep(0.5)
    assert time.time() - path.stat().st_mtime > 500
    lost.release()
    assert path.exists()


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{", b"[1, 2]", b"null", b"\xff\xfe", b'{"host": 3, "pid": "x"}', b"\0" * 200, b'{"pid": -1}'),
        *(b'{"pid": 1e308}', b'{"pid": ' + b"9" * 4000 + b"}", b"[" * 9999),
    ],
)
def test_a_lease_that_was_damaged_is_free(path, text):
    """As a machine that loses its power leaves the newest files: nobody who lives holds it."""
    path.parent.mkdir()
    path.write_bytes(text)
    lease = Lease(path)
    assert lease.acquire()
    lease.release()


def test_one_who_is_killed_while_it_takes_over_holds_nobody_up(lease, path):
    rewrite(path, pid=dead_pid(), token="of the dead")
    shutil.copy(path, path.with_name("work.json.takeover"))
    successor = Lease(path)
    assert successor.acquire()
    successor.release()
    assert list(path.parent.iterdir()) == []


def test_a_folder_that_vanishes_meanwhile_is_no_error(path):
    """The one who finishes removes the folder of the leases, while others may be asking for one."""
    with running(lease_work.remove_again_and_again, path.parent):
        assert outcome(lease_work.acquire_and_release, path, 500) == 0


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match=r"work\.json cannot be written: (Not a directory|File exists)"):
        Lease(tmp_path / "file" / "work.json").acquire()


def test_those_who_come_later_wait_and_find_it_done(tmp_path, path, caplog):
    product, held = tmp_path / "product", context.Event()
    with running(lease_work.make_once, path, product, held, 1.0) as process:
        assert held.wait(60)
        with caplog.at_level(logging.INFO), only_one(path, "Making", product.is_file) as mine:
            assert not mine
            assert product.read_text() == "made\n"
        assert exit_code(process) == 0
    assert f"Making: process {process.pid} on {socket.gethostname()} does this now; waiting." in caplog.text
    assert not path.exists()


def test_those_who_wait_take_over_from_one_who_is_killed(tmp_path, path):
    product, held = tmp_path / "product", context.Event()
    with running(lease_work.make_once, path, product, held, 600) as first:
        assert held.wait(60)
        with running(lease_work.make_once, path, product, context.Event(), 0) as second:
            second.join(0.5)
            assert second.is_alive()
            assert not product.exists()
            first.kill()
            assert exit_code(second) == 0
    assert product.read_text() == "made\n"


def test_what_is_done_is_not_done_again(path):
    with only_one(path, "Making", lambda: True) as mine:
        assert not mine
    assert not path.exists()


def test_an_error_gives_the_lease_back(path):
    with contextlib.suppress(ZeroDivisionError), only_one(path, "Making", lambda: False) as mine:
        assert mine
        assert path.exists()
        raise ZeroDivisionError
    assert not path.exists()


def test_a_lease_from_before_the_machine_started_anew_holds_nothing(lease, path):
    """The same number and ticks, by chance, of another start."""
    rewrite(path, boot="another", token="of the dead")
    successor = Lease(path)
    assert successor.acquire()
    successor.release()


def test_a_lease_that_does_not_say_which_start_of_the_machine_is_an_older_version_s(lease, path):
    content = json.loads(path.read_text())
    del content["boot"]
    path.write_text(json.dumps(content))
    assert not Lease(path).acquire()


def test_a_time_in_the_future_is_said_and_waited_for_no_longer_than_any(lease, path, monkeypatch, caplog):
    """Its holder is elsewhere, where nobody sees whether it lives."""
    rewrite(path, host="elsewhere", token="of another")
    age(path, -10_000)
    assert not Lease(path).acquire()
    assert "in the future: a clock is off" in caplog.text
    monkeypatch.setattr(leases, "STALE_AFTER_S", 0.3)
    time.sleep(0.2)
    age(path, -10_001)  # it is touched
    assert not Lease(path).acquire()
    time.sleep(0.2)
    assert not Lease(path).acquire()
    time.sleep(0.2)
    successor = Lease(path)
    assert successor.acquire()
    assert caplog.text.count("a clock is off") == 1
    successor.release()
