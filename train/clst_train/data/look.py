"""How the new camera's images look beside the old one's: colours, blur and noise, measured without labels.

Source images are shown to the network with that look, so that their labels, which are right, teach the new camera's
images as well. Legend: H rows, W columns of the model's input size, N patches, K bands of frequency.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from clst_runtime.system.optional import require
from clst_train.data.colours import (
    CHANNELS,
    LEAST_SHIFT,
    Colours,
    Image,
    Mask,
    colour_shift,
    colours_of,
    pixels_of,
    with_colours,
)

COMPARED = 64
"""Images of each camera that are looked at."""
PATCH = 16
"""Pixels a side of the patches whose spectra are compared."""
QUIET = 10.0
"""Percent of the patches that are taken to show noise alone: sky, road and walls. Where fewer are in the middle of the
range of grey values, nothing is measured: of lamps by night all are bright and none is quiet."""
SHOWN = (20.0, 235.0)
"""Mean luma of patches that show noise: in darker and brighter ones it is clipped."""
LENS_BANDS = 4
"""Of K, from the lowest on, that tell the blur; in the others there is more noise than picture."""
LEAST_BLUR = 0.2
"""Pixels; a Gaussian of less changes nothing."""
LEAST_NOISE = 0.5
"""Grey values; less is lost when values are rounded."""
MOST_PATCHES = 1000
"""Of an image, evenly spread: as many as one of 384x640 has."""
Seen = tuple[Image, Mask | None]
"""An image H,W,3 RGB, and H,W which of its pixels show nothing: padding, or those under the ignore mask."""
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
    measured: bool = True
    """Whether blur and noise could be: else they are 0."""

    @property
    def takes_colours(self) -> bool:
        """Whether the colours differ by more than two places of one camera do."""
        return bool(abs(self.shift).max() > LEAST_SHIFT)

    @property
    def takes_blur(self) -> bool:
        """Whether the blur can be seen."""
        return self.blur_px >= LEAST_BLUR

    @cached_property
    def takes_noise(self) -> bool:
        """Whether the noise can be seen."""
        return bool(self.grain.std((0, 1)).max() >= LEAST_NOISE)

    @cached_property
    def grain(self) -> npt.NDArray[np.float32]:
        """H,W,3 a piece of the noise in Y, Cr, Cb that goes on beyond its borders as on the other side."""
        down, across = np.fft.fftfreq(self.size_hw[0])[:, None], np.fft.rfftfreq(self.size_hw[1])[None]
        white = np.random.default_rng(0).standard_normal((*self.size_hw, 3))
        frequency = np.hypot(down, across)
        passed = np.stack([np.interp(frequency, FREQUENCIES, band) for band in self.noise.T], axis=2)
        grain = np.fft.irfft2(np.fft.rfft2(white, axes=(0, 1)) * passed, s=self.size_hw, axes=(0, 1))
        return np.asarray(grain, np.float32)

    def __str__(self) -> str:
        """What was measured, and what source images take on of it."""
        found = f"{self.blur_px:.1f} px more blur and {self.grain[..., 0].std():.1f} grey values more noise"
        if not self.measured:
            found = "blur and noise that cannot be measured, since nearly all is too dark, too bright or too small"
        shift = ", ".join(f"{name} {value:+.1f}" for name, value in zip(CHANNELS, self.shift, strict=True))
        parts = {"blur": self.takes_blur, "noise": self.takes_noise, "colours": self.takes_colours}
        taken = ", ".join(name for name, is_taken in parts.items() if is_taken)
        return (
            f"the new camera has {found}; its mean colours differ by {shift} spreads (more than {LEAST_SHIFT:g} "
            f"counts); source images take on {taken or 'nothing of it'}"
        )

    def put_on(self, image: Image, other: Image, rng: np.random.Generator) -> Image:
        """A source image RGB, at most H,W,3, in this look; `other` is a target image, whose colours it may take on."""
        cv2 = require("cv2")
        if self.takes_colours:
            image = with_colours(image, colours_of(other))
        if self.takes_blur:
            image = cv2.GaussianBlur(image, (0, 0), self.blur_px)
        if self.takes_noise:
            moved = np.roll(self.grain, rng.integers(self.size_hw), axis=(0, 1))[: image.shape[0], : image.shape[1]]
            seen = cv2.add(cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb), moved, dtype=cv2.CV_8U)
            image = cv2.cvtColor(seen, cv2.COLOR_YCrCb2RGB)
        return image


def look_of(source: Iterable[Seen], target: Iterable[Seen], size_hw: tuple[int, int]) -> Look:
    """The look of target images beside source ones, all fitted to H,W.

    The power spectrum of what a camera shows falls by a² exp(−4π²σ²f²) when it is blurred by σ pixels and has a gain
    of a in contrast; noise adds to it. The noise's spectrum is that of the quietest patches. Source images take on the
    gain with the colours.
    """
    (old_colours, old), (new_colours, new) = _measured(source), _measured(target)
    look = Look(
        shift=colour_shift(old_colours, new_colours),
        blur_px=0.0,
        noise=np.zeros((len(FREQUENCIES), 3)),
        size_hw=size_hw,
        measured=old is not None and new is not None,
    )
    if old is None or new is None:
        return look
    picture = np.log(np.maximum(new[0] - new[1], 1e-3) / np.maximum(old[0] - old[1], 1e-3))[:LENS_BANDS, 0]
    slope, level = np.polyfit(FREQUENCIES[:LENS_BANDS] ** 2, picture, 1)
    blur_px = float(np.sqrt(max(0.0, -slope)) / (2 * np.pi))
    kept = np.exp(level * look.takes_colours - (2 * np.pi * blur_px * FREQUENCIES) ** 2)  # K: of the old power
    return dataclasses.replace(look, blur_px=blur_px, noise=np.sqrt(np.maximum(0.0, new[1] - kept[:, None] * old[1])))


def _measured(images: Iterable[Seen]) -> tuple[list[Colours], tuple[Values, Values] | None]:
    """Colours of each image; K,3 mean power of the patches of all, and of the quietest, None where too few show any.

    Images are let go one by one, since they may be large.
    """
    colours, found, count = [], [], 0
    for image, ignored in images:
        colours.append(colours_of(pixels_of(image, ignored)))
        patches = _patches(image, ignored)
        luma = patches[:, 0].mean((1, 2))
        found.append(_power(patches[(luma > SHOWN[0]) & (luma < SHOWN[1])]))
        count += len(patches)
    every = np.concatenate(found)  # N,K,3
    if len(every) <= count * QUIET / 100:
        return colours, None
    return colours, (every.mean(0), np.percentile(every, QUIET, axis=0))


def _patches(image: Image, ignored: Mask | None) -> npt.NDArray[np.float32]:
    """N,3,PATCH,PATCH in Y, Cr, Cb: those without a pixel that is ignored."""
    cv2, (rows, columns) = require("cv2"), (side // PATCH for side in image.shape[:2])
    hidden = np.zeros(image.shape[:2], bool) if ignored is None else ignored
    values = np.dstack([cv2.cvtColor(image, cv2.COLOR_RGB2YCrCb), hidden])[: rows * PATCH, : columns * PATCH]
    patches = values.reshape(rows, PATCH, columns, PATCH, 4).transpose(0, 2, 4, 1, 3).reshape(-1, 4, PATCH, PATCH)
    patches = patches[~patches[:, 3].any((1, 2)), :3]
    return np.asarray(patches[:: -(-len(patches) // MOST_PATCHES) or 1], np.float32)


def _power(patches: npt.NDArray[np.float32]) -> Values:
    """N,K,3 mean power of each patch in each band."""
    power = np.abs(np.fft.rfft2((patches - patches.mean((2, 3), keepdims=True)) * WINDOW)) ** 2
    return np.stack([power[:, :, band == BAND].mean(2) for band in range(len(FREQUENCIES))], axis=1)


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
