"""The page as a sink of results."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from clst_runtime.live.results import Result
from clst_runtime.live.sinks.base import Sink
from clst_runtime.live.sinks.video import VideoSink
from clst_runtime.live.statistics import RunStatistics
from clst_runtime.live.web.access import Guard, chosen_token
from clst_runtime.live.web.address import WebAddress, listen, need_files, reachable_host, shown
from clst_runtime.live.web.overlays import OverlayEncoder, Painter
from clst_runtime.live.web.recording import Recorder
from clst_runtime.live.web.run_info import RunInfo
from clst_runtime.live.web.server import View, WebServer
from clst_runtime.live.web.status import RunStatus
from clst_runtime.system.machine import machine_facts
from clst_runtime.system.optional import require


@dataclass(frozen=True, kw_only=True)
class WebCamera:
    """What the page shows of a camera."""

    name: str = ""
    """Empty where it is the only one and has none."""
    statistics: RunStatistics
    """Of the run; give the same to `run_pipeline`."""
    facts: RunInfo
    recordings: Path | None = None
    """Folder for recordings that viewers start; None = they cannot."""


class WebSink(Sink):
    """Shows a camera's results on the page and records them when a viewer asks for it. Made by `open_web`."""

    name = "web"

    def __init__(self, server: WebServer, view: View, url: str) -> None:
        self.url = url
        """What to open in a browser, with the token if one is needed: a secret, to be printed once."""
        self._server, self._run_status, self._images, self._open = server, view.run_status, view.images, True
        self._recorder = view.run_status.recorder

    def write(self, result: Result) -> None:
        """Take the newest result; without a recording this returns at once. The page reports its own failures.

        Raises:
            DataError: the server has ended, so that nobody sees the page any more.
        """
        self._server.check()
        self._run_status.saw(result.classes)
        self._images.offer(result)
        self._recorder.write(result)

    def close(self) -> None:
        """Finish the recording; the last camera's end is sent to viewers, and stops the server."""
        if not self._open:
            return
        self._open = False
        self._recorder.stop()
        self._server.leave()


def open_web(address: WebAddress, cameras: Sequence[WebCamera], *, token: str | None = None) -> list[WebSink]:
    """Serve the page from now on; it shows `starting` until the first mask.

    Args:
        token: what viewers must know, ≥ 16 characters; None = one is made where a network can reach the page.

    Returns:
        A sink for each camera; the page ends with the last one that is closed.

    Raises:
        MissingDependency: aiohttp, prometheus_client or OpenCV is not there.
        ConfigError: the address cannot be listened on, the token cannot be used, or too few files may be opened.
    """
    need_files()
    for module in ("aiohttp", "prometheus_client", "cv2"):
        require(module)
    token = chosen_token(address, token)
    listening = listen(address)
    with ExitStack() as undone:
        undone.callback(listening.close)
        bound = WebAddress(host=address.host, port=listening.getsockname()[1])
        views = {camera.name: _view(camera) for camera in cameras}
        server = WebServer(views, Guard(bound, token), listening)
        server.start()
        undone.pop_all()
    url = f"http://{shown(reachable_host(bound.host))}:{bound.port}/"
    return [WebSink(server, view, url if token is None else f"{url}?token={token}") for view in views.values()]


def _view(camera: WebCamera) -> View:
    statistics, facts = camera.statistics, camera.facts
    classes, alpha = facts.manifest.classes, facts.alpha
    recorder = Recorder(camera.recordings, lambda path: VideoSink(path, classes, facts.fps, alpha))
    images = OverlayEncoder(Painter(classes, alpha), report=statistics.warn)
    return View(run_status=RunStatus(statistics, facts, recorder, machine_facts), images=images)
