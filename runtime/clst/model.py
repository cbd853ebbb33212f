"""A deployed model that segments camera images. Legend: H rows, W columns of the camera image."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_runtime.artifact.manifest import Manifest
from clst_runtime.backends import open_model
from clst_runtime.backends.base import Backend, Classes, Confidence
from clst_runtime.errors import ClstError, ConfigError, DataError, did_you_mean
from clst_runtime.imaging.geometry import Fitter, Image, Layout, classes_to_camera
from clst_runtime.system.files.paths import checkpoint_of
from clst_runtime.system.numbers import LARGEST_SIDE, cores_here

_logger = logging.getLogger("clst")
_COLOURS = (Layout.RGB.value, Layout.BGR.value)


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation:
    """The result for one camera image. The arrays belong to the caller."""

    classes: Classes
    """H,W uint8: class ids, positions in `model.manifest.classes.names`; 255 never occurs."""
    confidence: Confidence | None
    """H,W uint8: probability of that class × 255. None: the model file has no such output."""


class Model:
    """A loaded model, made by `load_model`.

    Threads: one call at a time; a call that overlaps another one is refused. A model computed by ONNX Runtime or
    PyTorch may be used by any thread in turn. An engine or a bundle may be used only by the thread that loaded it.
    For parallel work load one model per thread.
    """

    def __init__(self, backend: Backend, path: Path) -> None:
        self._backend, self._path, self._closed = backend, path, False
        self._fitter = Fitter(backend.manifest.input_hw, backend.manifest.fit)
        self._lock = threading.Lock()

    @property
    def manifest(self) -> Manifest:
        """What the model file says of itself: classes, input size, fit, precision, parity with PyTorch."""
        return self._backend.manifest

    @property
    def description(self) -> str:
        """What computes, e.g. `ONNX Runtime 1.32 CPU`."""
        return self._backend.description

    def segment(self, image: npt.ArrayLike, *, color: str = "rgb") -> Segmentation:
        """Segment one camera image of any size.

        The image is brought to the model's input as `manifest.fit` says, and the result back to the image's size by
        nearest neighbour: the same computation as `clst-run --masks`.

        Args:
            image: H,W,3 uint8, 0–255; it is not changed.
            color: order of its channels, `rgb` or `bgr` (OpenCV).

        Raises:
            DataError: not H,W,3 uint8, or empty. ConfigError: another colour. ClstError: the model was closed, or is
                in use by another thread; the engine failed.
        """
        if color not in _COLOURS:
            raise ConfigError(f"color {color!r}; {did_you_mean(str(color), _COLOURS)}")
        picture = _checked(image)
        self._begin()
        try:
            predicted = self._backend.predict(self._fitter.fit(picture, Layout(color)))
            classes, confidence = predicted.classes, predicted.confidence
            return Segmentation(
                classes=self._to_camera(classes, picture),
                confidence=None if confidence is None else self._to_camera(confidence, picture),
            )
        finally:
            self._lock.release()

    def _begin(self) -> None:
        """Take the lock. Raises: ClstError: another thread has it, or the model is closed."""
        if not self._lock.acquire(blocking=False):
            raise ClstError(
                f"{self._path} is in use by another thread; load one model per thread, or hold a lock around each call"
            )
        if self._closed:
            self._lock.release()
            raise ClstError(f"{self._path} was closed; load it again")

    def _to_camera(self, result: Image, picture: Image) -> Image:
        """The model's map at the size of the image, in memory that the backend does not use again."""
        resized = classes_to_camera(result, (picture.shape[0], picture.shape[1]), self.manifest.fit)
        return resized.copy() if np.may_share_memory(resized, result) else resized

    def close(self) -> None:
        """Release the device's memory; a second call does nothing.

        Raises:
            ClstError: another thread is segmenting.
        """
        if self._closed:
            return
        self._begin()
        try:
            self._closed = True
            self._backend.close()
        finally:
            self._lock.release()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def load_model(path: str | Path, *, backend: str = "auto", threads: int | None = None) -> Model:
    """Load a model, ready to segment. The first image takes longer than the next ones.

    Args:
        path: an `.onnx` file, an `.engine`, a bundle (a folder), or, where PyTorch is installed, a `.pt` checkpoint
            or a run's folder.
        backend: `ort-cpu`, `ort-cuda`, `ort-tensorrt` or `tensorrt`; `auto` takes TensorRT for engines and bundles,
            and ONNX Runtime for ONNX files, on CUDA where there is one.
        threads: CPU threads of ONNX Runtime; None = its own choice.

    Raises:
        ModelFileError: missing, damaged, of an unknown kind, or an engine for another device. MissingDependency: a
            package or a GPU that it needs is not here. ConfigError: a backend or a number of threads that cannot be.
    """
    if threads is not None and (type(threads) is not int or not 1 <= threads <= cores_here()):
        raise ConfigError(f"threads = {threads!r}; give a whole number from 1 to {cores_here()}, or None")
    place = checkpoint_of(Path(path))
    opened = open_model(place, threads=threads, backend=backend)
    for warning in getattr(opened, "warnings", ()):
        _logger.warning("%s", warning)
    return Model(opened, place)


def _checked(image: Any) -> Image:
    """A contiguous H,W,3 uint8 array. Raises: DataError: it is none."""
    try:
        array = np.asarray(image)
    except (TypeError, ValueError, RuntimeError) as error:  # rows of several lengths, a tensor on a GPU
        raise DataError(f"image is a {type(image).__name__} ({error}); give an array H,W,3 uint8 (0–255)") from error
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise DataError(f"image is {array.dtype} {array.shape}; give H,W,3 uint8 (0–255)")
    if not 0 < min(array.shape[:2]) <= max(array.shape[:2]) <= LARGEST_SIDE:
        raise DataError(f"image is {array.shape[0]}x{array.shape[1]}; give rows and columns from 1 to {LARGEST_SIDE}")
    return np.ascontiguousarray(array)
