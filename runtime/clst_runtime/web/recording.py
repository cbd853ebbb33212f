"""Recording that is switched on and off while a run goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clst_runtime.errors import ClstError, ConfigError
from clst_runtime.results import Result
from clst_runtime.sinks.base import Sink

NO_FOLDER = "no folder for recordings was given when clst-run was started"


class Recorder:
    """One video after another into a folder. One thread writes, others switch."""

    def __init__(self, folder: Path | None, make_video: Callable[[Path], Sink]) -> None:
        """Args: make_video: opens a sink that writes to a path. folder: None = recording is impossible."""
        self.folder, self._make_video = folder, make_video
        self._writing, self._switching = threading.Lock(), threading.Lock()
        self._video: Sink | None = None
        self._path: Path | None = None
        self._used: set[Path] = set()
        self._frames, self._begun, self._message, self._failed = 0, 0.0, "", False

    def start(self) -> None:
        """Begin a new file with the next frame; nothing changes while one is written already.

        Raises:
            ConfigError: no folder was given.
        """
        if self.folder is None:
            raise ConfigError(f"recording is impossible: {NO_FOLDER}")
        with self._switching:
            if self._video is not None:
                return
            path = self._new_path(self.folder)
            video = self._make_video(path)
            with self._writing:
                self._frames, self._begun, self._message, self._failed = 0, time.monotonic(), "", False
                self._video, self._path = video, path

    def _new_path(self, folder: Path) -> Path:
        """A name of the time that no file has, whatever the clock does."""
        stem, number = time.strftime("overlay-%Y%m%d-%H%M%S"), 1
        path = folder / f"{stem}.mp4"
        while path in self._used or path.exists():
            number += 1
            path = folder / f"{stem}-{number}.mp4"
        self._used.add(path)
        return path

    def write(self, result: Result) -> None:
        """Append a frame if something is recorded. A failure ends the recording, not the caller."""
        with self._writing:
            if self._video is None:
                return
            try:
                self._video.write(result)
                self._frames += 1
                return
            except (ClstError, OSError) as error:
                words = _words(error)
        self.stop(words)

    def stop(self, failure: str = "") -> None:
        """Finish the file at hand, if there is one; returns when it is whole. `failure` is why it could not go on."""
        with self._switching:
            with self._writing:
                video, self._video = self._video, None
            if video is None:
                return
            try:
                video.close()
            except (ClstError, OSError) as error:
                failure = failure or _words(error)
            name = self._path.name if self._path is not None else ""
            saved = f"{name}: {self._frames} frames saved" if self._frames else "no frame came, so no file was made"
            self._failed, self._message = bool(failure), failure or saved

    def to_json(self) -> dict[str, Any]:
        """What the page shows of it."""
        with self._writing:
            active = self._video is not None
            return {
                "possible": self.folder is not None,
                "reason": NO_FOLDER if self.folder is None else "",
                "active": active,
                "file": self._path.name if self._path is not None else "",
                "frames": self._frames,
                "seconds": time.monotonic() - self._begun if active else 0.0,
                "message": self._message,
                "failed": self._failed,
            }


def _words(error: Exception) -> str:
    if isinstance(error, ClstError):
        return error.message
    reason = getattr(error, "strerror", None) or str(error)
    place = getattr(error, "filename", None)
    return f"{place}: {reason}" if place else str(reason)
