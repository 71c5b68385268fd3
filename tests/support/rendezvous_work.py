"""A node's launcher without its processes, for tests that stop it."""

import os
import time

from vissl_clusterfit.launch.processes.failures import of_exception
from vissl_clusterfit.launch.processes.heartbeat import LIMIT_VARIABLE, Participant
from vissl_clusterfit.launch.processes.rendezvous import Failed, Rendezvous


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
