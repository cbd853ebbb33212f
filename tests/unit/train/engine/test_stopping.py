"""A run that is asked to end saves its step, says how to go on, and ends then as the unbroken one, bit by bit."""

import json
import os
import signal
import subprocess
import sys
import threading

import pytest
import torch

from clst_train.engine.stopping import Stopped, asked, finishing_steps, heeding_signals
from clst_train.models.checkpoint import load_checkpoint
from tests import ROOT
from tests.support.miniature import drawn_cameras


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of both runs, and how the children ended: the unbroken one, those asked to end, the last."""
    out = tmp_path_factory.mktemp("runs")
    drawn_cameras(out, train=5, val=1)
    places = (out / "old", out / "new" / "images" / "train", out / "new", out)
    program = [sys.executable, str(ROOT / "tests/support/stopped_runs.py"), *map(str, places)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(program, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout.splitlines()[-1])


ENDS = [
    "interrupted before the first step; nothing was made or changed",
    "interrupted before a step was saved",
    "source training is saved at step 1",
    "source training is saved at step 1",
    "source training is saved at step 3",
    "source training is saved at step 3",
    "adaptation is saved at step 3",
    "adaptation is saved at step 4",
    "adapted.pt was whole, only example images and verdicts were",
]


def test_each_says_what_is_kept_and_how_to_go_on(runs):
    out, ends = runs
    assert ends[0][0] == 0, ends[0][1]
    assert len(ends) == 1 + len(ENDS) + 1
    for number, (words, (code, told, made)) in enumerate(zip(ENDS, ends[1:-1], strict=True)):
        last = told.splitlines()[-1]
        assert code == 130, told
        assert words in last, (number, told)
        assert made == (number > 0)
        assert (f"go on with: clst-train --resume {out / 'stopped'}" in last) == (number > 0)
        assert "Traceback" not in told
        assert told.count("interrupted") == 1
    assert ends[-1][0] == 0, ends[-1][1]


def test_a_wish_is_answered_at_once_while_the_step_goes_on(runs):
    _, ends = runs
    for number in (2, 4, 6, 7):
        assert "ending after this step, which is saved; once more ends at once" in ends[1 + number][1]


def test_the_run_ends_as_the_unbroken_one(runs):
    out, _ = runs
    states = [
        load_checkpoint(out / name / "checkpoints" / "adapted.pt").segmenter_state for name in ("whole", "stopped")
    ]
    assert states[0].keys() == states[1].keys()
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name]), name
    logs = [(out / name / "log.jsonl").read_text() for name in ("whole", "stopped")]
    assert logs[0] == logs[1]
    files = [sorted(path.name for path in (out / name).rglob("*")) for name in ("whole", "stopped")]
    assert files[0] == files[1]


def test_a_second_signal_ends_at_once(capfd):
    with heeding_signals(), pytest.raises(Stopped), finishing_steps():
        signal.raise_signal(signal.SIGTERM)
        assert asked()
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("not reached")
    assert not asked()
    assert capfd.readouterr().err.count("ending after this step") == 1


def test_what_torchrun_hands_on_is_no_second_one_and_the_first_process_alone_speaks(monkeypatch, capfd):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with heeding_signals(), pytest.raises(Stopped), finishing_steps():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
    assert capfd.readouterr().err == ""


def test_what_is_ignored_from_outside_stays_ignored_and_handlers_come_back(monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with heeding_signals():
            signal.raise_signal(signal.SIGHUP)
            assert not asked()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_in_another_thread_no_handler_is_set():
    with heeding_signals():
        pass
    thread = threading.Thread(target=lambda: heeding_signals().__enter__())
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
