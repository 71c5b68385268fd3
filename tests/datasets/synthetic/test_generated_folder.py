"""Data sets that are drawn into a folder whole, whenever the process that draws is killed."""

import os
import signal

from vissl_clusterfit.datasets.synthetic.generated_folder import write_drawn_set
from vissl_clusterfit.storage.process_ids import process_name


def draw(folder):
    (folder / "classes").mkdir()
    (folder / "classes" / "picture").write_text("whole")
    return {"pictures": 1}


def draw_and_die(folder):
    draw(folder)
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_was_drawing_is_removed_and_no_more(tmp_path):
    child = os.fork()
    if not child:
        write_drawn_set(tmp_path / "set", "pictures", {}, draw_and_die)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert [path.name.startswith(".set.") for path in tmp_path.iterdir()] == [True]
    of_others = [".set.tmp", f".set.{process_name()}-{'0' * 16}.tmp"]
    for name in of_others:
        (tmp_path / name).mkdir()
    write_drawn_set(tmp_path / "set", "pictures", {}, draw)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*of_others, "set"])
    assert (tmp_path / "set" / "classes" / "picture").read_text() == "whole"
