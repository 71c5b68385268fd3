"""A node's launcher without its processes, for tests that stop it."""

import datetime
import functools
import os
import threading
import time

import torch.distributed

from vissl_clusterfit.launch.processes.failures import of_exception
from vissl_clusterfit.launch.processes.heartbeat import LIMIT_VARIABLE, Participant
from vissl_clusterfit.launch.processes.rendezvous import Failed, Rendezvous
from vissl_clusterfit.launch.processes.spawn import spawn_workers


def meet(number: int, count: int, port: int, limit_s: float, answers) -> None:
    """Meets, says so, and does nothing until another participant fails, which it passes on."""
    os.environ[LIMIT_VARIABLE] = str(limit_s)
    participant = Participant(number, count, number, count)
    with Rendezvous(participant, "127.0.0.1", port, has_store=number == 0) as rendezvous:
        answers.put("there")
        try:
            while True:
                rendezvous.check()
                time.sleep(0.05)
        except Failed as failed:
            answers.put(failed.failure)


def fail_after(rendezvous: Rendezvous, error: BaseException):
    """Fails with an exception; the cause that becomes known."""
    return rendezvous.fail(of_exception(error, **rendezvous.participant.place()))


def wait_for_store(folder, port, local_rank):
    """What a worker does that comes to a store whose rank has died."""
    (folder / str(os.getpid())).touch()
    torch.distributed.TCPStore("127.0.0.1", port, is_master=False, timeout=datetime.timedelta(minutes=30))


def launch_workers_that_wait(folder, port, port_of_nobody, ready):
    """A launcher of two of them; the event says that both are there."""
    with Rendezvous(Participant(0, 1, 0, 1), "127.0.0.1", port, has_store=True) as rendezvous:
        threading.Thread(target=_say_when_both_are_there, args=(folder, ready), daemon=True).start()
        spawn_workers(functools.partial(wait_for_store, folder, port_of_nobody), 2, rendezvous)


def _say_when_both_are_there(folder, ready):
    while len(os.listdir(folder)) < 2:
        time.sleep(0.1)
    time.sleep(1)
    ready.set()
