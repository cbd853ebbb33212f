"""The server of the page: an event loop in a thread of its own, which the run never waits for.

What is asked for is that of the camera in `?camera=NAME`, or of the first one.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, cast

from clst_runtime.errors import ConfigError, DataError, message_of
from clst_runtime.live.web.access import HEADERS, Guard, refusal
from clst_runtime.live.web.error_log import ErrorLog
from clst_runtime.live.web.metrics import RunCollector, exposition, registry_of
from clst_runtime.live.web.overlays import OverlayEncoder
from clst_runtime.live.web.status import RunStatus
from clst_runtime.system.machine import files_allowed
from clst_runtime.system.optional import require

if TYPE_CHECKING:
    from aiohttp import web

STATUS_SECONDS = 0.5
HEARTBEAT_SECONDS = 20.0
"""A viewer that answers nothing for so long is let go."""
MAX_VIEWERS = 32
MAX_CONNECTIONS = 128
"""More, or more than a third of the files that may be open, are closed at once: a network must not use up the run's."""
MAX_SILENT = 64
"""Of connections that have asked for nothing yet, the oldest goes when there are more, so that they keep nobody out."""
BACKLOG = 16
"""So many may come before they are counted."""
SILENT_SECONDS = 10.0
"""A connection that has asked for nothing by then, or was refused, is closed: it takes the place of another one.

So long the body of a request may take, too.
"""
LINGERING_SECONDS = 2.0
"""Who still sends the body of a request that is answered already has so long to read the answer."""
KEPT_SECONDS = 30.0
"""So long a connection may wait for its next request."""
MAX_REQUEST_BYTES = 4096
STOP_SECONDS = 1.5
"""After so long the server is left to its end as a daemon."""
GOODBYE_SECONDS = 0.5
"""How long the end waits for viewers to hear of it."""
PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/charts.js": ("charts.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
RUN_LABELS = ("network", "precision", "backend", "source")
"""Facts of a run that `/metrics` has as labels."""
VIDEO_TYPES = {".mp4": "video/mp4", ".mkv": "video/x-matroska"}
IMAGE_HEAD = struct.Struct(">If")
"""In front of a JPEG: the frame's position, modulo 2^32, and its age in ms when it was sent."""

Handler = Callable[["web.Request"], Awaitable["web.StreamResponse"]]


@dataclass(frozen=True, kw_only=True)
class View:
    """What is shown of a camera."""

    run_status: RunStatus
    images: OverlayEncoder

    def figures(self) -> dict[str, Any]:
        """The statistics of this moment."""
        return self.run_status.snapshot(fresh=True)


class WebServer:
    """Serves the page until `stop`, or until every camera has left."""

    def __init__(self, views: Mapping[str, View], guard: Guard, listening: socket.socket) -> None:
        """Args: views: by the camera's name, which is empty where it is the only one and has none.

        Raises:
            MissingDependency: aiohttp or prometheus_client is not there.
        """
        self._web: Any = require("aiohttp.web")
        self._views, self._guard, self._listening = dict(views), guard, listening
        self._staying, self._leaving = len(self._views), threading.Lock()
        self._figures = registry_of(RunCollector({
            name: (view.figures, {key: str(view.run_status.facts[key]) for key in RUN_LABELS})
            for name, view in self._views.items()
        }))  # fmt: skip
        folder = resources.files("clst_runtime.live.web") / "page"
        self._files = {place: ((folder / name).read_bytes(), kind) for place, (name, kind) in PAGE.items()}
        self._errors = ErrorLog(next(iter(self._views.values())).run_status.statistics.warn)
        self._failure: BaseException | None = None
        self._runner: Any = None
        self._most = min(MAX_CONNECTIONS, files_allowed(parts=3))
        self._most_silent = min(MAX_SILENT, files_allowed(parts=6))
        self._open: set[asyncio.Task[Any]] = set()
        self._silent: dict[Any, asyncio.TimerHandle] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._running, self._ending = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._work, name="web server", daemon=True)

    def start(self) -> None:
        """Serve from now on; returns when requests are answered.

        Raises:
            ConfigError: they cannot be, and why.
        """
        try:
            self._thread.start()
            self._running.wait()
        except RuntimeError as error:  # no more threads
            self._failure = error
        if self._failure is not None:
            raise ConfigError(f"the web page cannot start: {message_of(self._failure)}") from self._failure

    def check(self) -> None:
        """Raises: DataError: the server has ended although nobody has stopped it; nobody can see the page any more."""
        if not self._thread.is_alive() and not self._ending.is_set():
            why = "" if self._failure is None else f": {message_of(self._failure)}"
            raise DataError(f"the server of the web page has ended{why}")

    def stop(self) -> None:
        """Send viewers the end, close every connection and the port; a second call does nothing."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(STOP_SECONDS)

    def leave(self) -> None:
        """A camera has ended; the last one stops the server."""
        with self._leaving:
            self._staying -= 1
            last = self._staying == 0
        if last:
            self.stop()
            for view in self._views.values():
                view.images.close()

    def _work(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001  `start` and `check` raise it, in threads that can
            self._failure = error
        finally:
            self._running.set()

    async def _serve(self) -> None:
        self._runner = runner = self._web.AppRunner(
            self._application(),
            access_log=None,
            logger=self._errors.logger(),
            shutdown_timeout=0.1,
            keepalive_timeout=KEPT_SECONDS,
            lingering_time=LINGERING_SECONDS,
            auto_decompress=False,  # a few bytes could become gigabytes; the guard refuses them
        )  # fmt: skip  no tokens in logs
        accepting = await self._begin(runner)
        self._running.set()
        sampling = asyncio.ensure_future(self._sample())
        await self._ending.wait()
        sampling.cancel()
        if self._open:
            await asyncio.wait(set(self._open), timeout=GOODBYE_SECONDS)
        accepting.close()
        await runner.cleanup()  # lets go of who was too slow to hear of it

    async def _begin(self, runner: Any) -> asyncio.AbstractServer:
        await runner.setup()
        self._loop = loop = asyncio.get_running_loop()
        loop.set_default_executor(_Threads())
        loop.set_exception_handler(lambda _, context: self._errors.report_event(context))
        accepting = await loop.create_server(
            lambda: self._accepted(runner.server), sock=self._listening, backlog=BACKLOG
        )
        for view in self._views.values():
            view.images.start(loop)
        return accepting

    def _accepted(self, server: Any) -> asyncio.BaseProtocol:
        """The handler of a new connection."""
        if len(server.connections) >= self._most:
            return _Full()
        if len(self._silent) >= self._most_silent:
            self._let_go(next(iter(self._silent)))
        speaker = server()
        self._silent[speaker] = asyncio.get_running_loop().call_later(SILENT_SECONDS, self._let_go, speaker)
        return cast("asyncio.BaseProtocol", speaker)

    def _let_go(self, speaker: Any) -> None:
        self._silent.pop(speaker).cancel()
        asyncio.get_running_loop().call_soon(_abort, speaker)  # accepted at this very moment, it has no transport yet

    async def _sample(self) -> None:
        while True:
            for view in self._views.values():
                with self._errors.caught():
                    view.run_status.sample_drops()
            await asyncio.sleep(1.0)

    def _application(self) -> Any:
        toolkit = self._web

        @toolkit.middleware  # type: ignore[untyped-decorator, unused-ignore]
        async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
            answer = self._guard.answer(request)
            if answer is None and "Content-Encoding" in request.headers:
                answer = refusal(415, "send the body as it is, without Content-Encoding")
            if answer is not None:
                answer.force_close()
                return answer
            silent = self._silent.pop(request.protocol, None)
            if silent is not None:
                silent.cancel()
            return await handler(request)

        async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
            response.headers.update(HEADERS)

        application = toolkit.Application(middlewares=[guarded], client_max_size=MAX_REQUEST_BYTES)
        application.on_response_prepare.append(add_headers)
        for place in PAGE:
            application.router.add_get(place, self._page)
        application.router.add_get("/live", self._live)
        application.router.add_get("/facts.json", self._facts)
        application.router.add_get("/status.json", self._status)
        application.router.add_get("/metrics", self._metrics)
        application.router.add_post("/recording", self._recording)
        application.router.add_get("/recordings/{name}", self._recorded)
        return application

    async def _page(self, request: web.Request) -> web.StreamResponse:
        body, kind = self._files[request.path]
        return self._answer(body=body, content_type=kind, charset="utf-8")

    def _view(self, request: web.Request) -> View:
        """What the request is about. Raises: HTTPNotFound: no camera is named so."""
        name = request.query.get("camera", next(iter(self._views)))
        if name not in self._views:
            known = ", ".join(filter(None, self._views)) or "they have no names in this run"
            raise self._web.HTTPNotFound(text=f"no camera is named so; cameras: {known}\n")
        return self._views[name]

    def _status_of(self, view: View, *, fresh: bool = False) -> dict[str, Any]:
        """What changes of a camera, and the state of each where they have names."""
        states = {name: each.run_status.statistics.state for name, each in self._views.items() if name}
        return view.run_status.status(fresh=fresh) | ({"cameras": states} if states else {})

    async def _facts(self, request: web.Request) -> web.StreamResponse:
        run_status = self._view(request).run_status
        return self._json({"run": run_status.facts, "machine": run_status.machine})

    async def _status(self, request: web.Request) -> web.StreamResponse:
        return self._json(self._status_of(self._view(request), fresh=True))

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        body, content_type = exposition(self._figures, request.headers.get("Accept", ""))
        return self._answer(body=body, headers={"Content-Type": content_type})

    async def _recording(self, request: web.Request) -> web.StreamResponse:
        """Switch recording by `{"on": true}`; JSON, because no other site's form can send that."""
        if request.content_type != "application/json":
            return refusal(415, 'send {"on": true} or {"on": false} as application/json')
        await self._read_body(request)
        try:
            wanted = (await request.json())["on"]
        except (ValueError, LookupError, TypeError, RecursionError):  # LookupError: an unknown charset, too
            wanted = None
        if not isinstance(wanted, bool):
            return refusal(400, 'send {"on": true} or {"on": false}')
        recorder = self._view(request).run_status.recorder
        try:
            await asyncio.get_running_loop().run_in_executor(None, recorder.start if wanted else recorder.stop)
        except ConfigError as error:
            return refusal(409, error.message)
        return self._json(recorder.to_json())

    async def _recorded(self, request: web.Request) -> web.StreamResponse:
        """A finished recording of this run, or the part of it that the header `Range` wants."""
        path = self._view(request).run_status.recorder.finished(request.match_info["name"])
        if path is None or not await asyncio.get_running_loop().run_in_executor(None, path.is_file):
            return refusal(404, "no recording of this run is called so")
        response: web.StreamResponse = self._web.FileResponse(path, headers={"Content-Type": VIDEO_TYPES[path.suffix]})
        return response

    async def _read_body(self, request: web.Request) -> None:
        """Have the body of a request at hand. Raises: HTTPException: it is too large, damaged, or does not come."""
        if (request.content_length or 0) > MAX_REQUEST_BYTES:
            raise self._web.HTTPRequestEntityTooLarge(
                MAX_REQUEST_BYTES, request.content_length, text=f"a request may hold {MAX_REQUEST_BYTES} bytes\n"
            )
        try:
            await asyncio.wait_for(request.read(), SILENT_SECONDS)
        except asyncio.TimeoutError:
            raise self._web.HTTPRequestTimeout(text="the body of the request did not come\n") from None
        except self._web.RequestPayloadError:
            raise self._web.HTTPBadRequest(text="the body of the request is damaged\n") from None

    async def _live(self, request: web.Request) -> web.StreamResponse:
        """Status as text twice a second; after each `next` of the viewer one image, the newest.

        So a viewer on a slow line has one image under way at most, and everything is as new as its line allows.
        """
        view = self._view(request)
        if sum(each.run_status.viewers for each in self._views.values()) >= MAX_VIEWERS:
            return refusal(503, f"{MAX_VIEWERS} viewers look at this run already; close one of them")
        connection = self._web.WebSocketResponse(
            heartbeat=HEARTBEAT_SECONDS, max_msg_size=64, compress=False, timeout=GOODBYE_SECONDS
        )
        if not connection.can_prepare(request).ok:
            return refusal(426, "this is the live connection of the page at /")
        await connection.prepare(request)
        wanted = asyncio.Event()
        speaking = [
            asyncio.ensure_future(self._send_status(connection, view)),
            asyncio.ensure_future(self._show(connection, wanted, view.images)),
        ]
        me = cast("asyncio.Task[Any]", asyncio.current_task())
        view.run_status.viewers += 1
        self._open.add(me)
        listening = asyncio.ensure_future(_listen(connection, wanted))
        try:
            await asyncio.wait([listening, speaking[0]], return_when=asyncio.FIRST_COMPLETED)
        finally:
            view.run_status.viewers -= 1
            self._open.discard(me)
            for task in (listening, *speaking):
                task.cancel()
            for outcome in await asyncio.gather(listening, *speaking, return_exceptions=True):
                if isinstance(outcome, Exception):
                    self._errors.report(outcome)
        with suppress(ConnectionError, RuntimeError):
            await connection.close()
        return cast("web.StreamResponse", connection)

    async def _send_status(self, connection: Any, view: View) -> None:
        """Send the status until the end of the run or of the connection; the end itself is sent, too."""
        frames_s = drops_s = -math.inf
        last = False
        with suppress(ConnectionError, RuntimeError):  # the viewer has gone
            while not last:
                last = self._ending.is_set()
                frames, drops = view.run_status.rows_since(frames_s, drops_s)
                frames_s = frames[-1][0] if frames else frames_s
                drops_s = drops[-1][0] if drops else drops_s
                values = self._status_of(view, fresh=last) | {"frames": frames, "drops": drops}
                await connection.send_str(json.dumps(values))
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._ending.wait(), STATUS_SECONDS)

    async def _show(self, connection: Any, wanted: asyncio.Event, images: OverlayEncoder) -> None:
        serial = 0
        with suppress(ConnectionError, RuntimeError):
            while True:
                await wanted.wait()
                image = await images.newer(serial)
                wanted.clear()
                serial = image.serial
                age_ms = (time.monotonic_ns() - image.captured_ns) / 1e6
                await connection.send_bytes(IMAGE_HEAD.pack(image.frame & 0xFFFFFFFF, age_ms) + image.jpeg)

    def _answer(self, **parts: Any) -> web.StreamResponse:
        response: web.StreamResponse = self._web.Response(**parts)
        return response

    def _json(self, value: Any) -> web.StreamResponse:
        return self._answer(text=json.dumps(value), content_type="application/json")


def _abort(speaker: Any) -> None:
    if speaker.transport is not None:
        speaker.transport.abort()


class _Threads(ThreadPoolExecutor):
    """A thread for each call. The end of the program waits for none of them, because a disk may hang in it."""

    def submit(self, call: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(call(*args, **options))
            except BaseException as error:  # noqa: BLE001  it belongs to who asked
                future.set_exception(error)

        threading.Thread(target=work, name="web call", daemon=True).start()
        return future


class _Full(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


async def _listen(connection: Any, wanted: asyncio.Event) -> None:
    async for message in connection:
        if message.data == "next":
            wanted.set()
