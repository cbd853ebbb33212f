import gc
import io
import itertools
import os
import signal
import threading
import time
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from clst_runtime.backends.base import Prediction
from clst_runtime.backends.onnxruntime.session import OrtBackend
from clst_runtime.errors import DataError
from clst_runtime.imaging.geometry import PADDING_RGB, Fit, Layout
from clst_runtime.imaging.image_files import read_image
from clst_runtime.live import pipeline
from clst_runtime.live.pipeline import WARM_UP_RUNS, Observers, Segmenter, Stop, run_pipeline
from clst_runtime.live.sinks.base import QUEUED, Sink
from clst_runtime.live.sinks.files import ImageSink
from clst_runtime.live.statistics import Deadline, RunStatistics
from clst_runtime.live.statistics_log import StatisticsLog
from clst_runtime.live.web.overlays import Painter
from clst_runtime.sources import TimedFrame
from tests.conftest import RGB_CLASSES, rgb_manifest, write_rgb_model
from tests.fakes.live import FakeBackend, FakeSource

ENDS = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}


class Kept(Sink):
    """Keeps what it gets, taking `seconds` for each; fails at result number `fails_at`, and at its end if told so."""

    name = "kept"

    def __init__(self, *, seconds=0.0, fails_at=None, fails_at_close=False, wants_camera_size=True):
        self.seconds, self.fails_at, self.fails_at_close = seconds, fails_at, fails_at_close
        self.wants_camera_size = wants_camera_size
        self.results, self.closings, self.threads = [], 0, set()

    def write(self, result):
        if len(self.results) == self.fails_at:
            raise DataError("the disk is full")
        time.sleep(self.seconds)
        self.threads.add(threading.current_thread().name)
        self.results.append(result)

    def close(self):
        self.closings += 1
        if self.fails_at_close:
            raise DataError("the file is not whole")

    @property
    def indices(self):
        return [result.timed.index for result in self.results]


def test_every_frame_of_a_file_reaches_every_sink_however_slow():
    slow, quick = Kept(seconds=0.01), Kept()
    statistics = run_pipeline(FakeSource(range(20), live=False), FakeBackend(), [slow, quick])
    assert slow.indices == quick.indices == list(range(20))
    assert (statistics.frames, statistics.to_json()["dropped"], statistics.end) == (20, 0, "the source has ended")
    assert slow.closings == quick.closings == 1


def test_a_slow_sink_of_a_live_source_drops_for_itself_alone():
    slow, quick = Kept(seconds=0.05), Kept()
    slow.name = "slow"
    statistics = run_pipeline(FakeSource(range(60)), FakeBackend(seconds=0.004), [slow, quick])
    # The first frame only warms up; what waited in the queue at the end is still written
    assert QUEUED < len(slow.indices) < 40
    assert len(quick.indices) > len(slow.indices), "on a busy machine the quick one may miss some as well"
    drops = statistics.to_json()["drops"]
    for sink in (slow, quick):
        assert sink.indices == sorted(set(sink.indices))
        assert drops.get(f"sink {sink.name}", 0) == 59 - len(sink.indices)


def test_a_live_run_goes_on_when_a_sink_fails_and_says_so():
    bad, good = Kept(fails_at=3), Kept()
    bad.name = "recording"
    statistics = run_pipeline(FakeSource(range(30)), FakeBackend(seconds=0.002), [bad, good])
    assert len(good.indices) == 29 - statistics.to_json()["drops"].get("sink kept", 0) > 3
    assert len(bad.results) == 3
    assert bad.closings >= 1
    told = statistics.to_json()
    assert told["warnings"] == ["recording has stopped: the disk is full"]
    assert told["failures"] == ["recording: the disk is full"]


def test_a_sink_with_a_fault_of_its_own_is_no_silence():
    class Faulty(Kept):
        def write(self, result):
            raise ValueError("a shape\nthat does not fit")

    statistics = run_pipeline(FakeSource(range(9)), FakeBackend(), [Faulty()])
    assert statistics.failures == ["kept: ValueError: a shape that does not fit"]
    with pytest.raises(ValueError, match="does not fit"):
        run_pipeline(FakeSource(range(9), live=False), FakeBackend(), [Faulty()])


def test_a_failing_sink_ends_a_run_of_files():
    bad, good = Kept(fails_at=3), Kept()
    with pytest.raises(DataError, match="the disk is full"):
        run_pipeline(FakeSource(range(1000), live=False), FakeBackend(seconds=0.001), [bad, good])
    assert 3 <= len(good.indices) < 100
    assert bad.closings == good.closings == 1


def test_a_sink_that_cannot_finish_is_told_of():
    with pytest.raises(DataError, match="not whole"):
        run_pipeline(FakeSource(range(3), live=False), FakeBackend(), [Kept(fails_at_close=True)])
    statistics = run_pipeline(FakeSource(range(3)), FakeBackend(), [Kept(fails_at_close=True)])
    assert statistics.failures == ["kept: the file is not whole"]


def test_a_sink_that_must_be_in_the_main_thread_is():
    window, file = Kept(), Kept()
    window.in_main_thread = True
    run_pipeline(FakeSource(range(3)), FakeBackend(), [window, file])
    assert window.threads == {threading.current_thread().name}
    assert file.threads == {"sink kept"}


def test_a_lost_source_ends_the_run_with_its_error_and_whole_sinks():
    sink = Kept()
    source = FakeSource([0, 1, 2, DataError("camera:0: no frame for 5 s")])
    with pytest.raises(DataError, match="no frame for 5 s"):
        run_pipeline(source, FakeBackend(), [sink])
    assert (sink.indices, sink.closings) == ([1, 2], 1)


def test_signs_of_life_come_without_frames_and_the_state_is_told():
    states = []
    source = FakeSource([0, 1])
    lost = [lambda: setattr(source, "lost", True), *[None] * 3, lambda: setattr(source, "lost", False), 2]
    source.items = iter([0, 1, *lost])
    run_pipeline(source, FakeBackend(), [], observers=Observers(tick=lambda s: states.append(s.state)))
    assert states == ["starting", "ready", *["lost"] * 4, "ready", "ready", "ready"]


def test_what_the_source_warns_of_is_known_at_once_and_kept_when_it_fails():
    statistics, seen = RunStatistics(), []
    source = FakeSource([])
    source.items = iter([0, lambda: source.warnings.append("camera:0 was lost: unplugged"), None, DataError("gone")])
    observers = Observers(tick=lambda each: seen.append(list(each.warnings)))
    with pytest.raises(DataError, match="gone"):
        run_pipeline(source, FakeBackend(), [], statistics=statistics, observers=observers)
    assert seen == [[], ["camera:0 was lost: unplugged"], ["camera:0 was lost: unplugged"]]


def test_drops_before_the_first_frame_are_not_told_and_later_ones_do_not_fall():
    """Nine before the first frame, five while it warmed the model up, then two and one."""

    class WarmingBackend(FakeBackend):
        def predict(self, frame):
            source.drops["overtaken"] += 5 * (self.calls == 0)
            return super().predict(frame)

    source, seen = FakeSource([]), []
    dropped = [lambda count=count: source.drops.update(overtaken=count) for count in (9, 2, 1)]
    source.items = iter([dropped[0], 0, dropped[1], 1, dropped[2], 2])
    observers = Observers(tick=lambda statistics: seen.append(statistics.to_json()["dropped"]))
    run_pipeline(source, WarmingBackend(), [], observers=observers)
    assert seen == [0, 0, 2, 2, 3, 3, 3]


def test_a_source_s_status_is_a_copy_and_tells_each_warning_once():
    source = FakeSource([])
    source.drops["corrupt"], source.losses, source.lost = 2, 1, True
    source.warnings.append("camera:0 was lost: unplugged")
    status = source.status()
    source.drops["corrupt"] += 1
    assert (status.drops, status.losses, status.lost) == ({"corrupt": 2}, 1, True)
    assert status.warnings == ("camera:0 was lost: unplugged",)
    assert source.status().warnings == ()


def test_ready_is_told_once_after_the_warm_up():
    backend, calls = FakeBackend(), []
    observers = Observers(ready=lambda statistics: calls.append((backend.calls, statistics.frames)))
    run_pipeline(FakeSource([None, 0, 1, 2]), backend, [], observers=observers)
    assert calls == [(WARM_UP_RUNS, 0)]
    assert backend.calls == WARM_UP_RUNS + 2, "the frame of the warm-up is old by then and is not used"


def test_deadlines_are_counted_from_the_capture():
    source = FakeSource([0, 1, lambda: (time.sleep(0.03), source.frame(2))[1], lambda: old(source)])
    statistics = run_pipeline(source, FakeBackend(seconds=0.005), [], deadline=Deadline(milliseconds=500))
    assert (statistics.frames, statistics.misses, statistics.streak) == (3, 1, 1)


def old(source):
    frame = source.frame(3)
    return TimedFrame(index=3, image=frame.image, captured_ns=frame.captured_ns - 600_000_000, name=frame.name)


@pytest.mark.parametrize(("number", "words"), ENDS.items())
def test_a_signal_ends_the_run_after_the_frame_at_hand(number, words):
    sink = Kept()
    items = [*range(5), lambda: os.kill(os.getpid(), number), *range(5, 50)]
    handlers = [signal.getsignal(each) for each in ENDS]
    statistics = run_pipeline(FakeSource(items, live=False), FakeBackend(), [sink])
    assert (statistics.end, statistics.interrupted) == (words, True)
    assert sink.indices == list(range(5))
    assert [signal.getsignal(each) for each in ENDS] == handlers


def test_a_second_signal_ends_it_at_once():
    def twice():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)

    sink = Kept()
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(FakeSource([0, 1, 2, twice, 3]), FakeBackend(), [sink])
    assert sink.closings == 1


class Hanging(Kept):
    """Never comes back from `write`, or from `close`."""

    name = "hanging"

    def __init__(self, *, in_close=False):
        super().__init__()
        self.in_close, self.never = in_close, threading.Event()

    def write(self, result):
        return super().write(result) if self.in_close else self.never.wait()

    def close(self):
        self.never.wait()


HANGS = "hanging: hangs, as when nobody reads it; what it holds is left as it is"


@pytest.mark.parametrize("in_close", [False, True])
def test_all_sinks_that_hang_share_one_deadline_and_the_others_are_whole(monkeypatch, in_close):
    """Forty, one after the other, would take 20 s."""
    monkeypatch.setattr(pipeline, "CLOSING_SECONDS", 0.5)
    hanging, good, ticks = [Hanging(in_close=in_close) for _ in range(40)], Kept(), []
    observers = Observers(tick=lambda statistics: ticks.append(statistics.state))
    begun = time.monotonic()
    source = FakeSource(range(9))
    statistics = run_pipeline(source, FakeBackend(seconds=0.01), [*hanging, good], observers=observers)
    assert time.monotonic() - begun < 10
    assert statistics.failures == [HANGS] * 40
    assert good.closings == 1
    assert ticks.count("ended") >= 2, "the service manager hears of it while the end takes long"


def test_a_run_of_files_that_waits_for_a_hanging_sink_can_be_ended(monkeypatch):
    monkeypatch.setattr(pipeline, "CLOSING_SECONDS", 0.3)
    stop, good, waits = Stop(), Kept(), []

    def tick(statistics):
        waits.append(statistics.frames)
        if waits[-5:] == [waits[-1]] * 5:  # no frame between five ticks: it waits
            stop.ask("the test")

    source = FakeSource(range(50), live=False)
    sinks = [Hanging(), good]
    statistics = run_pipeline(source, FakeBackend(), sinks, observers=Observers(tick=tick), stop=stop)
    assert statistics.failures == [HANGS]
    assert statistics.frames == QUEUED + 2, "one in the sink's hands, a full queue, and the one that found no room"
    assert good.indices == list(range(QUEUED + 2))
    assert good.closings == 1


def test_a_slow_sink_of_files_that_still_gets_on_is_waited_for(monkeypatch):
    """Five results of 0.5 s each, by a clock that is moved on, one after each look at the sink."""
    monkeypatch.setattr(pipeline, "CLOSING_SECONDS", 1.9)
    now, turns = [0.0], threading.Semaphore(0)
    monkeypatch.setattr(pipeline.time, "monotonic", lambda: now[0])

    class Slow(Kept):
        def write(self, result):
            turns.acquire()
            now[0] += 0.5
            super().write(result)

    slow, observers = Slow(), Observers(tick=lambda statistics: statistics.end and turns.release())
    source = FakeSource(range(QUEUED + 1), live=False)
    statistics = run_pipeline(source, FakeBackend(), [slow], observers=observers)
    assert (slow.indices, slow.closings, statistics.failures) == (list(range(QUEUED + 1)), 1, [])


def test_a_second_signal_while_sinks_are_closed_ends_it_soon_and_tears_nothing(monkeypatch):
    monkeypatch.setattr(pipeline, "HURRY_SECONDS", 0.3)

    class Finishing(Kept):
        def close(self):
            time.sleep(0.1)
            super().close()

    def tick(statistics):
        if statistics.end:
            os.kill(os.getpid(), signal.SIGTERM)

    finishing, begun = Finishing(), time.monotonic()
    source = FakeSource([0, 1, lambda: os.kill(os.getpid(), signal.SIGINT)])
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(source, FakeBackend(), [Hanging(), finishing], observers=Observers(tick=tick))
    assert time.monotonic() - begun < pipeline.CLOSING_SECONDS
    assert finishing.closings == 1


def test_a_hang_up_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        items = [0, lambda: os.kill(os.getpid(), signal.SIGHUP), 1, 2]
        statistics = run_pipeline(FakeSource(items, live=False), FakeBackend(), [])
        assert (statistics.end, statistics.frames) == ("the source has ended", 3)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_key_in_the_window_is_the_normal_end():
    class Window(Kept):
        in_main_thread = True

        def write(self, result):
            super().write(result)
            if len(self.results) == 3:
                raise KeyboardInterrupt

    window, file = Window(), Kept()
    statistics = run_pipeline(FakeSource(range(9), live=False), FakeBackend(), [window, file])
    assert (statistics.end, window.indices, file.indices) == ("Ctrl-C", [0, 1, 2], [0, 1, 2])


def test_another_thread_may_run_it_and_may_ask_for_its_end():
    stop, source, told = Stop(), FakeSource(iter(int, 1)), []
    thread = threading.Thread(
        target=lambda: told.append(run_pipeline(source, FakeBackend(seconds=0.01), [], stop=stop))
    )
    thread.start()
    time.sleep(0.1)
    stop.ask("the test")
    thread.join(timeout=5)
    assert told[0].end == "the test"


def test_a_limit_is_kept_and_no_frames_are_no_error():
    assert run_pipeline(FakeSource(range(50), live=False), FakeBackend(), [], limit=7).frames == 7
    empty = run_pipeline(FakeSource([]), FakeBackend(), [])
    assert (empty.frames, empty.end) == (0, "the source has ended")


def test_masks_come_at_the_camera_s_size_only_when_a_sink_asks():
    for wanted, shape in ((True, (30, 40)), (False, (8, 16))):
        sink = Kept(wants_camera_size=wanted)
        run_pipeline(FakeSource([0], live=False, size_hw=(30, 40)), FakeBackend(), [sink])
        assert sink.results[0].mask.shape == shape
        assert sink.results[0].prediction.classes.shape == (8, 16)


class PaddingBackend(FakeBackend):
    """Says class 2 where the frame is padding, else 1, both as surely as 100 times the class."""

    def predict(self, frame):
        classes = np.where((frame == PADDING_RGB).all(axis=2), 2, 1).astype(np.uint8)
        return Prediction(classes=classes, confidence=100 * classes)


@pytest.mark.parametrize("camera_hw", [(30, 30), (10, 80), (1, 300), (8, 16)])
@pytest.mark.parametrize("wanted", [True, False])
def test_no_sink_ever_sees_the_padding_of_a_letterbox(camera_hw, wanted):
    """Of 30×30 in 8×16 the middle 8×8 is left, of 10×80 2×16, of 1×300 1×16, of 8×16 all."""
    shown = {(30, 30): (8, 8), (10, 80): (2, 16), (1, 300): (1, 16), (8, 16): (8, 16)}[camera_hw]
    sink, source = Kept(wants_camera_size=wanted), FakeSource([0, 1], live=False, size_hw=camera_hw)
    run_pipeline(source, PaddingBackend(fit=Fit.LETTERBOX), [sink])
    for result in sink.results:
        assert result.mask.shape == (camera_hw if wanted else shown)
        assert result.prediction.classes.shape == result.prediction.confidence.shape == shown
        assert (result.mask == 1).all()
        assert (result.prediction.classes == 1).all()
        assert (result.prediction.confidence == 100).all()


@pytest.mark.parametrize("wanted", [True, False])
def test_a_letterboxed_mask_lies_over_what_it_shows(tmp_path, wanted):
    """A red square in the middle third of an upright image, through a model that names the strongest channel."""
    image = np.zeros((96, 48, 3), np.uint8)
    image[..., 2] = 200
    image[32:64, 16:32] = (200, 0, 0)
    model = write_rgb_model(tmp_path / "m.onnx", manifest=rgb_manifest(fit=Fit.LETTERBOX).to_json())
    source = FakeSource([TimedFrame(index=0, image=image, captured_ns=time.monotonic_ns(), name="x")], live=False)
    sink = Kept(wants_camera_size=wanted)
    with OrtBackend(model) as backend:
        run_pipeline(source, backend, [sink])
    (result,) = sink.results
    assert result.prediction.classes.shape == (8, 4)
    page = np.array(Image.open(io.BytesIO(Painter(RGB_CLASSES, 1.0).paint(result)))).argmax(axis=2)
    assert page.shape == (96, 48)
    assert [page[row, column] for row, column in ((48, 24), (30, 24), (66, 24), (48, 6), (48, 42))] == [0, 2, 2, 2, 2]
    if not wanted:
        return
    ImageSink(tmp_path, RGB_CLASSES, 1.0).write(result)
    assert (read_image(tmp_path / "x.png").argmax(axis=2) == result.mask).all()
    # A pixel of the model is 12×12 of the camera's; red are those whose middle (6, 18, 30, 42, 54, 66) lies inside
    rows, columns = np.nonzero(result.mask == 0)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (36, 60, 12, 36)


@pytest.mark.parametrize("fit", list(Fit))
@pytest.mark.parametrize("layout", list(Layout))
def test_no_memory_is_allocated_for_a_frame_after_the_warm_up(tmp_path, layout, fit):
    model = write_rgb_model(tmp_path / "m.onnx", manifest=rgb_manifest(fit=fit).to_json())
    image = np.random.default_rng(0).integers(0, 255, layout.shape((720, 1280)), dtype=np.uint8)

    def frame(index):
        return TimedFrame(index=index, image=image, layout=layout, captured_ns=time.monotonic_ns(), name="x")

    with OrtBackend(model) as backend:
        segmenter = Segmenter(backend, at_camera_size=True)
        segmenter.warm_up(frame(0))
        held = [segmenter.segment(frame(index)) for index in range(3)]
        gc.collect()
        tracemalloc.start()
        for index in range(50):
            held = [*held[1:], segmenter.segment(frame(index))]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 50_000, "a mask alone would be 921,600 bytes"


def test_memory_stays_flat_over_ten_thousand_frames(rgb_model):
    """A leaked mask is 6 KiB, so that 8,000 of them would be 48 MiB."""
    sizes = []

    def tick(statistics):
        if statistics.frames % 1000 == 0:
            with open("/proc/self/statm") as stream:
                sizes.append(int(stream.read().split()[1]) * os.sysconf("SC_PAGE_SIZE"))

    with OrtBackend(rgb_model) as backend:
        source = FakeSource(range(10_000), live=False, size_hw=(64, 96))
        run_pipeline(source, backend, [Forgetful()], observers=Observers(tick=tick))
    assert len(sizes) >= 10
    assert max(sizes) - sizes[1] < 4 << 20


class Forgetful(Kept):
    """Takes and forgets."""

    def write(self, result):
        """Nothing is kept."""

    def close(self):
        """Nothing is open."""


def test_a_jump_of_the_wall_clock_is_no_age_no_miss_and_no_silence(monkeypatch):
    """It goes a day forward and back at every reading; what lasts is counted by a clock that never goes back."""
    true, told, lines = time.time, itertools.count(), []
    monkeypatch.setattr(time, "time", lambda: true() + 86_400 * (-1) ** next(told))
    statistics = RunStatistics(Deadline(milliseconds=20_000, stale_after=1), live=True)
    log = StatisticsLog(statistics, lines.append, 0.01)
    source = FakeSource([*range(5), None, *range(5, 20)])
    states = []
    observers = Observers(tick=lambda now: states.append(now.state))
    run_pipeline(source, FakeBackend(seconds=0.02), [log], statistics=statistics, observers=observers)
    facts = statistics.to_json()
    assert (facts["frames"], statistics.misses) == (19, 0)  # the first frame of a live source warms up
    assert 0 <= facts["capture_to_mask_ms"]["max"] < 20_000
    assert "stale" not in states
    assert len(lines) >= 3
    jumps = {
        round((later["unix_seconds"] - line["unix_seconds"]) / 86_400) for line, later in itertools.pairwise(lines)
    }
    assert jumps == {-2, 2}
