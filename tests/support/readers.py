"""Every reader of files that come from elsewhere, or from a run that was killed: a valid file, and how it is read."""

import readers_of_archives
import readers_of_artifacts
import readers_of_imports
import readers_of_lists
import readers_of_runs
from guarded_reading import Reader

READERS: dict[str, Reader] = {
    name: reader
    for module in (readers_of_artifacts, readers_of_imports, readers_of_lists, readers_of_runs, readers_of_archives)
    for name, reader in module.READERS.items()
}
