"""A run that is killed at any moment and gone on with ends as the unbroken one, bit by bit."""

import json
import os
import subprocess
import sys

import pytest
import torch

from clst_train.cli.train import main as clst_train
from clst_train.models.checkpoint import load_checkpoint
from tests import ROOT
from tests.support.command_line import call
from tests.support.miniature import drawn_cameras

pytestmark = pytest.mark.slow  # trains in processes of its own
COPY = "ensemble-4-0-of-1.npy"


@pytest.fixture(scope="module")
def cameras(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cameras")
    drawn_cameras(folder, train=5)
    return folder / "old", folder / "new" / "images" / "train"


@pytest.fixture(scope="module")
def runs(cameras, tmp_path_factory):
    """The folder of all runs, and how its children ended."""
    out = tmp_path_factory.mktemp("runs")
    program = [sys.executable, str(ROOT / "tests/support/killed_runs.py"), *map(str, cameras), str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(program, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    print(told, done.stderr)
    return out, told


def assert_same_end(run, whole):
    first = load_checkpoint(run / "checkpoints" / "adapted.pt").segmenter_state
    second = load_checkpoint(whole / "checkpoints" / "adapted.pt").segmenter_state
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name
    files = [sorted(path.name for path in (place / "checkpoints").iterdir()) for place in (run, whole)]
    assert files[0] == files[1] == ["adapted.pt", COPY, "resume.pt", "source.pt"]
    stores = [(place / "checkpoints" / COPY).read_bytes() for place in (run, whole)]
    assert stores[0] == stores[1]
    adapting = [
        [line for line in (place / "log.jsonl").read_text().splitlines() if '"adapted"' in line]
        for place in (run, whole)
    ]
    assert adapting[0] == adapting[1]
    assert len([line for line in adapting[0] if '"loss"' in line]) == 4
    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in whole.iterdir())


def test_the_unbroken_run_ends_with_one_copy_of_the_store(runs):
    out, told = runs
    assert told["whole"] == "finished"
    assert_same_end(out / "whole", out / "whole")
    assert sorted(path.name for path in (out / "whole").iterdir()) == ["checkpoints", "config.toml", "log.jsonl"]


def test_killed_at_random_moments(runs):
    out, told = runs
    assert told["at_random"].count("killed") >= 2
    assert told["at_random"][-1] == "finished"
    assert_same_end(out / "at_random", out / "whole")
    logged = (out / "at_random" / "log.jsonl").read_text()
    assert logged == (out / "whole" / "log.jsonl").read_text()  # source training too, and no step twice


def test_killed_in_the_middle_of_a_checkpoint_and_of_resuming(runs):
    out, told = runs
    assert told["on_purpose"]["ends"] == ["killed"] * 6 + ["finished"]
    half_store, half_resume, source = ".ensemble-1-", ".resume-", "source.pt"
    one, two = "ensemble-1-0", "ensemble-2-0"
    left = [
        [name[:8] if name.startswith(".resume-") else name for name in names] for names in told["on_purpose"]["left"]
    ]
    assert left == [
        [half_store, source],
        [one, two, "resume.pt", source],
        [half_resume, one, two, "resume.pt", source],
        [one, two, "resume.pt", source],
        [one, two, "resume.pt", source],
        [".ensemble-3-", one, two, "resume.pt", source],
    ]
    assert_same_end(out / "on_purpose", out / "whole")


def test_a_checkpoint_whose_copy_of_the_store_is_missing_is_refused(runs, narrow):
    run = runs[0] / "whole"
    (run / "checkpoints" / "adapted.pt").rename(run / "adapted.pt")
    (run / "checkpoints" / COPY).rename(run / "e.store")
    try:
        done = call(clst_train, "--resume", run)
    finally:
        (run / "e.store").rename(run / "checkpoints" / COPY)
        (run / "adapted.pt").rename(run / "checkpoints" / "adapted.pt")
    assert done.exit_code == 4
    assert f"{COPY}: no such copy of the ensemble" in done.stderr
