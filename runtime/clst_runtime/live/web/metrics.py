"""The run's counts in the form of Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from clst_runtime.live.monitor.drift import State
from clst_runtime.live.statistics import STATES
from clst_runtime.system.optional import require

QUANTILES = {"median": "0.5", "p90": "0.9", "p95": "0.95", "p99": "0.99", "max": "1"}
COUNTERS = (
    ("frames", "Frames segmented.", "clst_frames"),
    ("deadline_misses", "Masks that came after the deadline.", "clst_deadline_misses"),
    ("stale_spells", "Times that the run became stale.", "clst_stale_spells"),
    ("losses", "Times that the camera was lost.", "clst_losses"),
)
GAUGES = (
    ("deadline_streak", "Deadlines missed in a row, up to now.", "clst_deadline_streak"),
    ("deadline_longest_streak", "Most deadlines missed in a row.", "clst_deadline_longest_streak"),
    ("fps", "Frames a second over the whole run.", "clst_frames_per_second"),
)
LATENCIES = (
    ("capture_to_mask_ms", "From capture to mask, over the whole run.", "clst_capture_to_mask_seconds"),
    ("inference_ms", "The backend alone, over the whole run.", "clst_inference_seconds"),
)


class RunCollector:
    """Reads the counts anew whenever somebody asks; `prometheus_client` calls `collect`."""

    def __init__(self, snapshot: Callable[[], dict[str, Any]], info: dict[str, str]) -> None:
        """Args: snapshot: `RunStatistics.snapshot`. info: labels that say what runs."""
        self._snapshot, self._info = snapshot, info

    def describe(self) -> list[Any]:
        """Nothing, so that registering asks for no figures yet."""
        return []

    def collect(self) -> Iterator[Any]:
        """Every figure, seconds and counts."""
        core, values = require("prometheus_client.core"), self._snapshot()
        for key, help_text, name in COUNTERS:
            yield core.CounterMetricFamily(name, help_text, value=values[key])
        for key, help_text, name in GAUGES:
            yield core.GaugeMetricFamily(name, help_text, value=values[key])
        drops = core.CounterMetricFamily("clst_drops", "Frames that were left out, by cause.", labels=["cause"])
        for cause, count in values["drops"].items():
            drops.add_metric([cause], count)
        yield drops
        state = core.GaugeMetricFamily("clst_state", "1 for what the run is, 0 for what it is not.", labels=["state"])
        for name in STATES:
            state.add_metric([name], float(values["state"] == name))
        yield state
        if values["newest_age_ms"] is not None:
            age = values["newest_age_ms"] / 1e3
            yield core.GaugeMetricFamily("clst_newest_age_seconds", "Age of the newest masked image.", value=age)
        for key, help_text, name in LATENCIES:
            latency = core.GaugeMetricFamily(name, help_text, labels=["quantile"])
            for quantile, label in QUANTILES.items():
                if quantile in values[key]:
                    latency.add_metric([label], values[key][quantile] / 1e3)
            yield latency
        if values["domain"] is not None and values["domain"]["watching"]:
            yield from camera_figures(values["domain"])
        yield core.InfoMetricFamily("clst_run", "What runs.", value=self._info)


def camera_figures(domain: dict[str, Any]) -> Iterator[Any]:
    """The monitor's findings about the camera. A figure that is not known is left out: 0 would say "all is well".

    Args:
        domain: `MonitorSink.snapshot`.
    """
    core = require("prometheus_client.core")
    state = core.GaugeMetricFamily(
        "clst_camera_state", "1 for what is known of the camera, 0 for the other states.", labels=["state"]
    )
    for each in State:
        state.add_metric([each.value], float(domain["state"] == each.value))
    yield state
    gauge, verdicts = core.GaugeMetricFamily, {State.OTHER.value: 1.0, State.SAME.value: 0.0}
    if domain["state"] in verdicts:
        help_text = "1 if this looks like another camera than the model's, 0 if like its own; absent while not known."
        yield gauge("clst_camera_is_another", help_text, value=verdicts[domain["state"]])
    if domain["shift"] is not None:
        help_text = "How far the newest frames are from the model's own camera; 1 is usual. Absent while not known."
        yield gauge("clst_camera_shift", help_text, value=domain["shift"])
    yield gauge("clst_camera_shift_threshold", "A shift that stays above it is another camera.",
                value=domain["threshold"])  # fmt: skip
    collected = domain["collected"]
    if collected is not None:
        help_text = "Frames of another camera that this run has kept."
        yield core.CounterMetricFamily("clst_camera_collected_frames", help_text, value=collected["frames"])
        help_text = "1 while frames of another camera would be kept, 0 once a bound or the disk has ended that."
        yield gauge("clst_camera_collecting", help_text, value=float(not collected["stopped"]))


def registry_of(collector: RunCollector) -> Any:
    """A registry of its own, so that nothing else of this process is exported."""
    registry = require("prometheus_client").CollectorRegistry()
    registry.register(collector)
    return registry


def exposition(registry: Any, accept: str) -> tuple[bytes, str]:
    """The text of all figures and its content type, in the form that the header `Accept` wants, if that is one."""
    choose = require("prometheus_client.exposition").choose_encoder
    try:
        encode, content_type = choose(accept)
    except (TypeError, ValueError):  # a version that is no number
        encode, content_type = choose("")
    return encode(registry), str(content_type)
