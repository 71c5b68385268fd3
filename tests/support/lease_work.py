"""What the processes do that share leases."""

import json
import shutil
import time
from pathlib import Path

from vissl_clusterfit.storage.atomic import write_file
from vissl_clusterfit.storage.leases import Lease, only_one


def hold(path: Path, held) -> None:
    """Takes a lease, says so, and never gives it back."""
    assert Lease(path).acquire()
    held.set()
    time.sleep(600)


def compete(folder: Path, number: int, num_rounds: int, barrier) -> None:
    """Tries one lease a round, at the same moment as the others, and writes down in which rounds it got it."""
    won = []
    for this_round in range(num_rounds):
        lease = Lease(folder / f"{this_round}.json")
        barrier.wait()
        if lease.acquire():
            won.append(this_round)
    barrier.wait()  # nobody dies while the others still try
    (folder / f"won-{number}").write_text(json.dumps(won))


def acquire_and_release(path: Path, times: int) -> None:
    for _ in range(times):
        lease = Lease(path)
        if lease.acquire():
            lease.release()


def remove_again_and_again(folder: Path) -> None:
    while True:
        shutil.rmtree(folder, ignore_errors=True)


def make_once(path: Path, product: Path, held, pause_s: float) -> None:
    """Makes a product that is made once, slowly."""
    with only_one(path, "Making", product.is_file) as mine:
        if mine:
            held.set()
            time.sleep(pause_s)
            write_file(product, lambda file: file.write(b"made\n"))  # whole at once, as all that leases are of
