"""What the decoders inside OpenCV complain of: they write it on standard error and hand out an image all the same."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
COMPLAINTS = (
    b"swscaler",  # FFmpeg's colours: nothing was converted
    b"premature end of data segment", b"bad Huffman code", b"found marker 0x",  # libjpeg: made up what is missing
    b"overread", b"error dc", b"error count", b"error y=",  # FFmpeg's JPEG: the same
)  # fmt: skip
"""What is in lines that tell of a damaged image. Others are about nothing that can be seen, as bytes too many."""
CONTINUED = b" (Invalid argument): fmt:"
"""How the second line of a complaint about colours begins."""
LOG_LEVELS = ("OPENCV_FFMPEG_LOGLEVEL", "OPENCV_FFMPEG_DEBUG")
_alone = threading.Lock()


def reset_decoder_logging() -> None:
    """Undo what silences FFmpeg, or makes it speak elsewhere; before the first video is opened."""
    for name in LOG_LEVELS:
        os.environ.pop(name, None)


def overheard(call: Callable[[], T]) -> tuple[T, str]:
    """What `call` returns, and the line in which a decoder complained meanwhile, "" if none did.

    The process's standard error is a pipe meanwhile; other lines go on to where they were meant to go.
    """
    with _alone:
        heard, speaking = os.pipe()
        for end in (heard, speaking):
            os.set_blocking(end, False)
        kept = _standard_error()
        try:
            os.dup2(speaking, 2)
            result = call()
        finally:
            os.dup2(kept, 2)
            for descriptor in (kept, speaking):
                os.close(descriptor)
            lines = _everything(heard).splitlines(keepends=True)
            os.close(heard)
    complaints = [line for line in lines if any(text in line for text in COMPLAINTS)]
    others = [line for line in lines if line not in complaints and not line.startswith(CONTINUED)]
    with suppress(OSError):
        os.write(2, b"".join(others))
    return result, complaints[0].decode(errors="replace").strip() if complaints else ""


def _standard_error() -> int:
    """Another descriptor of it; one that was closed is made to lead nowhere."""
    try:
        return os.dup(2)
    except OSError:
        return os.open(os.devnull, os.O_WRONLY)


def _everything(descriptor: int) -> bytes:
    read = b""
    with suppress(BlockingIOError):  # a child that was started meanwhile holds the pipe open
        while more := os.read(descriptor, 1 << 16):
            read += more
    return read
