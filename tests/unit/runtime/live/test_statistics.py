import threading
from collections import Counter

import numpy as np
import pytest

from clst_runtime.backends.base import Prediction
from clst_runtime.live.results import Result
from clst_runtime.live.statistics import RECENT, WARNINGS_KEPT, Deadline, RunStatistics
from clst_runtime.sources import TimedFrame

MASK = np.zeros((2, 2), np.uint8)


class Clock:
    """Milliseconds that a test moves."""

    def __init__(self):
        self.ms = 1000

    def __call__(self):
        return self.ms * 1_000_000


def result(clock, *, age_ms, inference_ms=3):
    """A frame whose mask is finished now and `age_ms` old."""
    captured_ns = clock() - age_ms * 1_000_000
    timed = TimedFrame(index=0, image=np.zeros((2, 2, 3), np.uint8), captured_ns=captured_ns, name="0")
    return Result(timed=timed, prediction=Prediction(classes=MASK), classes=MASK, mask=MASK,
                  inference_ns=inference_ms * 1_000_000, age_ns=age_ms * 1_000_000)  # fmt: skip


def begun(deadline=None, **options):
    clock = Clock()
    statistics = RunStatistics(deadline, clock=clock, **options)
    statistics.begin()
    return statistics, clock


def test_misses_and_streaks_are_counted():
    statistics, clock = begun(Deadline(milliseconds=50, stale_after=3))
    for age_ms in (10, 60, 60, 50, 60, 60, 60, 10, 51):
        clock.ms += 100
        statistics.took(result(clock, age_ms=age_ms), fresh=True)
    told = statistics.to_json()
    assert (told["frames"], told["deadline_misses"]) == (9, 6)
    assert (told["deadline_streak"], told["deadline_longest_streak"]) == (1, 3)
    assert told["stale_spells"] == 1


def test_so_many_misses_in_a_row_are_stale_and_one_good_mask_is_ready_again():
    statistics, clock = begun(Deadline(milliseconds=50, stale_after=2))
    states = []
    for age_ms in (10, 60, 60, 10):
        statistics.took(result(clock, age_ms=age_ms), fresh=True)
        states.append(statistics.state)
    assert states == ["ready", "ready", "stale", "ready"]


def test_a_frame_that_waited_for_the_warm_up_counts_but_its_age_does_not():
    statistics, clock = begun(Deadline(milliseconds=50))
    statistics.took(result(clock, age_ms=900), fresh=False)
    told = statistics.to_json()
    assert (told["frames"], told["deadline_misses"], told["capture_to_mask_ms"]) == (1, 0, {})
    assert told["inference_ms"]["median"] == pytest.approx(3.0)


@pytest.mark.parametrize(("deadline", "limit_ms"), [(None, 1000), (Deadline(milliseconds=50, stale_after=4), 200)])
def test_silence_is_stale_on_a_live_source_only(deadline, limit_ms):
    for live, state in ((True, "stale"), (False, "ready")):
        statistics, clock = begun(deadline, live=live)
        statistics.took(result(clock, age_ms=10), fresh=True)
        clock.ms += limit_ms - 11
        statistics.passed(Counter(), lost=False, losses=0)
        assert statistics.state == "ready"
        clock.ms += 2
        statistics.passed(Counter(), lost=False, losses=0)
        assert statistics.state == state
        assert statistics.to_json()["stale_spells"] == live


def test_the_states_of_a_run():
    clock = Clock()
    statistics = RunStatistics(clock=clock)
    assert statistics.state == "starting"
    statistics.begin()
    assert statistics.state == "starting"
    statistics.took(result(clock, age_ms=5), fresh=True)
    assert statistics.state == "ready"
    statistics.passed(Counter(overtaken=4), lost=True, losses=1)
    assert statistics.state == "lost"
    statistics.took(result(clock, age_ms=5), fresh=True)
    assert statistics.state == "ready"
    statistics.end = "SIGTERM"
    assert (statistics.state, statistics.interrupted) == ("ended", True)


def test_drops_are_summed_by_cause_and_the_source_s_own_counts_are_not_added_twice():
    statistics, _ = begun()
    for count in (3, 5):
        statistics.passed(Counter(overtaken=count), lost=False, losses=0)
    statistics.dropped("sink web")
    statistics.dropped("sink web")
    told = statistics.to_json()
    assert told["drops"] == {"overtaken": 5, "sink web": 2}
    assert told["dropped"] == 7


def test_counters_never_fall():
    statistics, _ = begun()
    statistics.passed(Counter(overtaken=5, corrupt=2), lost=True, losses=3)
    statistics.passed(Counter(overtaken=1), lost=False, losses=0)
    told = statistics.to_json()
    assert (told["drops"], told["losses"]) == ({"overtaken": 5, "corrupt": 2}, 3)


def test_what_a_camera_dropped_before_the_start_was_missed_by_nobody_and_of_a_file_every_frame_counts():
    for live, drops in ((True, {"overtaken": 3}), (False, {"overtaken": 7, "corrupt": 9})):
        statistics = RunStatistics(live=live)
        statistics.passed(Counter(corrupt=9), lost=False, losses=0)
        statistics.passed(Counter(corrupt=9, overtaken=4), lost=False, losses=0)
        statistics.begin()
        statistics.passed(Counter(corrupt=9, overtaken=7), lost=False, losses=0)
        assert statistics.to_json()["drops"] == drops


def test_a_warning_that_comes_again_is_one_line_that_says_how_often():
    statistics, _ = begun()
    for words in ("camera lost", "disk full", *["camera lost"] * 400):
        statistics.warn(words)
    assert statistics.warnings == ["disk full", "camera lost (401 times)"]


def test_memory_is_bounded_and_the_newest_is_kept():
    statistics, clock = begun()
    for number in range(RECENT + 50):
        clock.ms += 1
        statistics.took(result(clock, age_ms=number % 40), fresh=True)
        statistics.warn(f"warning {number}")
    told = statistics.snapshot()
    assert len(told["recent"]) == RECENT
    assert told["recent"][-1] == (0.65, (RECENT + 49) % 40, 3.0)
    assert (len(told["warnings"]), told["warnings"][-1]) == (WARNINGS_KEPT, f"warning {RECENT + 49}")
    assert told["frames"] == RECENT + 50


def test_no_run_at_all():
    statistics = RunStatistics()
    statistics.passed(Counter(), lost=False, losses=0)
    told = statistics.snapshot()
    assert told["seconds"] == 0.0
    assert (told["frames"], told["fps"], told["newest_age_ms"], told["inference_ms"]) == (0, 0.0, None, {})


def test_a_snapshot_can_be_taken_while_the_run_writes():
    statistics, clock = begun()
    done = threading.Event()
    failures = []

    def look():
        while not done.is_set():
            told = statistics.snapshot()
            if told["frames"] < len(told["recent"]):
                failures.append(told)

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(2000):
        statistics.took(result(clock, age_ms=1), fresh=True)
    done.set()
    reader.join()
    assert not failures
