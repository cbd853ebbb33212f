"""`pycuda.driver` as far as this project calls it, for the order of calls and for its errors.

Names, parameters and error classes as in PyCUDA 2026.1 (src/wrapper/wrap_cudadrv.cpp): `memcpy_htod_async(dest, src,
stream)`, `memcpy_dtoh_async(dest, src, stream)`, `Stream(flags)` with `handle`, `Event` with `record(stream)` and
`end.time_since(start)`, `pagelocked_empty(shape, dtype, order, mem_flags)` whose array's `base` has
`get_device_pointer()`, `mem_alloc(bytes)` that becomes an address by `int`, `Device.get_attribute(attribute)`,
`Device.retain_primary_context()` whose `push` is an ordinary and `pop` a static method, `get_driver_version()`.
"""

import numpy as np

calls = []
devices = 1
integrated = 0
multiprocessors = 8
raises = {}


class Error(Exception):
    """Base of the others, as in PyCUDA."""


class MemoryError(Error):
    """Out of device memory."""


class LogicError(Error):
    """An invalid call, and most sticky errors."""


class LaunchError(Error):
    """A kernel failed."""


def called(name):
    calls.append(name)
    if name in raises:
        raise raises[name]


def init():
    called("init")


def get_driver_version():
    called("get_driver_version")
    return 12060


class Context:
    depth = 0

    def push(self):
        called("push")
        Context.depth += 1

    @staticmethod
    def pop():
        called("pop")
        Context.depth -= 1


class Device:
    def __init__(self, number):
        self.number = number

    @staticmethod
    def count():
        return devices

    def name(self):
        return "Orin"

    def compute_capability(self):
        return (8, 7)

    def get_attribute(self, attribute):
        return {device_attribute.INTEGRATED: integrated, device_attribute.MULTIPROCESSOR_COUNT: multiprocessors}[
            attribute
        ]

    def retain_primary_context(self):
        called("retain")
        return Context()


class Stream:
    def __init__(self, flags=0):
        called(f"stream {flags}")
        self.handle = 4242

    def synchronize(self):
        called("synchronize")


class Event:
    def record(self, stream=None):
        assert isinstance(stream, Stream), "recorded on the default stream"
        called("record")

    def time_since(self, event):
        return 1.5


class Allocation:
    def __init__(self, address):
        self.address = address

    def __int__(self):
        return self.address

    def free(self):
        called("free")


class device_attribute:  # noqa: N801 PyCUDA's name
    INTEGRATED = 18
    MULTIPROCESSOR_COUNT = 16


class host_alloc_flags:  # noqa: N801 PyCUDA's name
    DEVICEMAP = 2


class PagelockedHostAllocation:
    """Owns an array's memory; knows the GPU's address only of memory that was mapped."""

    def __init__(self, content, flags):
        self.content, self.flags = content, flags

    @property
    def __array_interface__(self):
        return self.content.__array_interface__

    def get_device_pointer(self):
        called("device pointer")
        if self.flags != host_alloc_flags.DEVICEMAP:
            raise LogicError("cuMemHostGetDevicePointer failed: invalid argument")
        return 2 << 20


def pagelocked_empty(shape, dtype, order="C", mem_flags=0):
    called("pagelocked" if mem_flags == 0 else f"pagelocked {mem_flags}")
    return np.asarray(PagelockedHostAllocation(np.full(shape, 99, dtype), mem_flags))


def mem_alloc(size):
    called("mem_alloc")
    return Allocation(1 << 20)


def memcpy_htod_async(dest, src, stream=None):
    assert isinstance(dest, int)
    assert isinstance(stream, Stream), "copied on the default stream"
    called("htod")


def memcpy_dtoh_async(dest, src, stream=None):
    assert isinstance(src, int)
    assert isinstance(stream, Stream), "copied on the default stream"
    called("dtoh")
