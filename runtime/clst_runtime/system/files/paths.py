"""Checks of the paths that a command was given, before any work; the message fits what is there."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterable
from pathlib import Path

from clst_runtime.errors import ClstError, DataError, ModelFileError
from clst_runtime.system.files.atomic import check_can_write

_log = logging.getLogger(__name__)


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
    """The newest result of a run whose folder is given: adapted, else source, which is logged; else the path itself.

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
    if found[0].stem == "source":
        _log.warning(f"{path} has no adapted.pt; taking {found[0]}, which knows the old camera only")
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
