"""Messages of a command: how many, where to, and what of a log file that cannot be written."""

import logging
import os
import re
import subprocess
import sys

import click
import pytest

from clst_runtime.cli.command import command, group
from clst_runtime.errors import DataError
from clst_runtime.system.progress import PROGRESS, is_shown
from tests.support.command_line import call

log = logging.getLogger("clst_runtime.somewhere")
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} "


@command("speak")
@click.option("--fail", is_flag=True)
@click.option("--fault", is_flag=True)
@click.option("--camera", default="")
def speak(fail, fault, camera):
    log.debug("detail")
    log.info("note\nof two lines")
    log.warning(f"warning: {camera}" if camera else "warning")
    PROGRESS.info(f"half, {is_shown()}")
    click.echo("result")
    if fault:
        raise ZeroDivisionError("ours")
    if fail:
        raise DataError("bad picture") from (OSError(f"cannot open {camera}") if camera else None)


@group("many")
def many():
    """Two."""


many.add_command(speak)


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        ((), ["note", "of two lines", "warning", "half, True"]),
        (("-q",), ["warning"]),
        (("--quiet", "--quiet"), ["warning"]),
    ],
)
def test_notes_are_shown_as_they_are_and_with_q_only_warnings(options, lines):
    done = call(speak, *options)
    assert done.stderr.splitlines() == lines
    assert done.stdout == "result\n"


def test_an_error_is_shown_whatever_is_asked_for():
    done = call(speak, "-q", "--fail")
    assert done.exit_code == 3
    assert done.stderr == "warning\nerror: bad picture\n"


def test_verbose_has_times_details_and_where_an_error_was_raised():
    done = call(speak, "-v", "--fail")
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3} DEBUG   speak -v --fail\n", done.stderr)
    assert re.search(r"\d\d DEBUG   detail\n.*\d\d INFO    note", done.stderr)
    assert "in speak\n    raise DataError" in done.stderr


@pytest.mark.parametrize("order", [("-q", "-v"), ("-v", "-q"), ("-vq",)])
def test_quiet_and_verbose_contradict_each_other(order):
    done = call(speak, *order)
    assert done.exit_code == 2
    assert "-q and -v contradict each other" in done.stderr


def test_a_group_takes_the_options_too():
    assert "DEBUG   many speak --camera 'a b'\n" in call(many, "-v", "speak", "--camera", "a b").stderr
    assert call(many, "-q", "speak").stderr == "warning\n"
    assert "DEBUG   many speak --camera 'a b'\n" in call(many, "-v", "speak", "--camera", "a b").stderr
    assert call(many, "-q", "speak", "-v").exit_code == 2
    done = call(many, "speek")
    assert done.exit_code == 2
    assert "no command 'speek'; did you mean 'speak'? known: speak" in done.stderr


def test_a_log_file_has_everything_in_whole_lines_with_time_and_level(tmp_path):
    file = tmp_path / "run.log"
    for _ in range(2):
        call(speak, "-q", "--log-file", file, "--fail")
    lines = file.read_text().splitlines()
    assert all(re.match(STAMP, line) for line in lines)
    told = [re.sub(STAMP, "", line) for line in lines]
    assert told[:6] == [
        f"DEBUG   speak -q --log-file {file} --fail",
        "DEBUG   detail",
        "INFO    note",
        "INFO    of two lines",
        "WARNING warning",
        "ERROR   error: bad picture",
    ]
    assert told.count("ERROR   error: bad picture") == 2


def test_no_credentials_get_into_the_log_file(tmp_path):
    file = tmp_path / "run.log"
    call(speak, "-q", "--log-file", file, "--camera", "rtsp://me:seecret99@cam.example/live?token=abcdefgh12")
    assert "cam.example" in file.read_text()
    assert not any(word in file.read_text() for word in ("seecret99", "abcdefgh12", "me:"))


def test_verbose_hides_credentials_in_the_reasons_of_an_error():
    done = call(speak, "-v", "--fail", "--camera", "rtsp://me:seecret99@cam.example/live?token=abcdefgh12")
    trace = done.stderr.partition("error: bad picture")[2]
    assert "OSError: cannot open rtsp://" in trace
    assert not any(word in trace for word in ("seecret99", "abcdefgh12", "me:"))


def test_a_fault_of_ours_stands_in_the_log_file_with_its_traceback(tmp_path):
    file = tmp_path / "run.log"
    with pytest.raises(ZeroDivisionError):
        call(speak, "--log-file", file, "--fault")
    assert re.search(rf"{STAMP}CRITICAL ZeroDivisionError: ours\n\Z", file.read_text())


@pytest.mark.parametrize("place", ["", "none/run.log", "pipe"])
def test_a_log_file_that_cannot_be_opened_is_one_line(tmp_path, place):
    os.mkfifo(tmp_path / "pipe")
    done = call(speak, "--log-file", tmp_path / place)
    assert done.exit_code == 0
    first, *rest = done.stderr.splitlines()
    assert first.startswith(f"warning: --log-file {tmp_path / place}: ")
    assert rest == ["note", "of two lines", "warning", "half, True"]


@pytest.mark.parametrize("content", [b"\x08\x0a\x12\x07pytorch", b"[run]\nseed = 3\n"])
def test_a_file_that_is_no_log_is_left_as_it_is(tmp_path, content):
    (tmp_path / "front").write_bytes(content)
    done = call(speak, "--log-file", tmp_path / "front")
    assert (tmp_path / "front").read_bytes() == content
    assert done.exit_code == 0
    assert done.stderr.startswith(f"warning: --log-file {tmp_path / 'front'}: has other content than messages; ")


def test_an_empty_file_and_a_log_cut_in_the_middle_of_a_line_are_gone_on_with(tmp_path):
    file = tmp_path / "run.log"
    for before in ("", "f a line\n2026-01-31 12:00:00.123 INFO    note\n"):
        file.write_text(before)
        assert "no log file" not in call(speak, "--log-file", file).stderr
        assert file.read_text().startswith(before)
        assert file.read_text().endswith("INFO    half, True\n")


def test_a_full_disk_is_told_once_and_ends_nothing():
    done = call(speak, "--log-file", "/dev/full")
    assert done.exit_code == 0
    told = [line for line in done.stderr.splitlines() if "No space left" in line]
    assert told == ["warning: /dev/full: No space left on device; the log file misses lines"]


def test_a_line_that_fits_in_part_only_is_taken_back(tmp_path):
    program = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (120, 120))\n"
        "from tests.unit.runtime.cli.test_messages import speak\n"
        "speak.main(['-q', '--log-file', sys.argv[1]], prog_name='speak')\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    file = tmp_path / "r"
    done = subprocess.run(
        [sys.executable, "-c", program, file], env=environment, capture_output=True, text=True, check=True
    )
    assert file.read_text().endswith("\n")
    assert 0 < file.stat().st_size <= 120
    assert done.stderr.count("the log file misses lines") == 1


def test_importing_sets_up_no_handler_and_a_program_of_ones_own_gets_the_records():
    program = (
        "import logging, clst_runtime.cli.run, clst_train.cli.train, clst_export.cli.export\n"
        "names = ('clst_runtime', 'clst_train', 'clst_export')\n"
        "assert all(not logging.getLogger(name).handlers and not logging.getLogger(name).level for name in names)\n"
        "logging.basicConfig(level=logging.INFO, format='%(name)s %(message)s')\n"
        "logging.getLogger('clst_runtime.somewhere').info('hello')\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == "clst_runtime.somewhere hello\n"
