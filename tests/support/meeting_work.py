"""A node's launcher without its processes, for tests that stop it."""

import os
import time

from vissl_clusterfit.launch.processes.failures import of_exception
from vissl_clusterfit.launch.processes.heartbeat import LIMIT_VARIABLE, Member
from vissl_clusterfit.launch.processes.rendezvous import Failed, Meeting


def meet(number: int, count: int, port: int, limit_s: float, answers) -> None:
    """Meets, says so, and does nothing until another member fails, which it passes on."""
    os.environ[LIMIT_VARIABLE] = str(limit_s)
    member = Member(number, count, number, count)
    with Meeting(member, "127.0.0.1", port, has_store=number == 0) as meeting:
        answers.put("there")
        try:
            while True:
                meeting.check()
                time.sleep(0.05)
        except Failed as failed:
            answers.put(failed.failure)


def fail_after(meeting: Meeting, error: BaseException):
    """Fails with an exception; the cause that becomes known."""
    return meeting.fail(of_exception(error, **meeting.member.place()))
