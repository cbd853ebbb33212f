"""How the times of two engines come about, on the fake GPU with times of our choice."""

import pytest

from clst_runtime.backends.cuda.options import GpuOptions
from clst_runtime.backends.tensorrt.bundle import comparison
from clst_runtime.backends.tensorrt.bundle.comparison import time_alternately
from clst_runtime.backends.tensorrt.bundle.device_engine import build_bundle
from tests.fakes.cuda import FakeCuda
from tests.unit.runtime.backends.tensorrt.conftest import FP16, INT8


@pytest.fixture
def engines(machine, two):
    build_bundle(two)
    machine.does.calls.clear()
    return [two / INT8, two / FP16]


def test_a_clock_that_falls_meanwhile_does_not_decide(machine, engines, frames):
    """Each run is 1 % slower than the one before: one engine after the other would differ by far."""
    runs = []

    def slower(precision):
        runs.append(precision)
        return {"int8": 1.0, "fp16": 1.0}[precision] * 1.01 ** len(runs)

    machine.does.compute_ms = slower
    first, second = time_alternately(engines, frames, GpuOptions())
    assert first / second == pytest.approx(1.0, abs=0.02)
    assert 1.01 ** (len(runs) / 2) > 2, "the drift is not large enough to tell"


def test_the_engines_take_turns_and_begin_in_turns(machine, engines, frames, monkeypatch):
    monkeypatch.setattr(comparison, "WARM_UP_SECONDS", 0.0)
    order = []
    machine.does.compute_ms = lambda precision: order.append(precision) or 1.0
    time_alternately(engines, frames, GpuOptions())
    assert order[:50] == ["int8", "fp16"] * 25  # to warm up
    assert order[50:58] == ["int8"] * 2 + ["fp16"] * 4 + ["int8"] * 2
    assert len(order) == 50 + 64 * 4


def test_the_first_run_of_a_turn_is_not_counted(machine, engines, frames):
    last = [""]

    def cold_first(precision):
        is_cold, last[0] = precision != last[0], precision
        return 9.0 if is_cold else 1.0

    machine.does.compute_ms = cold_first
    # Who begins changes, so a turn may follow one of the same engine: of 64 timed runs none is cold.
    assert time_alternately(engines, frames, GpuOptions()) == pytest.approx([1.0, 1.0])


def test_slow_single_runs_do_not_decide(machine, engines, frames):
    runs = []

    def hiccup(precision):
        runs.append(precision)
        return 50.0 if len(runs) % 5 == 0 else 1.0

    machine.does.compute_ms = hiccup
    assert time_alternately(engines, frames, GpuOptions()) == pytest.approx([1.0, 1.0])


def test_both_run_on_one_gpu_that_is_given_back(machine, engines, frames):
    FakeCuda.opened.clear()
    time_alternately(engines, frames[:1], GpuOptions())
    assert [device.closed for device in FakeCuda.opened] == [True]
