"""Runs of clst-train that are killed (SIGKILL) and gone on with, each in a child of this process.

    python killed_runs.py SOURCE TARGET FOLDER

Makes FOLDER/whole without a break, FOLDER/at_random and FOLDER/on_purpose with many. A child costs a fork instead of
the seconds that importing PyTorch takes. The last line printed is JSON: how the children of each folder ended.
"""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo  # the first step of a run would import it, a second in each child

from clst_train import training
from clst_train.engine.logger import Logbook
from clst_train.engine.run import resume_point
from clst_train.engine.run_folder import open_run
from clst_train.models.built_in import ddrnet
from clst_train.stages import adaptation_state
from clst_train.training import finish_run, start_run

SETTINGS = (
    *("source.batch=2", "source.iterations=2", "adaptation.batch=2", "adaptation.iterations=4"),
    "augmentation.crop_hw=[64,64]",
    *("run.checkpoint_every=1", "run.precision=fp32"),
)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def in_child(work: Callable[[], object], *, kill_after_s: float | None = None) -> str:
    """Run `work` in a fork; returns `finished`, `killed` or `failed`."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except Exception:  # noqa: BLE001  a child must never go on as its parent
            traceback.print_exc()
            os._exit(1)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {0: "finished", -signal.SIGKILL: "killed"}.get(code, "failed")


def go_on(path: Path) -> None:
    folder, config = open_run(path)
    finish_run(folder, config, resume_point(folder))


def go_on_until(path: Path, arm: Callable[[], None]) -> str:
    """Go on with a run after `arm` has laid a trap in this child."""

    def work() -> None:
        arm()
        go_on(path)

    return in_child(work)


def in_the_copy() -> None:
    """While the next copy of the ensemble's store is made."""

    def half(source: Path, destination: Path) -> None:
        content = source.read_bytes()
        destination.write_bytes(content[: len(content) // 2])
        die()

    shutil.copyfile = half


def in_restoring() -> None:
    """While the store comes back from its copy."""
    restore = adaptation_state.restore_store

    def half(store: object, *arguments: object) -> int:
        restore(store, *arguments)
        store[1:] = 0
        die()

    adaptation_state.restore_store = half


def at_iteration_2(act: Callable[[], None]) -> None:
    """`act` when the copy of iteration 2 is there and resume.pt is about to be written."""
    save = adaptation_state.save_checkpoint

    def stop(path: Path, checkpoint: object) -> None:
        if path.name == "resume.pt" and checkpoint.iteration == 2:
            act()
        save(path, checkpoint)

    adaptation_state.save_checkpoint = stop


def between_copy_and_resume() -> None:
    at_iteration_2(die)


def in_resume() -> None:
    save = torch.save

    def half(content: object, path: Path) -> None:
        buffer = io.BytesIO()
        save(content, buffer)
        path.write_bytes(buffer.getvalue()[: buffer.tell() // 2])
        die()

    at_iteration_2(lambda: setattr(torch, "save", half))


def before_the_old_copy_is_removed() -> None:
    adaptation_state.remove_other_copies = lambda *arguments: die()


TRAPS = (
    in_the_copy,  # there is no checkpoint of the adaptation yet
    between_copy_and_resume,  # checkpoint 1 is made, 2 half
    in_resume,  # from 1
    in_restoring,  # from 1
    before_the_old_copy_is_removed,  # from 1 to 2
    in_the_copy,  # from 2, half of 3
)


def killed_on_purpose(path: Path) -> dict[str, list[object]]:
    """Kill one run in every way; returns how each child ended and which files it left in `checkpoints`."""
    ends, left = [], []
    for trap in TRAPS:
        ends.append(go_on_until(path, trap))
        left.append(sorted(file.name[:12] for file in (path / "checkpoints").iterdir()))
    return {"ends": [*ends, in_child(lambda: go_on(path))], "left": left}


def killed_at_random(path: Path, unbroken_s: float) -> list[str]:
    rng = random.Random(4)
    ends = [in_child(lambda: go_on(path), kill_after_s=rng.uniform(0.1, 0.5) * unbroken_s) for _ in range(5)]
    return [*ends, in_child(lambda: go_on(path))]


def main(source: str, target: str, out: Path) -> None:
    torch.set_num_threads(1)
    ddrnet.PLANES, ddrnet.SPP_PLANES = 4, 8  # every layer, an eighth of the channels
    Logbook.draw = lambda *arguments: None  # pictures take longer than these few steps
    training.draw_examples = training.run_preflight = lambda *_, **__: None
    whole = out / "whole"
    options = {"source": source, "target": (target,), "settings": SETTINGS, "size": "64x96", "network": "ddrnet23_slim"}
    started = time.perf_counter()
    end = in_child(lambda: start_run(recipe="demo", out=whole, init=None, resume=None, options=options))
    unbroken_s = time.perf_counter() - started
    for name in ("at_random", "on_purpose"):
        (out / name / "checkpoints").mkdir(parents=True)
        shutil.copy(whole / "config.toml", out / name)
    shutil.copy(whole / "checkpoints" / "source.pt", out / "on_purpose" / "checkpoints")
    told = {
        "unbroken_s": unbroken_s,
        "whole": end,
        "at_random": killed_at_random(out / "at_random", unbroken_s),
        "on_purpose": killed_on_purpose(out / "on_purpose"),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
