"""A disk that is full while files are written: one line, the right exit code, no broken file under a final name.

The kernel's limit on a file's size stands in for the disk: a write beyond it fails the same way (EFBIG for ENOSPC).
"""

import json
import resource
import sys
from contextlib import contextmanager

import numpy as np
import pytest

from clst_export.cli.export import main as clst_export
from clst_runtime.imaging.image_files import write_png
from clst_runtime.sources import TimedFrame
from clst_train.cli.train import main as clst_train
from tests.support.command_line import call
from tests.support.miniature import drawn_cameras
from tests.support.shell import shell
from tests.support.videos import frames_of
from tests.unit.export.conftest import write_checkpoint

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="file-size limits are POSIX")


def limited(size: int):
    """What a child process runs before the command: no file of it may grow beyond `size` bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@contextmanager
def no_file_beyond(size: int):
    """The same for this process, where a command in it shows as much as one of its own."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def one_error_line(done):
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def noise(index: int, size_hw=(120, 160)) -> TimedFrame:
    pixels = np.random.default_rng(index).integers(0, 255, (*size_hw, 3), dtype=np.uint8)
    return TimedFrame(index=index, image=pixels, captured_ns=0, name=f"{index:06d}")


@pytest.fixture
def noisy_folder(tmp_path):
    """Twenty images that do not compress."""
    for index in range(20):
        write_png(tmp_path / "noise" / f"{index:02d}.png", noise(index).rgb)
    return tmp_path / "noise"


def test_a_video_that_cannot_grow_keeps_what_it_has_and_says_where(tmp_path, rgb_model, noisy_folder):
    arguments = ("clst-run", rgb_model, "--source", noisy_folder, "--out")
    assert shell(*arguments, tmp_path / "good").returncode == 0
    (video,) = (tmp_path / "good").glob("overlay.*")
    size = video.stat().st_size
    assert len(frames_of(video)) == 20
    done = shell(*arguments, tmp_path / "out", preexec_fn=limited(size * 3 // 4))
    assert done.returncode == 3
    (kept,) = (tmp_path / "out").glob("overlay*")
    assert kept.name == f"overlay-unfinished{video.suffix}"
    count = len(frames_of(kept))
    assert 10 <= count < 20
    assert f"File too large; its first {count} frames are kept in {kept}" in one_error_line(done)
    assert len((tmp_path / "out" / "frames.jsonl").read_text().splitlines()) == 20


def test_a_frame_log_ends_with_a_whole_line(tmp_path, rgb_model, noisy_folder):
    arguments = ("clst-run", rgb_model, "--source", noisy_folder, "--no-video", "--out")
    done = shell(*arguments, tmp_path / "out", preexec_fn=limited(500))
    assert done.returncode == 3
    assert "frames.jsonl" in one_error_line(done)
    lines = (tmp_path / "out" / "frames.jsonl").read_text().splitlines()
    assert [json.loads(line)["frame"] for line in lines] == list(range(len(lines)))
    assert 0 < len(lines) < 20


def test_a_mask_is_written_whole_or_not_at_all(tmp_path, rgb_model, noisy_folder):
    done = shell("clst-run", rgb_model, "--source", noisy_folder, "--no-video", "--pictures", "--out", tmp_path / "out",
                 preexec_fn=limited(2000))  # fmt: skip
    assert done.returncode == 3
    assert "cannot write" in one_error_line(done)
    assert list((tmp_path / "out" / "overlays").iterdir()) == []


def test_a_checkpoint_is_written_whole_or_not_at_all(narrow, tmp_path):
    drawn_cameras(tmp_path, train=3, val=1)
    settings = ("augmentation.crop_hw=[64,64]", "source.batch=2", "source.iterations=2", "run.precision=fp32")
    arguments = ["--recipe", "demo", "--size", "64x96", *(part for each in settings for part in ("--set", each))]
    places = ("--source", tmp_path / "old", "--target", tmp_path / "new" / "images" / "train")
    with no_file_beyond(100_000):
        done = call(clst_train, *arguments, *places, "--out", tmp_path / "run")
    assert done.exit_code == 3
    assert "is the disk full?" in one_error_line(done)
    assert list((tmp_path / "run" / "checkpoints").iterdir()) == []


def test_an_onnx_file_is_written_whole_or_not_at_all(narrow, tmp_path):
    write_checkpoint(tmp_path / "c.pt")
    with no_file_beyond(100_000):
        done = call(clst_export, tmp_path / "c.pt", "--onnx", "--out", tmp_path / "m.onnx")
    assert done.exit_code == 3
    one_error_line(done)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.pt"]


def test_what_was_measured_is_told_where_its_file_cannot_be_written(tmp_path, rgb_model):
    out = tmp_path / "b" / "bench.json"
    done = shell("clst-bench", rgb_model, "--runs", "3", "--warm-up", "0", "--json", "--out", out,
                 preexec_fn=limited(100))  # fmt: skip
    assert done.returncode == 3
    assert "cannot write" in one_error_line(done)
    assert json.loads(done.stdout)["results"]


def test_the_size_limit_of_these_tests_is_felt(tmp_path):
    program = "import sys; f = open(sys.argv[1], 'wb', 0); f.write(bytes(4096)); f.write(b'x')"
    done = shell("python", "-c", program, tmp_path / "f", preexec_fn=limited(1024))
    assert "File too large" in done.stderr
