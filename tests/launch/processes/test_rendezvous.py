"""What members of a run tell each other, over real sockets: each is a thread, or a process where it has to stop."""

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest
from hosts import free_port
from processes import context, running
from rendezvous_work import fail_after, meet

from vissl_clusterfit.errors import ClusterFitError, ConfigError
from vissl_clusterfit.launch.processes.failures import KILLED, LOST, Failure, of_exception, of_exit_code, root_cause
from vissl_clusterfit.launch.processes.heartbeat import LIMIT_VARIABLE, Participant
from vissl_clusterfit.launch.processes.rendezvous import Failed, Rendezvous

PLACE = {"node": 1, "host": "b", "rank": 3, "nodes": 2}


@pytest.fixture(autouse=True)
def short_patience(monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, "2")


def of_all(work, count=3, numbers=None):
    """What ``work(rendezvous)`` gives or raises on each participant."""
    port = free_port()

    def take_part(position_and_number):
        position, number = position_and_number
        participant = Participant(number, count, number, count)
        try:
            with Rendezvous(participant, "127.0.0.1", port, has_store=position == 0) as rendezvous:
                return work(rendezvous)
        except (ConfigError, Failed) as error:
            return error

    numbers = range(count) if numbers is None else numbers
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(take_part, enumerate(numbers)))


def test_the_first_decides_and_all_finish():
    def work(rendezvous):
        found = rendezvous.broadcast_from_first("start", lambda: [rendezvous.participant.number, "checkpoint"])
        rendezvous.finish()
        return found

    assert of_all(work) == [[0, "checkpoint"]] * 3


def test_the_same_node_twice(monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, "0.5")
    first, second = sorted(of_all(lambda rendezvous: None, count=2, numbers=[0, 0]), key=str)
    assert "and of these 1 did not come within 2 s" in str(first)
    assert "node_id: found 0 here, and " in str(second)
    assert "allowed: another one of 0 to 1 on each node" in str(second)


def test_nobody_at_the_endpoint(monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, "0.2")
    with pytest.raises(ConfigError, match=r"RUN_ID: found 127\.0\.0\.1:.*, where nothing has answered for 1 s"):
        Rendezvous(Participant(1, 2, 1, 2), "127.0.0.1", free_port(), has_store=False)


def test_a_port_that_is_taken():
    refused = pytest.raises(ConfigError, match=r"RUN_ID: found .* which this node, number 0, cannot open")
    with socket.create_server(("", 0)) as other, refused:
        Rendezvous(Participant(0, 1, 0, 1), "127.0.0.1", other.getsockname()[1], has_store=True)


def test_all_learn_the_cause_and_not_its_echoes():
    """The echo is told first, as where a process was killed and its launcher has not seen it yet."""
    echo = RuntimeError("[gloo/transport/tcp/pair.cc:535] Connection closed by peer [127.0.0.1]:23456")

    def work(rendezvous):
        if rendezvous.participant.number == 2:
            try:
                while True:
                    rendezvous.check()
            except Failed:
                return fail_after(rendezvous, ValueError("the cause"))
        return fail_after(rendezvous, echo)

    causes = of_all(work)
    assert causes[0] == causes[1] == causes[2]
    assert causes[0].text.endswith("ValueError: the cause")
    assert causes[0].node == 2


@pytest.mark.parametrize("stopped", [0, 1], ids=["the one with the store", "another"])
def test_a_node_that_falls_silent(stopped):
    """Its connection stays open, as that of a machine without power does."""
    port, answers = free_port(), [context.Queue(), context.Queue()]
    with (
        running(meet, 0, 2, port, 1.0, answers[0]) as first,
        running(meet, 1, 2, port, 1.0, answers[1]) as second,
    ):
        assert [queue.get(timeout=60) for queue in answers] == ["there", "there"]
        os.kill((first, second)[stopped].pid, signal.SIGSTOP)
        failure = answers[1 - stopped].get(timeout=30)
    assert (failure.kind, failure.node) == (LOST, stopped)
    assert "it is lost: no heartbeat for 1 s" in failure.text
    host = "127.0.0.1" if stopped == 0 else os.uname().nodename
    assert failure.place == f"node {stopped}, {host}"


def test_a_mistake_is_one_message_and_anything_else_has_its_traceback():
    mistake = of_exception(ClusterFitError("K: found 0; allowed: 1."), **PLACE).exception()
    assert isinstance(mistake, ClusterFitError)
    assert str(mistake) == "K: found 0; allowed: 1. (This was found by rank 3 (node 1, b).)"
    try:
        raise ValueError("x")
    except ValueError as error:
        other = of_exception(error, **PLACE)
    text = str(other.exception())
    assert text.startswith("Rank 3 (node 1, b) failed:\nTraceback (most recent call last):")
    assert text.endswith("\nValueError: x")
    assert Failure.from_json(other.to_json()) == other


def test_what_an_exit_code_says():
    assert of_exit_code(-signal.SIGKILL, **PLACE).text.startswith("it was ended by SIGKILL.")
    assert of_exit_code(3, **PLACE).text == "it ended with exit code 3, without a message."
    aborted, killed = of_exit_code(-signal.SIGABRT, **PLACE), of_exit_code(-signal.SIGSEGV, **PLACE)
    assert root_cause([aborted, killed]).kind == KILLED


@pytest.mark.parametrize("text", ["0", "-1", "soon"])
def test_a_patience_that_is_none(monkeypatch, text):
    monkeypatch.setenv(LIMIT_VARIABLE, text)
    with pytest.raises(ConfigError, match=f"{LIMIT_VARIABLE}: found '{text}'; allowed: a number of seconds above 0"):
        Rendezvous(Participant(0, 1, 0, 1), "127.0.0.1", 0, has_store=True)
