"""Which files lie in a folder, and which of them are images or videos: one answer for every command.

The content decides, not the name. Where the content is not known, the suffix decides, except that text
is never a video: FFmpeg takes a playlist for one and opens what it names.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path

from clst_runtime.errors import DataError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".avi", ".mkv", ".webm", ".flv", ".f4v", ".wmv", ".asf", ".ogv",
    ".ts", ".mts", ".m2ts", ".m2t", ".mpg", ".mpeg", ".m2v", ".vob", ".mxf", ".dv", ".mjpg", ".mjpeg", ".ivf", ".y4m",
    ".h264", ".264", ".h265", ".265", ".hevc", ".gif", ".mcap", ".db3", ".bag",
})  # fmt: skip
RECORDING_SUFFIXES = frozenset({".mcap", ".db3", ".bag"})
"""Videos that are recordings of topics: MCAP, a file of a rosbag2, a bag of ROS 1."""
JPEGS_IN_A_ROW = frozenset({".mjpg", ".mjpeg"})
"""Videos that begin as an image does."""
NOT_THE_USERS = frozenset({"lost+found", "System Volume Information", "$RECYCLE.BIN", "__MACOSX", "@eaDir"})
"""Folders that file systems and archive programs make; they are left out as hidden ones are."""
HEAD_BYTES = 4096
_NOWHERE = (errno.ENOENT, errno.ELOOP)
_IMAGES = re.compile(
    rb"\x89PNG\r\n\x1a\n|\xff\xd8\xff|RIFF....WEBP|II[*+]\0|MM\0[*+]|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"
    rb"|....ftyp(?:hei|hev|mif|msf|avi[fs])",  # HEIF and AVIF: images in a video's container
    re.DOTALL,
)
_VIDEOS = re.compile(
    rb"\0...(?:ftyp|moov|wide|pnot|free|skip)|....mdat|\x1aE\xdf\xa3|RIFF....AVI |\0\0\x01[\xba\xb3]|FLV\x01"
    rb"|\0?\0\0\x01[\x67\x27\x47\x09\x40\x46]|0&\xb2u\x8ef\xcf\x11|OggS|\x06\x0e+4|DKIF|YUV4MPEG2|GIF8[79]a",
    re.DOTALL,
)
_RECORDINGS = re.compile(rb"\x89MCAP0\r\n|#ROSBAG V|SQLite format 3\0")
_BAG_FOLDER = b"rosbag2_bagfile_information:"
"""Stands in the `metadata.yaml` of a rosbag2."""
_TRANSPORT_STREAM = re.compile(rb"G(?:(?=(?:.{187}G){4})|(?=(?:.{191}G){4})|(?=(?:.{203}G){4}))", re.DOTALL)


class Kind(Enum):
    """What a file holds."""

    IMAGE = "picture"
    VIDEO = "video"


def kind_of(path: Path) -> Kind | None:
    """Whether a file is an image or a video; None where it is neither.

    Raises:
        DataError: it cannot be opened.
    """
    suffix = path.suffix.lower()
    try:
        head = _head(path)
    except OSError as error:
        if error.errno in _NOWHERE and suffix not in IMAGE_SUFFIXES | VIDEO_SUFFIXES:
            return None
        reason = "no such file, a link that leads nowhere" if error.errno in _NOWHERE else error.strerror
        raise DataError(f"{path}: {reason}; make it readable, or take it out") from error
    if _IMAGES.match(head) and suffix not in JPEGS_IN_A_ROW:
        return Kind.IMAGE
    text = _is_text(head)
    if _is_recording(head, suffix) or _VIDEOS.match(head) or (_TRANSPORT_STREAM.search(head) and not text):
        return Kind.VIDEO
    if suffix in IMAGE_SUFFIXES:
        return Kind.IMAGE
    return Kind.VIDEO if suffix in VIDEO_SUFFIXES and not text else None


def is_video(place: Path) -> bool:
    """Whether there is such a file, and it is a video; a recording's place may have options, and be a folder.

    Raises:
        DataError: it cannot be opened.
    """
    path, _ = split_options(place)
    return kind_of(path) is Kind.VIDEO if os.path.isfile(path) else is_bag_folder(path)


def split_options(place: Path) -> tuple[Path, str]:
    """The file or folder of a place, and what stands behind its `?`, as in `drive.mcap?topic=/front`."""
    before, found, options = str(place).partition("?")
    return (Path(before), options) if found and not os.path.exists(place) else (place, "")


def is_recording(path: Path) -> bool:
    """Whether a video, or a folder, is a recording of topics.

    Raises:
        OSError: it cannot be opened.
    """
    return is_bag_folder(path) if path.is_dir() else _is_recording(_head(path), path.suffix.lower())


def is_bag_folder(folder: Path) -> bool:
    """Whether it is the folder of a rosbag2."""
    try:
        return _BAG_FOLDER in _head(folder / "metadata.yaml")
    except OSError:
        return False


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(HEAD_BYTES)


def _is_recording(head: bytes, suffix: str) -> bool:
    """By its content, which other databases have, too; where that is not known by the suffix."""
    found = _RECORDINGS.match(head)
    if suffix in RECORDING_SUFFIXES:
        return found is not None or not (_IMAGES.match(head) or _VIDEOS.match(head) or _is_text(head))
    return found is not None and not head.startswith(b"SQLite")


def _is_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    try:
        head[:-4].decode()  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return bool(head) and b"\0" not in head


def files_below(folder: Path) -> list[Path]:
    """Every file below a folder that is not hidden, sorted by its path.

    Linked folders are followed, each real folder once and by its own path rather than by a link's. Devices, pipes and
    sockets are no files; a link that leads nowhere is one.

    Raises:
        DataError: a folder cannot be read.
    """
    found: list[Path] = []
    seen: set[str] = set()
    folders, links = [folder], list[Path]()
    while folders or links:
        place = folders.pop() if folders else links.pop(0)
        real = os.path.realpath(place)
        if real in seen:
            continue
        seen.add(real)
        for entry in _entries(place):
            if entry.name.startswith(".") or entry.name in NOT_THE_USERS:
                continue
            path = place / entry.name
            if path.is_dir():
                (links if entry.is_symlink() else folders).append(path)
            elif path.is_file() or not os.path.exists(path):
                found.append(path)
        links.sort()
    return sorted(found)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}; make the folder readable, or take it out") from error


def images_below(folder: Path) -> list[Path]:
    """The images among `files_below`; none where there is no such folder.

    Raises:
        DataError: a folder or a file cannot be read.
    """
    return [path for path in files_below(folder) if kind_of(path) is Kind.IMAGE] if folder.is_dir() else []


def without_suffix(path: Path) -> Path:
    """The path without the suffix of an image or video; another point in a name is a part of it."""
    return path.with_suffix("") if path.suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES else path


@contextmanager
def name_for_opencv(path: Path) -> Iterator[str]:
    """A name by which OpenCV opens or makes this very file: of a relative one it takes what stands before a colon for a
    protocol, a percent sign begins a row of images, and what is not UTF-8 ends the process.

    Raises:
        DataError: there is no such name.
    """
    whole = os.path.abspath(path)
    try:
        whole.encode()
    except UnicodeEncodeError:
        pass
    else:
        if "%" not in whole or not os.path.exists(whole):
            yield whole
            return
    if not os.path.exists(whole):
        raise DataError(f"{path}: no name in UTF-8; give it one that is")
    with tempfile.TemporaryDirectory() as folder:
        link = os.path.join(folder, "video" + (path.suffix if path.suffix.lower() in VIDEO_SUFFIXES else ""))
        os.symlink(whole, link)
        yield link
