import json
import os
import re
import shlex
import socket
import subprocess
import time

import pytest

from clst_runtime.cli.run_report import REPORT_SECONDS
from clst_runtime.errors import DataError
from clst_runtime.live.pipeline import CLOSING_SECONDS, run_pipeline
from clst_runtime.live.statistics import RunStatistics
from clst_runtime.live.statistics_log import StatisticsLog
from clst_runtime.live.systemd import Notifier
from clst_runtime.system.files.json_lines import JsonLines
from tests import ROOT
from tests.fakes.live import FakeBackend, FakeSource


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
    log = StatisticsLog(RunStatistics(), lines.append, 2.0, clock=lambda: now[0])
    for step in (0.5, 1.0, 0.5, 1.75, 0.25, 9.0, 0.25, 1.5):
        now[0] += step
        log.idle()
    # At 102, 104, 113 (late once, not four times) and nothing at 114.75
    assert len(lines) == 3
    assert lines[0]["state"] == "starting"


def test_a_log_that_cannot_be_written_is_one_failure_and_the_run_goes_on():
    def full(_):
        raise DataError("cannot write s.jsonl: No space left on device")

    statistics = RunStatistics()
    log = StatisticsLog(statistics, full, 0.001)
    run_pipeline(FakeSource(range(20)), FakeBackend(seconds=0.002), [log], statistics=statistics)
    assert statistics.frames == 19
    assert statistics.failures == ["statistics log: cannot write s.jsonl: No space left on device"]


def test_a_log_goes_on_without_frames():
    statistics, lines = RunStatistics(), []
    log = StatisticsLog(statistics, lines.append, 0.01)
    run_pipeline(FakeSource([lambda: time.sleep(0.1)] * 5), FakeBackend(), [log], statistics=statistics)
    assert [line["state"] for line in lines[:2]] == ["starting"] * 2


def unit():
    """The unit's settings by name, comments left out, and its text."""
    text = (ROOT / "docs/systemd/clst-run.service").read_text()
    lines = text.replace("\\\n", "").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#")), text


def test_the_unit_may_write_where_its_command_writes():
    settings, _ = unit()
    assert settings["ProtectSystem"] == "strict"
    program, bundle, *options = shlex.split(settings["ExecStart"])
    assert program.endswith("/clst-run")
    assert bundle.startswith(f"/var/lib/{settings['StateDirectory']}/"), "its engine is built there"
    (socket_place,) = [each.removeprefix("masks:unix:") for each in options if each.startswith("masks:unix:")]
    assert socket_place.startswith(f"/run/{settings['RuntimeDirectory']}/")
    assert float(settings["TimeoutStopSec"]) > CLOSING_SECONDS + 2 * REPORT_SECONDS + 5


def test_the_unit_s_way_to_record_gives_each_start_a_folder_of_its_own(tmp_path):
    _, text = unit()
    commented = text[text.index("# ExecStart=") : text.index("KillSignal")].replace("\\\n#", "")
    _, _, script = shlex.split(commented.removeprefix("# ExecStart=").strip())
    script = script.replace("%%", "%").replace("/opt/clst/bin/clst-run", "printf '%s\\n'")
    done = subprocess.run(["/bin/sh", "-c", script.replace("exec printf", "printf")], capture_output=True, text=True,
                          env={**os.environ, "STATE_DIRECTORY": str(tmp_path)}, check=True)  # fmt: skip
    *_, option, folder = done.stdout.splitlines()
    assert option == "--out"
    assert re.fullmatch(re.escape(str(tmp_path)) + r"/drives/\d{8}-\d{6}", folder)


def test_json_lines_of_a_closed_file_and_of_none(tmp_path):
    lines = JsonLines(tmp_path / "new" / "a.jsonl")
    lines.close()
    lines.close()
    assert not (tmp_path / "new").exists()
    lines = JsonLines(tmp_path / "a.jsonl")
    lines.append({"x": 1})
    lines.append({"x": "ü"})
    lines.close()
    assert [json.loads(line)["x"] for line in (tmp_path / "a.jsonl").read_text().splitlines()] == [1, "ü"]
