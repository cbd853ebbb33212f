"""In training each thread of PyTorch stays on a core of its own, unless somebody has chosen otherwise."""

import os
import subprocess
import sys

import pytest

from clst_train.compute import cores
from clst_train.data.loading import prefetched

PROGRAM = """
import os
from clst_train.compute.cores import bind_threads, on_first_core, use_all_cores
bind_threads()
import torch
use_all_cores()
torch.set_num_threads(2)
print("before:", len(os.sched_getaffinity(0)))
with on_first_core("cpu"):
    torch.rand(512, 512) @ torch.rand(512, 512)
    torch.rand(1 << 20).exp()
    print("while:", len(os.sched_getaffinity(0)))
print("after:", len(os.sched_getaffinity(0)))
others = [int(name) for name in os.listdir("/proc/self/task") if int(name) != os.getpid()]
print("bound:", sum(len(os.sched_getaffinity(other)) == 1 for other in others))
"""
linux = pytest.mark.skipif(not hasattr(os, "sched_getaffinity") or (os.cpu_count() or 1) < 2, reason="Linux, two cores")


def answers(**environment):
    """What the program prints, as numbers by their names."""
    plain = {name: value for name, value in os.environ.items() if name not in cores.WISHES}
    call = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(call, capture_output=True, text=True, env=plain | environment, timeout=120, check=True)
    return {line.split(":")[0]: int(line.split(":")[1]) for line in done.stdout.splitlines()}


@linux
def test_the_loop_on_a_cpu_and_the_threads_of_openmp_have_a_core_each_and_all_else_has_all():
    every = len(os.sched_getaffinity(0))
    told = answers()
    assert (told["before"], told["while"], told["after"]) == (every, 1, every)
    assert told["bound"] >= 1


@linux
def test_the_loop_on_a_gpu_has_all_cores(monkeypatch):
    every = os.sched_getaffinity(0)
    monkeypatch.setattr(cores, "_cores", set(every))
    with cores.on_first_core("cuda"):
        assert os.sched_getaffinity(0) == every


@linux
def test_who_has_chosen_keeps_it(monkeypatch):
    """No thread is bound where a variable says how OpenMP's shall be, whichever it is."""
    every = len(os.sched_getaffinity(0))
    assert answers(OMP_NUM_THREADS="2") == {"before": every, "while": every, "after": every, "bound": 0}
    for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        for other in cores.WISHES:
            monkeypatch.delenv(other, raising=False)
        monkeypatch.setenv(name, "2")
        cores.bind_threads()
        assert "OMP_PROC_BIND" not in os.environ


@linux
def test_threads_that_load_images_have_all_cores_though_the_loop_has_one(monkeypatch):
    every = os.sched_getaffinity(0)
    monkeypatch.setattr(cores, "_cores", set(every))
    with cores.on_first_core("cpu"):
        seen = [batch for _, batch in prefetched(lambda _: os.sched_getaffinity(0), 0, 3, loaders=2)]
    assert seen == [every] * 3
    assert os.sched_getaffinity(0) == every


def test_beside_a_gpu_each_process_has_a_loader_for_each_of_its_cores_at_most_eight(monkeypatch):
    monkeypatch.setattr(cores, "cores_here", lambda: 12)
    assert [cores.loader_threads("cuda", processes) for processes in (1, 2, 16)] == [8, 6, 1]
    assert cores.loader_threads("cpu", 1) == 1
