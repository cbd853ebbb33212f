"""A sink whose file grows with every result and outlives the program, however that ends."""

from __future__ import annotations

import os
import shutil
from abc import abstractmethod
from itertools import chain, count
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from clst_runtime.errors import DataError
from clst_runtime.live.results import Result
from clst_runtime.live.sinks.base import Sink
from clst_runtime.live.sinks.growing_file import flush_folder

FREE_FLOOR_BYTES = 64 << 20
"""A recording ends while so much of the disk is still free: room to finish the file, and for everybody else."""


class Growing(Protocol):
    """A file of frames that grows."""

    frames: int
    """Frames that are in the file; they stay readable whatever happens to the program."""
    given: int
    """Frames that were added."""

    def finish(self) -> None:
        """Write what is still held and close; the file is closed also when that fails. Raises: OSError."""


File = TypeVar("File", bound=Growing)


class GrowingSink(Sink, Generic[File]):
    """While the file grows it is named `<stem>-unfinished<suffix>`.

    After an end without warning that file is readable but for its last second or so, and no later run writes over it.
    """

    def __init__(self, path: Path) -> None:
        """Args: path: what the whole file is called; it is made with the first frame."""
        self.path = self._unfinished = path
        self._file: File | None = None

    @abstractmethod
    def _begin(self, path: Path, result: Result) -> File:
        """Make the file, which must not exist, for frames like this one. Raises: OSError: it cannot be made."""

    @abstractmethod
    def _add(self, file: File, result: Result) -> None:
        """Append one frame. Raises: OSError: the file cannot grow."""

    def write(self, result: Result) -> None:
        """Append one frame.

        Raises:
            DataError: the disk is full or nearly so, or the file cannot be made; what was recorded until then is kept.
        """
        try:
            if self._file is None:
                self._unfinished = unfinished_path(self.path)
                self._file = self._begin(self._unfinished, result)
            self._check_room(self._file)
            self._add(self._file, result)
        except OSError as error:
            raise self._failed(error, self._end()[1]) from error

    def _check_room(self, file: File) -> None:
        if shutil.disk_usage(self.path.parent).free < FREE_FLOOR_BYTES:
            raise DataError(
                f"{self.path.parent}: less than {FREE_FLOOR_BYTES >> 20} MiB free on the disk; recording ended after "
                f"{file.given} frames, free some space or write to another place"
            )

    def close(self) -> None:
        """Finish the file and give it its name; a second call does nothing.

        Raises:
            DataError: it does not hold every frame, and so keeps the name of an unfinished one.
        """
        failure, kept = self._end()
        if failure is not None:
            raise self._failed(failure, kept) from failure

    def _failed(self, error: OSError, kept: str) -> DataError:
        return DataError(f"cannot write {self.path}: {error.strerror or error}; {kept}")

    def _end(self) -> tuple[OSError | None, str]:
        """Finish once; what went wrong, and what is kept where."""
        file, self._file = self._file, None
        if file is None:
            return None, "nothing was recorded"
        failure, kept_as = None, self._unfinished
        try:
            file.finish()
            if file.frames:
                give_name(self._unfinished, self.path)
                kept_as = self.path
        except OSError as error:
            failure = error
        if not file.frames:
            self._unfinished.unlink(missing_ok=True)
            return failure, "nothing was recorded"
        return failure, f"its first {file.frames} frames are kept in {kept_as}"


def unfinished_path(path: Path) -> Path:
    """A name for a file while it grows, that nothing has but what a run left that was killed in its first second."""
    names = chain([""], (f"-{number}" for number in count(2)))
    paths = (path.with_name(f"{path.stem}-unfinished{name}{path.suffix}") for name in names)
    unfinished = next(path for path in paths if not path.exists() or path.stat().st_size == 0)
    unfinished.unlink(missing_ok=True)
    return unfinished


def give_name(unfinished: Path, path: Path) -> None:
    """Give a whole file its name. Raises: OSError."""
    os.replace(unfinished, path)
    flush_folder(path.parent)
