"""The main module of child processes; see :func:`vissl_clusterfit.plugin.bootstrap.cover_children`."""

import os
import signal

if "SUBMITIT_EXECUTOR" in os.environ:
    # A job is told that it will be stopped, on some clusters in all of its processes: its first one acts on that, and
    # this one lives on until then. So will what it starts.
    signal.signal(signal.Signals[f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}"], signal.SIG_IGN)

from vissl_clusterfit.plugin import bootstrap  # noqa: F401  (its import is its effect)
