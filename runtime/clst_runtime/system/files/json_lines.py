"""A file of JSON lines that always ends with a whole line."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from clst_runtime.errors import DataError


class JsonLines:
    """Appends one object a line, each whole or not at all, also when the disk is full."""

    def __init__(self, path: Path) -> None:
        """The first line makes the file, an empty one before it, and its folder."""
        self.path = path
        self._stream: io.FileIO | None = None
        self._whole_bytes = 0

    def append(self, facts: dict[str, Any]) -> None:
        """Write one line.

        Raises:
            DataError: it could not be written whole; the file ends with the line before.
        """
        line = json.dumps(facts).encode() + b"\n"
        written, reason = 0, "disk full"
        try:
            if self._stream is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._stream = io.FileIO(self.path, "w")
            written = self._stream.write(line)
        except OSError as error:
            reason = error.strerror or str(error)
        if written != len(line):  # a full disk may also take a part without an error
            if self._stream is not None:
                self._stream.truncate(self._whole_bytes)
            raise DataError(f"cannot write {self.path}: {reason}; it ends with the last whole line")
        self._whole_bytes += len(line)

    def close(self) -> None:
        """Finish the file; a second call does nothing."""
        if self._stream is not None:
            self._stream.close()
