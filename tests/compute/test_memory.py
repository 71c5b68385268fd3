"""Freed memory is kept: a second large array costs no pages that the system has to clear."""

import subprocess
import sys

import pytest

_PAGES_OF_A_STEP = """
import resource, sys, torch
from vissl_clusterfit.compute.memory import all_freed_memory_kept, keep_all_freed_memory

def last_of_many(values=32 << 20):  # 128 MiB
    for _ in range(12):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(values)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() >> 20

if sys.argv[1] == "kept":
    assert keep_all_freed_memory()
if sys.argv[1] == "in a block":
    before = resident()
    with all_freed_memory_kept():
        inside = last_of_many()
        assert resident() > before + 100
    assert resident() < before + 20, "what was kept is still there"
    print(inside, last_of_many(128 << 20))  # larger than any gap that the block may have left among what is in use
else:
    print(last_of_many())
"""


def pages(kept: str) -> list[int]:
    done = subprocess.run([sys.executable, "-c", _PAGES_OF_A_STEP, kept], capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


@pytest.fixture(scope="module")
def given_back():
    (number,) = pages("given back")
    if number < 1000:
        pytest.skip("the system gives out memory in large pages here")
    return number


def test_a_large_array_takes_the_memory_of_the_one_before(given_back):
    assert pages("kept")[0] < given_back / 100


def test_what_was_kept_for_a_time_goes_back_to_the_system_and_so_does_what_comes_later(given_back):
    inside, later = pages("in a block")
    assert inside < given_back / 100
    assert later > given_back / 2
