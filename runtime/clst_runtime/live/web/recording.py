"""Recording that is switched on and off while a run goes on."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from clst_runtime.errors import ConfigError, message_of
from clst_runtime.live.results import Result
from clst_runtime.live.sinks.base import Sink
from clst_runtime.live.sinks.video_files import video_suffix

FINISHED_SHOWN = 50
"""Finished recordings of this run that can be fetched; the oldest are left out when there are more."""
NO_FOLDER = "no folder for recordings was given when clst-run was started"


class Recorder:
    """One video after another into a folder. One thread writes, others switch, and any may ask without waiting."""

    def __init__(self, folder: Path | None, make_video: Callable[[Path], Sink]) -> None:
        """Args: make_video: opens a sink that writes to a path. folder: None = recording is impossible."""
        self.folder, self._make_video = folder, make_video
        self._writing, self._switching = threading.Lock(), threading.Lock()
        self._video: Sink | None = None
        self._path: Path | None = None
        self._used: set[Path] = set()
        self._frames, self._begun, self._message, self._failed = 0, 0.0, "", False
        self._finished: deque[dict[str, Any]] = deque(maxlen=FINISHED_SHOWN)

    def start(self) -> None:
        """Begin a new file with the next frame; nothing changes while one is written already.

        Raises:
            ConfigError: no folder was given, or it cannot be used.
        """
        if self.folder is None:
            raise ConfigError(f"recording is impossible: {NO_FOLDER}")
        with self._switching:
            if self._video is not None:
                return
            try:
                path = self._new_path(self.folder)
                video = self._make_video(path)
            except Exception as error:
                self._failed, self._message = True, f"recording is impossible: {message_of(error)}"
                raise ConfigError(self._message) from error
            with self._writing:
                self._frames, self._begun, self._message, self._failed = 0, time.monotonic(), "", False
                self._path = path
                self._video = video  # last, so that who sees it sees what belongs to it

    def _new_path(self, folder: Path) -> Path:
        """A name of the time that no file has, whatever the clock does."""
        stem, suffix, number = time.strftime("overlay-%Y%m%d-%H%M%S"), video_suffix(), 1
        path = folder / f"{stem}{suffix}"
        while path in self._used or path.exists():
            number += 1
            path = folder / f"{stem}-{number}{suffix}"
        self._used.add(path)
        return path

    def write(self, result: Result) -> None:
        """Append a frame if something is recorded. A failure ends the recording, not the caller."""
        with self._writing:
            video, path = self._video, self._path
            if video is None:
                return
            try:
                video.write(result)
                self._frames += 1
                return
            except Exception as error:  # noqa: BLE001  OpenCV's are none of ours, and the page must go on
                # reported and taken away before anybody else can stop it as if it were whole, or begin another one
                self._failed, self._message, self._video = True, message_of(error), None
                frames = self._frames
        with suppress(Exception):  # the first failure is the one to report
            video.close()
            self._keep(path, frames)

    def stop(self) -> None:
        """Finish the file at hand, if there is one; returns when it is whole. Never fails: errors are reported."""
        with self._switching:
            with self._writing:
                video, frames, path = self._video, self._frames, self._path
                if video is None:
                    return
                name = path.name if path is not None else ""
                self._message, self._video = f"{name}: being finished", None
            failure = ""
            try:
                video.close()
                self._keep(path, frames)
            except Exception as error:  # noqa: BLE001  the page has to end all the same
                failure = message_of(error)
            saved = f"{name}: {frames} frames saved" if frames else "no frame came, so no file was made"
            with self._writing:
                self._failed, self._message = bool(failure), failure or saved

    def _keep(self, path: Path | None, frames: int) -> None:
        if path is not None and path.is_file():
            mib = round(path.stat().st_size / 2**20, 1)
            self._finished.append({"file": path.name, "frames": frames, "mib": mib})

    def finished(self, name: str) -> Path | None:
        """The finished recording of this run that is called so; no other file has a way out of the folder."""
        known = any(each["file"] == name for each in list(self._finished))
        return self.folder / name if known and self.folder is not None else None

    def to_json(self) -> dict[str, Any]:
        """What the page shows of it. No lock: a disk that hangs in a frame must not hold up the page's event loop."""
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
            "finished": list(self._finished),
        }
