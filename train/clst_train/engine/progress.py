"""Progress of a stage on stderr: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from clst_runtime.system.optional import require
from clst_train.compute.bars import tqdm_options
from clst_train.engine.run import SOURCE, Run, log_interval


def with_progress(run: Run, stage: str, batches: Iterator[tuple[int, Any]], steps: range) -> Iterator[tuple[int, Any]]:
    """The batches, with a progress bar on stderr: newest losses, images a second, time left.

    `steps` are those that this process makes, up to the stage's last: a stage that is gone on with begins later.
    `wait` is the share of the time in which training waited for the threads that load images.
    """
    newest: Callable[[], dict[str, Any]] = lambda: run.logbook.entries[-1] if run.logbook.entries else {}  # noqa: E731
    size = run.config.source.batch if stage == SOURCE else 2 * run.config.adaptation.batch
    bar = require("tqdm").tqdm(total=steps.stop, initial=steps.start, desc=stage, unit="step", **tqdm_options())
    started, done, waited = time.perf_counter(), 0, 0.0
    try:
        asked = started
        for iteration, batch in batches:
            waited += time.perf_counter() - asked
            bar.update(iteration - bar.n)
            if iteration % log_interval(steps.stop) == 0 and done:
                shown = {name: f"{value:.3f}" for name, value in newest().items() if isinstance(value, float)}
                gone = time.perf_counter() - started
                speed, waiting = f"{done * size / gone:.1f}", f"{100 * waited / gone:.0f}%"
                bar.set_postfix({**shown, "img/s": speed, "wait": waiting}, refresh=sys.stderr.isatty())
            yield iteration, batch
            done += 1
            asked = time.perf_counter()
        bar.update(steps.stop - bar.n)
    finally:
        bar.close()
