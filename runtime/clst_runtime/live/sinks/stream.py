"""Frames for other programs: bare on standard output, or with a header through a socket. H rows, W columns."""

from __future__ import annotations

import errno
import json
import os
import socket
from pathlib import Path
from typing import IO, Any

import numpy as np

from clst_runtime.classes.labels import ClassList
from clst_runtime.errors import ConfigError, DataError
from clst_runtime.imaging.geometry import Image, resize_classes, resize_frame
from clst_runtime.imaging.overlay import blend
from clst_runtime.live.results import Result
from clst_runtime.live.sinks.base import Sink
from clst_runtime.live.sinks.readers import Readers
from clst_runtime.live.statistics import RunStatistics

KINDS = ("masks", "overlay")


def open_stream(text: str, classes: ClassList, alpha: float, *, stdout: IO[bytes], statistics: RunStatistics) -> Sink:
    """`masks:-`, `overlay:-`, `masks:unix:/run/clst.sock` or `overlay:tcp:127.0.0.1:5555`.

    What readers of a socket did not get is counted in `statistics`, which also records whether anything may be lost.

    Raises:
        ConfigError: anything else. DataError: the socket cannot be opened.
    """
    kind, _, place = text.partition(":")
    if kind not in KINDS or not place:
        raise ConfigError(f"stream {text!r}; give masks:PLACE or overlay:PLACE with - , unix:PATH or tcp:HOST:PORT")
    if place == "-":
        return PipeSink(kind, classes, alpha, stdout)
    return SocketSink(kind, classes, alpha, listen(place), statistics)


class _StreamSink(Sink):
    """What both have in common: a result as an array of bytes."""

    def __init__(self, kind: str, classes: ClassList, alpha: float) -> None:
        self.kind, self.classes, self.alpha = kind, classes, alpha
        self.name = f"stream of {kind}" if kind == "masks" else "stream of overlays"

    def _image(self, result: Result) -> Image:
        """Class ids H,W or RGB H,W,3."""
        return result.mask if self.kind == "masks" else blend(result.timed.rgb, result.mask, self.classes, self.alpha)


class PipeSink(_StreamSink):
    """Bytes of one image after the other, all of the first one's size, as `ffmpeg -f rawvideo` reads them.

    Masks are `gray`, overlays `rgb24`.
    """

    def __init__(self, kind: str, classes: ClassList, alpha: float, stream: IO[bytes]) -> None:
        super().__init__(kind, classes, alpha)
        self._stream = stream
        self._size_hw: tuple[int, int] | None = None

    def write(self, result: Result) -> None:
        """Append one image.

        Raises:
            DataError: the reader has gone.
        """
        image = self._image(result)
        self._size_hw = self._size_hw or (image.shape[0], image.shape[1])
        resize = resize_classes if self.kind == "masks" else resize_frame
        try:
            self._stream.write(np.ascontiguousarray(resize(image, self._size_hw)).data)
        except BrokenPipeError as error:
            raise DataError("the reader of standard output has gone") from error


class SocketSink(_StreamSink):
    """Readers of a socket; each image follows a line of JSON that describes it.

    `{"frame": 7, "captured_ns": …, "age_ms": 21.4, "kind": "masks", "shape": [H, W], "bytes": H·W}`; `captured_ns` is
    on the machine's CLOCK_MONOTONIC. Which reader gets which image: `Readers`.
    """

    def __init__(
        self, kind: str, classes: ClassList, alpha: float, server: socket.socket, statistics: RunStatistics
    ) -> None:
        """Raises: DataError: the socket cannot be served; it is closed then."""
        super().__init__(kind, classes, alpha)
        self.address: Any = server.getsockname()
        """Where it listens: a path, or host and port."""
        self._path = self.address if server.family == socket.AF_UNIX else None
        try:
            self.readers = Readers(
                server,
                lossless=not statistics.live,
                skipped=lambda count: statistics.dropped(f"reader of {self.name}", count),
                warn=lambda message: statistics.warn(f"{self.name}: {message}"),
            )
        except OSError as error:
            server.close()
            raise DataError(f"cannot serve readers at {self.address}: {error.strerror}") from error

    def write(self, result: Result) -> None:
        """Send to everybody who is there; with nobody there it costs nothing."""
        if not self.readers:
            return
        image = np.ascontiguousarray(self._image(result))
        facts = {"frame": result.timed.index, "captured_ns": result.timed.captured_ns,
                 "age_ms": round(result.age_ns / 1e6, 3), "kind": self.kind, "shape": list(image.shape),
                 "bytes": image.nbytes}  # fmt: skip
        self.readers.send(b"".join((json.dumps(facts).encode(), b"\n", image.data)))

    def close(self) -> None:
        """Close every connection and take the socket away."""
        self.readers.close()
        if self._path is not None:
            Path(self._path).unlink(missing_ok=True)
            self._path = None


def listen(place: str) -> socket.socket:
    """A listening socket at `unix:PATH` or `tcp:HOST:PORT`.

    Raises:
        ConfigError: another form. DataError: it cannot be opened.
    """
    kind, _, rest = place.partition(":")
    try:
        if kind == "unix" and rest:
            return _listen_at_path(rest)
        host, _, port = rest.rpartition(":")
        if kind != "tcp" or not host or not port.isdigit():
            raise ConfigError(f"stream to {place!r}; give - , unix:PATH or tcp:HOST:PORT")
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host.strip("[]"), int(port)), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = "; is another program there?" if getattr(error, "errno", None) == errno.EADDRINUSE else ""
        raise DataError(f"cannot listen at {place}: {reason}{hint}") from error


def _listen_at_path(path: str) -> socket.socket:
    """Take the place of a socket file that nobody listens at any more."""
    server = socket.socket(socket.AF_UNIX)
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            if Path(path).is_socket() and probe.connect_ex(path) != 0:
                os.unlink(path)
        server.bind(path)
        server.listen()
    except BaseException:
        server.close()
        raise
    return server
