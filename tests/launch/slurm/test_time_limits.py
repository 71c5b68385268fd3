"""Which end of a job counts as a time-out."""

import time

import pytest
from submitit.core.job_environment import SignalHandler
from submitit.core.utils import DelayedSubmission

from vissl_clusterfit.launch.slurm.job import has_timed_out


@pytest.mark.parametrize(
    "limit_min, ran_s, timed_out",
    [
        (5, 60, False),  # preempted
        (5, 5 * 60 - 90, True),  # what SLURM says ahead of the limit
        (9, 300, False),
        (9, 9 * 60 - 90, True),
        (60, 45 * 60, False),
        (60, 51 * 60, True),
        (2, 1, True),  # cannot be told from what SLURM says ahead
    ],
)
def test_a_short_limit_is_no_reason_to_call_a_preemption_a_time_out(limit_min, ran_s, timed_out):
    delayed = DelayedSubmission(print)
    delayed.set_timeout(limit_min, 3)
    handler = SignalHandler(None, None, delayed)
    handler._start_time = time.time() - ran_s
    assert has_timed_out(handler) == timed_out
