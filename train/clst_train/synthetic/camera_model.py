"""A camera as its datasheet and its calibration describe it: lens, sensor, processing; read from TOML and checked.

The defaults are the old camera itself: what they make of an image is that image.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from clst_runtime.errors import ConfigError, DataError, did_you_mean
from clst_runtime.system.files.json_values import read_text
from clst_runtime.system.numbers import LARGEST_SIDE
from clst_train.recipes.recipe import section_from_mapping
from clst_train.recipes.settings import values_toml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Row = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Camera:
    """The new camera, seen from the old one that took the images."""

    old_field_of_view_deg: float = 60.0
    """Horizontal field of view of the old camera, in degrees; the unit of the distortion depends on it."""
    old_gamma: float = 2.2
    """Exponent by which the old camera's images are brought to linear light."""
    focal_length_factor: float = 1.0
    """New focal length as a multiple of the old one, both for images of equal width; above 1 sees less of the scene."""
    distortion: tuple[float, float] = (0.0, 0.0)
    """Brown–Conrady's radial k1 and k2 as OpenCV's calibration gives them; negative k1 is a barrel."""
    principal_point_shift: tuple[float, float] = (0.0, 0.0)
    """How far the optical axis lies right of and below the image's centre, as shares of its width and height."""
    rows: int = 0
    """Rows of the new image; 0 = in the old proportion to the columns."""
    columns: int = 0
    """Columns of the new image; 0 = in the old proportion to the rows; both 0 = the old size."""
    blur_px: float = 0.0
    """Standard deviation of the lens blur, in pixels of the new image."""
    vignetting: float = 0.0
    """Share of the light that is lost in the corners; it falls off as the fourth power of a cosine."""
    exposure_stops: float = 0.0
    """Brighter or darker, in stops: −1 halves the light."""
    colour_matrix: tuple[Row, Row, Row] = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    """What red, green and blue of the new sensor each get of the old camera's linear red, green and blue."""
    white_balance: Row = (1.0, 1.0, 1.0)
    """Gain of red, green and blue after the sensor; it also raises their noise."""
    full_scale_electrons: float = 0.0
    """Electrons of a pixel at full scale, at the gain in use; their square root is its shot noise. 0 = no noise."""
    read_noise_electrons: float = 0.0
    """Standard deviation of the noise of reading a pixel, in electrons."""
    gamma: float = 2.2
    """Exponent of the new camera's response: value = light to the power of 1 / gamma."""
    jpeg_quality: tuple[int, ...] = ()
    """Lowest and highest JPEG quality, drawn anew for each image; an empty list = PNG, without loss."""

    def __post_init__(self) -> None:
        """Raises: ConfigError: a value that no camera can have."""
        for name, can_be_used, hint in _RULES:
            value = getattr(self, name)
            if not can_be_used(value):
                raise ConfigError(f"camera.{name} = {_shown(value)}; give {hint}")
        if self.read_noise_electrons > 0 and self.read_noise_electrons >= self.full_scale_electrons:
            raise ConfigError(
                f"camera.read_noise_electrons = {self.read_noise_electrons}; "
                f"give less than full_scale_electrons = {self.full_scale_electrons}"
            )


def _within(low: float, high: float) -> tuple[Callable[[float], bool], str]:
    return lambda value: low <= value <= high, f"{low:g} to {high:g}"


_RULES: tuple[tuple[str, Callable[[Any], bool], str], ...] = (
    ("old_field_of_view_deg", *_within(1, 170)),
    ("old_gamma", *_within(0.1, 10)),
    ("focal_length_factor", *_within(0.1, 10)),
    ("distortion", lambda value: max(map(abs, value)) <= 10, "values from -10 to 10"),
    ("principal_point_shift", lambda value: max(map(abs, value)) <= 0.5, "shares from -0.5 to 0.5"),
    ("rows", *_within(0, LARGEST_SIDE)),
    ("columns", *_within(0, LARGEST_SIDE)),
    ("blur_px", *_within(0, 100)),
    ("vignetting", lambda value: 0 <= value < 1, "0 up to below 1"),
    ("exposure_stops", *_within(-10, 10)),
    ("colour_matrix", lambda rows: all(sum(row) > 0 and max(map(abs, row)) <= 100 for row in rows),
     "three rows of three, the sum of each above 0"),
    ("white_balance", lambda gains: all(0 < gain <= 100 for gain in gains), "gains above 0"),
    ("full_scale_electrons", *_within(0, 1e9)),
    ("read_noise_electrons", *_within(0, 1e9)),
    ("gamma", *_within(0.1, 10)),
    ("jpeg_quality", lambda value: not value or (len(value) == 2 and 1 <= value[0] <= value[1] <= 100),
     "[lowest, highest] from 1 to 100, or []"),
)  # fmt: skip


def _shown(value: object) -> str:
    return str(value).replace("(", "[").replace(",)", "]").replace(")", "]")


def camera_names() -> list[str]:
    """The cameras that ship with the package."""
    folder = resources.files("clst_train") / "synthetic" / "cameras"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def find_camera(name_or_path: str | Path) -> Camera:
    """A shipped camera by its name, or that of any TOML file.

    Raises:
        ConfigError: there is none, it is not TOML in UTF-8, a key is unknown, or a value cannot be used.
    """
    name, path = str(name_or_path), Path(name_or_path)
    if name not in camera_names() and not path.is_file():
        raise ConfigError(f"no camera {name!r}: neither a file nor shipped; {did_you_mean(name, camera_names())}")
    shipped = resources.files("clst_train") / "synthetic" / "cameras" / f"{name}.toml"
    try:
        values = tomllib.loads(shipped.read_text("utf-8") if name in camera_names() else read_text(path))
    except (DataError, ValueError, RecursionError) as error:  # no text, no TOML, a huge integer, nested too deep
        raise ConfigError(f"{name}: not a camera in TOML: {error}") from error
    with naming(name):
        return section_from_mapping(Camera, values, "camera")


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Put a camera's name or file before what is wrong with it."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{name}: {error.message}") from error


def camera_toml(camera: Camera) -> str:
    """A file of every value, each below its sentence."""
    return values_toml(camera)
