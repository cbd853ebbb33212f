"""Checks of the paths that a command was given, before any work; the message fits what is there."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterable
from pathlib import Path

from clst_runtime.errors import ClstError, DataError, ModelFileError
from clst_runtime.system.files.atomic import check_can_write

_log = logging.getLogger(__name__)
CHECKPOINT_MARK = b"clst-checkpoint-"
"""Stands in every checkpoint of training, followed by the number of its format."""


def in_utf_8(text: str) -> bool:
    """Whether it can be written in UTF-8; a path may have other bytes in it."""
    return text.encode(errors="ignore").decode() == text


def check_folder(place: Path) -> None:
    """Refuse by DataError what is no folder."""
    if not place.is_dir():
        raise DataError(f"{place}: {'not a folder' if place.exists() else 'no such folder'}")


def check_file(path: Path, what: str = "file", error: type[ClstError] = DataError) -> None:
    """Refuse by an error of the given kind what is no file; `what` it should be."""
    if not path.is_file():
        raise error(f"{path}: {'a folder, where a file is needed' if path.is_dir() else f'no such {what}'}")


def checkpoint_of(path: Path) -> Path:
    """As `newest_result`; a warning is logged where the run has not adapted.

    Raises:
        ModelFileError: the run has no result yet.
    """
    found = newest_result(path)
    if found != path and found.stem == "source":
        _log.warning(f"{path} has no adapted.pt; taking {found}, which knows the old camera only")
    return found


def newest_result(path: Path) -> Path:
    """The newest result of a run whose folder is given, adapted or else source; else the path itself.

    Raises:
        ModelFileError: the run has no result yet.
    """
    checkpoints = path / "checkpoints"
    if not path.is_dir() or not ((path / "config.toml").is_file() or checkpoints.is_dir()):
        return path
    found = [file for name in ("adapted", "source") if (file := checkpoints / f"{name}.pt").is_file()]
    if not found:
        raise ModelFileError(
            f"{path}: the run has no result yet (checkpoints/adapted.pt or source.pt); "
            f"go on with it: clst-train --resume {path}"
        )
    return found[0]


def check_checkpoint(path: Path) -> None:
    """Refuse, without PyTorch, what cannot be a checkpoint; PyTorch itself does not look at check sums.

    Raises:
        ModelFileError: missing, a folder, cut short, changed since it was written, or of another kind.
    """
    check_file(path, "checkpoint", ModelFileError)
    if not zipfile.is_zipfile(path):
        raise ModelFileError(f"{path} is damaged or no PyTorch checkpoint (it is no whole archive)")
    try:
        with zipfile.ZipFile(path) as archive:
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
            damaged = archive.testzip() if stored else None
    except (zipfile.BadZipFile, RuntimeError, EOFError) as error:  # RuntimeError: encrypted
        raise ModelFileError(f"{path} is damaged or no PyTorch checkpoint ({error})") from error
    if not stored:
        raise ModelFileError(f"{path} is no PyTorch checkpoint (its archive is compressed)")
    if damaged is not None:
        raise ModelFileError(f"{path} is damaged (a check sum in it does not hold); copy it again or train again")


def is_checkpoint(path: Path) -> bool:
    """Whether a file was written by training, as far as can be seen without PyTorch."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        pickles = [entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")]
        return any(
            entry.compress_type == zipfile.ZIP_STORED and CHECKPOINT_MARK in archive.read(entry) for entry in pickles
        )


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: the length of a header in JSON, and the header."""
    with path.open("rb") as stream:
        beginning = stream.read(9)
    return path.suffix == ".safetensors" or (beginning[8:] == b"{" and beginning[5:8] == bytes(3))


def is_torchscript(path: Path) -> bool:
    """Whether a file is an archive with TorchScript's code in it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def check_weights(path: Path, what: str = "file of weights") -> None:
    """Refuse, without PyTorch, what cannot be a file of weights, of this or another project; `what` it should be.

    Raises:
        ModelFileError: missing, a folder, empty, cut short, or a text.
    """
    check_file(path, what, ModelFileError)
    with path.open("rb") as stream:
        beginning = stream.read(40)
    if not beginning:
        raise ModelFileError(f"{path} is empty (0 bytes); copy it again")
    if beginning.startswith(b"PK"):
        if not is_torchscript(path):  # in which code is compressed
            check_checkpoint(path)
        return
    line = beginning.splitlines()[0]
    if not is_safetensors(path) and line.isascii() and line.decode("ascii").isprintable():
        raise ModelFileError(f"{path} is no file of weights: it begins with {line.decode('ascii')!r}")


def check_new_folder(path: Path, *, hint: str, leftovers: Iterable[str] = ()) -> None:
    """Find out before any work that a folder can be made; one that is there has to be empty but for `leftovers`.

    Args:
        hint: what to do where it is in use.
        leftovers: beginnings of names of files that do not count.

    Raises:
        DataError: it is in use, or cannot be made.
    """
    if path.exists() and not path.is_dir():
        raise DataError(f"{path} is a file; {hint}")
    if path.is_dir() and any(not each.name.startswith(tuple(leftovers)) for each in path.iterdir()):
        raise DataError(f"{path} exists and is not empty; {hint}")
    check_can_write(path / "file")
