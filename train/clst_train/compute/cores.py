"""On which cores the threads of a training run; chosen before PyTorch is imported, which reads it once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from clst_runtime.system.numbers import cores_here

WISHES = ("OMP_PROC_BIND", "OMP_PLACES", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_CPU_AFFINITY", "GOMP_SPINCOUNT",
          "KMP_AFFINITY", "KMP_BLOCKTIME")  # fmt: skip
"""Who has set one of these has chosen; `torchrun` sets a thread a process."""
_cores: set[int] = set()


def bind_threads() -> None:
    """Each thread of OpenMP stays on a core of its own.

    At a barrier they spin until the last one has come. When another program takes a core, the system moves them about
    and two of them may share one, each spinning while the other has to work: a step then takes several times as long.
    Threads that sleep instead are no better beside another program and slower on an idle machine
    (`benchmarks/results/busy_core.json`).
    """
    if hasattr(os, "sched_getaffinity") and not any(name in os.environ for name in WISHES):
        _cores.update(os.sched_getaffinity(0))
        os.environ["OMP_PROC_BIND"] = "true"


def use_all_cores() -> None:
    """Free the calling thread, which OpenMP binds with the import of PyTorch, and those that it starts."""
    if _cores:
        os.sched_setaffinity(0, _cores)


@contextmanager
def on_first_core(device: str) -> Iterator[None]:
    """Bind the calling thread while it trains on a CPU; threads that are started meanwhile free themselves."""
    if device == "cpu" and _cores:
        os.sched_setaffinity(0, {min(_cores)})
    try:
        yield
    finally:
        use_all_cores()


def loader_threads(device: str, processes: int) -> int:
    """Threads that read and augment images ahead: beside a GPU one for each core of this process, at most 8.

    On a CPU one: the training computes on all cores, and a second one made it no faster.
    """
    return 1 if device == "cpu" else max(1, min(8, cores_here() // processes))
