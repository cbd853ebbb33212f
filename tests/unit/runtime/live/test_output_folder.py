"""A folder for results: one run at a time, nothing of an older run beside a new one, nothing left by a failed start."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from clst_runtime.cli.run import main as clst_run
from clst_runtime.errors import DataError
from clst_runtime.imaging.image_files import write_png
from clst_runtime.live.output_folder import OutFolder, claimed, locked, older_files
from tests.conftest import write_labelled, write_rgb_model
from tests.support.command_line import call
from tests.support.shell import heed_interrupts


def names_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def written(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"old")
    return folder


def logged(folder, *frames):
    written(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"frame": index, "name": name}) for index, name in enumerate(frames)]
    (folder / "frames.jsonl").write_text("\n".join([*lines, '{"frame": 9, "na']))
    return folder


OURS = ("overlay.mp4", "statistics.json", "statistics.jsonl", "legend.png", "masks/b.png", "masks/deep/c.png",
        "masks/000007.png", "masks/.b-x1y2z3_4.png", "overlays/b.png", "recordings/overlay-20260102-030405.mp4",
        "recordings/overlay-20260102-030405-2.mp4", "overlay-unfinished.mp4", "overlay-unfinished-2.mkv",
        "recordings/overlay-20260102-030405-unfinished.mkv", ".statistics-abcdefg9.json")  # fmt: skip
OTHERS = ("notes.txt", "overlay.mp4.md5", "overlay-best.mp4", "masks/mine.png", "masks/b.txt", "recordings/cat.mp4",
          "front/masks/b.png", "legend.png.bak", "masks.png")  # fmt: skip


def test_what_a_run_has_left_is_known_and_nothing_else_is_taken_for_it(tmp_path):
    out = written(logged(tmp_path / "out", "b", "deep/c", "../notes"), *OURS, *OTHERS)
    assert sorted(str(path.relative_to(out)) for path in older_files(out)) == sorted((*OURS, "frames.jsonl"))
    OutFolder(out).begin()
    assert names_below(out) == sorted(OTHERS)
    assert not (out / "masks" / "deep").exists()
    (out / "frames.jsonl").unlink(missing_ok=True)
    assert [*older_files(written(out, "masks/000001.png"))] == [], "without a log they are somebody else's"


@pytest.mark.parametrize("source", ["overlay.mp4", "recordings/overlay-20260102-030405.mp4", "overlays", "link.mp4"])
def test_what_a_run_is_to_read_is_not_removed_by_overwrite(tmp_path, source):
    out = written(logged(tmp_path / "out", "b"), *OURS)
    (tmp_path / "link.mp4").symlink_to(out / "overlay.mp4")
    before, source = names_below(out), next(each for each in (out / source, tmp_path / source) if each.exists())
    with (
        pytest.raises(DataError, match=f"{source} is read by this run and removed by --overwrite; give another --out"),
        claimed(out, overwrite=True, sources=["camera:0", str(source)]),
    ):
        pass
    assert names_below(out) == before
    with claimed(out, overwrite=True, sources=[str(tmp_path)]):  # images around it: results are left out
        pass


def test_cameras_in_an_older_report_are_folders_in_this_one(tmp_path):
    out = written(tmp_path / "out", "front/overlay.mp4", "Rear/overlay.mp4")
    written(tmp_path, "overlay.mp4")
    (out / "statistics.json").write_text(json.dumps({"cameras": {"front": {}, "..": {}, "Rear": {}, "": {}}}))
    OutFolder(out).begin()
    assert names_below(tmp_path) == ["out/Rear/overlay.mp4", "overlay.mp4"]


def test_pictures_that_nobody_knows_are_neither_removed_nor_mixed_with_new_ones(tmp_path):
    out = written(logged(tmp_path / "out", "b"), "masks/b.png", "masks/mine.png")
    with (
        pytest.raises(DataError, match="mine.png is not known to be of an older run"),
        claimed(out, overwrite=True, strange=["masks"]),
    ):
        pass
    with claimed(out, overwrite=True, strange=["overlays"]) as folder:
        folder.begin()
    assert names_below(out) == ["masks/mine.png"]


def test_an_older_run_is_untouched_until_something_takes_its_place(tmp_path):
    out = written(logged(tmp_path / "out", "b"), "overlay.mp4")
    with claimed(out, overwrite=True):
        pass
    assert names_below(out) == ["frames.jsonl", "overlay.mp4"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("{none}.onnx", "--source", "{data}"), 4),
        (("{model}", "--source", "{none}"), 3),
        (("{model}", "--source", "camera:97", "--patience", "0.1"), 3),
        (("{model}", "--source", "{damaged}"), 3),
        (("{model}", "--source", "{data}", "--backend", "tensorrt"), 3),
        (("{model}", "--source", "{data}", "--stream", "masks:unix:/none/s"), 3),
    ],
)
def test_a_failed_start_leaves_nothing_behind_and_an_older_run_as_it_was(tmp_path, arguments, code):
    data = write_labelled(tmp_path / "data") / "images" / "val"
    model = write_rgb_model(tmp_path / "m.onnx")
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "0.png").write_bytes(b"no picture")
    places = {"none": tmp_path / "none", "data": data, "model": model, "damaged": damaged}
    given = [each.format(**places) for each in arguments]
    options = ("--masks", "--statistics-every", "0.01")
    done = call(clst_run, *given, "--out", tmp_path / "deep" / "out", *options)
    assert done.exit_code == code, done.output
    assert not (tmp_path / "deep").exists()
    old = written(logged(tmp_path / "old", "b"), "masks/b.png", "statistics.jsonl", "overlay.mp4")
    before = names_below(old)
    assert call(clst_run, *given, "--out", old, "--overwrite", *options).exit_code == code
    assert names_below(old) == before


def test_overwrite_leaves_the_files_of_the_new_run_alone(tmp_path):
    model, out = write_rgb_model(tmp_path / "m.onnx"), tmp_path / "out"
    for name in ("a", "b", "c"):
        write_png(tmp_path / "first" / f"{name}.png", np.zeros((8, 16, 3), np.uint8))
    write_png(tmp_path / "second" / "d.png", np.zeros((8, 16, 3), np.uint8))
    every = ("--masks", "--pictures", "--statistics-every", "0.0001")
    assert call(clst_run, model, "--source", tmp_path / "first", "--out", out, *every).exit_code == 0
    written(out, "notes.txt")
    done = call(clst_run, model, "--source", tmp_path / "second", "--out", out, "--masks", "--no-video", "--overwrite")
    assert done.exit_code == 0, done.output
    assert names_below(out) == ["frames.jsonl", "legend.png", "masks/d.png", "notes.txt", "statistics.json"]
    done = call(clst_run, model, "--source", tmp_path / "second", "--out", out)
    assert (done.exit_code, "exists and is not empty" in done.output) == (3, True)


def test_a_second_run_is_refused_with_the_process_that_holds_the_folder(tmp_path):
    model, out = write_rgb_model(tmp_path / "m.onnx"), tmp_path / "out"
    program = ("import sys, pathlib\n"
               "from clst_runtime.live.output_folder import locked\n"
               "with locked(pathlib.Path(sys.argv[1])):\n"
               "    print('held', flush=True); sys.stdin.read()\n")  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", program, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        data = write_labelled(tmp_path / "data") / "images" / "val"
        done = call(clst_run, model, "--source", data, "--out", out)
        assert done.exit_code == 3
        assert done.output.startswith(f"error: {out} is in use by another run")
        assert f"(process {process.pid})" in done.output or not os.path.exists("/proc/locks")
        process.kill()
    assert call(clst_run, model, "--source", data, "--out", out).exit_code == 0, "the lock has died with the process"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_start_that_is_ended_leaves_nothing_behind(tmp_path, number):
    """As when an engine is built: what the build has begun is taken back by whoever began it."""
    program = ("import pathlib, sys, time\n"
               "from clst_runtime.cli import run as cli_run\n"
               "def build(*_):\n"
               "    part = pathlib.Path(sys.argv[1] + '.part')\n"
               "    try: part.touch(); time.sleep(60)\n"
               "    finally: part.unlink()\n"
               "cli_run.open_backend = build\n"
               "cli_run.main()\n")  # fmt: skip
    model, part, out = write_rgb_model(tmp_path / "m.onnx"), tmp_path / "m.onnx.part", tmp_path / "deep" / "out"
    call = [sys.executable, "-c", program, model, "--source", "camera:97", "--out", out]
    with subprocess.Popen(call, stderr=subprocess.PIPE, preexec_fn=heed_interrupts) as process:
        while not part.exists() and process.poll() is None:
            time.sleep(0.02)
        assert out.is_dir()
        process.send_signal(number)
        assert process.communicate(timeout=30)[1].split() == [b"interrupted"]
    assert process.returncode == 130
    assert not part.exists()
    assert not (tmp_path / "deep").exists()


def test_a_folder_that_was_made_to_be_locked_and_stayed_empty_goes(tmp_path):
    with locked(tmp_path / "a" / "b"):
        assert (tmp_path / "a" / "b").is_dir()
    assert not (tmp_path / "a").exists()
    (tmp_path / "empty").mkdir()
    with locked(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot be used as a folder"), locked(tmp_path / "file"):
        pass
    with pytest.raises(DataError, match="cannot be used as a folder"), locked(tmp_path / "file" / "below"):
        pass
