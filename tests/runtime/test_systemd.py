import json
import socket

import pytest

from clst_runtime.errors import DataError
from clst_runtime.json_lines import JsonLines
from clst_runtime.statistics import RunStatistics
from clst_runtime.statistics_log import StatisticsLog
from clst_runtime.systemd import Notifier


@pytest.fixture
def manager(tmp_path):
    """A service manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(2)
        yield listening, {"NOTIFY_SOCKET": str(tmp_path / "notify")}


def test_ready_alive_and_stopping_are_told_and_a_status_only_when_it_changes(manager):
    listening, environment = manager
    notifier = Notifier(environment)
    notifier.ready()
    for status in ("ready", "ready", "lost"):
        notifier.alive(status)
    notifier.stopping()
    assert [listening.recv(200).decode() for _ in range(5)] == [
        "READY=1", "WATCHDOG=1\nSTATUS=ready", "WATCHDOG=1", "WATCHDOG=1\nSTATUS=lost", "STOPPING=1"
    ]  # fmt: skip


def test_an_abstract_socket_is_understood():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0clst-test-notify")
        listening.settimeout(2)
        Notifier({"NOTIFY_SOCKET": "@clst-test-notify"}).ready()
        assert listening.recv(200) == b"READY=1"


def test_nobody_listening_is_no_error(tmp_path):
    Notifier({}).ready()
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")}).alive("ready")


def test_a_full_queue_of_the_manager_does_not_hold_up_the_camera(manager):
    _, environment = manager
    notifier = Notifier(environment)
    for number in range(5000):
        notifier.alive(str(number))


def test_a_line_of_statistics_every_so_many_seconds():
    now, lines = [100.0], []
    log = StatisticsLog(lines.append, 2.0, clock=lambda: now[0])
    for step in (0.5, 1.0, 0.5, 1.75, 0.25, 9.0, 0.25, 1.5):
        now[0] += step
        log.tick(RunStatistics())
    # At 102, 104, 113 (late once, not four times) and nothing at 114.75
    assert len(lines) == 3
    assert lines[0]["state"] == "starting"


def test_a_log_that_cannot_be_written_ends_with_one_warning():
    def full(_):
        raise DataError("cannot write s.jsonl: No space left on device")

    statistics = RunStatistics()
    log = StatisticsLog(full, 1.0)
    for _ in range(3):
        log.write(statistics)
    assert list(statistics.warnings) == [
        "the log of statistics has stopped: cannot write s.jsonl: No space left on device"
    ]


def test_json_lines_of_a_closed_file_and_of_none(tmp_path):
    lines = JsonLines(tmp_path / "new" / "a.jsonl")
    lines.close()
    lines.close()
    assert (tmp_path / "new" / "a.jsonl").read_bytes() == b""
    lines = JsonLines(tmp_path / "a.jsonl")
    lines.append({"x": 1})
    lines.append({"x": "ü"})
    lines.close()
    assert [json.loads(line)["x"] for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [1, "ü"]
