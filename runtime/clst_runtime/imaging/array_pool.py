"""Arrays that are used again once nobody holds them, so that a frame costs no new memory."""

from __future__ import annotations

import weakref
from typing import Any, cast

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


class BorrowableArray:
    """One array to borrow. It is free again when neither the borrowed array nor a view of it is alive."""

    def __init__(self, store: Bytes) -> None:
        self.store = store
        self._borrowed: weakref.ReferenceType[Bytes] | None = None

    @property
    def is_free(self) -> bool:
        return self._borrowed is None or self._borrowed() is None

    def borrow(self, *, writeable: bool = False) -> Bytes:
        """The array; made of a memoryview, so that NumPy lets every view of it refer to it and not to the store."""
        array: Bytes = np.asarray(memoryview(cast(Any, self.store)))
        array.flags.writeable = writeable
        self._borrowed = weakref.ref(array)
        return array


class Pool:
    """uint8 arrays of one shape at a time; a new shape replaces them all."""

    def __init__(self, count: int) -> None:
        """Args: count: how many may be held at a time; who holds more gets memory of its own."""
        self.count = count
        self._arrays: list[BorrowableArray] = []

    def take(self, shape: tuple[int, ...]) -> Bytes:
        """A writeable array of `shape`, its content left over from before."""
        if not self._arrays or self._arrays[0].store.shape != shape:
            self._arrays = [BorrowableArray(np.empty(shape, np.uint8)) for _ in range(self.count)]
        free = next((array for array in self._arrays if array.is_free), None)
        return np.empty(shape, np.uint8) if free is None else free.borrow(writeable=True)
