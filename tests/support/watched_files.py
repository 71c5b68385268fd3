"""``watched://<path>``: a file of this machine; whoever opens it is written down, in whatever process.

Importing this module registers the handler, as a user's module does that ``VISSL_CLUSTERFIT_IMPORT`` names.
"""

import os
import time

from iopath.common.file_io import PathHandler, g_pathmgr

PREFIX = "watched://"
#: An environment variable: the file with a line for each time that one was opened.
LOG_VARIABLE = "TEST_WATCHED_FILES_LOG"


class WatchedFiles(PathHandler):
    """Opens files for reading, and writes down when, by which process, and which."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _open(self, path: str, mode: str = "r", buffering: int = -1):
        file = path.removeprefix(PREFIX)
        with open(os.environ[LOG_VARIABLE], "a") as log:
            log.write(f"{time.time_ns()} {os.getpid()} {file}\n")
        return open(file, mode)


g_pathmgr.register_handler(WatchedFiles())
