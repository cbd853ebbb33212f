"""The store of the temporal ensemble: a file for each process, with the averages of its share of the target images.

Image i is of process i mod R, as row i // R of its file, a `.npy` that is mapped into memory and may be larger:

    RUN/ensemble-r-of-R.npy                  at work; it runs ahead of the checkpoint, so no run resumes from it
    RUN/checkpoints/ensemble-N-r-of-R.npy    its copy at iteration N

Each is whole or not there, and a checkpoint is made in this order, so that a kill leaves resume.pt with its copies:

    1. each process copies its file   2. the first writes resume.pt, which names N and R   3. other copies are removed

Values are unsigned 16-bit fixed point: steps of 1/65535 everywhere. Those of float16 grow to 1/2048 near 1, where an
average with α = 0.9 would no longer move by predictions that differ by less than 0.0024.
Legend: I target images, R processes, r this one, C classes, h rows and w columns at output stride.
"""

from __future__ import annotations

import hashlib
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy

from clst_runtime.errors import ModelFileError
from clst_runtime.system.files.atomic import written_whole
from clst_train.compute.ranks import Ranks
from clst_train.data.target import TargetImages

Store = npt.NDArray[np.uint16]
"""Rows of images, C, h, w."""
Visits = npt.NDArray[np.int64]
"""I: how often each image was averaged in; 0 for those of other processes."""
Shape = tuple[int, int, int, int]
FULL_SCALE = 65535
"""The stored value of probability 1."""


def shape_of(here: Ranks, images: int, classes: int, size_hw: tuple[int, int]) -> Shape:
    """The shape of a process's store, whose bytes are twice its product."""
    return len(here.share(images)), classes, *size_hw


def create_store(path: Path, shape: Shape) -> Store:
    """Make an empty store, replacing what lies there; whole or not at all.

    Its zeros are really written: a full disk shows now, and not by a bus error hours later.

    Raises:
        DataError: the disk has no room for it, or the folder cannot be written.
    """
    row = bytes(2 * int(np.prod(shape[1:])))
    with written_whole(path) as temporary, temporary.open("wb") as stream:
        try:
            npy.write_array_header_2_0(stream, {"descr": "<u2", "fortran_order": False, "shape": shape})
            for _ in range(shape[0]):
                stream.write(row)
        except OSError as error:
            free = shutil.disk_usage(path.parent).free
            needed = f"the ensemble needs {shape[0] * len(row) / 2**20:.0f} MiB and {free / 2**20:.0f} MiB are free"
            raise OSError(error.errno, f"{error.strerror}, {needed}") from error
    return npy.open_memmap(path, mode="r+")


def save_copy(working: Path, checkpoints: Path, iteration: int, here: Ranks) -> None:
    """Copy the store at work, in which every update has arrived.

    Raises:
        DataError: the disk is full or the folder cannot be written; nothing half is left behind.
    """
    with written_whole(_copy(checkpoints, iteration, here.rank, here.count)) as temporary:
        shutil.copyfile(working, temporary)


def remove_other_copies(checkpoints: Path, iteration: int) -> None:
    """Remove the copies that resume.pt, as it lies there now, does not name; several processes may do so at once."""
    for path in checkpoints.glob("ensemble-*.npy"):
        if not path.name.startswith(f"ensemble-{iteration}-"):
            path.unlink(missing_ok=True)


def restore_store(store: Store, checkpoints: Path, iteration: int, processes: int, visits: Visits, here: Ranks) -> int:
    """Fill an empty store from the copies of a checkpoint, which as many `processes` made, not always as many as now.

    `visits` are those of all images; afterwards only those whose average is here.

    Returns:
        How many of this process's averages lie in no copy that it can read: on the disk of another machine.

    Raises:
        ModelFileError: a copy is damaged or of another run, or as many processes as now made it and it is missing.
    """
    lost, parts = 0, dict[int, Store | None]()
    kept = np.zeros_like(visits)
    for row, image in enumerate(here.share(len(visits))):
        part = image % processes
        if part not in parts:
            sharers = Ranks(rank=part, count=processes)
            shape = (len(sharers.share(len(visits))), *store.shape[1:])
            parts[part] = _opened(_copy(checkpoints, iteration, part, processes), shape, needed=processes == here.count)
        found = parts[part]
        if visits[image] and found is not None:
            store[row], kept[image] = found[image // processes], visits[image]
        lost += bool(visits[image]) and found is None
    visits[:] = kept
    return lost


def _copy(checkpoints: Path, iteration: int, rank: int, count: int) -> Path:
    return checkpoints / f"ensemble-{iteration}-{rank}-of-{count}.npy"


def _opened(path: Path, shape: tuple[int, ...], *, needed: bool) -> Store | None:
    if needed and not path.is_file():
        raise ModelFileError(f"{path}: no such copy of the ensemble; restore it, or start a new run")
    if not path.is_file():
        return None
    try:
        found: Any = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        raise ModelFileError(f"{path} is damaged; restore it, or start a new run") from error
    if found.shape != shape or found.dtype != np.uint16:
        raise ModelFileError(
            f"{path} is of another run: {found.dtype} of {found.shape}, expected uint16 of {shape}; restore the run's "
            "own files, settings and target images, or start a new run"
        )
    return found  # type: ignore[no-any-return]


def target_hash(target: TargetImages) -> str:
    """Hash of the target images' names and sizes in their order, of a video's frames themselves; not of folders."""
    digest = hashlib.sha256(f"fit {target.fit.value}\n".encode())
    for position, path in enumerate(target.paths):
        if path is None:
            digest.update(f"frame {zlib.crc32(target.video_frames[position].tobytes())}\n".encode())
        else:  # a file that has vanished is reported by whoever reads it
            digest.update(f"{path.name} {path.stat().st_size if path.is_file() else -1}\n".encode())
    return digest.hexdigest()[:16]
