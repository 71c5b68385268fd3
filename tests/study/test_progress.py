"""What a study says of the time: by epochs for trainings, alike for evaluations, over the processes that share it."""

from pathlib import Path

from vissl_clusterfit.study.plan import StudyRun
from vissl_clusterfit.study.progress import Forecast

SHORT, LONG = (StudyRun(Path(name), (), epochs) for name, epochs in (("short", 10), ("long", 20)))
SCORED, ALSO_SCORED = (StudyRun(Path(name), ()) for name in ("scored", "also scored"))
RUNS = [SHORT, LONG, SCORED, ALSO_SCORED]


def test_it_says_what_there_is_to_do_before_anything_is_known():
    forecast = Forecast(RUNS, 2)
    assert forecast.seconds_left() is None
    assert forecast.left() == ""
    assert forecast.beginning() == (
        "This study has 2 trainings and 2 evaluations, 2 at a time. How long they take is told when the first training "
        "has ended."
    )


def test_the_first_training_tells_how_long_the_others_take():
    forecast = Forecast(RUNS, 1)
    forecast.done(SHORT, 30.0)
    assert forecast.seconds_left() == 60.0
    forecast.done(SCORED, 5.0)
    assert forecast.seconds_left() == 65.0
    forecast.done(LONG, 90.0)
    forecast.done(ALSO_SCORED, 3.0)
    assert forecast.seconds_left() == 0.0
    assert forecast.num_done == 4


def test_a_study_that_is_resumed_knows_it_at_once():
    forecast = Forecast(RUNS, 2)
    forecast.done(SHORT, 30.0)
    forecast.done(SCORED)  # of a record without its time
    assert forecast.seconds_left() == 30.0
    assert "2 at a time; 2 of them are done. By the times of these, the rest takes 30 s." in forecast.beginning()
