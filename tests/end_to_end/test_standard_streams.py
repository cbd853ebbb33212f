"""Commands whose standard input, output or error is closed, full, or read by nobody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ("train", "data", "demo", "export", "run", "bench", "eval", "parity", "doctor")


def ended(redirection, *arguments, **options):
    """Exit code, output and errors of a command whose streams a shell has redirected."""
    program, *rest = map(str, arguments)
    call = ["bash", "-c", f'"$0" "$@" {redirection}', str(Path(sys.executable).with_name(program)), *rest]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, env=environment, check=False, **options)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_standard_output_is_one_line_and_code_3(name):
    code, _, errors = ended("> /dev/full", f"clst-{name}", "--help")
    assert (code, errors) == (3, "error: standard output: No space left on device\n")


@pytest.mark.parametrize("name", ["train", "run"])  # the test above shows that all go through the same door
def test_a_usage_error_keeps_its_code_whatever_became_of_the_streams(name):
    codes = [ended(how, f"clst-{name}", "--no-such-option")[0] for how in ("2> /dev/full", "<&- >&- 2>&-")]
    assert codes == [2, 2]


@pytest.mark.parametrize("how", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_closed_streams_are_silence_and_the_files_are_right(tmp_path, rgb_model, how):
    from tests.conftest import write_labelled

    data = write_labelled(tmp_path / "data")
    out = tmp_path / "out"
    code, _, errors = ended(how, "clst-run", rgb_model, "--source", data / "images" / "val", "--out", out, "--masks")
    assert code == 0, errors
    assert "Traceback" not in errors
    assert sorted(path.name for path in (out / "masks").iterdir()) == ["0.png", "1.png", "2.png"]
    text = (out / "frames.jsonl").read_text()
    assert [line[0] for line in text.splitlines()] == ["{"] * 3, "no word of the program is in a file of results"


def test_a_file_never_takes_the_number_of_a_closed_stream(tmp_path):
    """A result file that is opened first would else get number 1 or 2, and every word would go into it."""
    program = ("import click, os, sys; from clst_runtime.cli.command import command\n"
               "@command()\n"
               "def main():\n"
               "    with open(sys.argv[1], 'wb', 0) as file:\n"
               "        print('words', flush=True)\n"
               "        os.write(1, b'x'); os.write(2, b'y'); file.write(b'result')\n"
               "main([])\n")  # fmt: skip
    done = subprocess.run(["bash", "-c", '"$0" -c "$1" "$2" <&- >&- 2>&-', sys.executable, program, tmp_path / "f"])
    assert (done.returncode, (tmp_path / "f").read_bytes()) == (0, b"result")


def test_raw_frames_of_a_closed_input_and_masks_to_a_closed_output_are_refused(rgb_model):
    code, _, errors = ended("<&-", "clst-run", rgb_model, "--source", "raw:16x8")
    assert (code, errors) == (3, "error: raw:16x8: standard input is closed\n")
    code, _, errors = ended(">&-", "clst-run", rgb_model, "--source", "camera:97", "--stream", "masks:-")
    assert (code, errors) == (3, "error: --stream masks:-: standard output is closed\n")
