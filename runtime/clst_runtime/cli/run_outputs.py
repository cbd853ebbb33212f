"""The sinks of `clst-run`, as its options ask for them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from clst_runtime.backends.base import Backend
from clst_runtime.cli.cameras import CameraOrder
from clst_runtime.cli.ros_arguments import ros_arguments
from clst_runtime.live.monitor.sink import MonitorSink, open_monitor
from clst_runtime.live.output_folder import RECORDING_FOLDER, OutFolder
from clst_runtime.live.sinks.base import Sink
from clst_runtime.live.statistics import RunStatistics
from clst_runtime.sources import Source
from clst_runtime.system.credentials import without_credentials
from clst_runtime.system.standard_streams import standard_output

_log = logging.getLogger(__name__)
UNKNOWN_FPS = 10.0


@dataclass(frozen=True, kw_only=True)
class OpenCamera:
    """A camera that is open, and what is recorded of it."""

    order: CameraOrder
    source: Source
    statistics: RunStatistics
    folder: OutFolder | None

    @property
    def shown(self) -> str:
        """Its source without credentials."""
        return without_credentials(self.order.source)


def open_sinks(model: Path, backend: Backend, cameras: Sequence[OpenCamera]) -> list[list[Sink]]:
    """Those of each camera; where one cannot be opened, those before it are closed, and no socket stays behind."""
    opened: list[list[Sink]] = [[] for _ in cameras]
    with ExitStack() as undone:

        def keep(sinks: list[Sink], sink: Sink) -> None:
            undone.callback(sink.close)
            sinks.append(sink)

        for camera, sinks in zip(cameras, opened, strict=True):
            for sink in sinks_of(backend, camera):
                keep(sinks, sink)
        if cameras[0].order.options["web"] is not None:
            for sinks, page in zip(opened, open_page(model, backend, cameras), strict=True):
                keep(sinks, page)
        for camera, sinks in zip(cameras, opened, strict=True):
            if camera.order.options["window"]:  # last: the loop itself shows a picture, and the others have it by then
                keep(sinks, open_window(backend, camera))
        undone.pop_all()
    return opened


def sinks_of(backend: Backend, camera: OpenCamera) -> Iterator[Sink]:
    """The sinks of a camera alone, opened one after the other."""
    from clst_runtime.live.sinks.mcap_files import DEFAULT_NODE, McapMaskSink
    from clst_runtime.live.sinks.stream import open_stream

    options, statistics = camera.order.options, camera.statistics
    classes, alpha = backend.manifest.classes, options["alpha"]
    for each in options["streams"]:
        yield open_stream(each, classes, alpha, stdout=standard_output(), statistics=statistics)
    if options["ros2"] is not None:
        from clst_runtime.live.sinks.ros2 import open_ros2

        yield open_ros2(ros_arguments(options), classes, alpha, statistics=statistics, source=camera.shown)
    if camera.folder is not None:
        yield from open_files(backend, camera.source, camera.folder.path, options)
    if options["mcap"] is not None:
        yield McapMaskSink(options["mcap"], classes, camera.order.name or DEFAULT_NODE)
    watch = open_watch(backend, camera)
    if watch is not None:
        yield watch
    if options["statistics_every"] is not None:
        yield open_log(camera, options["statistics_every"])


def open_files(backend: Backend, source: Source, out: Path, options: dict[str, Any]) -> Iterator[Sink]:
    """The sinks that write into `--out`; each makes its file with the first frame."""
    from clst_runtime.live.sinks.files import FrameLogSink, ImageSink, MaskSink
    from clst_runtime.live.sinks.video import VideoSink
    from clst_runtime.live.sinks.video_files import video_suffix
    from clst_runtime.system.optional import extra

    classes, alpha = backend.manifest.classes, options["alpha"]
    yield FrameLogSink(out / "frames.jsonl", classes)
    if options["video"]:
        fps = None if source.live else source.fps or UNKNOWN_FPS
        suffix = video_suffix()
        if suffix != ".mp4":
            _log.info("overlay.mkv: Motion JPEG, large; pip install %s for H.264 (overlay.mp4)", extra("video"))
        yield VideoSink(out / f"overlay{suffix}", classes, fps, alpha)
    if options["masks"]:
        yield MaskSink(out / "masks")
    if options["pictures"]:
        yield ImageSink(out / "overlays", classes, alpha)


def open_log(camera: OpenCamera, every_seconds: float) -> Sink:
    """The log of statistics; in a folder it begins with the first frame."""
    from clst_runtime.live.statistics_log import StatisticsLog
    from clst_runtime.system.files.json_lines import JsonLines

    statistics, folder = camera.statistics, camera.folder
    if folder is None:
        named = {"camera": camera.order.name} if camera.order.name else {}
        return StatisticsLog(statistics, lambda facts: click.echo(json.dumps(named | facts), err=True), every_seconds)
    lines = JsonLines(folder.path / "statistics.jsonl")
    return StatisticsLog(statistics, lines.append, every_seconds, begun=lambda: folder.begun, close=lines.close)


def open_watch(backend: Backend, camera: OpenCamera) -> MonitorSink | None:
    """The monitor of the camera, where the model has a reference; changes are logged at once and kept as warnings.

    The statistics tell its state from then on.
    """
    statistics, source, collect = camera.statistics, camera.source, camera.order.options["collect"]

    def warn(message: str) -> None:
        _log.warning(f"camera{camera.order.name and ' '}{camera.order.name}: {message}")
        statistics.warn(message)

    if not source.live and not backend.manifest.domain and collect is None:
        return None  # of files nobody asked
    watch = open_monitor(backend.manifest, source, collect=collect, report=warn)
    statistics.domain = None if watch is None else watch.snapshot
    return watch


def open_page(model: Path, backend: Backend, cameras: Sequence[OpenCamera]) -> Sequence[Sink]:
    """Serve the live page of all cameras; recordings that its viewers start go below the folder of each."""
    from clst_runtime.live.web import RunInfo, WebCamera, open_web, parse_web_address

    options = cameras[0].order.options

    def shown(camera: OpenCamera) -> WebCamera:
        fps = None if camera.source.live else camera.source.fps
        facts = RunInfo(manifest=backend.manifest, model=str(model), source=camera.shown, backend=backend.description,
                        alpha=options["alpha"], fps=fps)  # fmt: skip
        recordings = None if camera.folder is None else camera.folder.path / RECORDING_FOLDER
        return WebCamera(name=camera.order.name, statistics=camera.statistics, facts=facts, recordings=recordings)

    pages = open_web(
        parse_web_address(options["web"]), [shown(camera) for camera in cameras], token=options["web_token"]
    )
    # A token made for this run has to be shown; one that was given is known, and may be in use for years
    url = pages[0].url
    _log.info(f"page: {url if options['web_token'] is None else without_credentials(url)}")
    return pages


def open_window(backend: Backend, camera: OpenCamera) -> Sink:
    """The window of a camera."""
    from clst_runtime.live.sinks.window import WindowSink

    return WindowSink(backend.manifest.classes, camera.order.options["alpha"], camera.order.name)
