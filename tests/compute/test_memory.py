"""Freed memory is kept: a second large array costs no pages that the system has to clear."""

import subprocess
import sys

import pytest

_PAGES_OF_A_STEP = """
import resource, sys, torch
from vissl_clusterfit.compute.memory import keep_all_freed_memory

if sys.argv[1] == "kept":
    assert keep_all_freed_memory()
for _ in range(12):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(32 << 20)  # 128 MiB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def pages(kept: str) -> int:
    done = subprocess.run([sys.executable, "-c", _PAGES_OF_A_STEP, kept], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_large_array_takes_the_memory_of_the_one_before():
    given_back = pages("given back")
    if given_back < 1000:
        pytest.skip("the system gives out memory in large pages here")
    assert pages("kept") < given_back / 100
