"""The ensemble in a checkpoint: a copy of the store beside resume.pt, which names it.

The working store is written to at every step, so after a kill it is ahead of the last checkpoint or half written; a run
never resumes from it. A checkpoint is made in this order, each file whole or not at all:

    1. ensemble-N.store   a copy of the store at iteration N
    2. resume.pt          names it, with its size and checksum
    3. other ensemble-*.store are removed

A kill before 2 is complete leaves the earlier resume.pt with the earlier copy; a kill after it leaves a copy too many,
which the next checkpoint removes.
"""

from __future__ import annotations

import errno
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from clst_runtime.errors import ModelFileError
from clst_runtime.system.files.atomic import written_whole
from clst_train.method.ensemble.store import StoreLayout, check_store
from clst_train.method.ensemble.temporal import TemporalEnsemble

_NOT_SUPPORTED = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def save_snapshot(ensemble: TemporalEnsemble, working: Path, checkpoints: Path, iteration: int) -> dict[str, Any]:
    """Copy the store at work into the folder `checkpoints`; returns the facts of the copy that resume.pt stores.

    Raises:
        DataError: the disk is full or the folder cannot be written; nothing half is left behind.
    """
    ensemble.flush()
    store = ensemble.store
    store.stamp(iteration)
    name = f"ensemble-{iteration}.store"
    with written_whole(checkpoints / name) as temporary:
        copy_file(working, temporary)
    return {
        "snapshot": name,
        "iteration": iteration,
        "bytes": len(store.content),
        "crc32": zlib.crc32(store.content.data),
    }


def restore_snapshot(state: dict[str, Any], checkpoints: Path, working: Path, layout: StoreLayout) -> None:
    """Put the copy that resume.pt names in the place of the store at work.

    Args:
        state: what `save_snapshot` returned.
        checkpoints: the folder with resume.pt and the copy.
        working: the store at work; whatever lies there is replaced.
        layout: what this run needs.

    Raises:
        ModelFileError: the copy is missing, damaged, of another run or of another checkpoint.
        DataError: the disk is full.
    """
    if "snapshot" not in state:
        raise ModelFileError(
            f"{checkpoints / 'resume.pt'} is of an earlier version, which kept the ensemble in it; adapt again by "
            f"clst-train --init {checkpoints / 'source.pt'}"
        )
    path, iteration = checkpoints / str(state["snapshot"]), int(state["iteration"])
    check_store(path, layout, iteration)
    found = zlib.crc32(np.memmap(path, mode="r").data)
    if found != state["crc32"]:
        raise ModelFileError(
            f"{path} is not the copy that resume.pt was saved with (checksum {found:08x}, expected "
            f"{state['crc32']:08x}); restore it, or adapt again by clst-train --init {checkpoints / 'source.pt'}"
        )
    with written_whole(working) as temporary:
        copy_file(path, temporary)


def remove_other_snapshots(checkpoints: Path, state: dict[str, Any]) -> None:
    """Remove the copies that resume.pt, as it lies there now, does not name."""
    for path in checkpoints.glob("ensemble-*.store"):
        if path.name != state["snapshot"]:
            path.unlink()


def copy_file(source: Path, destination: Path) -> None:
    """Copy a file's content within the kernel, which shares the blocks on file systems that can; else by reading.

    Raises:
        OSError: the disk is full, or one of the files cannot be used.
    """
    with source.open("rb") as reader, destination.open("r+b") as writer:
        left = os.fstat(reader.fileno()).st_size
        try:
            while left and (copied := os.copy_file_range(reader.fileno(), writer.fileno(), left)):
                left -= copied
        except AttributeError:  # not every system has it
            pass
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
        shutil.copyfileobj(reader, writer)  # from where the kernel stopped; usually nothing
