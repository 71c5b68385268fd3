"""Gives every reader of ours damaged files, for as long as one likes, and says what each raises that it may not.

    make bench BENCH=fuzz                                         all readers, ten minutes, changes drawn at random
    python benchmarks/fuzz.py --seconds 60 --reader results       one of them
    python benchmarks/fuzz.py --seconds 300 --reader "plain pickle, protocol 4" --atheris

With ``--atheris`` (pip install atheris, which nothing else needs) the coverage of the package steers the bytes that one
reader is given. The last line is one JSON object; the readers are those of ``tests/support/readers.py``.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/support"))


def main() -> int:
    """Runs the fuzzer; the exit code is 1 where a reader raised what it may not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", help="a part of a name; again for several; default: all")
    parser.add_argument("--without", action="append", help="a part of the name of readers that are left out")
    parser.add_argument("--atheris", action="store_true", help="steered by coverage, one reader")
    arguments = parser.parse_args()
    logging.disable()
    if arguments.atheris:
        return with_atheris(arguments)
    from guarded_reading import read
    from mutations import CHANGES, in_bytes
    from readers import READERS

    rng, found, tried = random.Random(arguments.seed), {}, {}
    names = [name for name in READERS if any(part in name for part in arguments.reader or [""])]
    names = [name for name in names if not any(part in name for part in arguments.without or ())]
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(names):
            reader, place = READERS[name], Path(folder, str(number))
            place.mkdir()
            path = reader.make(place)
            content, until = path.read_bytes(), time.monotonic() + arguments.seconds / len(names)
            while time.monotonic() < until:
                few = rng.random() < 0.5
                steps = [
                    (rng.choice(sorted(CHANGES)), rng.randrange(300 if few else 1 << 20), rng.randrange(64))
                    for _ in range(rng.randint(1, 3))
                ]
                change = reader.inside if rng.random() < 0.7 else in_bytes
                tried[name] = tried.get(name, 0) + 1
                try:
                    read(reader, path, change(content, steps))
                except Exception as error:
                    frame = traceback.extract_tb(error.__traceback__)
                    ours = [f"{Path(f.filename).name}:{f.lineno}" for f in frame if "vissl_clusterfit" in f.filename]
                    key = f"{name}: {type(error).__name__} at {ours[-1:]}"
                    if key not in found:
                        found[key] = [change.__name__, steps]
                        print(f"{key}: {str(error)[:150]} by {change.__name__} {steps}", flush=True)
    print(
        json.dumps({"readers": len(names), "files": sum(tried.values()), "fewest": min(tried.values()), "found": found})
    )
    return 1 if found else 0


def with_atheris(arguments: argparse.Namespace) -> int:
    """Gives one reader the bytes that reach new branches of the package; the first fault ends it."""
    try:
        import atheris
    except ImportError:
        sys.exit("Not installed: pip install atheris (3.0 or newer, for Python 3.11 and later).")
    with atheris.instrument_imports(include=["vissl_clusterfit"]):
        from guarded_reading import read
        from readers import READERS
    names = [name for name in READERS if any(part in name for part in arguments.reader or [""])]
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    for part in ("place", "corpus"):
        (folder / part).mkdir()
    reader = READERS[names[0]]
    path = reader.make(folder / "place")
    (folder / "corpus/valid").write_bytes(path.read_bytes())

    def one(content: bytes) -> None:
        read(reader, path, content)

    limits = [f"-max_total_time={arguments.seconds:.0f}", "-rss_limit_mb=4096", "-timeout=10", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={folder}/", str(folder / "corpus")], one)
    print(f"{names[0]}: what is found is in {folder}", flush=True)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
