"""clst-train with a network in float64, so that only a fault makes two processes differ from one.

    python two_ranks.py ARGUMENTS…     the arguments of clst-train

In float32 the pooled layers of DDRNet, which normalise over the four values of a batch, turn a rounding of 1e-7 into
per cents of the gradient. COPY_AT names a folder: the run is copied there when step 2 of the adaptation is saved.
STOP_AT is a step of the adaptation in which the second process is asked to end. FAULT names what to break, so that the
tests can be seen to fail.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import torch

from clst_train import adaptation_stage, adaptation_state, passes, prototypes, training
from clst_train.losses import contrastive, entropy, segmentation
from clst_train.models.ddrnet import DDRNetSlim


def in_float64() -> None:
    build, head, forward = training.build_segmenter, adaptation_state.ProjectionHead, passes.Passes.forward

    network_forward = DDRNetSlim.forward
    DDRNetSlim.forward = lambda self, images: network_forward(self, images.to(self.conv1[0].weight.dtype))
    training.build_segmenter = lambda *arguments: build(*arguments).double()
    adaptation_state.ProjectionHead = lambda *arguments: head(*arguments).double()
    passes.Passes.forward = lambda self, images: forward(self, images.double())


def copying(destination: Path) -> None:
    remove = adaptation_state.remove_other_snapshots

    def removed(checkpoints: Path, state: dict[str, object]) -> None:
        remove(checkpoints, state)
        if state["iteration"] == 2:
            shutil.copytree(checkpoints.parent, destination)

    adaptation_state.remove_other_snapshots = removed


def asked_to_end(step: int) -> None:
    set_rate = adaptation_stage.set_rate

    def trap(optimiser: object, peak: float, iteration: int, iterations: int) -> None:
        if iteration + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)
        set_rate(optimiser, peak, iteration, iterations)

    adaptation_stage.set_rate = trap


def local_mean(sums: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    return sums / count.clamp_min(1.0)


def broken(fault: str) -> None:
    if fault == "norms":
        training.synchronise_norms = lambda network: None
    elif fault == "prototypes":
        prototypes.total = lambda values: values
    elif fault == "means":
        for module in (contrastive, entropy, segmentation):
            module.mean_over = local_mean
    elif fault == "gradients":
        passes.is_split = lambda: False


if __name__ == "__main__":
    from clst_train.cli import main

    torch.set_num_threads(1)
    in_float64()
    broken(os.environ.get("FAULT", ""))
    if "COPY_AT" in os.environ and os.environ.get("RANK", "0") == "0":
        copying(Path(os.environ["COPY_AT"]))
    if "STOP_AT" in os.environ and os.environ.get("RANK") == "1":
        asked_to_end(int(os.environ["STOP_AT"]))
    main()
