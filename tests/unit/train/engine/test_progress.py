"""The line of progress: how far a stage is, and what is left of it."""

import re
import time
from types import SimpleNamespace

import pytest
import tqdm

from clst_train.compute.bars import PLAIN
from clst_train.engine.progress import with_progress


@pytest.fixture
def run():
    """As much of a run as the line reads: batches of 8, nothing logged yet."""
    config = SimpleNamespace(source=SimpleNamespace(batch=8))
    return SimpleNamespace(config=config, logbook=SimpleNamespace(entries=[]))


@pytest.fixture
def lines(monkeypatch):
    """All that is shown, without waiting half a minute for the next line."""
    shown = []
    monkeypatch.setitem(PLAIN, "file", SimpleNamespace(write=shown.append, flush=lambda: None))
    monkeypatch.setitem(PLAIN, "mininterval", 0.0)
    return shown


def steps(first, end, seconds=0.0):
    for iteration in range(first, end):
        time.sleep(seconds)
        yield iteration, None


def test_a_stage_that_is_gone_on_with_begins_where_it_was(run, lines):
    for _ in with_progress(run, "source", steps(6, 10), range(6, 10)):
        pass
    told = "".join(lines)
    assert re.findall(r"source (\d+)/10", told)[0] == "6"
    assert "source 10/10" in told


def test_steps_of_an_earlier_run_do_not_shorten_what_is_left(run, lines):
    """Of 1000 steps 900 were made before; at 0.05 s or more a step the others take 4 s at least."""
    for iteration, _ in with_progress(run, "source", steps(900, 1000, 0.05), range(900, 1000)):
        if iteration == 910:
            break
    minutes, seconds = re.findall(r"source 910/1000, \d\d:\d\d gone, (\d\d):(\d\d) left", "".join(lines))[-1]
    assert 60 * int(minutes) + int(seconds) >= 4


def test_a_stage_without_a_step_left_is_whole(run, lines):
    assert list(with_progress(run, "source", iter(()), range(10, 10))) == []
    assert "source 10/10" in "".join(lines)


def test_a_line_in_a_log_file_comes_every_half_minute_and_no_oftener(run, monkeypatch):
    """The bar's own watch would draw one after `maxinterval` already, which is ten seconds unless told."""
    intervals = []

    class Watched(tqdm.tqdm):
        def update(self, n=1):
            intervals.append((self.mininterval, self.maxinterval))
            return super().update(n)

    monkeypatch.setattr(tqdm, "tqdm", Watched)
    for _ in with_progress(run, "source", steps(0, 2), range(2)):
        pass
    assert set(intervals) == {(30.0, 30.0)}
