"""The sink of a ROS 2 node, and what it says of a run; without ROS."""

import json
import mmap

import numpy as np
import pytest

from clst_runtime.backends.base import Prediction
from clst_runtime.errors import DataError
from clst_runtime.live.results import Result
from clst_runtime.live.sinks.base import SinkWorker
from clst_runtime.live.sinks.ros2 import RosSink, diagnostics
from clst_runtime.live.statistics import RunStatistics
from clst_runtime.sources import TimedFrame
from tests.support.waiting import until


class FakeNode:
    """A node's process; while `busy` it answers nothing."""

    def __init__(self, *, wanted=("mask",), busy=False):
        self.wanted, self.busy, self.fed, self.ended = wanted, busy, [], False

    def feed(self, data):
        self.fed.append(json.loads(data))

    def messages(self, _):
        if self.ended:
            return None
        return [] if self.busy else [{"wanted": self.wanted, "warnings": ["/clst/mask: no"]}]

    def end(self):
        self.ended = True
        return "its last words"

    @property
    def results(self):
        return [each["result"] for each in self.fed if "result" in each]


def result(index, *, stamp_ns=5):
    image = np.full((4, 6, 3), index, np.uint8)
    timed = TimedFrame(index=index, image=image, captured_ns=7, name="x", stamp_ns=stamp_ns, frame_id="front")
    prediction = Prediction(classes=np.ones((2, 3), np.uint8), confidence=np.full((2, 3), 9, np.uint8))
    return Result(
        timed=timed,
        prediction=prediction,
        classes=prediction.classes,
        mask=np.ones((4, 6), np.uint8),
        inference_ns=1,
        age_ns=2,
    )


def sink_of(node):
    statistics = RunStatistics()
    sink = RosSink(node, mmap.mmap(-1, 4096), statistics)
    return sink, statistics


def test_only_what_is_subscribed_to_is_handed_over_with_the_source_s_stamp():
    node = FakeNode(wanted=("mask", "confidence", "overlay"))
    sink, statistics = sink_of(node)
    sink.write(result(0))  # nothing is known of subscriptions yet
    sink.write(result(1))
    first, second = node.results
    assert first["arrays"] == {}
    assert second["arrays"] == {"mask": [0, [4, 6]], "confidence": [24, [2, 3]], "image": [30, [4, 6, 3]]}
    assert (second["stamp_ns"], second["frame_id"], second["layout"]) == (5, "front", "rgb")
    assert bytes(sink._memory[:30]) == bytes([1] * 24 + [9] * 6)
    assert statistics.warnings[0].startswith("/clst/mask: no")


def test_a_node_that_is_busy_costs_the_loop_nothing_and_one_result_waits():
    node = FakeNode(busy=True)
    sink, statistics = sink_of(node)
    worker = SinkWorker(sink, statistics, lossless=False)
    worker.offer(result(0))
    assert until(lambda: node.results)
    for index in range(1, 5):
        worker.offer(result(index))
    assert statistics.drops == {"sink ros2": 3}
    node.busy = False
    worker.finish()
    assert until(lambda: not worker.is_open(0.0))
    assert len(node.results) == 2


def test_a_node_that_dies_or_hangs_is_said_with_its_last_words(monkeypatch):
    sink, _ = sink_of(FakeNode())
    sink._child.ended = True
    with pytest.raises(DataError, match=r"the ROS 2 node has ended \(its last words\)"):
        sink.write(result(0))
    monkeypatch.setattr("clst_runtime.live.sinks.ros2.HANG_SECONDS", 0.05)
    sink, _ = sink_of(FakeNode(busy=True))
    with pytest.raises(DataError, match="busy for more than"):
        sink.write(result(0))


def test_diagnostics_come_each_second_with_the_state_and_the_drops(monkeypatch):
    node = FakeNode()
    sink, statistics = sink_of(node)
    now = [100.0]
    monkeypatch.setattr("clst_runtime.live.sinks.ros2.time.monotonic", lambda: now[0])
    statistics.dropped("overtaken", 2)
    for now[0] in (100.0, 100.5, 101.0, 101.9):
        sink.idle()
    told = [each["diagnostics"] for each in node.fed]
    assert [each["level"] for each in told] == [1, 1]
    assert told[0]["message"] == "starting"
    assert told[0]["values"]["dropped: overtaken"] == "2"


@pytest.mark.parametrize(
    ("changes", "level", "message"),
    [
        ({"state": "ready"}, 0, "ready"),
        ({"state": "ready", "deadline_streak": 1}, 1, "ready"),
        ({"state": "ready", "domain": {"state": "other", "words": "another camera"}}, 1, "another camera"),
        ({"state": "ready", "domain": {"state": "same", "words": "as known"}}, 0, "ready"),
        ({"state": "stale"}, 2, "stale"),
        ({"state": "lost"}, 2, "lost"),
    ],
)
def test_the_level_of_diagnostics_follows_state_deadline_and_monitor(changes, level, message):
    told = diagnostics({**RunStatistics().snapshot(), **changes})
    assert (told["level"], told["message"]) == (level, message)
