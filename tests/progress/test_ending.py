"""The end of a run is five lines at most, and its last one is a command."""

import pytest

from vissl_clusterfit.progress.ending import ending

PLACES = {"checkpoint": "a", "scores": "b", "results": "c", "export": "d", "labels of TRAIN": "e"}


@pytest.mark.parametrize("num_notes", range(3))
@pytest.mark.parametrize("num_places", range(6))
def test_nothing_is_left_out_and_no_line_too_many_is_said(num_places, num_notes):
    places = dict(list(PLACES.items())[:num_places])
    notes = [f"Note {number}." for number in range(num_notes)]
    said = ending("Done.", places, [*notes, ""], then=["report", "my run"])
    lines = said.splitlines()
    assert len(lines) <= 5
    assert (lines[0], lines[-1]) == ("Done.", "next: vissl-clusterfit report 'my run'")
    assert all(f"{name}: {place}" in said for name, place in places.items())
    assert lines[len(lines) - 1 - num_notes : -1] == notes


def test_a_run_that_ends_the_way_has_no_next_command():
    assert ending("Done.") == "Done."
