"""From a command line to processes, and from what happened to an exit code."""
