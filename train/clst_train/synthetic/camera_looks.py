"""The two cameras of the drawn scenes: how each is mounted, in what light it drives, and its lens and sensor.

Legend: H,W rows and columns of the drawing; R,C of the camera's image.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from clst_runtime.errors import ConfigError, did_you_mean
from clst_train.synthetic.camera_model import Camera, find_camera
from clst_train.synthetic.reimaging import Image, reimage

LOOKS = ("old", "new")
BRIGHTNESS = (0.9, 1.1)
"""Each scene's brightness is drawn from it, by day and night."""


@dataclass(frozen=True, kw_only=True)
class Look:
    """How one camera sees the world. Ranges are drawn from for each scene."""

    name: str
    """Name on the command line."""
    camera: Camera
    """Lens, sensor and processing. What it calls the old camera is the pinhole that scenes are drawn through."""
    height_m: tuple[float, float]
    """Height of the camera above the road."""
    pitch_deg: tuple[float, float]
    """Downward tilt."""
    haze: float
    """Veil over what is far away, 0 … 1."""
    night: float
    """Share of scenes at night."""


def find_look(name: str) -> Look:
    """The look of that name, one of `LOOKS`.

    Raises:
        ConfigError: there is none.
    """
    match name:
        case "old":  # an ordinary camera; its noise is about one grey level
            camera = Camera(full_scale_electrons=10_000.0, read_noise_electrons=5.0)
            return Look(name=name, camera=camera, height_m=(1.35, 1.55), pitch_deg=(0, 3), haze=0.05, night=0.0)
        case "new":
            camera = find_camera("middle")
            return Look(name=name, camera=camera, height_m=(1.8, 2.3), pitch_deg=(3, 8), haze=0.45, night=0.25)
    raise ConfigError(f"no camera look {name!r}; {did_you_mean(name, LOOKS)}")


def photograph(
    rng: np.random.Generator,
    look: Look,
    radiance: Image,
    labels: Image,
    nearness: npt.NDArray[np.float32],
    lights: npt.NDArray[np.float32],
) -> tuple[Image, Image]:
    """The image that a camera takes of a scene, and its labels: R,C,3 and R,C, the size of the camera's images.

    Args:
        rng: draws brightness, haze, whether it is night, and the sensor's noise.
        look: the camera in its light.
        radiance: H,W,3 RGB daylight colours, seen without a lens.
        labels: H,W class ids of the same pixels.
        nearness: H,W 0 = at the horizon or beyond, 1 = at the bumper.
        lights: H,W 0 … 1 of lamps that shine by themselves.
    """
    light = radiance.astype(np.float32) * np.float32(rng.uniform(*BRIGHTNESS) / 255.0)
    veil = np.float32(look.haze * rng.uniform(0.4, 1.0)) * (1.0 - nearness)[..., None] ** 2
    camera = look.camera
    if rng.random() < look.night:
        camera = replace(camera, exposure_stops=0.0)  # a short exposure is for daylight
        beam = np.clip(nearness * 1.6, 0, 1) * _beam(*nearness.shape)
        light *= (0.34 + 0.6 * beam)[..., None] * np.array([0.8, 0.9, 1.15], np.float32)
        light += lights[..., None] * np.array([0.9, 0.8, 0.5], np.float32)
        veil = veil * np.float32(0.15)
    light = light * (1 - veil) + veil * np.array([0.75, 0.78, 0.82], np.float32)
    return reimage(camera, np.asarray(np.clip(light, 0, 1) * 255.0, np.uint8), labels, rng=rng)


def _beam(rows: int, columns: int) -> npt.NDArray[np.float32]:
    """Where the head lamps shine, brightest in the middle of the image."""
    across = np.linspace(-1, 1, columns, dtype=np.float32)[None, :]
    return np.asarray(np.exp(-((across * 1.3) ** 2)).repeat(rows, axis=0), np.float32)
