"""clst-train in two gloo processes against one process with the whole batch."""

import json
import os
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from clst_train.compute.distributed import Ranks
from clst_train.data.loading import SOURCE_STREAM, positions
from clst_train.data.target import TargetImages
from clst_train.method.ensemble.store import EnsembleStore, StoreLayout
from clst_train.models.checkpoint import load_checkpoint
from clst_train.recipes.recipe import config_from_mapping
from tests import ROOT
from tests.support.miniature import drawn_cameras
from tests.support.shell import shell

STEPS = 3
SMALL = (
    *("--recipe", "demo", "--network", "ddrnet23_slim", "--size", "64x96"),
    *("--set", "augmentation.crop_hw=[64,64]", "--set", "source.batch=4"),
    *("--set", "source.iterations=2", "--set", f"adaptation.iterations={STEPS}", "--set", "adaptation.batch=4"),
    *("--set", "run.checkpoint_every=1", "--set", "run.precision=fp32"),
)
EVERY_TERM = (
    *("--set", "adaptation.ensemble_every=2", "--set", "adaptation.class_balance=0.5"),
    *("--set", "augmentation.masked_crops=0.5"),
    *("--set", "adaptation.entropy_weight=0.1", "--set", "adaptation.pseudo_label_weighting=confident_share"),
    *("--set", "adaptation.entropy_first=0.3", "--set", "adaptation.start_share=0.2"),  # the first step
    *("--set", "source.learning_rate=1e-6", "--set", "adaptation.learning_rate=1e-6"),
)
PROGRAM = ROOT / "tests/support/two_ranks.py"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Runs of several ranks, told of each other by the variables that torchrun sets."""
    call, environment = [sys.executable, str(PROGRAM), "serve"], os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(call, env=environment, **pipes) as server:

        def started(arguments, *, count, plain=False, **variables):
            """Exit codes, outputs and errors of `count` ranks; `plain`: in float32 as clst-train is."""
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
            told = [{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)} for rank in range(count)]
            words = tmp_path_factory.mktemp("words")
            run = {"arguments": [*map(str, arguments)], "variables": [variables | each for each in told]}
            server.stdin.write(json.dumps(run | {"words": f"{words}/", "plain": plain}) + "\n")
            server.stdin.flush()
            codes = json.loads(server.stdout.readline())
            said = [[(words / f"{rank}.{name}").read_text() for rank in range(count)] for name in ("out", "err")]
            return codes, *said

        yield started
        server.stdin.close()


@pytest.fixture(scope="module")
def cameras(tmp_path_factory):
    return drawn_cameras(tmp_path_factory.mktemp("cameras"), train=6, val=1)


def places(cameras):
    return ("--source", cameras / "old", "--target", cameras / "new" / "images" / "train")


@pytest.fixture(scope="module")
def alone(cameras, start, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    codes, _, errors = start((*SMALL, *EVERY_TERM, *places(cameras), "--val", cameras / "new", "--out", out), count=1)
    assert codes == [0], errors
    return out


@pytest.fixture(scope="module")
def two(cameras, tmp_path_factory):
    """A run of two processes; beside it `half`, as it was after step 2 of the adaptation."""
    out = tmp_path_factory.mktemp("two") / "run"
    arguments = (PROGRAM, *SMALL, *EVERY_TERM, *places(cameras), "--val", cameras / "new", "--out", out)
    environment = {"COPY_AT": str(out.with_name("half")), "FAULT": FAULT}
    done = shell("torchrun", "--nproc-per-node", "2", *arguments, environment=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out / 'checkpoints' / 'adapted.pt'}\n"
    assert done.stderr.count("memory for each of 2 processes: ") == 1, done.stderr
    for stage in ("source 2/2", f"adapted {STEPS}/{STEPS}"):  # on a busy machine progress repeats its last line
        assert len({line for line in done.stderr.splitlines() if line.startswith(stage)}) == 1, done.stderr
    return out


FAULT = os.environ.get("FAULT", "")


def state_of(run):
    return load_checkpoint(run / "checkpoints" / "resume.pt").training_state


def ensemble_of(run):
    layout = StoreLayout(images=6, classes=10, size_hw=(8, 12), top_k=None, target=target_of(run))
    return EnsembleStore.open(run / "checkpoints" / f"ensemble-{STEPS}.store", layout, STEPS)


def target_of(run):
    head = (run / "checkpoints" / f"ensemble-{STEPS}.store").read_bytes()[:4096]
    return json.loads(head)["target"]


def assert_same_learnt(run, other):
    """In float64 what two processes learn is what one learns, but for roundings of the losses, which are float32.

    The weights themselves prove little: AdamW turns a gradient that is zero but for roundings (of a bias before
    BatchNorm) into a whole step of either sign. Its moments are the gradients; the steps are small, so that they
    stay comparable from one to the next.
    """
    first, second = state_of(run), state_of(other)
    for name in ("sums", "weights"):
        torch.testing.assert_close(first["prototypes"][name], second["prototypes"][name], rtol=0, atol=2e-6)
    stores = [ensemble_of(each) for each in (run, other)]
    assert np.array_equal(stores[0].visits, stores[1].visits)
    assert np.array_equal(stores[0].records["visits"], stores[1].records["visits"])
    values = [store.records["values"].astype(int) for store in stores]
    assert np.abs(values[0] - values[1]).max() <= 1  # the last of 16 bits
    states = [load_checkpoint(each / "checkpoints" / "adapted.pt").segmenter_state for each in (run, other)]
    assert states[0].keys() == states[1].keys()
    for name in states[0]:
        torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-5, atol=2e-5, msg=name)
    for moment in ("exp_avg", "exp_avg_sq"):
        of_each = [
            torch.cat([value[moment].flatten() for value in state["optimiser"]["state"].values()])
            for state in (first, second)
        ]
        assert (of_each[0] - of_each[1]).norm() < 1e-3 * of_each[1].norm(), moment
    assert torch.equal(first["diagnostics"]["labels"], second["diagnostics"]["labels"])


def test_two_processes_learn_what_one_does_with_the_whole_batch(alone, two):
    assert_same_learnt(two, alone)
    assert state_of(two)["prototypes"]["weights"].count_nonzero() > 3  # there was something to compare
    assert ensemble_of(two).visits.sum() >= 8


def test_each_step_is_logged_once_and_as_for_the_whole_batch(alone, two):
    logs = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (alone, two)]
    assert [list(entry) for entry in logs[1]] == [list(entry) for entry in logs[0]]
    steps = [(entry["stage"], entry["iteration"]) for entry in logs[1] if "loss" in entry]
    assert steps == [("source", 1), ("source", 2), *(("adapted", step) for step in range(1, STEPS + 1))]
    for entry, expected in zip(logs[1], logs[0], strict=True):
        assert {name for name in entry if entry[name] is None} == {name for name in entry if expected[name] is None}
        for name in (name for name in entry if isinstance(entry[name], float)):
            assert entry[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-4), (name, entry)


def names_in(run):
    return sorted(str(path.relative_to(run)) for path in run.rglob("*"))


def test_the_run_folder_has_the_same_files(alone, two):
    assert names_in(two) == names_in(alone)
    assert (two / "config.toml").read_text() == (alone / "config.toml").read_text()


def test_a_run_of_two_that_one_was_asked_to_end_goes_on_to_the_bits_of_the_unbroken_one(two, start, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(two.with_name("half"), half)
    codes, _, errors = start(("--resume", half), count=2, STOP_AT="3")
    assert codes == [130, 130], errors
    assert f"adaptation is saved at step 3; go on with: clst-train --resume {half}\n" in errors[0]
    assert "interrupted" not in errors[1]
    codes, _, errors = start(("--resume", half), count=2)
    assert codes == [0, 0], errors
    states = [load_checkpoint(run / "checkpoints" / "adapted.pt").segmenter_state for run in (two, half)]
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name]), name
    assert state_of(half)["ensemble"] == state_of(two)["ensemble"]
    assert (half / "log.jsonl").read_text() == (two / "log.jsonl").read_text()


def test_one_process_goes_on_with_a_run_of_two(two, alone, start, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(two.with_name("half"), half)
    codes, _, errors = start(("--resume", half), count=1)
    assert codes == [0], errors
    assert_same_learnt(half, alone)


def test_a_batch_that_cannot_be_split_ends_all_with_one_line(cameras, start, tmp_path):
    out, arguments = tmp_path / "run", ("--set", "adaptation.batch=3")
    words = "adaptation.batch = 3 cannot be split over 2 processes; give a multiple of it"
    codes, outputs, errors = start((*SMALL, *places(cameras), "--out", out, *arguments), count=2, plain=True)
    assert codes == [3, 3], errors
    assert outputs == ["", ""]
    assert [line for line in errors[0].splitlines() if not line.startswith("note: ")][-1].startswith("error: ")
    assert words in errors[0]
    assert errors[1] == ""
    assert not out.exists()


def test_a_damaged_image_of_one_rank_ends_all_with_one_line(cameras, start, tmp_path):
    """It is found by the second rank, which alone reads it; the first says so, and how to go on."""
    shutil.copytree(cameras / "old", tmp_path / "old")
    of_second = positions(0, SOURCE_STREAM, 6, 4, 0)[2:]
    damaged = sorted((tmp_path / "old" / "images" / "train").iterdir())[
        of_second.max()
    ]  # the first is looked at before
    damaged.write_bytes(damaged.read_bytes()[:2000])  # its header is whole
    arguments = (*SMALL, "--source", tmp_path / "old", "--out", tmp_path / "run")
    codes, _, errors = start(arguments, count=2, plain=True)
    assert codes == [3, 3], errors
    assert str(damaged) in errors[0].splitlines()[-1]
    assert f"go on with --resume {tmp_path / 'run'}" in errors[0].splitlines()[-1]
    assert errors[0].count("error: ") == 1
    assert errors[1] == ""


def test_torchrun_hands_on_that_the_command_failed_however_late_the_first_process_says_why(cameras, tmp_path):
    """torchrun ends the others as soon as one has failed."""
    arguments = (*SMALL, *places(cameras), "--source", "nowhere", "--out", tmp_path / "run")
    done = shell("torchrun", "--nproc-per-node", "2", PROGRAM, *arguments, environment={"LATE": "1"})
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [
        "error: nowhere: no such folder"
    ]
    assert not (tmp_path / "run").exists()


def test_a_network_of_one_s_own_is_trained_by_two_processes(cameras, start, tmp_path):
    """Its auxiliary head counts in source training alone, so no gradient reaches it in the adaptation."""
    arguments = (*SMALL, *places(cameras), "--out", tmp_path / "run", "--network", "tests.support.foreign:TwoHeads")
    codes, _, errors = start(arguments, count=2, plain=True)
    assert codes == [0, 0], errors


def test_the_parts_of_all_ranks_are_the_whole_batch(cameras):
    """Pictures, crops and mixing masks; five images of a batch of eight: source crops stay with their targets."""
    from types import SimpleNamespace

    from clst_runtime.data.dataset import open_dataset
    from clst_train.stages.adaptation import both_batches

    values = {"model": {"input_hw": [64, 96]}, "adaptation": {"batch": 8}}
    values["augmentation"] = {"crop_hw": [32, 32], "target_colours": 1.0}
    config = config_from_mapping(values, where="test")
    files = sorted((cameras / "new" / "images" / "train").iterdir())[:4]
    target = TargetImages(paths=tuple(files), video_frames={}, input_hw=(64, 96))
    run = {"config": config, "target": target, "source": open_dataset(cameras / "old", split="train")}
    run["takes_colours"] = True
    whole, *parts = (
        both_batches(SimpleNamespace(**run, ranks=ranks), 5)
        for ranks in (Ranks(), Ranks(rank=0, count=2), Ranks(rank=1, count=2))
    )
    assert np.array_equal(np.concatenate([part[1].crops for part in parts]), whole[1].crops)
    assert np.array_equal(np.concatenate([part[1].indices for part in parts]), whole[1].indices)
    for rank, (source, unlabelled) in enumerate(parts):
        assert np.array_equal(unlabelled.shared_indices, whole[1].indices)
        expected = [2 * rank, 2 * rank + 1, 4 + 2 * rank, 5 + 2 * rank]
        assert np.array_equal(source.images, whole[0].images[expected])
        assert np.array_equal(source.mixing, whole[0].mixing[expected])
