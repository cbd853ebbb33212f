"""The same images through another camera: geometry, lens, sensor, processing. Labels follow the geometry exactly.

Legend: H,W rows and columns of the old image; R,C of the new one.
"""

from __future__ import annotations

import io
import math
import zlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from clst_runtime.classes.labels import IGNORE_ID
from clst_runtime.errors import ConfigError, DataError
from clst_runtime.system.numbers import LARGEST_SIDE
from clst_runtime.system.optional import require
from clst_train.synthetic.camera_model import Camera

Image = npt.NDArray[np.uint8]
Light = npt.NDArray[np.float32]
STEPS = 8192
"""Of the table by which the distortion is undone."""


@dataclass(frozen=True, kw_only=True)
class Geometry:
    """Where in the old image each pixel of the new one looks."""

    down: Light
    """R,C row of the old image, 0 = the middle of the first."""
    across: Light
    """R,C column of the old image."""
    outside: npt.NDArray[np.bool_]
    """R,C pixels that look past the old image's border."""
    samples: int
    """Points a side that an image's pixel is the mean of, so that a coarser image has no aliasing."""
    fine: tuple[Light, Light]
    """R·samples,C·samples the same rows and columns for each of those points."""

    def labels(self, labels: Image) -> Image:
        """Labels H,W as the new camera has them, R,C: the nearest one, ignored outside."""
        last_row, last_column = labels.shape[0] - 1, labels.shape[1] - 1
        rows = np.clip(np.floor(self.down + 0.5).astype(np.int64), 0, last_row)
        columns = np.clip(np.floor(self.across + 0.5).astype(np.int64), 0, last_column)
        return np.asarray(np.where(self.outside, np.uint8(IGNORE_ID), labels[rows, columns]), np.uint8)

    def light(self, light: Light) -> Light:
        """Linear light H,W,3 where it falls on the new sensor, R,C,3: between pixels, black outside."""
        cv2, (down, across) = require("cv2"), self.fine
        found = cv2.remap(light, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        found[_outside(down, across, *light.shape[:2])] = 0
        if self.samples > 1:
            found = cv2.resize(found, self.down.shape[::-1], interpolation=cv2.INTER_AREA)
        return np.asarray(found, np.float32)


def _outside(down: Light, across: Light, rows: int, columns: int) -> npt.NDArray[np.bool_]:
    """Which points lie past the outer edges of the border's pixels."""
    edge = 0.5 + 1e-3
    return (down < -edge) | (down > rows - 1 + edge) | (across < -edge) | (across > columns - 1 + edge)


def size_of(camera: Camera, size_hw: tuple[int, int]) -> tuple[int, int]:
    """R,C of the camera's image of an old one of H,W.

    Raises:
        ConfigError: a side would be above `LARGEST_SIDE` or 0.
    """
    rows, columns = camera.rows, camera.columns
    if not rows and not columns:
        return size_hw
    rows = rows or round(size_hw[0] * columns / size_hw[1])
    columns = columns or round(size_hw[1] * rows / size_hw[0])
    if not (0 < rows <= LARGEST_SIDE and 0 < columns <= LARGEST_SIDE):
        raise ConfigError(
            f"camera: an image of {size_hw[0]}x{size_hw[1]} would become {rows}x{columns}; give both sides"
        )
    return rows, columns


@lru_cache(maxsize=4)  # a data set has images of few sizes
def geometry_of(camera: Camera, size_hw: tuple[int, int]) -> Geometry:
    """Where each pixel of the new image looks, for old images of H,W.

    Raises:
        ConfigError: the distortion folds the image over, or the size cannot be.
    """
    size = size_of(camera, size_hw)
    scale = size_hw[1] / size[1] / camera.focal_length_factor  # pixels of the old image in one of the new
    samples = max(1, math.ceil(scale - 1e-6))
    down, across = _looked_at(camera, size_hw, size, 1)
    fine = (down, across) if samples == 1 else _looked_at(camera, size_hw, size, samples)
    outside = _outside(down, across, *size_hw)
    return Geometry(down=down, across=across, outside=outside, samples=samples, fine=fine)


def _looked_at(camera: Camera, size_hw: tuple[int, int], size: tuple[int, int], samples: int) -> tuple[Light, Light]:
    """Row and column of the old image, R·samples,C·samples each."""
    old_focal_px = size_hw[1] / 2 / math.tan(math.radians(camera.old_field_of_view_deg / 2))
    focal_px = old_focal_px * camera.focal_length_factor * size[1] / size_hw[1]
    right, below = camera.principal_point_shift
    # Rays of the pixels' middles, as parts of the focal length
    x = ((np.arange(size[1] * samples) + 0.5) / samples - size[1] * (0.5 + right)) / focal_px
    y = ((np.arange(size[0] * samples) + 0.5) / samples - size[0] * (0.5 + below)) / focal_px
    radius = np.hypot(x[None, :], y[:, None])
    ratio = undistorted(radius, camera.distortion) / np.maximum(radius, 1e-12)
    down = old_focal_px * ratio * y[:, None] + size_hw[0] / 2 - 0.5
    across = old_focal_px * ratio * x[None, :] + size_hw[1] / 2 - 0.5
    return down.astype(np.float32), across.astype(np.float32)


def undistorted(radius: npt.NDArray[np.float64], distortion: tuple[float, float]) -> npt.NDArray[np.float64]:
    """Radii r of rays that a lens images at the radii r·(1 + k1·r² + k2·r⁴), all as parts of the focal length.

    Raises:
        ConfigError: two rays meet in one place, or none reaches the outermost.
    """
    k1, k2 = distortion
    if k1 == k2 == 0:
        return radius
    rays = np.linspace(0.0, 3.0 * float(radius.max()), STEPS)
    imaged = rays * (1 + k1 * rays**2 + k2 * rays**4)
    needed = int(np.argmax(imaged >= radius.max())) if imaged.max() >= radius.max() else STEPS - 1
    if imaged[needed] < radius.max() or (np.diff(imaged[: needed + 1]) <= 0).any():
        raise ConfigError(
            f"camera.distortion = [{k1}, {k2}] folds the image over before its corners, which lie at "
            f"{radius.max():.2f} focal lengths; give smaller values, a longer focal length or a narrower field of view"
        )
    return np.interp(radius, imaged[: needed + 1], rays[: needed + 1])


def expose(camera: Camera, light: Light, rng: np.random.Generator) -> Image:
    """The image R,C,3 that lens, sensor and processing make of linear light R,C,3 from 0 to 1."""
    if camera.blur_px > 0:
        light = require("cv2").GaussianBlur(light, (0, 0), camera.blur_px)
    fall_off = np.float32(2**camera.exposure_stops) * _fall_off(camera, light.shape[0], light.shape[1])
    electrons = light @ np.array(camera.colour_matrix, np.float32).T * fall_off[..., None]
    light = np.clip(_with_noise(camera, np.maximum(electrons, 0), rng), 0, 1)
    light = np.clip(light * np.array(camera.white_balance, np.float32), 0, 1)
    return np.asarray(np.rint(light ** np.float32(1 / camera.gamma) * 255), np.uint8)


def _fall_off(camera: Camera, rows: int, columns: int) -> Light:
    """Share of the light R,C that arrives: cos⁴, 1 on the axis, 1 − vignetting half a diagonal away from it."""
    right, below = camera.principal_point_shift
    y = (np.arange(rows) + 0.5 - rows * (0.5 + below)) / math.hypot(rows / 2, columns / 2)
    x = (np.arange(columns) + 0.5 - columns * (0.5 + right)) / math.hypot(rows / 2, columns / 2)
    squared_tangent = (x[None, :] ** 2 + y[:, None] ** 2) * ((1 - camera.vignetting) ** -0.5 - 1)
    return np.asarray((1 + squared_tangent) ** -2, np.float32)


def _with_noise(camera: Camera, light: Light, rng: np.random.Generator) -> Light:
    """Shot noise, whose variance is the number of electrons, and read noise, both as shares of full scale."""
    full = camera.full_scale_electrons
    if full == 0:
        return light
    variance = light / np.float32(full) + np.float32((camera.read_noise_electrons / full) ** 2)
    return np.asarray(light + np.sqrt(variance) * rng.standard_normal(light.shape, np.float32), np.float32)


def take(camera: Camera, image: Image, rng: np.random.Generator) -> Image:
    """The image R,C,3 that the camera takes of what an image H,W,3 RGB shows, before it is compressed.

    Raises:
        ConfigError: the distortion folds the image over, or the new size cannot be.
    """
    values = np.linspace(0, 1, 256, dtype=np.float32) ** np.float32(camera.old_gamma)
    return expose(camera, geometry_of(camera, (image.shape[0], image.shape[1])).light(values[image]), rng)


def take_labels(camera: Camera, labels: Image) -> Image:
    """Labels R,C that belong to what `take` makes of an image of the size of `labels`, H,W."""
    return geometry_of(camera, (labels.shape[0], labels.shape[1])).labels(labels)


def encode(camera: Camera, image: Image, rng: np.random.Generator) -> tuple[bytes, str]:
    """An image file as the camera writes it, and its suffix."""
    stream = io.BytesIO()
    if not camera.jpeg_quality:
        require("PIL.Image").fromarray(image).save(stream, format="PNG")
        return stream.getvalue(), ".png"
    low, high = camera.jpeg_quality
    require("PIL.Image").fromarray(image).save(stream, format="JPEG", quality=int(rng.integers(low, high + 1)))
    return stream.getvalue(), ".jpg"


def reimage(camera: Camera, image: Image, labels: Image, *, rng: np.random.Generator) -> tuple[Image, Image]:
    """An image H,W,3 RGB and its labels H,W as the camera would have taken them: R,C,3 and R,C.

    Args:
        rng: draws noise and JPEG quality; `noise_of` gives each file one of its own.

    Raises:
        ConfigError: as `take`. DataError: the labels have another size.
    """
    if labels.shape != image.shape[:2]:
        raise DataError(f"an image of {image.shape[:2]} and labels of {labels.shape}; give labels of the image's size")
    taken = take(camera, image, rng)
    if camera.jpeg_quality:
        content, _ = encode(camera, taken, rng)
        with require("PIL.Image").open(io.BytesIO(content)) as pixels:
            taken = np.array(pixels.convert("RGB"))
    return taken, take_labels(camera, labels)


def noise_of(seed: int, name: str) -> np.random.Generator:
    """The generator of one file's noise, whatever other files there are."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
