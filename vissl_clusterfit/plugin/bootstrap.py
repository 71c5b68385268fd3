"""What every process of a run imports first: VISSL repaired, our parts registered, one log.

Importing this module is the whole of its use, so it is the one module with an effect at import. ``cover_children``
has every process that Python's multiprocessing starts from here import it too: ranks, and data workers by fork,
forkserver or spawn.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import multiprocessing
import os
import sys

from vissl_clusterfit import dependencies
from vissl_clusterfit.compat import repairs
from vissl_clusterfit.plugin import log_bridge, registration
from vissl_clusterfit.storage import paths

# What is imported below makes hundreds of thousands of objects, none of them garbage. To look through them takes a
# fifth of a second, twice in every phase of VISSL's trainings, and has forked processes copy their memory.
gc.disable()
log_bridge.join_vissls_log()
repairs.apply()
registration.register()
# Where VISSL has its users register handlers of file systems; it calls this nowhere itself.
importlib.import_module("vissl.utils.env").setup_path_manager()
paths.register_handlers()
dependencies.import_user_modules()
registration.pair_data_sources()  # those of the user's modules, too
gc.freeze()
gc.enable()


def cover_children() -> None:
    """Gives child processes a main module that imports this one.

    A child of multiprocessing runs its parent's ``__main__`` before anything else, by the name in its spec. With
    forkserver this module is imported once, in the server, instead of in every worker of every epoch.

    Nor do they look for modules in the working directory, as ``python -c`` and ``-m`` do by which they are started: it
    may be a folder of data. They have the search path of this process, whatever that is.
    """
    os.environ["PYTHONSAFEPATH"] = "1"  # from Python 3.11
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("vissl_clusterfit.plugin.child_main")
    multiprocessing.set_forkserver_preload([__name__])
