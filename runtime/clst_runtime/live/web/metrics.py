"""The run's counts in the form of Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from clst_runtime.live.monitor.drift import State
from clst_runtime.live.statistics import STATES
from clst_runtime.system.optional import require

Rows = Sequence[tuple[list[str], Any]]
Family = Callable[..., Any]
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

    def __init__(self, cameras: Mapping[str, tuple[Callable[[], dict[str, Any]], dict[str, str]]]) -> None:
        """Args: cameras: by name `RunStatistics.snapshot`, and labels that say what runs. An empty name is no label."""
        self._cameras = dict(cameras)
        self._labels = ["camera"] if any(cameras) else []

    def describe(self) -> list[Any]:
        """Nothing, so that registering asks for no figures yet."""
        return []

    def collect(self) -> Iterator[Any]:
        """Every figure, seconds and counts."""
        core = require("prometheus_client.core")
        seen = {name: snapshot() for name, (snapshot, _) in self._cameras.items()}
        every = [([name] * len(self._labels), values) for name, values in seen.items()]
        counter, gauge = self._family(core.CounterMetricFamily), self._family(core.GaugeMetricFamily)
        for key, help_text, name in COUNTERS:
            yield counter(name, help_text, [(camera, values[key]) for camera, values in every])
        for key, help_text, name in GAUGES:
            yield gauge(name, help_text, [(camera, values[key]) for camera, values in every])
        drops = [([*camera, cause], count) for camera, values in every for cause, count in values["drops"].items()]
        yield counter("clst_drops", "Frames that were left out, by cause.", drops, "cause")
        states = [([*camera, name], float(values["state"] == name)) for camera, values in every for name in STATES]
        yield gauge("clst_state", "1 for what the run is, 0 for what it is not.", states, "state")
        ages = [
            (camera, values["newest_age_ms"] / 1e3) for camera, values in every if values["newest_age_ms"] is not None
        ]
        if ages:
            yield gauge("clst_newest_age_seconds", "Age of the newest masked image.", ages)
        for key, help_text, name in LATENCIES:
            yield gauge(name, help_text, [
                ([*camera, label], values[key][quantile] / 1e3)
                for camera, values in every for quantile, label in QUANTILES.items() if quantile in values[key]
            ], "quantile")  # fmt: skip
        watched = [(camera, values["domain"]) for camera, values in every if (values["domain"] or {}).get("watching")]
        if watched:
            yield from camera_figures(watched, counter, gauge)
        infos = [([name] * len(self._labels), info) for name, (_, info) in self._cameras.items()]
        yield self._family(core.InfoMetricFamily)("clst_run", "What runs.", infos)

    def _family(self, kind: Callable[..., Any]) -> Family:
        """Makes families of a kind; each of their rows has the values of the labels, the camera's first."""

        def family(name: str, help_text: str, rows: Rows, *labels: str) -> Any:
            made = kind(name, help_text, labels=[*self._labels, *labels])
            for values, figure in rows:
                made.add_metric(values, figure)
            return made

        return family


def camera_figures(
    watched: Sequence[tuple[list[str], dict[str, Any]]], counter: Family, gauge: Family
) -> Iterator[Any]:
    """The monitors' findings about cameras. A figure that is not known is left out: 0 would say "all is well".

    Args:
        watched: values of labels and `MonitorSink.snapshot`, of each camera that is watched.
    """
    states = [
        ([*camera, each.value], float(domain["state"] == each.value)) for camera, domain in watched for each in State
    ]
    yield gauge("clst_camera_state", "1 for what is known of the camera, 0 for the other states.", states, "state")
    verdicts = {State.OTHER.value: 1.0, State.SAME.value: 0.0}
    found = [(camera, verdicts[domain["state"]]) for camera, domain in watched if domain["state"] in verdicts]
    if found:
        help_text = "1 if this looks like another camera than the model's, 0 if like its own; absent while not known."
        yield gauge("clst_camera_is_another", help_text, found)
    shifts = [(camera, domain["shift"]) for camera, domain in watched if domain["shift"] is not None]
    if shifts:
        help_text = "How far the newest frames are from the model's own camera; 1 is usual. Absent while not known."
        yield gauge("clst_camera_shift", help_text, shifts)
    thresholds = [(camera, domain["threshold"]) for camera, domain in watched]
    yield gauge("clst_camera_shift_threshold", "A shift that stays above it is another camera.", thresholds)
    collected = [(camera, domain["collected"]) for camera, domain in watched if domain["collected"] is not None]
    if collected:
        help_text = "Frames of another camera that this run has kept."
        yield counter(
            "clst_camera_collected_frames", help_text, [(camera, kept["frames"]) for camera, kept in collected]
        )
        help_text = "1 while frames of another camera would be kept, 0 once a bound or the disk has ended that."
        yield gauge("clst_camera_collecting", help_text,
                    [(camera, float(not kept["stopped"])) for camera, kept in collected])  # fmt: skip


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
