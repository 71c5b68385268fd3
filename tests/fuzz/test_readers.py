"""Every reader of ours, given files that are damaged, or made to harm: it reads them, or says what is wrong.

Nothing else is raised, no reader takes long or much memory, and none writes outside its folder. ``FUZZ_EXAMPLES``
is the number of files for each; ``benchmarks/fuzz.py`` tries them for as long as one likes.
"""

import os

import pytest
from guarded_reading import read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import CHANGES, in_bytes
from readers import READERS

_EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "6"))
#: Where to change, first of all at the beginning: headers are there.
_PLACES = st.one_of(st.integers(0, 300), st.integers(0, 1 << 20))
_STEPS = st.lists(st.tuples(st.sampled_from(sorted(CHANGES)), _PLACES, st.integers(0, 63)), min_size=1, max_size=4)


@pytest.fixture(scope="module", params=sorted(READERS))
def reader(request, tmp_path_factory):
    """A reader, the path of a valid file of it, and what is in that."""
    found = READERS[request.param]
    path = found.make(tmp_path_factory.mktemp("valid"))
    return found, path, path.read_bytes()


def test_a_valid_file_is_read(reader):
    assert read(*reader) == reader[0].readable


@settings(max_examples=_EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(inside=st.booleans(), steps=_STEPS)
def test_a_damaged_file_is_read_or_refused(reader, inside, steps):
    found, path, content = reader
    read(found, path, (found.inside if inside else in_bytes)(content, steps))


#: What the fuzzer found: readers that raised something else, or took the memory that a file named.
FOUND = [
    ("cars, cars_annos.mat", False, [("put", 266, 38), ("erase", 328549, 44), ("erase", 385816, 53)]),
    ("cars, cars_annos.mat", False, [("double", 130, 51), ("token", 291, 1), ("put", 360734, 0), ("flip", 80, 26)]),
    ("cars, cars_annos.mat", False, [("put", 232, 42), ("flip", 361817, 23)]),
    ("features, .parquet", False, [("token", 581486, 36)]),
    ("features, .pt", True, [("erase", 540937, 28), ("token", 824786, 34)]),
    ("labels, .jsonl", True, [("put", 126, 23)]),
    ("labels, .npy", False, [("put", 284, 6)]),
    ("labels, .npy", False, [("put", 647109, 63), ("put", 705815, 5)]),
    ("list of videos, .txt", False, [("token", 205903, 30), ("put", 687197, 25), ("token", 986535, 40)]),
    ("plain pickle, protocol 5", False, [("erase", 740222, 48)]),
    ("record of a training", True, [("erase", 153, 14), ("erase", 187, 5)]),
    ("record of a training", True, [("cut", 136, 25)]),
    ("cached result", True, [("flip", 1031139, 41), ("cut", 817614, 44)]),
    ("shard that is done", True, [("double", 191, 60), ("flip", 14, 18), ("flip", 97, 35)]),
    ("shard that is done", True, [("splice", 222751, 34), ("erase", 1025659, 42)]),
    ("shard that is done", True, [("token", 205, 47)]),
    (
        "imagenet1k, ILSVRC2012_validation_ground_truth.txt",
        False,
        [("put", 231941, 61), ("double", 478396, 40), ("token", 158125, 21)],
    ),
    ("inat2018, train2018.json", True, [("flip", 120482, 22)]),
    ("inat2018, train2018.json", True, [("token", 3, 49), ("token", 159, 34), ("cut", 99, 31)]),
    ("inat2019, val2019.json", True, [("put", 179, 52), ("put", 76, 1)]),
    ("places365, categories_places365.txt", False, [("cut", 294, 37), ("token", 2, 2), ("token", 296, 4)]),
]
#: JSON of thousands of levels, and numbers of thousands of digits, which Python refuses each by an error of its own.
FOUND += [
    (name, False, [("deep", 0, kind)])
    for name in ("results", "taxonomy", "lease", "metrics of a training", "labels, .jsonl", "list of files, .json")
    for kind in (0, 1)
]


@pytest.mark.parametrize("name, inside, steps", FOUND)
def test_what_was_found_once(name, inside, steps, tmp_path):
    reader = READERS[name]
    path = reader.make(tmp_path)
    content = path.read_bytes()
    if steps[0][0] == "deep":
        changed = (b"[" * 100_000, b"1" * 5000)[steps[0][2]]
    else:
        changed = (reader.inside if inside else in_bytes)(content, steps)
    read(reader, path, changed)
