"""Runs of clst-train that are killed (SIGKILL) and gone on with, each in a child of this process.

    python killed_runs.py SOURCE TARGET FOLDER

Makes FOLDER/whole without a break, and one folder for each way of being killed. A child costs a fork instead of the
seconds that importing PyTorch takes. Prints a line of JSON for each folder: how its children ended.
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

import matplotlib.figure  # noqa: F401  imported here once, not in every child
import torch

from clst_train import adaptation_stage, ensemble_snapshot
from clst_train.run import resume_point
from clst_train.run_folder import open_run
from clst_train.training import finish_run, start_run

SETTINGS = (
    *("source.batch=2", "source.iterations=2", "adaptation.batch=2", "adaptation.iterations=6"),
    *("augmentation.crop_hw=[64,64]", "adaptation.ensemble_store=top_k", "adaptation.ensemble_top_k=3"),
    *("run.log_every=1", "run.checkpoint_every=2", "run.precision=fp32", "run.validate_every=100"),
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
        except BaseException:
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


def half_a_copy(source: Path, destination: Path) -> None:
    content = source.read_bytes()
    destination.write_bytes(content[: len(content) // 2])
    die()


def in_the_second_snapshot() -> None:
    copy, calls = ensemble_snapshot.copy_file, []

    def second(source: Path, destination: Path) -> None:
        calls.append(source)
        (half_a_copy if len(calls) == 2 else copy)(source, destination)

    ensemble_snapshot.copy_file = second


def in_the_first_snapshot() -> None:
    ensemble_snapshot.copy_file = half_a_copy


def at_iteration_4(act: Callable[[Path], None]) -> None:
    save = adaptation_stage.save_checkpoint

    def stop(path: Path, checkpoint: object) -> None:
        if path.name == "resume.pt" and checkpoint.iteration == 4:
            act(path)
        save(path, checkpoint)

    adaptation_stage.save_checkpoint = stop


def between_snapshot_and_resume() -> None:
    at_iteration_4(lambda path: die())


def in_resume() -> None:
    def half(content: object, path: Path) -> None:
        buffer = io.BytesIO()
        save(content, buffer)
        path.write_bytes(buffer.getvalue()[: buffer.tell() // 2])
        die()

    save = torch.save

    def arm(path: Path) -> None:
        torch.save = half

    at_iteration_4(arm)


def before_the_old_snapshot_is_removed() -> None:
    remove, calls = adaptation_stage.remove_other_snapshots, []

    def second(checkpoints: Path, state: dict) -> None:
        calls.append(state)
        if len(calls) == 2:
            die()
        remove(checkpoints, state)

    adaptation_stage.remove_other_snapshots = second


WAYS = (
    in_the_first_snapshot,
    in_the_second_snapshot,
    between_snapshot_and_resume,
    in_resume,
    before_the_old_snapshot_is_removed,
)


def killed_on_purpose(path: Path, way: Callable[[], None]) -> list[str]:
    def work() -> None:
        way()
        go_on(path)

    return [in_child(work), in_child(lambda: go_on(path))]


def killed_while_resuming(path: Path) -> list[str]:
    """Killed between two checkpoints, then in the middle of bringing the store back."""

    def resume() -> None:
        in_the_first_snapshot()  # the first copy of a resumed run is that of the snapshot
        go_on(path)

    return [*killed_on_purpose(path, between_snapshot_and_resume)[:1], in_child(resume), in_child(lambda: go_on(path))]


def killed_at_random(path: Path, unbroken_s: float) -> list[str]:
    rng, ends = random.Random(4), []
    for _ in range(6):
        ends.append(in_child(lambda: go_on(path), kill_after_s=rng.uniform(0.05, 0.6) * unbroken_s))
    return [*ends, in_child(lambda: go_on(path))]


def main(source: str, target: str, out: Path) -> None:
    torch.set_num_threads(1)
    whole = out / "whole"
    options = {"source": source, "target": (target,), "settings": SETTINGS, "size": "64x96"}
    started = time.perf_counter()
    ends = {"whole": [in_child(lambda: start_run(recipe="demo", out=whole, init=None, resume=None, options=options))]}
    unbroken_s = time.perf_counter() - started
    for name in ("at_random", "while_resuming", *(way.__name__ for way in WAYS)):
        (out / name / "checkpoints").mkdir(parents=True)
        shutil.copy(whole / "config.toml", out / name)
        if name != "at_random":  # the others are about the adaptation
            shutil.copy(whole / "checkpoints" / "source.pt", out / name / "checkpoints")
    ends["at_random"] = killed_at_random(out / "at_random", unbroken_s)
    ends["while_resuming"] = killed_while_resuming(out / "while_resuming")
    for way in WAYS:
        ends[way.__name__] = killed_on_purpose(out / way.__name__, way)
    print(json.dumps({"unbroken_s": unbroken_s, "ends": ends}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
