"""A folder for the results of one run at a time, which a failed start leaves as it was."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from clst_runtime.errors import DataError

_log = logging.getLogger(__name__)

FILES = re.compile(r"overlay(-unfinished(-\d+)?)?\.(mp4|mkv)|frames\.jsonl|statistics\.jsonl?|legend\.png")
"""What a run writes into its folder, by name."""
RECORDINGS = re.compile(r"overlay-\d{8}-\d{6}(-\d+)?(-unfinished(-\d+)?)?\.(mp4|mkv)")
"""What viewers of the page record, in `recordings`."""
CAMERA_NAME = re.compile(r"[a-z][a-z0-9_]*")
"""What a camera may be called, and so a folder of its results."""
IMAGE_FOLDERS = ("masks", "overlays")
"""Folders with an image a frame."""
RECORDING_FOLDER = "recordings"
"""Folder of what viewers of the page record."""
UNFINISHED = re.compile(r"\.(?P<stem>.+)-[a-z0-9_]{8}(?P<suffix>\.\w+)")
"""What a killed run leaves beside a file that it was writing."""
NUMBERED = re.compile(r"\d{6,}")
"""Names of the frames of videos and cameras."""


class OutFolder:
    """Locked against other runs while it is open; `begin` takes away what an older run left. Made by `claimed`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.begun = False
        """Whether results may be written into it."""

    def begin(self) -> None:
        """Remove an older run's files, also those of its cameras: there is something to take their place.

        Raises:
            DataError: one cannot be removed.
        """
        if self.begun:
            return
        places = [self.path, *_older_cameras(self.path)]
        try:
            for old in [*older_files(self.path)]:
                old.unlink(missing_ok=True)
            for place in places:
                for name in (*IMAGE_FOLDERS, RECORDING_FOLDER):
                    for folder, _, _ in os.walk(place / name, topdown=False):
                        _remove_empty(Path(folder))
        except OSError as error:
            raise DataError(f"{error.filename}: an older run's file cannot be removed: {error.strerror}") from error
        self.begun = True


@contextmanager
def claimed(
    path: Path, *, overwrite: bool, strange: Iterable[str] = (), sources: Iterable[str] = ()
) -> Iterator[OutFolder]:
    """Make the folder, or take one that is empty or may be overwritten; without `begin` it is left as it was found.

    Args:
        overwrite: whether it may hold an older run's files.
        strange: its folders that images of frames will go to, so that no others may be there.
        sources: what the run reads, paths or addresses.

    Raises:
        DataError: it is no folder, is in use, cannot be written, or holds files that would be taken for this run's, or
            an older run's that this one is to read.
    """
    with locked(path):
        if any(path.iterdir()) and not overwrite:
            raise DataError(f"{path} exists and is not empty; give another --out or --overwrite")
        ours = set(older_files(path))
        for source in sources:
            if _is_among(source, path, ours):
                raise DataError(f"{source} is read by this run and removed by --overwrite; give another --out")
        for name in strange:
            others = [each for each in sorted((path / name).rglob("*.png")) if each not in ours]
            if others:
                raise DataError(
                    f"{others[0]} is not known to be of an older run; move {path / name}, or give another --out"
                )
        if not os.access(path, os.W_OK | os.X_OK):
            raise DataError(f"cannot write into {path}: it may not be written; give another --out")
        yield OutFolder(path)


def _is_among(source: str, path: Path, files: Iterable[Path]) -> bool:
    """Whether a source within the folder is one of its files, or holds some; of one around it they are left out."""
    read, root = Path(os.path.realpath(source)), Path(os.path.realpath(path))
    places = [root / each.relative_to(path) for each in files]
    return root in read.parents and any(read in (place, *place.parents) for place in places)


def older_files(path: Path) -> Iterator[Path]:
    """What a run has left in the folder, as far as that is sure: masks and overlays of frames that it has logged."""
    for camera in [path, *_older_cameras(path)]:
        if camera.is_dir():
            yield from _older_files_of_one(camera)


def _older_files_of_one(path: Path) -> Iterator[Path]:
    for place in path.iterdir():
        if FILES.fullmatch(_finished(place.name)) and not place.is_dir():
            yield place
    for place in (path / RECORDING_FOLDER).glob("*"):
        if RECORDINGS.fullmatch(_finished(place.name)):
            yield place
    names = _logged_frames(path / "frames.jsonl")
    if names is None:
        return
    for folder in (path / name for name in IMAGE_FOLDERS):
        for place in folder.rglob("*.png"):
            frame = str(place.relative_to(folder).with_name(_finished(place.name)).with_suffix(""))
            if frame in names or NUMBERED.fullmatch(frame):
                yield place


def _older_cameras(path: Path) -> list[Path]:
    """The folders of the cameras of a run that had several, by its report."""
    try:
        names = [*json.loads((path / "statistics.json").read_text())["cameras"].keys()]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return []
    return [path / name for name in names if CAMERA_NAME.fullmatch(name)]


def _finished(name: str) -> str:
    unfinished = UNFINISHED.fullmatch(name)
    return name if unfinished is None else unfinished["stem"] + unfinished["suffix"]


def _logged_frames(path: Path) -> set[str] | None:
    """Names in a log of frames; None where there is no such log."""
    names = set[str]()
    try:
        with path.open() as lines:  # of a long drive it may not fit into memory
            for line in lines:
                with suppress(ValueError, TypeError, KeyError):
                    names.add(str(json.loads(line)["name"]))
    except (OSError, ValueError):
        return None
    return names


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a folder, made if need be, against every other run; the lock ends with the process, however that ends.

    Afterwards a folder that was made and is still empty is removed.

    Raises:
        DataError: it is no folder, cannot be made, or another run holds it.
    """
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = _lock(path)
    except OSError as error:
        raise DataError(f"{path} cannot be used as a folder: {error.strerror}; give another one") from error
    try:
        yield
    finally:
        for folder in made:
            _remove_empty(folder)
        os.close(descriptor)


def _lock(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise DataError(f"{path} is in use by another run{_holder(path)}; give another folder") from None
        except OSError as error:  # some network disks
            _log.warning(f"{path} cannot be locked ({error.strerror}): let no other run write there")
            return descriptor
        with suppress(FileNotFoundError):  # its last holder may have removed it just before
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)
        path.mkdir(parents=True, exist_ok=True)


def _holder(path: Path) -> str:
    """The process that holds the lock, where the system reports it."""
    with suppress(OSError, IndexError):
        facts = path.stat()
        number = f"{os.major(facts.st_dev):02x}:{os.minor(facts.st_dev):02x}:{facts.st_ino}"
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5] == number:
                return f" (process {fields[4]})"
    return ""


def _remove_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT, errno.EACCES, errno.EBUSY, errno.EROFS):
            raise
