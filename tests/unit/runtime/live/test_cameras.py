"""Several cameras in one loop. Times are those of a clock that goes on only where somebody computes or waits."""

import threading
from collections import Counter

import pytest

from clst_runtime.errors import DataError
from clst_runtime.live import pipeline
from clst_runtime.live.pipeline import Camera, Observers, Stop, run_cameras
from clst_runtime.live.sinks.base import Sink
from clst_runtime.live.statistics import Deadline, RunStatistics
from clst_runtime.sources.address import LiveAddress
from clst_runtime.sources.base import SourceEnded
from clst_runtime.sources.live import LiveSource, Timeouts
from tests.fakes.camera import OPENER, write_plans
from tests.fakes.live import Clock, FakeBackend, FakeSource, TimedSource

COMPUTING_MS = 40


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pipeline, "time", clock)
    monkeypatch.setattr(pipeline, "threading", clock)
    return clock


class Log(Sink):
    """Notes camera, frame and milliseconds of each result in a list of all cameras."""

    name = "log"
    in_main_thread = True  # in the order of the loop

    def __init__(self, camera, into, clock=None):
        self.camera, self.into, self.clock, self.closings, self.sizes = camera, into, clock, 0, set()

    def write(self, result):
        self.into.append((self.camera, result.timed.index, *([self.clock.ms] if self.clock else [])))
        self.sizes.add(result.mask.shape)

    def close(self):
        self.closings += 1


def camera(source, *sinks, **observers):
    clock = {"clock": source.clock.monotonic_ns} if hasattr(source, "clock") else {}
    statistics = RunStatistics(live=source.live, **clock)
    return Camera(source=source, sinks=sinks, statistics=statistics, observers=Observers(**observers))


def drive(clock, limit=None, **sources):
    """(camera, frame, ms) of each result in order, and each camera."""
    results = []
    cameras = {name: camera(source, Log(name, results, clock)) for name, source in sources.items()}
    backend = FakeBackend(seconds=COMPUTING_MS / 1e3, sleep=clock.wait)
    run_cameras([*cameras.values()], backend, limit=limit)
    return results, cameras


def test_the_camera_that_has_waited_longest_comes_first_and_gives_its_newest_frame(clock):
    """A frame takes 40 ms, and each camera has one every 33 ms: both have every second turn."""
    front = TimedSource(clock, [33 * index for index in range(9)], failure=SourceEnded())
    rear = TimedSource(clock, [33 * index + 5 for index in range(9)], failure=SourceEnded())
    results, cameras = drive(clock, front=front, rear=rear)
    # 0: front 0 warms the model up until 120. Rear waits since 5 and gives 3 (104), which only begins: it may be old
    assert results == [
        ("front", 3, 160),  # waits since 33, newest 99; the rear one's next comes at 137
        ("front", 4, 200),  # since 132
        ("rear", 5, 240),  # since 137, newest 170
        ("front", 7, 280),  # since 165, newest 231
        ("rear", 8, 320),  # since 203, newest 269
        ("front", 8, 360),  # since 264
    ]
    assert cameras["front"].statistics.drops == Counter(overtaken=2)  # 5 and 6; what the warm-up took is none
    assert cameras["rear"].statistics.drops == Counter(overtaken=3)  # 4, 6 and 7


def test_a_fast_camera_does_not_starve_a_slow_one_nor_the_other_way_round(clock):
    front = TimedSource(clock, range(0, 1000, 5), failure=SourceEnded())
    rear = TimedSource(clock, range(0, 1000, 100), failure=SourceEnded())
    results, _ = drive(clock, front=front, rear=rear)
    # Of the ten of the slow one 0 is overtaken and 1 begins
    assert [index for name, index, _ in results if name == "rear"] == list(range(2, 10))
    waits = [ms - 100 * index for name, index, ms in results if name == "rear"]
    assert max(waits) < 3 * COMPUTING_MS, "at most the frame at hand and one of the other camera come before it"
    assert sum(name == "front" for name, _, _ in results) >= 14


def test_a_lost_camera_does_not_delay_the_other_by_a_millisecond(clock):
    arrivals = [50 * index for index in range(30)]
    alone, _ = drive(clock, front=TimedSource(clock, arrivals, failure=SourceEnded()))
    clock.ms = 0.0
    front = TimedSource(clock, arrivals, failure=SourceEnded())
    rear = TimedSource(clock, [], failure=None)
    stop, results, states = Stop(), [], set()

    def tick(statistics):
        states.add(statistics.state)
        if len(results) == len(alone):
            stop.ask("the test")

    cameras = [camera(front, Log("front", results, clock)), camera(rear, Log("rear", results, clock), tick=tick)]
    run_cameras(cameras, FakeBackend(seconds=COMPUTING_MS / 1e3, sleep=clock.wait), stop=stop)
    assert results == alone
    assert len(alone) == 28  # the first two came before the model was warm
    assert states == {"lost"}
    assert cameras[0].statistics.losses == cameras[1].statistics.frames == 0


def test_a_camera_that_fails_for_good_ends_alone_and_its_sinks_at_once(clock):
    front = TimedSource(clock, [50 * index for index in range(20)], failure=SourceEnded())
    rear = TimedSource(clock, [0, 50, 100, 150], failure=DataError("camera:1: no frame for 10 s: unplugged"))
    results, closed_after = [], []

    class Rear(Log):
        def close(self):
            closed_after.append(len(results))

    told = {"front": [], "rear": []}
    cameras = [
        camera(front, Log("front", results), tick=lambda statistics: told["front"].append(statistics.state)),
        camera(rear, Rear("rear", results), tick=lambda statistics: told["rear"].append(statistics.state)),
    ]
    run_cameras(cameras, FakeBackend(seconds=COMPUTING_MS / 1e3, sleep=clock.wait))
    assert [each for each in results if each[0] == "rear"] == [("rear", 3)]
    assert results[-1] == ("front", 19)
    assert closed_after[0] < len(results) - 10, "long before the end"
    assert cameras[1].statistics.failures == ["camera:1: no frame for 10 s: unplugged"]
    assert cameras[0].statistics.failures == []
    assert [each.statistics.end for each in cameras] == ["the source has ended", "error"]
    first = told["rear"].index("ended")
    assert set(told["rear"][first:]) == {"ended"}
    assert "ready" in told["front"][first:]


def test_a_camera_that_comes_late_begins_then_and_the_model_is_warmed_up_once(clock):
    front = TimedSource(clock, range(0, 600, 50), failure=SourceEnded())
    rear = TimedSource(clock, range(310, 600, 50), failure=SourceEnded())
    ready = []
    cameras = [
        camera(front, ready=lambda _: ready.append(("front", clock.ms))),
        camera(rear, ready=lambda _: ready.append(("rear", clock.ms))),
    ]
    backend = FakeBackend(seconds=0.01, sleep=clock.wait)
    run_cameras(cameras, backend)
    assert ready == [("front", 30), ("rear", 310)]
    assert (cameras[0].statistics.frames, cameras[1].statistics.frames) == (11, 5)
    assert backend.calls == 3 + 11 + 5


def test_a_camera_that_cannot_begin_ends_alone(clock):
    def full(_):
        raise DataError("the disk is full")

    front, rear = (TimedSource(clock, range(0, 400, 50), failure=SourceEnded()) for _ in range(2))
    results = []
    cameras = [camera(front, Log("front", results), ready=full), camera(rear, Log("rear", results))]
    run_cameras(cameras, FakeBackend(seconds=0.01, sleep=clock.wait))
    assert cameras[0].statistics.failures == ["the disk is full"]
    assert {name for name, _ in results} == {"rear"}


def test_files_take_turns_and_lose_nothing():
    results = []
    front, rear = FakeSource(range(2), live=False), FakeSource(range(4), live=False)
    cameras = [camera(front, Log("front", results)), camera(rear, Log("rear", results))]
    run_cameras(cameras, FakeBackend())
    turns = [("front", 0), ("rear", 0), ("front", 1), ("rear", 1), ("rear", 2), ("rear", 3)]
    assert results == turns
    assert [each.statistics.end for each in cameras] == ["the source has ended"] * 2


def test_so_many_frames_are_those_of_each_camera():
    results = []
    cameras = [camera(FakeSource(range(9), live=False), Log(name, results)) for name in ("front", "rear")]
    run_cameras(cameras, FakeBackend(), limit=2)
    assert results == [("front", 0), ("rear", 0), ("front", 1), ("rear", 1)]
    assert [each.statistics.end for each in cameras] == ["the wanted number of frames"] * 2


def test_a_failing_sink_of_files_ends_its_camera_alone():
    class Full(Log):
        in_main_thread = False

        def write(self, result):
            raise DataError("the disk is full")

    results, full = [], Full("front", [])
    cameras = [
        camera(FakeSource(range(50), live=False), full),
        camera(FakeSource(range(50), live=False), Log("rear", results)),
    ]
    run_cameras(cameras, FakeBackend(seconds=0.001))
    assert (cameras[0].statistics.failures, cameras[1].statistics.failures) == (["the disk is full"], [])
    assert cameras[0].statistics.frames < 50
    assert len(results) == 50
    assert full.closings == 1


def test_cameras_have_sizes_deadlines_and_misses_of_their_own(clock):
    logs = [Log("front", [], clock), Log("rear", [], clock)]
    front = TimedSource(clock, range(0, 500, 50), failure=SourceEnded(), size_hw=(8, 16))
    rear = TimedSource(clock, range(1, 500, 50), failure=SourceEnded(), size_hw=(30, 40))
    cameras = [camera(front, logs[0]), camera(rear, logs[1])]
    for each in cameras:
        each.statistics.deadline = Deadline(milliseconds=30)
    run_cameras(cameras, FakeBackend(seconds=0.02, sleep=clock.wait))
    assert (logs[0].sizes, logs[1].sizes) == ({(8, 16)}, {(30, 40)})
    told = [each.statistics.to_json() for each in cameras]
    assert [(each["frames"], each["deadline_misses"]) for each in told] == [(9, 0), (8, 8)], "39 ms: behind the front"


def test_a_key_in_one_window_ends_all(clock):
    class Window(Log):
        def write(self, result):
            super().write(result)
            raise KeyboardInterrupt

    front, rear = (TimedSource(clock, range(0, 400, 50)) for _ in range(2))
    cameras = [camera(front, Window("front", [])), camera(rear, Log("rear", []))]
    run_cameras(cameras, FakeBackend(seconds=0.01, sleep=clock.wait))
    assert [each.statistics.end for each in cameras] == ["Ctrl-C"] * 2


def test_a_backend_that_fails_ends_all_cameras(clock):
    class Gone(FakeBackend):
        def predict(self, frame):
            if self.calls == 5:
                raise RuntimeError("the device is gone")
            return super().predict(frame)

    cameras = [camera(TimedSource(clock, range(0, 400, 50))) for _ in range(2)]
    with pytest.raises(RuntimeError, match="the device is gone"):
        run_cameras(cameras, Gone(seconds=0.01, sleep=clock.wait))
    assert [each.statistics.end for each in cameras] == ["error"] * 2


def test_a_real_camera_that_hangs_is_lost_while_the_other_goes_on(tmp_path):
    """Processes and threads as in a vehicle; no time is measured, only who got frames while the other was lost."""
    plans = {
        "front": [{"pause": 0.01}],
        "rear": [{"events": {"5": "hang"}, "pause": 0.01}],
    }
    short = Timeouts(stall_seconds=0.3, first_pause_seconds=60.0)
    stop, seen, sources = Stop(), [], []
    for name, planned in plans.items():
        address = LiveAddress(kind="camera", place=str(write_plans(tmp_path / name, *planned)))
        sources.append(LiveSource(name, address, short, OPENER))

    def tick(statistics):
        if statistics.state == "lost":
            seen.append(front.statistics.frames)
            if seen[-1] >= seen[0] + 20:
                stop.ask("the test")

    front, rear = camera(sources[0]), camera(sources[1], tick=tick)
    watchdog = threading.Timer(20, stop.ask, ["too long"])
    watchdog.start()
    with sources[0], sources[1]:
        run_cameras([front, rear], FakeBackend(), stop=stop)
    watchdog.cancel()
    assert stop.reason == "the test"
    assert (front.statistics.losses, rear.statistics.losses) == (0, 1)
    assert rear.statistics.warnings == ["rear was lost: no frame for 0.3 s"]
