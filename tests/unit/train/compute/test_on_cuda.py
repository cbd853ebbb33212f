"""Training on a real GPU (marker gpu): what it computes is what the CPU computes, and nothing waits for the host."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch

from clst_train.compute.pinning import pinned
from clst_train.engine.optimizer import Descent, adamw
from clst_train.method.step import adaptation_step
from clst_train.models.checkpoint import load_checkpoint
from tests.support.miniature import drawn_cameras
from tests.support.shell import shell
from tests.support.tiny import batches, learner

CUDA = torch.device("cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device"),
]
SMALL = (
    *("--recipe", "new_camera", "--size", "64x96", "--set", "source.batch=2", "--set", "source.iterations=4"),
    *("--set", "adaptation.iterations=8", "--set", "adaptation.batch=2", "--set"),
)


@pytest.fixture(autouse=True)
def full_float32():
    """TF32 would round what is compared with the CPU."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.fixture(scope="module")
def cameras(tmp_path_factory):
    return drawn_cameras(tmp_path_factory.mktemp("cameras"), train=5, val=2)


def steps(device, count=4, **settings):
    """Losses, pseudo-labels, what the ensemble holds and the prototypes after some steps of a tiny network."""
    one = learner(device=device, **settings)
    modules = [one.segmenter, one.projection]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    descent = Descent(adamw(parameters, learning_rate=1e-2, weight_decay=0.01, device=device), modules, device)
    losses, labels = [], []
    for iteration in range(count):
        both = batches(seed=iteration)
        if device.type == "cuda":
            both = pinned(both)
        result = adaptation_step(one, *both, target_weight=1.0)
        losses.append(descent.descend(result.loss, iteration).item())
        labels.append(result.pseudo_labels.cpu().numpy())
    averages = one.ensemble.read([0, 1]) if one.ensemble is not None else []
    return losses, np.stack(labels), averages, one.prototypes.vectors().cpu()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"class_balance": 0.5},
        {"teacher": "mean_teacher"},
    ],
    ids=["plain", "as the recipe", "mean teacher"],
)
def test_steps_are_those_of_the_cpu(settings):
    there, here = steps(CUDA, **settings), steps(torch.device("cpu"), **settings)
    assert there[0] == pytest.approx(here[0], rel=1e-3)
    assert (there[1] == here[1]).mean() > 0.99
    assert np.allclose(np.asarray(there[2]), np.asarray(here[2]), atol=2e-3)
    assert torch.allclose(there[3], here[3], atol=2e-3)


def test_a_step_never_waits_for_the_device():
    """PyTorch itself raises at every point where the host would wait."""
    one = learner(device=CUDA, class_balance=0.5)
    modules = [one.segmenter, one.projection]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    descent = Descent(adamw(parameters, learning_rate=1e-3, weight_decay=0.01, device=CUDA), modules, CUDA)
    for iteration in range(2):  # first uses of a library may wait
        descent.descend(adaptation_step(one, *pinned(batches()), target_weight=1.0).loss, iteration)
    ready = [pinned(batches(seed=seed)) for seed in range(4)]
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for iteration, both in enumerate(ready, start=2):
            descent.descend(adaptation_step(one, *both, target_weight=1.0).loss, iteration)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def half_way(whole, out, stage):
    """A run with the configuration of `whole`, ended right after the second step of `stage` was saved."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from clst_train.stages import adaptation_state, source as source_stage\n"
        "from clst_train.training import finish_run\n"
        "from clst_train.engine.run_folder import open_run\n"
        "save = adaptation_state.save_checkpoint\n"
        "def stop(path, checkpoint):\n"
        "    save(path, checkpoint)\n"
        f"    if path.name == 'resume.pt' and checkpoint.stage == {stage!r} and checkpoint.iteration == 2:\n"
        "        sys.exit(9)\n"
        "adaptation_state.save_checkpoint = source_stage.save_checkpoint = stop\n"
        "folder, config = open_run(Path(sys.argv[1]))\n"
        "finish_run(folder, config, None)\n"
    )
    out.mkdir()
    shutil.copy(whole / "config.toml", out)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # as `shell` does: another number of threads rounds differently
    call = [sys.executable, "-c", program, str(out)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 9, done.stderr
    return out


@pytest.mark.parametrize("stage", ["source", "adapted"])
def test_a_resumed_run_is_the_unbroken_one_to_the_bit(cameras, tmp_path, stage):
    places = ("--source", cameras / "old", "--target", cameras / "new" / "images" / "train")
    more = ("--device", "cuda", "--set", "run.checkpoint_every=2", "--set", "run.deterministic=true")
    whole = tmp_path / "whole"
    done = shell("clst-train", *SMALL, *more, *places, "--out", whole)
    assert done.returncode == 0, done.stderr
    assert "determin" not in done.stderr  # no operation that PyTorch warns of
    half = half_way(whole, tmp_path / "half", stage)
    assert load_checkpoint(half / "checkpoints" / "resume.pt").iteration == 2
    done = shell("clst-train", "--resume", half)
    assert done.returncode == 0, done.stderr
    one, other = (load_checkpoint(out / "checkpoints" / "adapted.pt").segmenter_state for out in (whole, half))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_whole_run_on_the_gpu(cameras, tmp_path, precision):
    places = ("--source", cameras / "old", "--target", cameras / "new" / "images" / "train", "--val", cameras / "new")
    more = ("--device", "cuda", "--set", f"run.precision={precision}")
    done = shell("clst-train", *SMALL, *more, *places, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    state = load_checkpoint(tmp_path / "run" / "checkpoints" / "adapted.pt").segmenter_state
    assert all(value.device.type == "cpu" and bool(torch.isfinite(value.float()).all()) for value in state.values())
    assert "free on" in done.stderr
