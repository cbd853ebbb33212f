"""A file takes its name only when it is whole: written beside it, flushed to disk, then renamed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clst_runtime.errors import DataError


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; on success it becomes `path`, on any error it vanishes.

    The temporary name keeps the suffix of `path`, because OpenCV and others choose a format by it.

    Raises:
        DataError: the folder cannot be written, the disk is full, or something that is no file has the name.
    """
    temporary = None
    _refuse_device(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem[:40]}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        os.chmod(temporary, 0o666 & ~_umask())
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}; nothing of it was left behind") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary folder; on success it becomes `path`, which may be there if it is empty, else it vanishes.

    Raises:
        DataError: it cannot be written, or the disk is full.
    """
    temporary = None
    try:
        place = path if path.is_dir() else path.parent
        place.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name[:40]}-", dir=place))
        os.chmod(temporary, 0o777 & ~_umask())
        yield temporary
        if place == path:
            for each in temporary.iterdir():
                os.replace(each, path / each.name)
        else:
            os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}; nothing of it was left behind") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def check_can_write(path: Path) -> None:
    """Find out before long work whether `path` could be written afterwards; leaves nothing.

    Raises:
        DataError: it is there and no file; the nearest folder above it that exists is none, or cannot be written.
    """
    _refuse_device(path)
    if path.is_dir():
        raise DataError(f"cannot write {path}: it is a folder; give a file")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir():
        raise DataError(f"cannot write {path}: {above} is a file; give another place")
    try:
        with tempfile.NamedTemporaryFile(prefix=".probe-", dir=above):
            pass
    except OSError as error:
        raise DataError(f"cannot write {path}: {above}: {error.strerror or error}; give another place") from error


def _refuse_device(path: Path) -> None:
    """A file would take the place of /dev/null, for everybody."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError(f"cannot write {path}: it is a device or a pipe, whose place a file would take; give a file")


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` as UTF-8, whole or not at all."""
    write_bytes(path, content.encode())


def _umask() -> int:
    """This process's file mode mask (it can only be read by setting it)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
