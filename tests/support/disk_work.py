"""What the processes do that write to a disk."""

import time
from pathlib import Path

from vissl_clusterfit.storage.whole_files import write_file


def write_slowly(path: Path, begun) -> None:
    """Begins to write a file, says so, and never comes to its end."""

    def write(file) -> None:
        file.write(b"half")
        file.flush()
        begun.set()
        time.sleep(600)

    write_file(path, write)
