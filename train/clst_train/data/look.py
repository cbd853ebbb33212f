"""How the new camera's images look beside the old one's: colours, blur and noise, measured without labels.

Source images are shown to the network with that look, so that their labels, which are right, teach the new camera's
images as well. Legend: H rows, W columns of the model's input size, K bands of frequency.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from clst_runtime.system.optional import require
from clst_train.data.colours import LEAST_SHIFT, Colours, colour_shift, with_colours

COMPARED = 64
"""Images of each camera that are looked at."""
PATCH = 16
"""Pixels a side of the patches whose spectra are compared."""
QUIET = 10.0
"""Percent of the patches that are taken to show noise alone: sky, road and walls."""
SHOWN = (20.0, 235.0)
"""Mean luma of patches that show noise: in darker and brighter ones it is clipped."""
LENS_BANDS = 4
"""Of K, from the lowest on, that tell the blur; in the others there is more noise than picture."""
LEAST_BLUR = 0.2
"""Pixels; a Gaussian of less changes nothing."""
Image = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Look:
    """What is put on a source image so that it looks as if the new camera had taken it."""

    shift: npt.NDArray[np.float32]
    """3: `colour_shift` from the old camera to the new one."""
    blur_px: float
    """Standard deviation of the Gaussian by which the new camera's images are less sharp."""
    noise: Values
    """K,3: standard deviation, in grey values, of the noise that the new camera has more, by band and Y, Cr, Cb."""
    size_hw: tuple[int, int]
    """H,W of the images."""

    @property
    def takes_colours(self) -> bool:
        """Whether the colours differ by more than two places of one camera do."""
        return bool(abs(self.shift).max() > LEAST_SHIFT)

    @cached_property
    def grain(self) -> npt.NDArray[np.float32]:
        """H,W,3 a piece of the noise in Y, Cr, Cb that goes on beyond its borders as on the other side."""
        down, across = np.fft.fftfreq(self.size_hw[0])[:, None], np.fft.rfftfreq(self.size_hw[1])[None]
        white = np.random.default_rng(0).standard_normal((*self.size_hw, 3))
        frequency = np.hypot(down, across)
        passed = np.stack([np.interp(frequency, FREQUENCIES, band) for band in self.noise.T], axis=2)
        grain = np.fft.irfft2(np.fft.rfft2(white, axes=(0, 1)) * passed, s=self.size_hw, axes=(0, 1))
        return np.asarray(grain, np.float32)

    def put_on(self, image: Image, own: Colours, other: Colours, rng: np.random.Generator) -> Image:
        """A source image H,W,3 RGB with the colours `own` in this look; `other` are those of a target image."""
        cv2 = require("cv2")
        if self.takes_colours:
            image = with_colours(image, own, other)
        if self.blur_px >= LEAST_BLUR:
            image = cv2.GaussianBlur(image, (0, 0), self.blur_px)
        down, across = (int(rng.integers(side)) for side in self.size_hw)
        seen = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb) + np.roll(self.grain, (down, across), axis=(0, 1))
        return np.asarray(cv2.cvtColor(np.clip(seen + 0.5, 0, 255).astype(np.uint8), cv2.COLOR_YCrCb2RGB))


def look_of(source: Sequence[Image], target: Sequence[Image], size_hw: tuple[int, int]) -> Look:
    """The look of target images beside source ones, RGB without padding, all fitted to H,W.

    The power spectrum of what a camera shows falls by a² exp(−4π²σ²f²) when it is blurred by σ pixels and has a gain
    of a in contrast; noise adds to it. The noise's spectrum is that of the quietest patches.
    """
    old, new = _spectra(source), _spectra(target)
    blur_px, noise = 0.0, np.zeros((len(FREQUENCIES), 3))
    if old is not None and new is not None:
        picture = np.log(np.maximum(new[0] - new[1], 1e-3) / np.maximum(old[0] - old[1], 1e-3))[:LENS_BANDS, 0]
        slope, level = np.polyfit(FREQUENCIES[:LENS_BANDS] ** 2, picture, 1)
        blur_px = float(np.sqrt(max(0.0, -slope)) / (2 * np.pi))
        kept = np.exp(level - (2 * np.pi * blur_px * FREQUENCIES) ** 2)  # K: of the old camera's power
        noise = np.sqrt(np.maximum(0.0, new[1] - kept[:, None] * old[1]))
    return Look(shift=colour_shift(source, target), blur_px=blur_px, noise=noise, size_hw=size_hw)


def _spectra(images: Sequence[Image]) -> tuple[Values, Values] | None:
    """K,3 mean power of the images' patches, and that of the quietest; None where no patch shows any."""
    cv2, found = require("cv2"), []
    for image in images:
        rows, columns = (side // PATCH for side in image.shape[:2])
        values = cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb)[: rows * PATCH, : columns * PATCH].astype(np.float32)
        patches = values.reshape(rows, PATCH, columns, PATCH, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, PATCH, PATCH)
        luma = patches[:, 0].mean((1, 2))
        patches = patches[(luma > SHOWN[0]) & (luma < SHOWN[1])]
        power = np.abs(np.fft.rfft2((patches - patches.mean((2, 3), keepdims=True)) * WINDOW)) ** 2
        found.append(np.stack([power[:, :, band == BAND].mean(2) for band in range(len(FREQUENCIES))], axis=1))
    every = np.concatenate(found)  # patches,K,3
    if not len(every):
        return None
    return every.mean(0), np.percentile(every, QUIET, axis=0)


def _bands() -> tuple[npt.NDArray[np.int64], Values]:
    """Band of each of a patch's frequencies, from 0; −1 and K: in none. And K mean frequencies, in cycles a pixel."""
    frequency = np.hypot(np.fft.fftfreq(PATCH)[:, None], np.fft.rfftfreq(PATCH)[None])
    band = np.round(frequency * PATCH).astype(np.int64) - 1
    return band, np.array([frequency[band == each].mean() for each in range(PATCH // 2 - 1)])


def _window() -> npt.NDArray[np.float32]:
    """PATCH,PATCH: fades out towards the borders; keeps the power of white noise, 1 a pixel."""
    side = np.hanning(PATCH + 2)[1:-1]
    window = np.outer(side, side)
    return np.asarray(window / np.sqrt((window**2).sum()), np.float32)


BAND, FREQUENCIES = _bands()
WINDOW = _window()
