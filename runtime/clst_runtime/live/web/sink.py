"""The page as a sink of results."""

from __future__ import annotations

from contextlib import ExitStack
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
from clst_runtime.live.web.server import WebServer
from clst_runtime.live.web.status import RunStatus
from clst_runtime.system.machine import machine_facts
from clst_runtime.system.optional import require


class WebSink(Sink):
    """Shows results on the page and records them when a viewer asks for it. Made by `open_web`."""

    name = "web"

    def __init__(self, server: WebServer, run_status: RunStatus, images: OverlayEncoder, url: str) -> None:
        self.url = url
        """What to open in a browser, with the token if one is needed: a secret, to be printed once."""
        self._server, self._run_status, self._images, self._open = server, run_status, images, True
        self._recorder = run_status.recorder

    def write(self, result: Result) -> None:
        """Take the newest result; without a recording this returns at once. The page reports its own failures.

        Raises:
            DataError: the server has ended, so that nobody sees the page any more.
        """
        self._server.check()
        self._run_status.saw(result.prediction.classes)
        self._images.offer(result)
        self._recorder.write(result)

    def close(self) -> None:
        """Finish the recording, send viewers the end of the run and stop the server."""
        if not self._open:
            return
        self._open = False
        self._recorder.stop()
        self._server.stop()
        self._images.close()


def open_web(
    address: WebAddress,
    *,
    statistics: RunStatistics,
    facts: RunInfo,
    recordings: Path | None = None,
    token: str | None = None,
) -> WebSink:
    """Serve the page from now on; it shows `starting` until the first mask.

    Args:
        statistics: of the run; give the same to `run_pipeline`.
        recordings: folder for recordings that viewers start; None = they cannot.
        token: what viewers must know, ≥ 16 characters; None = one is made where a network can reach the page.

    Raises:
        MissingDependency: aiohttp, prometheus_client or OpenCV is not there.
        ConfigError: the address cannot be listened on, the token cannot be used, or too few files may be opened.
    """
    need_files()
    for module in ("aiohttp", "prometheus_client", "cv2"):
        require(module)
    token, manifest = chosen_token(address, token), facts.manifest
    recorder = Recorder(recordings, lambda path: VideoSink(path, manifest.classes, facts.fps, facts.alpha))
    listening = listen(address)
    with ExitStack() as undone:
        undone.callback(listening.close)
        bound = WebAddress(host=address.host, port=listening.getsockname()[1])
        images = OverlayEncoder(Painter(manifest.classes, facts.alpha), report=statistics.warn)
        run_status = RunStatus(statistics, facts, recorder, machine_facts)
        server = WebServer(run_status, images, Guard(bound, token), listening)
        server.start()
        undone.pop_all()
    url = f"http://{shown(reachable_host(bound.host))}:{bound.port}/"
    return WebSink(server, run_status, images, url if token is None else f"{url}?token={token}")
