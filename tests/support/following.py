"""What a run that has ended proposes to type next, typed."""

import re
import shlex

from vissl_clusterfit.commands.main import main


def run_next(said: str) -> list[str]:
    """Runs the command that stands last in what a run has said, and gives its words without the first."""
    proposed = re.findall(r"^next: vissl-clusterfit (.+)$", said, re.M)
    assert proposed, said
    assert said.splitlines()[-1].startswith("next: ")
    words = shlex.split(proposed[-1])
    assert main(words) == 0
    return words
