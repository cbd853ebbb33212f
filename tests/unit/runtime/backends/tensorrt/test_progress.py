"""Phases of a build, shown: from several threads, to a terminal or a file, to one that is gone."""

import io
import logging
import threading

from clst_runtime.backends.tensorrt.build.progress import (
    BarProgress,
    BuildProgress,
    LineProgress,
    make_monitor,
    show_progress,
)
from clst_runtime.cli.messages import set_level
from tests.fakes import tensorrt as fake_tensorrt


def test_lines_name_outermost_phases_and_how_far_they_are(capsys):
    progress = LineProgress(seconds=0.0)
    progress.start("Building", None, 2)
    progress.start("Timing", "Building", 4)
    progress.step("Timing", 1)
    progress.finish("Timing")
    progress.step("Building", 2)
    assert capsys.readouterr().err.splitlines() == [
        "building: Building",
        "building: Timing 1/4",
        "building: Building 2/2",
    ]


def test_lines_do_not_flood_a_log(capsys):
    progress = LineProgress(seconds=3600.0)
    progress.start("Building", None, 1000)
    for done in range(1000):
        progress.step("Building", done)
    assert capsys.readouterr().err.splitlines() == ["building: Building"]


def test_bars_are_moved_from_many_threads_and_all_are_closed():
    stream = io.StringIO()
    progress = BarProgress(stream)

    def work(phase):
        progress.start(phase, "Building", 50)
        for done in range(50):
            progress.step(phase, done + 1)
        progress.finish(phase)

    progress.start("Building", None, 1)
    threads = [threading.Thread(target=work, args=(f"part {index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(progress._bars) == ["Building"]
    assert progress._depths["part 3"] == 1
    progress.close()
    assert progress._bars == {}
    assert "part 0" in stream.getvalue()
    progress.step("never started", 1)
    progress.finish("never started")


def test_the_monitor_stops_the_build_once_it_is_cancelled(capsys):
    cancelled = threading.Event()
    monitor = make_monitor(fake_tensorrt, LineProgress(seconds=0.0), cancelled)
    monitor.phase_start("Building", "", 2)
    assert monitor.step_complete("Building", 0) is True
    cancelled.set()
    assert monitor.step_complete("Building", 1) is False
    monitor.phase_finish("Building")
    # TensorRT counts steps from 0 and an outermost phase has an empty parent.
    lines = ["building: Building", "building: Building 1/2", "building: Building 2/2"]
    assert capsys.readouterr().err.splitlines() == lines


def test_a_terminal_that_is_gone_does_not_raise_into_tensorrt(monkeypatch):
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr("sys.stderr", stream)
    monitor = make_monitor(fake_tensorrt, LineProgress(seconds=0.0), threading.Event())
    monitor.phase_start("Building", None, 1)
    assert monitor.step_complete("Building", 0) is True
    monitor.phase_finish("Building")


def test_a_log_file_gets_lines():
    assert isinstance(show_progress(), LineProgress)  # pytest's stderr is no terminal


def test_nothing_is_shown_where_nobody_asked_for_it():
    set_level(logging.WARNING)
    assert type(show_progress()) is BuildProgress
