"""The file of the temporal ensemble: a header that identifies the run, the visits, a record for each target image.

The records are mapped into memory, so a store larger than the memory works too, and processes can share it.
The file is allocated whole when it is made: a full disk shows then, not as a bus error hours later.
Legend: I target images, C classes, k stored classes, h rows and w columns at output stride.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import shutil
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_runtime.errors import ConfigError, ModelFileError
from clst_runtime.imaging.geometry import Fit
from clst_runtime.system.files.atomic import written_whole
from clst_train.config import AdaptationConfig
from clst_train.data.target import TargetImages

FORMAT = "clst-ensemble-1"
SMALL_BYTES = 256 * 2**20
"""Up to this size `auto` keeps every class."""
_HEADER_BYTES = 4096
_BLOCK_BYTES = 4096
_NOT_SUPPORTED = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV)


@dataclass(frozen=True, kw_only=True)
class StoreLayout:
    """What a store holds, and of which run."""

    images: int
    """I."""
    classes: int
    """C."""
    size_hw: tuple[int, int]
    """h, w."""
    top_k: int | None
    """k; None = every class is stored."""
    target: str
    """Hash of the run's list of target images."""

    def __post_init__(self) -> None:
        if not 1 <= self.classes <= 256:
            raise ConfigError(f"a store of {self.classes} classes; 1 to 256 are possible (a class id is one byte)")
        if self.top_k is not None and not 1 <= self.top_k < self.classes:
            raise ConfigError(
                f"adaptation.ensemble_top_k = {self.top_k} of {self.classes} classes; give 1 to {self.classes - 1}, "
                'or adaptation.ensemble_store = "exact"'
            )

    @property
    def record(self) -> np.dtype[Any]:
        """One image: 16-bit values k,h,w, with top-k their class ids, and visits h,w."""
        kept = self.classes if self.top_k is None else self.top_k
        fields: list[Any] = [("values", np.int16, (kept, *self.size_hw)), ("visits", np.uint8, self.size_hw)]
        if self.top_k is not None:
            fields.append(("classes", np.uint8, (kept, *self.size_hw)))
        return np.dtype(fields, align=True)

    @property
    def records_start(self) -> int:
        """Where the records begin in the file, in bytes: after the header and I 32-bit visits, at a whole block."""
        return _HEADER_BYTES + -(-4 * self.images // _BLOCK_BYTES) * _BLOCK_BYTES

    @property
    def file_bytes(self) -> int:
        """Size of the file."""
        return self.records_start + self.images * self.record.itemsize


def choose_layout(
    settings: AdaptationConfig, *, images: int, classes: int, size_hw: tuple[int, int], target: str
) -> StoreLayout:
    """The layout that `adaptation.ensemble_store` asks for; `auto` keeps every class where that is small.

    Raises:
        ConfigError: `adaptation.ensemble_top_k` does not fit the number of classes.
    """
    exact = StoreLayout(images=images, classes=classes, size_hw=size_hw, top_k=None, target=target)
    few = 3 * settings.ensemble_top_k >= 2 * classes  # k values with ids would be no smaller
    if settings.ensemble_store == "exact":
        return exact
    if settings.ensemble_store == "auto" and (exact.file_bytes <= SMALL_BYTES or few):
        return exact
    return StoreLayout(images=images, classes=classes, size_hw=size_hw, top_k=settings.ensemble_top_k, target=target)


def target_hash(target: TargetImages) -> str:
    """Hash of the target images' names and sizes in their order, of a video's frames themselves; not of folders."""
    digest = hashlib.sha256()
    if target.fit is not Fit.STRETCH:  # hashes from before there was a choice stay valid
        digest.update(f"fit {target.fit.value}\n".encode())
    for position, path in enumerate(target.paths):
        if path is None:
            digest.update(f"frame {zlib.crc32(target.video_frames[position].tobytes())}\n".encode())
        else:  # a file that has vanished is reported by whoever reads it
            digest.update(f"{path.name} {path.stat().st_size if path.is_file() else -1}\n".encode())
    return digest.hexdigest()[:16]


class EnsembleStore:
    """An open store; what is written to `visits` and `records` is in the file."""

    def __init__(self, layout: StoreLayout, content: npt.NDArray[np.uint8], mapping: mmap.mmap | None = None) -> None:
        self.layout = layout
        self.content = content
        """The whole file, bytes."""
        self.visits: npt.NDArray[np.uint32] = content[_HEADER_BYTES : _HEADER_BYTES + 4 * layout.images].view(np.uint32)
        """I: updates that each image took part in."""
        self.records: npt.NDArray[Any] = content[layout.records_start :].view(layout.record)
        """I records."""
        self._mapping = mapping

    @staticmethod
    def create(path: Path, layout: StoreLayout) -> EnsembleStore:
        """Make an empty store, replacing what lies there; whole or not at all.

        Raises:
            DataError: the disk has no room for it, or the folder cannot be written.
        """
        with written_whole(path) as temporary, temporary.open("r+b") as stream:
            _allocate(stream.fileno(), layout, path)
            stream.write(_header(layout, 0))
        return EnsembleStore.open(path, layout, 0)

    @staticmethod
    def open(path: Path, layout: StoreLayout, iteration: int) -> EnsembleStore:
        """Open the store of this run, as it was at an iteration.

        Raises:
            ModelFileError: missing, damaged, of another run or of another iteration.
        """
        check_store(path, layout, iteration)
        with path.open("r+b") as stream:
            mapping = mmap.mmap(stream.fileno(), layout.file_bytes)
        return EnsembleStore(layout, np.frombuffer(mapping, np.uint8), mapping)

    def stamp(self, iteration: int) -> None:
        """Write into the header which iteration the content belongs to."""
        self.content[:_HEADER_BYTES] = np.frombuffer(_header(self.layout, iteration), np.uint8)

    def expect(self, indices: npt.NDArray[np.int64]) -> None:
        """Let the system read some images' records ahead; returns at once, from any thread."""
        if self._mapping is None or not hasattr(mmap, "MADV_WILLNEED"):
            return
        for index in indices:
            first = self.layout.records_start + int(index) * self.layout.record.itemsize
            start = first - first % mmap.PAGESIZE
            self._mapping.madvise(mmap.MADV_WILLNEED, start, first + self.layout.record.itemsize - start)


def check_store(path: Path, layout: StoreLayout, iteration: int) -> None:
    """Refuse a file that is not the store of this run at this iteration.

    Raises:
        ModelFileError: it is another one.
    """
    if not path.is_file():
        raise ModelFileError(f"{path}: no such store of the ensemble; restore it, or start a new run")
    with path.open("rb") as stream:
        head = stream.read(_HEADER_BYTES)
    try:
        found = json.loads(head)
        form = found.get("format")
    except (ValueError, AttributeError) as error:
        raise ModelFileError(
            f"{path} is damaged or no store of the ensemble; restore it, or start a new run"
        ) from error
    if form != FORMAT:
        raise ModelFileError(f"{path}: store format {form!r}, expected {FORMAT!r}; start a new run with this version")
    expected = json.loads(_header(layout, iteration))
    differing = [name for name in expected if found.get(name) != expected[name]]
    if differing:
        facts = "; ".join(f"{name} {found.get(name)}, expected {expected[name]}" for name in differing)
        raise ModelFileError(
            f"{path} is the store of another run or moment ({facts}); restore the run's own files, settings and "
            "target images, or start a new run"
        )
    size = path.stat().st_size
    if size != layout.file_bytes:
        raise ModelFileError(f"{path} has {size} bytes, expected {layout.file_bytes}; restore it, or start a new run")


def _header(layout: StoreLayout, iteration: int) -> bytes:
    text = json.dumps({"format": FORMAT, **asdict(layout), "iteration": iteration}).encode()
    return text.ljust(_HEADER_BYTES - 1) + b"\n"


def _allocate(descriptor: int, layout: StoreLayout, path: Path) -> None:
    """Reserve the file's bytes on the disk, all zero, by writing them where the file system cannot reserve."""
    size = layout.file_bytes
    try:
        try:
            os.posix_fallocate(descriptor, 0, size)
        except AttributeError:  # not every system has it
            _write_zeros(descriptor, size)
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                raise
            _write_zeros(descriptor, size)
    except OSError as error:
        free, smaller = shutil.disk_usage(path.parent).free, ', or set adaptation.ensemble_store = "top_k"'
        raise OSError(
            error.errno,
            f"{error.strerror}, the ensemble needs {size / 2**20:.0f} MiB and {free / 2**20:.0f} MiB are free "
            f"(free some{smaller if layout.top_k is None else ''})",
        ) from error


def _write_zeros(descriptor: int, size: int) -> None:
    block = bytes(min(size, 1 << 20))
    place = 0
    while place < size:
        place += os.pwrite(descriptor, block[: size - place], place)
