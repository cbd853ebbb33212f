"""Runs of clst-train that are asked to end (SIGINT, SIGTERM, SIGHUP) and gone on with, each in a child of this process.

    python stopped_runs.py SOURCE TARGET VAL FOLDER

Makes FOLDER/whole without a break and FOLDER/stopped with many. A child costs a fork instead of the seconds that
importing PyTorch takes. The last line printed is JSON: exit code and words of each child.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo  # the first step of a run would import it, a second in each child

from clst_train import training
from clst_train.cli.train import main as clst_train
from clst_train.engine import run
from clst_train.engine.logger import Logbook
from clst_train.models.built_in import ddrnet
from clst_train.stages import adaptation as adaptation_stage
from clst_train.stages import source as source_stage

SETTINGS = (
    *("source.batch=2", "source.iterations=3", "adaptation.batch=2", "adaptation.iterations=5"),
    *("augmentation.crop_hw=[64,64]", "run.checkpoint_every=2"),
    "run.precision=fp32",
)


def told(number: int, times: int = 1) -> None:
    """What a terminal or a service manager sends; Python hears it before its next line."""
    for _ in range(times):
        os.kill(os.getpid(), number)
        signal.getsignal(number)


def in_step(stage: object, wanted: int, number: int, times: int = 1) -> None:
    """While the step after `wanted` ones of the stage is at work."""
    set_rate = stage.set_rate

    def trap(optimiser: object, peak: float, iteration: int, iterations: int) -> None:
        set_rate(optimiser, peak, iteration, iterations)
        if iteration == wanted:
            told(number, times)

    stage.set_rate = trap


def before(place: object, name: str, number: int) -> None:
    """When a function of a module is called."""
    work = getattr(place, name)

    def trap(*arguments: object, **options: object) -> object:
        told(number)
        return work(*arguments, **options)

    setattr(place, name, trap)


TRAPS: list[Callable[[], None]] = [
    lambda: before(training, "run_preflight", signal.SIGINT),  # a new run: there is no folder yet
    lambda: before(training, "_run_of", signal.SIGTERM),  # a new run: the folder is there, no step
    lambda: in_step(source_stage, 0, signal.SIGINT),
    lambda: in_step(source_stage, 1, signal.SIGINT, 2),  # at once: this step is lost
    lambda: in_step(source_stage, 2, signal.SIGTERM),  # the last step
    lambda: before(adaptation_stage, "estimate_statistics", signal.SIGINT),  # between the stages
    lambda: before(run, "validation_miou", signal.SIGHUP),  # in step 2: told when it is over
    lambda: in_step(adaptation_stage, 3, signal.SIGTERM),
    lambda: before(training, "draw_examples", signal.SIGTERM),
]


def in_child(words: Path, arguments: list[str], arm: Callable[[], object] = lambda: None) -> list[object]:
    """Run the command in a fork after `arm` has laid a trap in it; its exit code and what it said."""
    child = os.fork()
    if child == 0:
        stream = os.open(words, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
        os.dup2(stream, 2)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        try:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # whatever this process was started with
                signal.signal(number, signal.default_int_handler)
            arm()
            clst_train(arguments)
        except SystemExit as done:
            sys.stderr.flush()
            os._exit(int(done.code or 0))
        except (Exception, KeyboardInterrupt):  # noqa: BLE001  a child must never go on as its parent
            traceback.print_exc()
        os._exit(99)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), words.read_text()]


def main(source: str, target: str, val: str, out: Path) -> None:
    torch.set_num_threads(1)
    ddrnet.PLANES, ddrnet.SPP_PLANES = 4, 8  # every layer, an eighth of the channels
    Logbook.draw = lambda *arguments: None  # pictures take longer than these few steps
    training.draw_examples = training.run_preflight = lambda *_, **__: None
    given = ["--recipe", "demo", "--source", source, "--target", target, "--val", val, "--size", "64x96"]
    given += ["--network", "ddrnet23_slim"]
    given += [part for setting in SETTINGS for part in ("--set", setting)]
    ends = [in_child(out / "words", [*given, "--out", str(out / "whole")])]
    for trap in [*TRAPS, lambda: None]:
        begun = (out / "stopped" / "config.toml").is_file()
        arguments = ["--resume", str(out / "stopped")] if begun else [*given, "--out", str(out / "stopped")]
        ends.append([*in_child(out / "words", arguments, trap), (out / "stopped").exists()])
    print(json.dumps(ends))


if __name__ == "__main__":
    main(*sys.argv[1:4], Path(sys.argv[4]))
