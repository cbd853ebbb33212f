"""clst-train in two gloo processes against one process that learns from the same batches."""

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
from clst_train.data.target import TargetImages
from clst_train.method.ensemble.store import restore_store
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
    *("--set", "run.checkpoint_every=2", "--set", "run.precision=fp32"),
)
EVERY_TERM = (
    *("--set", "adaptation.class_balance=0.5"),
    *("--set", "adaptation.entropy_first=0.3"),  # the first step
    *("--set", "source.learning_rate=1e-6", "--set", "adaptation.learning_rate=1e-6"),
)
PROGRAM = ROOT / "tests/support/two_ranks.py"


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Runs of several ranks, told of each other by the variables that torchrun sets."""
    call, environment = [sys.executable, str(PROGRAM), "serve"], os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(call, env=environment, **pipes) as server:

        def started(arguments, *, count, plain=False, folders=(".", "."), **variables):
            """Exit codes, outputs and errors of `count` ranks; `plain`: in float32 as clst-train is."""
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
            told = [
                {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "FOLDER": str(folders[rank])}
                for rank in range(count)
            ]
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
    return drawn_cameras(tmp_path_factory.mktemp("cameras"), train=6, val=2)


def places(cameras):
    return ("--source", cameras / "old", "--target", cameras / "new" / "images" / "train")


@pytest.fixture(scope="module")
def alone(cameras, start, tmp_path_factory):
    """A run of one process that draws what two draw; beside it `half`, as it was after step 2 of the adaptation."""
    out = tmp_path_factory.mktemp("alone") / "run"
    arguments = (*SMALL, *EVERY_TERM, *places(cameras), "--val", cameras / "new", "--out", out)
    codes, _, errors = start(arguments, count=1, DRAWS_OF="2", COPY_AT=str(out.with_name("half")))
    assert codes == [0], errors
    return out


@pytest.fixture(scope="module")
def two(cameras, start, tmp_path_factory):
    """A run of two processes; beside it `half`."""
    out = tmp_path_factory.mktemp("two") / "run"
    arguments = (*SMALL, *EVERY_TERM, *places(cameras), "--val", cameras / "new", "--out", out)
    codes, outputs, errors = start(arguments, count=2, COPY_AT=str(out.with_name("half")), FAULT=FAULT)
    assert codes == [0, 0], errors
    assert outputs == [f"{out / 'checkpoints' / 'adapted.pt'}\n", ""]
    assert errors[0].count("memory for each of 2 processes: ") == 1, errors[0]
    assert errors[1] == ""
    assert errors[0].count("unclear: only 2 independent stretches") == 1, errors[0]
    assert json.loads((out / "verdict.json").read_text())["images"] == 2
    for stage in ("source 2/2", f"adapted {STEPS}/{STEPS}"):  # on a busy machine progress repeats its last line
        assert len({line for line in errors[0].splitlines() if line.startswith(stage)}) == 1, errors[0]
    return out


FAULT = os.environ.get("FAULT", "")


def state_of(run):
    return load_checkpoint(run / "checkpoints" / "resume.pt").training_state


def ensemble_of(run):
    """The averages of all six images, as stored, and their visits."""
    facts, store = state_of(run)["ensemble"], np.zeros((6, 10, 8, 12), np.uint16)
    visits = facts["visits"].numpy()
    assert restore_store(store, run / "checkpoints", STEPS, facts["processes"], visits, Ranks()) == 0
    return store, visits


def assert_same_learnt(run, other):
    """In float64 what two processes learn is what one learns, but for roundings of the losses, which are float32.

    The weights themselves prove little: AdamW turns a gradient that is zero but for roundings (of a bias before
    BatchNorm) into a whole step of either sign. Its moments are the gradients; the steps are small, so that they
    stay comparable from one to the next.
    """
    first, second = state_of(run), state_of(other)
    for name in ("sums", "weights"):
        torch.testing.assert_close(first["prototypes"][name], second["prototypes"][name], rtol=0, atol=2e-6)
    (averages, visits), (others, other_visits) = (ensemble_of(each) for each in (run, other))
    assert np.array_equal(visits, other_visits)
    assert np.abs(averages.astype(int) - others.astype(int)).max() <= 1  # the last of 16 bits
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
    torch.testing.assert_close(first["diagnostics"]["start"], second["diagnostics"]["start"])


def test_two_processes_learn_what_one_does_with_the_same_batches(alone, two):
    assert_same_learnt(two, alone)
    assert state_of(two)["prototypes"]["weights"].count_nonzero() > 3  # there was something to compare
    assert ensemble_of(two)[1].sum() == 8  # two steps by labels of four images each


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
    return {str(path.relative_to(run)) for path in run.rglob("*")}


def copies(count):
    return {f"checkpoints/ensemble-{STEPS}-{rank}-of-{count}.npy" for rank in range(count)}


def test_the_run_folder_has_the_same_files_and_a_store_of_each_process(alone, two):
    assert names_in(two) - copies(2) == names_in(alone) - copies(1)
    assert names_in(two) > copies(2)
    assert names_in(alone) > copies(1)
    assert (two / "config.toml").read_text() == (alone / "config.toml").read_text()


@pytest.mark.parametrize("count", [1, 2])
def test_another_number_of_processes_goes_on_and_no_image_is_forgotten(two, alone, start, tmp_path, count):
    """One with a run of two, and two with a run of one."""
    begun, whole = (two, alone) if count == 1 else (alone, two)
    shutil.copytree(begun.with_name("half"), tmp_path / "half")
    codes, _, errors = start(("--resume", tmp_path / "half"), count=count, DRAWS_OF="2")
    assert codes == [0] * count, errors
    assert "begin anew" not in errors[0]
    assert_same_learnt(tmp_path / "half", whole)


@pytest.fixture(scope="module")
def machines(cameras, tmp_path_factory):
    """A folder for each of two processes, with copies of both cameras' images and nothing in common."""
    folders = [tmp_path_factory.mktemp(name) for name in ("first", "second")]
    for folder in folders:
        shutil.copytree(cameras, folder, dirs_exist_ok=True)
    return folders


APART = ("--source", "old", "--target", "new/images/train")


def test_processes_without_a_common_folder_that_were_asked_to_end_go_on_to_the_bits_of_the_unbroken_run(
    two, machines, start, tmp_path
):
    """As on two machines: only the first has the run, each has its own images' store. Both end with 6 by the gate."""
    first, second = (folder / "run" for folder in machines)
    arguments = (*SMALL, *EVERY_TERM, *APART, "--val", "new", "--gate", "--out", "run")
    codes, _, errors = start(arguments, count=2, folders=machines, STOP_AT="2")
    assert codes == [130, 130], errors
    assert "adaptation is saved at step 2; go on with: clst-train --resume run\n" in errors[0]
    assert "interrupted" not in errors[1]
    assert {path.name for path in (first / "checkpoints").glob("ensemble-*")} == {"ensemble-2-0-of-2.npy"}
    assert names_in(second) - {"checkpoints"} == {"ensemble-1-of-2.npy", "checkpoints/ensemble-2-1-of-2.npy"}
    shutil.copytree(machines[0], tmp_path, dirs_exist_ok=True)
    codes, outputs, errors = start(("--resume", "run"), count=2, folders=machines, WORSE="1")
    assert codes == [6, 6], errors
    assert outputs == ["run/checkpoints/adapted.pt\n", ""]
    assert "error: worse: by 1; the old network is run/checkpoints/source.pt\n" in errors[0]
    assert errors[1] == ""
    states = [load_checkpoint(run / "checkpoints" / "adapted.pt").segmenter_state for run in (two, first)]
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name]), name
    assert (first / "log.jsonl").read_text() == (two / "log.jsonl").read_text()
    assert names_in(second) == {"checkpoints", "checkpoints/ensemble-3-1-of-2.npy"}
    # On the first machine alone two of the other's images have been predicted, and have to be once more
    codes, _, errors = start(("--resume", "run"), count=1, folders=[tmp_path])
    assert codes == [0], errors
    assert "averages of 2 target images lie in no file" in errors[0]
    assert "these images begin anew" in errors[0]


def test_a_machine_with_other_images_ends_all_with_one_line(cameras, machines, start, tmp_path):
    shutil.copytree(machines[1], tmp_path, dirs_exist_ok=True)
    next((tmp_path / "new" / "images" / "train").iterdir()).unlink()
    codes, _, errors = start((*SMALL, *APART, "--out", "other"), count=2, plain=True, folders=(machines[0], tmp_path))
    assert codes == [3, 3], errors
    assert "the target images' hash is " in errors[0].splitlines()[-1]
    assert "give each machine the same images" in errors[0].splitlines()[-1]
    assert errors[1] == ""


def test_torchrun_hands_on_that_the_command_failed_however_late_the_first_process_says_why(cameras, tmp_path):
    """torchrun ends the others as soon as one has failed."""
    arguments = (*SMALL, *places(cameras), "--source", "nowhere", "--out", tmp_path / "run")
    done = shell(
        "torchrun", "--nproc-per-node", "2", PROGRAM, *arguments, environment={"LATE": "1", "TMPDIR": str(tmp_path)}
    )
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


def test_the_parts_of_all_ranks_are_the_source_batch_and_each_draws_target_images_of_its_own(cameras):
    """Five images of a batch of eight: source crops stay with their targets."""
    from types import SimpleNamespace

    from clst_runtime.data.dataset import open_dataset
    from clst_train.stages.adaptation import both_batches

    values = {"model": {"input_hw": [64, 96]}, "adaptation": {"batch": 8}}
    values["augmentation"] = {"crop_hw": [32, 32]}
    config = config_from_mapping(values, where="test")
    files = sorted((cameras / "new" / "images" / "train").iterdir())[:4]
    target = TargetImages(paths=tuple(files), video_frames={}, input_hw=(64, 96))
    run = {"config": config, "target": target, "source": open_dataset(cameras / "old", split="train")}
    run["look"] = None
    whole, *parts = (
        both_batches(SimpleNamespace(**run, ranks=ranks), 5)
        for ranks in (Ranks(), Ranks(rank=0, count=2), Ranks(rank=1, count=2))
    )
    for rank, (source, unlabelled) in enumerate(parts):
        assert sorted(unlabelled.indices) == [rank, rank + 2]
        assert len(unlabelled.crops) == 2
        expected = [2 * rank, 2 * rank + 1, 4 + 2 * rank, 5 + 2 * rank]
        assert np.array_equal(source.images, whole[0].images[expected])
        assert np.array_equal(source.mixing, whole[0].mixing[expected])
    assert not np.array_equal(parts[0][1].geometries, parts[1][1].geometries)
