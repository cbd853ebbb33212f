"""A machine with the fake TensorRT and the fake GPU."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest

from clst_export.tensorrt.bundle import write_bundle
from clst_runtime.backends.tensorrt import library, sidecar
from clst_runtime.backends.tensorrt import runner as trt_backend
from clst_runtime.backends.tensorrt.build import engine as build
from clst_runtime.backends.tensorrt.bundle import device_engine as bundle
from clst_runtime.errors import MissingDependency
from clst_runtime.imaging.image_files import write_png
from tests.conftest import SIZE_HW, rgb_manifest, write_rgb_model
from tests.fakes import behaviour
from tests.fakes import tensorrt as fake_tensorrt
from tests.fakes import tensorrt_rtx as fake_rtx
from tests.fakes.cuda import MEMORY, STREAMS, FakeCuda

HERE = "orin-8.7-16sm-trt10.3.0-cuda12.6-jetson-linux-36.4.3"
"""Name in files of the machine that the fakes are at first."""
INT8, FP16, PROOF = f"model-{HERE}.engine", f"rival-{HERE}.engine", f"proof-{HERE}.json"
VERSIONS = ("10.3.0", "10.16.1.11", "11.4.0.106")


class Machine:
    """What is installed, and what it does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._patch = monkeypatch
        self.asked: list[tuple[str, bool]] = []
        """CUDA library and whether with graphs, for each GPU that was opened."""
        self.does = behaviour.reset()
        self.gpu: tuple[str, str] | tuple[str, str, int] = ("Orin", "8.7")
        for module in (trt_backend, build, bundle):
            monkeypatch.setattr(module, "open_cuda", self.opens)
        self.has_tensorrt("10.3.0")
        self.has_rtx(None)
        self.has_driver("Jetson Linux 36.4.3")

    def opens(self, library: str = "auto", *, graphs: bool = False) -> FakeCuda:
        """What stands for `open_cuda`."""
        self.asked.append((library, graphs))
        return FakeCuda(*self.gpu)

    def has_tensorrt(self, version: str | None) -> None:
        """Another version; None = it is not installed."""
        if version is None:
            self._patch.setitem(sys.modules, "tensorrt", None)
        else:
            self._patch.setitem(sys.modules, "tensorrt", fake_tensorrt)
            self._patch.setattr(fake_tensorrt, "__version__", version)

    def has_rtx(self, version: str | None) -> None:
        """TensorRT for RTX in this version; None = it is not installed."""

        def load() -> ModuleType:
            if version is None:
                raise MissingDependency("TensorRT for RTX is not installed; pip install -e '.[rtx]'")
            return fake_rtx

        self._patch.setattr(library, "load_rtx", load)
        self._patch.setattr(fake_rtx, "__version__", version)

    def has_driver(self, version: str) -> None:
        """Another version of the GPU's driver."""
        self._patch.setattr(sidecar, "driver_version", lambda: version)

    def takes(self, int8: float, fp16: float) -> None:
        """From now on the engines need so many milliseconds."""
        self.does.compute_ms = {"int8": int8, "fp16": fp16}.__getitem__

    def only(self, precision: str, **behaviour: object) -> None:
        """Behave so only in builds of that precision, and with the engine until the next build."""
        usual = {name: getattr(self.does, name) for name in behaviour}

        def on_build(built: str) -> None:
            for name, value in (behaviour if built == precision else usual).items():
                setattr(self.does, name, value)

        self.does.on_build = on_build

    def has_no_gpu(self) -> None:
        """Opening the GPU goes through PyCUDA or cuda-python, which are not installed here."""
        from clst_runtime.backends.cuda.open import open_cuda

        for module in ("pycuda", "cuda"):
            self._patch.setitem(sys.modules, module, None)
        for module in (trt_backend, build, bundle):
            self._patch.setattr(module, "open_cuda", open_cuda)


@pytest.fixture
def machine(monkeypatch):
    FakeCuda.opened.clear()
    yield Machine(monkeypatch)
    assert all(device.closed for device in FakeCuda.opened), "a GPU was left open"
    assert (MEMORY, STREAMS) == ({}, {})


@pytest.fixture
def frames():
    """Three images; each pixel's strongest channel is unique."""
    generator = np.random.default_rng(3)
    pixels = generator.permuted(np.broadcast_to(np.array([10, 100, 200], np.uint8), (3, *SIZE_HW, 3)), axis=3)
    return list(pixels)


@pytest.fixture(name="bundle")
def bundle_of_one(rgb_model, tmp_path, frames):
    """A bundle of one model."""
    write_bundle(rgb_model, tmp_path / "bundle", frames)
    return tmp_path / "bundle"


@pytest.fixture
def images(tmp_path, frames):
    """A folder of them."""
    for index, frame in enumerate(frames):
        write_png(tmp_path / "pictures" / f"{index}.png", frame)
    return tmp_path / "pictures"


def model(path, precision, **changes):
    """An ONNX file whose manifest says that precision."""
    return write_rgb_model(path, manifest=rgb_manifest(precision=precision, **changes).to_json())


@pytest.fixture
def pair(tmp_path):
    """An int8 and an fp16 file of one checkpoint."""
    return model(tmp_path / "m.int8.onnx", "int8"), model(tmp_path / "m.fp16.onnx", "fp16")


@pytest.fixture
def two(pair, tmp_path, frames):
    """A bundle of both."""
    write_bundle(pair[0], tmp_path / "two", frames, baseline=pair[1])
    return tmp_path / "two"
