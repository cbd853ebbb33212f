"""A camera's model: mounting, lens, sensor and exposure.

Legend: H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clst_runtime.errors import ConfigError, did_you_mean
from clst_runtime.system.optional import require


@dataclass(frozen=True, kw_only=True)
class Look:
    """One camera. Ranges are drawn from for each scene."""

    name: str
    """Name on the command line."""
    height_m: tuple[float, float]
    """Height of the camera above the road."""
    field_of_view_deg: tuple[float, float]
    """Horizontal field of view."""
    pitch_deg: tuple[float, float]
    """Downward tilt."""
    balance: tuple[float, float, float]
    """Gain of red, green and blue."""
    mixing: float
    """Crosstalk of the colour channels; 0 = none, 1 = grey."""
    gamma: tuple[float, float]
    """Exponent of the response; above 1 darkens the middle tones."""
    exposure: tuple[float, float]
    """Gain before the response."""
    contrast: float
    """Scale about the middle grey; below 1 is flat."""
    noise: tuple[float, float]
    """Standard deviation of the sensor noise, in grey levels."""
    blur_px: tuple[float, float]
    """Standard deviation of the lens blur for an image 320 pixels wide."""
    vignetting: float
    """Loss of light in the corners, 0 … 1."""
    haze: float
    """Veil over what is far away, 0 … 1."""
    night: float
    """Share of scenes at night."""


OLD = Look(
    name="old",
    height_m=(1.35, 1.55),
    field_of_view_deg=(56, 62),
    pitch_deg=(0, 3),
    balance=(1.0, 1.0, 1.0),
    mixing=0.0,
    gamma=(0.95, 1.1),
    exposure=(0.9, 1.1),
    contrast=1.0,
    noise=(1.0, 3.0),
    blur_px=(0.0, 0.4),
    vignetting=0.0,
    haze=0.05,
    night=0.0,
)
NEW = Look(
    name="new",
    height_m=(1.8, 2.3),
    field_of_view_deg=(72, 84),
    pitch_deg=(3, 8),
    balance=(0.72, 0.95, 1.22),
    mixing=0.3,
    gamma=(1.1, 1.4),
    exposure=(0.85, 1.15),
    contrast=0.75,
    noise=(4.0, 9.0),
    blur_px=(0.6, 1.2),
    vignetting=0.5,
    haze=0.45,
    night=0.25,
)
LOOKS = {look.name: look for look in (OLD, NEW)}


def find_look(name: str) -> Look:
    """The shipped look of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in LOOKS:
        raise ConfigError(f"no camera look {name!r}; {did_you_mean(name, LOOKS)}")
    return LOOKS[name]


def photograph(
    rng: np.random.Generator,
    look: Look,
    radiance: npt.NDArray[np.uint8],
    nearness: npt.NDArray[np.float32],
    lights: npt.NDArray[np.float32],
) -> npt.NDArray[np.uint8]:
    """The image that a camera takes of a scene.

    Args:
        rng: draws exposure, noise and whether it is night.
        look: the camera.
        radiance: H,W,3 RGB daylight colours.
        nearness: H,W 0 = at the horizon or beyond, 1 = at the bumper.
        lights: H,W 0 … 1 of lamps that shine by themselves.
    """
    cv2 = require("cv2")
    rows, columns = nearness.shape
    light = radiance.astype(np.float32) / 255.0
    veil = np.float32(look.haze * rng.uniform(0.4, 1.0)) * (1.0 - nearness)[..., None] ** 2
    if rng.random() < look.night:
        beam = np.clip(nearness * 1.6, 0, 1) * _beam(rows, columns)
        light *= (0.34 + 0.6 * beam)[..., None] * np.array([0.8, 0.9, 1.15], np.float32)
        light += lights[..., None] * np.array([0.9, 0.8, 0.5], np.float32)
        veil = veil * np.float32(0.15)
    light = light * (1 - veil) + veil * np.array([0.75, 0.78, 0.82], np.float32)
    grey = light.mean(axis=2, keepdims=True)
    light = (light * (1 - look.mixing) + grey * look.mixing) * np.array(look.balance, np.float32)
    light *= np.float32(rng.uniform(*look.exposure)) * _vignette(rows, columns, look.vignetting)[..., None]
    light = np.clip(light, 0, 1) ** np.float32(rng.uniform(*look.gamma))
    light = 0.5 + (light - 0.5) * np.float32(look.contrast)
    sigma = rng.uniform(*look.blur_px) * columns / 320
    if sigma > 0.2:
        light = cv2.GaussianBlur(light, (0, 0), sigma)
    noise = rng.standard_normal((rows, columns, 3), np.float32) * np.float32(rng.uniform(*look.noise) / 255.0)
    return np.asarray(np.clip(light + noise, 0, 1) * 255.0, np.uint8)


def _vignette(rows: int, columns: int, strength: float) -> npt.NDArray[np.float32]:
    down, across = np.linspace(-1, 1, rows, dtype=np.float32), np.linspace(-1, 1, columns, dtype=np.float32)
    return np.asarray(1.0 - strength * (down[:, None] ** 2 + across[None, :] ** 2) / 2, np.float32)


def _beam(rows: int, columns: int) -> npt.NDArray[np.float32]:
    """Where the head lamps shine, brightest in the middle of the image."""
    across = np.linspace(-1, 1, columns, dtype=np.float32)[None, :]
    return np.asarray(np.exp(-((across * 1.3) ** 2)).repeat(rows, axis=0), np.float32)
