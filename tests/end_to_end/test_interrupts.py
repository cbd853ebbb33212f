"""Ctrl-C at any time leaves whole files and the right exit code."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from clst_runtime.imaging.image_files import write_png
from clst_runtime.live.sinks.video_files import video_suffix
from clst_train.models.checkpoint import load_checkpoint
from clst_train.synthetic.camera_looks import find_look
from clst_train.synthetic.scenes import write_scenes
from tests.support.shell import heed_interrupts, interrupted, shell
from tests.unit.export.conftest import needs_rounding, scene, write_checkpoint


def test_ctrl_c_is_the_normal_end_of_clst_run(tmp_path, rgb_model):
    for index in range(3000):
        (tmp_path / "in").mkdir(exist_ok=True)
        if index == 0:
            write_png(tmp_path / "in/0.png", np.zeros((64, 64, 3), np.uint8))
        else:
            os.link(tmp_path / "in/0.png", tmp_path / f"in/{index}.png")
    out = tmp_path / "out"
    log = out / "frames.jsonl"

    def running():
        return log.exists() and log.stat().st_size > 0

    code, told, errors = interrupted(running, "clst-run", rgb_model, "--source", tmp_path / "in", "--out", out)
    assert code == 0, errors
    assert "(interrupted)" in told
    statistics = json.loads((out / "statistics.json").read_text())
    assert 0 < statistics["frames"] < 3000
    assert len(log.read_text().splitlines()) == statistics["frames"]
    again = shell("clst-run", rgb_model, "--source", out / f"overlay{video_suffix()}", "--json")
    assert json.loads(again.stdout)["frames"] == statistics["frames"]
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


def test_ctrl_c_in_training_keeps_a_checkpoint_to_go_on_from(tmp_path):
    write_scenes(tmp_path / "old", look=find_look("old"), counts={"train": 4}, size_hw=(64, 96), seed=1)
    out = tmp_path / "run"
    resume = out / "checkpoints" / "resume.pt"
    settings = ("--recipe", "demo", "--size", "64x96", "--set", "augmentation.crop_hw=[64,64]")
    settings += ("--set", "source.batch=2", "--set", "source.iterations=100000", "--set", "run.checkpoint_every=1")
    code, _, errors = interrupted(resume.exists, "clst-train", *settings, "--source", tmp_path / "old", "--out", out)
    assert code == 130
    assert "Traceback" not in errors
    saved = load_checkpoint(resume).iteration
    assert saved >= 1
    last = f"interrupted; source training is saved at step {saved}; go on with: clst-train --resume {out}"
    assert errors.splitlines()[-1] == last
    assert [path.name for path in resume.parent.iterdir()] == ["resume.pt"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_data_set_that_is_being_written_is_whole_or_absent(tmp_path, name):
    def begun():
        return len(list(tmp_path.rglob("*.png"))) > 2

    arguments = ("scenes", tmp_path / "made" / "old", "--count", 100000, "--size", "64x96")
    code, _, errors = interrupted(begun, "clst-data", *arguments, number=getattr(signal, name))
    assert code == 130
    assert errors.split() == ["interrupted"]
    assert list((tmp_path / "made").iterdir()) == []


CALLER = """
import os, signal, sys
from clst_export import pipeline as convert
from clst_export.cli.export import main

trace = convert.trace
def told(*arguments, **options):
    os.kill(os.getpid(), signal.SIGTERM)
    return trace(*arguments, **options)
convert.trace = told
main(sys.argv[1:])
"""


def test_an_export_that_is_asked_to_end_leaves_no_file(tmp_path):
    write_checkpoint(tmp_path / "c.pt")
    call = [sys.executable, "-c", CALLER, str(tmp_path / "c.pt"), "--onnx", "--bundle", "--out", str(tmp_path / "b")]
    (tmp_path / "temporary").mkdir()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path / "temporary")}
    done = subprocess.run(call, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 130, done.stderr
    assert done.stderr.splitlines()[-1] == "interrupted"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.pt", "temporary"]
    assert list((tmp_path / "temporary").rglob("*.onnx")) == []


@needs_rounding
def test_ctrl_c_while_int8_is_searched_for_leaves_nothing(tmp_path):
    (tmp_path / "trials").mkdir()
    for index in range(12):
        write_png(tmp_path / "pictures" / f"{index:02d}.png", scene(index)[0])

    def searching():
        return any((tmp_path / "trials").rglob("trial.onnx"))

    arguments = (
        write_checkpoint(tmp_path / "c.pt"),
        "--onnx",
        "int8",
        "--calib",
        tmp_path / "pictures",
        "--max-miou-drop",
        "0.01",
    )
    code, _, errors = interrupted(searching, "clst-export", *arguments, "--out", tmp_path / "out" / "q.onnx",
                                  environment={"TMPDIR": str(tmp_path / "trials"),
                                               "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "torch")})  # fmt: skip
    assert code == 130, errors
    assert errors.splitlines()[-1] == "interrupted"
    assert not (tmp_path / "out").exists()
    assert [path for path in (tmp_path / "trials").iterdir() if path.is_dir()] == []


def ended(program, environment=None):
    """Exit code and words on standard error of a Python program in which signals count."""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, preexec_fn=heed_interrupts,
        env=os.environ | (environment or {}),
    )  # fmt: skip
    return done.returncode, done.stderr.split()


IMPORTED = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.{name})
    time.sleep(0.1)
except BaseException:
    raise ImportError("initialization failed")  # as libraries in C do
"""
IMPORTING = """
import time
from clst_runtime.cli.command import command
from clst_runtime.system.optional import require

@command()
def main():
    require("library_in_c")
    time.sleep(60)

main()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_while_a_library_is_imported_is_no_missing_library(tmp_path, name):
    (tmp_path / "library_in_c.py").write_text(IMPORTED.format(name=name))
    assert ended(IMPORTING, {"PYTHONPATH": str(tmp_path)}) == (130, ["interrupted"])


AT_EXIT = """
import atexit, os, signal
from clst_runtime.cli.command import command

@command()
def main():
    pass

atexit.register(lambda: [os.kill(os.getpid(), number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)])
main()
"""


def test_a_signal_while_the_interpreter_takes_itself_down_does_not_change_the_exit_code():
    assert ended(AT_EXIT) == (0, [])
