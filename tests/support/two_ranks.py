"""clst-train with a network in float64, so that only a fault makes two processes differ from one.

    python two_ranks.py ARGUMENTS…     the arguments of clst-train; torchrun has said which rank this is
    python two_ranks.py serve          runs that standard input asks for, one a line, each rank a fork of this process

A fork costs none of the seconds that importing PyTorch takes. The network has an eighth of DDRNet's channels and one
block for two, because each BatchNorm of each pass is a message between the ranks, and no pictures are drawn.

In float32 the pooled layers of DDRNet, which normalise over the four values of a batch, turn a rounding of 1e-7 into
per cents of the gradient. FOLDER is where a rank runs. COPY_AT names a folder: the run is copied there when step 2 of
the adaptation is saved. DRAWS_OF is a number of processes: a run of one draws the target images that these draw. WORSE
gives the run that verdict.
STOP_AT is a step of the adaptation in which the second process is asked to end. LATE is how many seconds the first one
takes to say what is wrong. FAULT names what to break, so that the
tests can be seen to fail.
"""

from __future__ import annotations

import dataclasses
import faulthandler
import json
import logging
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch

from clst_train import training
from clst_train.cli.train import main
from clst_train.compute import forward_pass
from clst_train.compute.ranks import Ranks
from clst_train.data.loading import TargetBatch
from clst_train.engine import preflight
from clst_train.engine.logger import Logbook
from clst_train.engine.run import Run
from clst_train.method import prototypes
from clst_train.method.losses import contrastive, entropy, segmentation
from clst_train.models.built_in import ddrnet
from clst_train.models.built_in.ddrnet import DDRNetSlim
from clst_train.stages import adaptation as adaptation_stage
from clst_train.stages import adaptation_state, trial


def in_float64() -> None:
    build, head, forward = training.network_of, adaptation_state.ProjectionHead, forward_pass.ForwardPass.forward

    network_forward = DDRNetSlim.forward
    DDRNetSlim.forward = lambda self, images: network_forward(self, images.to(self.conv1[0].weight.dtype))
    training.network_of = lambda *arguments: build(*arguments).double()
    adaptation_state.ProjectionHead = lambda *arguments: head(*arguments).double()
    forward_pass.ForwardPass.forward = lambda self, images: forward(self, images.double())


def copying(destination: Path) -> None:
    save = adaptation_stage.save_state

    def saved(run: Run, state: object, done: int) -> None:
        save(run, state, done)
        if done == 2:
            shutil.copytree(run.folder.path, destination)

    adaptation_stage.save_state = saved


def drawing_as(count: int) -> None:
    part_of = adaptation_stage.target_batch

    def whole(target: object, config: object, iteration: int, _: Ranks) -> TargetBatch:
        parts = [part_of(target, config, iteration, Ranks(rank=rank, count=count)) for rank in range(count)]
        values = {
            entry.name: [getattr(part, entry.name) for part in parts] for entry in dataclasses.fields(TargetBatch)
        }
        return TargetBatch(
            **{
                name: None if value[0] is None else sum(value, ()) if name == "geometries" else np.concatenate(value)
                for name, value in values.items()
            }
        )

    adaptation_stage.target_batch = whole


def asked_to_end(step: int) -> None:
    set_rate = adaptation_stage.set_rate

    def trap(optimiser: object, peak: float, iteration: int, iterations: int) -> None:
        if iteration + 1 == step:
            os.kill(os.getpid(), signal.SIGTERM)
        set_rate(optimiser, peak, iteration, iterations)

    adaptation_stage.set_rate = trap


def saying_errors_late(seconds: float) -> None:
    error = logging.Logger.error

    def late(*arguments: object, **options: object) -> None:
        time.sleep(seconds)
        error(*arguments, **options)

    logging.Logger.error = late


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
        forward_pass.is_split = lambda: False


def as_asked() -> None:
    """What the environment says of this rank."""
    in_float64()
    broken(os.environ.get("FAULT", ""))
    if "DRAWS_OF" in os.environ and os.environ["WORLD_SIZE"] == "1":
        drawing_as(int(os.environ["DRAWS_OF"]))
    if "COPY_AT" in os.environ and os.environ.get("RANK", "0") == "0":
        copying(Path(os.environ["COPY_AT"]))
    if "WORSE" in os.environ:
        values = {"verdict": "worse", "text": "worse: by 1", "miou": {"change_points": -1.0}}
        training.judge = lambda run: run.folder.verdict.write_text(json.dumps(values))
    if "STOP_AT" in os.environ and os.environ.get("RANK") == "1":
        asked_to_end(int(os.environ["STOP_AT"]))
    if "LATE" in os.environ and os.environ.get("RANK") == "0":
        saying_errors_late(float(os.environ["LATE"]))


def forked(arguments: list[str], variables: dict[str, str], *, words: str, plain: bool) -> int:
    """One rank; `words` is where its output and errors go, less `.out` and `.err`. Returns its process id."""
    child = os.fork()
    if child:
        return child
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{words}.{name}", os.O_CREAT | os.O_WRONLY), number)
    faulthandler.dump_traceback_later(90, exit=True)  # one that waits for ever says where, and exits with 1
    os.environ.update(variables)
    os.chdir(os.environ.get("FOLDER", "."))
    code = 99
    try:
        if not plain:
            as_asked()
        main(arguments)
    except SystemExit as done:
        code = int(done.code or 0)
    except BaseException:  # noqa: BLE001  a child must never go on as its parent
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def one_block(inputs: int, planes: int, *, stride: int = 1) -> torch.nn.Sequential:
    return torch.nn.Sequential(ddrnet.BasicBlock(inputs, planes, stride=stride, last_relu=False))


def serve() -> None:
    """Answers each line of standard input, a run as JSON, with the exit codes of its ranks."""
    import torch._dynamo  # noqa: F401 - the first step of a run would import it, a second in each child

    for line in sys.stdin:
        run = json.loads(line)
        ranks = [
            forked(run["arguments"], each, words=f"{run['words']}{rank}", plain=run["plain"])
            for rank, each in enumerate(run["variables"])
        ]
        print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    ddrnet.PLANES, ddrnet.SPP_PLANES, ddrnet._layer = 4, 8, one_block
    Logbook.draw = training.draw_examples = lambda *arguments: None
    preflight._timed = lambda work, device: 1.0
    trial.entry_points = lambda **group: []  # no network is exported on trial
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        as_asked()
        main()
