"""Readers of one socket: one that is slow, stuck or gone makes nobody else wait."""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

from clst_runtime.errors import DataError, message_of
from clst_runtime.system.machine import files_allowed

MOST_READERS = 32
"""More, or more than a sixth of the files that may be open, are refused: the files of the run must not fail of them."""
AT_ONCE = 4
"""So many are accepted before they are counted."""
BACKLOG = 128
"""So many may wait to be accepted."""
QUEUED = 16
"""Images that may wait for one reader before it counts as slow."""
QUEUED_BYTES = 64 << 20
"""They are at most so large together; readers share them."""
PROMPT_AGAIN = 30
"""A slow reader gets every image again after it took so many in a row at once."""
STUCK_SECONDS = 10.0
"""A reader that takes not one byte for so long is put out."""
LOSSLESS_SECONDS = 1.0
"""How long a run that may lose nothing waits while every reader's queue is full; they count as slow from then on."""
END_SECONDS = 1.0
"""How long the end waits for readers to take what is left, and for one that takes nothing of it."""
LOSSLESS_END_SECONDS = 3.0
"""How long it waits where nothing may be lost; less than the 5 s that all sinks have together."""
CHECK_SECONDS = 0.25
ROOM_SECONDS = 0.002
SMALLEST_BUFFER = 1 << 16
KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": round(1000 * STUCK_SECONDS)}
"""Seconds, seconds, probes and milliseconds after which the kernel gives up a reader on a dead network."""
OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Readers:
    """Accepts readers of a listening socket and sends each image to all of them, in a thread of its own."""

    def __init__(
        self,
        server: socket.socket,
        *,
        lossless: bool,
        skipped: Callable[[int], None],
        warn: Callable[[str], None],
    ) -> None:
        """Begin to accept.

        Args:
            server: a listening socket, closed by `close`.
            lossless: go at the pace of the fastest reader, so that it misses nothing.
            skipped: called with how many images a slow reader did not get.
            warn: called with a message when something goes wrong.

        Raises:
            OSError: no descriptors are left.
        """
        self._server, self._lossless, self._skipped, self._warn = server, lossless, skipped, warn
        self._readers: set[_Reader] = set()
        self._out_of_descriptors = False
        self._loop, self._closing = asyncio.new_event_loop(), asyncio.Event()
        self._loop.set_exception_handler(self._note_trouble)
        self._thread = threading.Thread(target=self._work, name="stream", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._readers)

    def send(self, image: bytes) -> None:
        """Queue an image for everybody; waits only where nothing may be lost.

        Raises:
            DataError: the thread that sends has died.
        """
        if not self._thread.is_alive():
            raise DataError("its readers cannot be served any more")
        asyncio.run_coroutine_threadsafe(self._queue(image), self._loop).result(2 * LOSSLESS_SECONDS + 5)

    def close(self) -> None:
        """Send what is left to readers that take it, then close every connection; a second call does nothing."""
        if self._thread.is_alive():
            with suppress(RuntimeError):  # it has just died
                self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(LOSSLESS_END_SECONDS + END_SECONDS)
        self._server.close()

    # What the thread does

    def _work(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:  # noqa: BLE001  whatever it is, it must not end unseen
            self._warn(f"readers cannot be served any more: {message_of(error)}")
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        at_path = self._server.family == socket.AF_UNIX
        start: Any = self._loop.create_unix_server if at_path else self._loop.create_server
        server = await start(lambda: _Reader(self), sock=self._server, backlog=AT_ONCE)
        self._server.listen(BACKLOG)  # asyncio has made it as short as what it accepts at once
        while not self._closing.is_set():
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._closing.wait(), CHECK_SECONDS)
            for reader in [each for each in self._readers if each.is_stuck(self._loop.time(), STUCK_SECONDS)]:
                self._warn(f"a reader that took nothing for {STUCK_SECONDS:g} s was put out")
                self.put_out(reader)
        server.close()
        await self._wait_while(self._somebody_takes_more, LOSSLESS_END_SECONDS if self._lossless else END_SECONDS)
        for reader in list(self._readers):
            self.put_out(reader)
        await asyncio.sleep(0)  # the connections are closed in the turn after this one
        await asyncio.sleep(0)

    async def _queue(self, image: bytes) -> None:
        if self._lossless:
            await self._wait_while(self._everybody_is_full, LOSSLESS_SECONDS)
        for reader in list(self._readers):
            self._skipped(reader.offer(image))

    async def _wait_while(self, condition: Callable[[], bool], seconds: float) -> None:
        end = self._loop.time() + seconds
        while condition() and self._loop.time() < end:
            await asyncio.sleep(ROOM_SECONDS)

    def _everybody_is_full(self) -> bool:
        """Whether waiting helps: with the fastest reader's pace nothing is lost for it, and nobody waits for others."""
        prompt = [reader for reader in self._readers if not reader.is_slow]
        return bool(prompt) and all(reader.is_full for reader in prompt)

    def _somebody_takes_more(self) -> bool:
        now = self._loop.time()
        return any(not (reader.finished or reader.is_stuck(now, END_SECONDS)) for reader in self._readers)

    def admit(self, reader: _Reader) -> bool:
        """Whether there is room for one more."""
        self._out_of_descriptors = False
        most = min(MOST_READERS, files_allowed(parts=6))
        if len(self._readers) >= most:
            self._warn(f"a reader was refused: {most} are there, which is as many as there may be")
            return False
        self._readers.add(reader)
        return True

    def put_out(self, reader: _Reader) -> None:
        """Close a connection at once; half an image may have been sent, so nothing can follow."""
        self._readers.discard(reader)
        reader.transport.abort()

    def _note_trouble(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in OUT_OF_DESCRIPTORS:
            if not self._out_of_descriptors:  # asyncio tries again every second
                self._warn(f"a reader has to wait until descriptors are free: {error.strerror}")
            self._out_of_descriptors = True
        else:
            self._warn(f"trouble with a reader: {context.get('message')} {error or ''}".rstrip())


class _Reader(asyncio.Protocol):
    """One connection: whole images, each or, when it is slow, the newest."""

    transport: asyncio.Transport

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._waiting: deque[bytes] = deque()
        self._full = self.is_slow = False
        self._prompt = self._begun = self._buffer_bytes = 0
        self._moved: tuple[float, tuple[int, int]] = (0.0, (0, 0))

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit it, or close it again."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=0)
        if not self._readers.admit(self):
            return self.transport.close()
        connection = self.transport.get_extra_info("socket")
        if connection.family != socket.AF_UNIX:
            with suppress(OSError):  # it has gone already
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for name, value in KEEPALIVE.items():
                    if hasattr(socket, name):
                        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def eof_received(self) -> None:
        """It has gone."""
        self._readers.put_out(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._readers.put_out(self)

    def pause_writing(self) -> None:
        """The kernel takes no more just now."""
        self._full = True

    def resume_writing(self) -> None:
        """What was begun is sent."""
        self._full = False
        self._send()

    # What `Readers` calls

    @property
    def is_full(self) -> bool:
        """Whether an image more would make it slow."""
        return bool(self._waiting) and len(self._waiting) >= self._room(len(self._waiting[-1]))

    @property
    def finished(self) -> bool:
        """Whether it has all that it still gets; a slow one gets no more than what was begun."""
        if self.is_slow:
            self._waiting.clear()
        return not self._full and not self._waiting

    def is_stuck(self, now: float, seconds: float) -> bool:
        """Whether it has taken nothing for so long of what is there for it."""
        state = (self._begun, self.transport.get_write_buffer_size())
        if not self._full or state != self._moved[1]:
            self._moved = (now, state)
        return now - self._moved[0] > seconds

    def offer(self, image: bytes) -> int:
        """Queue an image; how many others it will not get because of that."""
        self._prompt = 0 if self._full else self._prompt + 1
        self.is_slow = self.is_slow and self._prompt < PROMPT_AGAIN
        skipped = 0
        if len(self._waiting) >= self._room(len(image)):
            self.is_slow, skipped = True, len(self._waiting)
            self._waiting.clear()
        self._waiting.append(image)
        self._send()
        return skipped

    def _room(self, image_bytes: int) -> int:
        return 1 if self.is_slow else max(1, min(QUEUED, QUEUED_BYTES // image_bytes))

    def _send(self) -> None:
        while self._waiting and not self._full:
            image = self._waiting.popleft()
            self._bound_kernel(len(image))
            self._begun += 1
            self.transport.write(image)

    def _bound_kernel(self, image_bytes: int) -> None:
        """Let the kernel hold about two images, not seconds of them."""
        wanted = max(image_bytes, SMALLEST_BUFFER)
        if wanted != self._buffer_bytes:
            self._buffer_bytes = wanted
            with suppress(OSError):  # it has just gone
                self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, wanted)
