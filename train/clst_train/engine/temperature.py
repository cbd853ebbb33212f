"""The temperature of a network: by how much its logits are divided, so that its confidence is how often it is right.

Two kinds of images tell it, neither with a label of the new camera: what of the old camera's labels the network has
right, and whether it sees the same in an image made smaller. Each misses errors, the labels because the network has
learnt them, the smaller image because both predictions may be wrong alike; so the larger temperature is taken, and
none below 1 (decision 45). Legend: H rows, W columns of the model's input, C classes, P points.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clst_runtime.backends.base import Frame
from clst_runtime.classes.labels import IGNORE_ID
from clst_runtime.data.dataset import LabelledDataset
from clst_runtime.data.subsets import evenly_spread
from clst_runtime.evaluation.resampling import points_of
from clst_runtime.evaluation.unlabelled import inner, made_smaller
from clst_runtime.imaging.geometry import Fit
from clst_train.data.fitting import fitted
from clst_train.data.target import TargetImages
from clst_train.models.deployable import Deployable
from clst_train.models.segmenter import Segmenter

IMAGES = 128
"""Of each camera that are looked at. By half as many the temperature is off by up to 0.04."""
SMALLER = 0.5
"""Of both sides: what an image made smaller has. In one of 0.6 or 0.75 a network sees nearly the same."""
MOST = 3.0
"""A network that needs more is wrong in a way that no temperature mends."""
STEPS = 20
"""Halvings of the range of temperatures."""
Seen = tuple[Tensor, npt.NDArray[np.uint8]]
"""P,C logits, and P classes that they should be of; 255 = ignore."""


def temperature_of(
    segmenter: Segmenter, source: LabelledDataset, target: TargetImages | None, *, input_hw: tuple[int, int], fit: Fit
) -> float:
    """From 1 to `MOST`, by images of the old camera with labels and of the new one, or with None of the old one.

    Raises:
        DataError: an image is unreadable.
    """
    network = Deployable(segmenter, input_hw)
    labelled: list[Seen] = []
    smaller: list[Seen] = []
    for place in evenly_spread(len(source), IMAGES):
        sample = fitted(source[place], input_hw, fit)
        logits = logits_at(network, sample.image)
        labelled.append((logits, points_of(sample.labels)))
        if target is None:
            smaller.append((logits, in_smaller(network, sample.image, sample.content.padding(input_hw))))
    if target is not None:
        for place in evenly_spread(len(target), IMAGES):
            frame = target[place]
            smaller.append((logits_at(network, frame), in_smaller(network, frame, target.ignored(place))))
    return max(matching(labelled), matching(smaller))


def matching(seen: Iterable[Seen]) -> float:
    """That at which the mean confidence is the share of points whose class is right; 1 where it is lower at 1.

    Without a point, or with one class, it is 1.
    """
    logits, right = [], []
    for each, truth in seen:
        known = torch.from_numpy(truth != IGNORE_ID)
        logits.append(each[known])
        right.append(each[known].argmax(1) == torch.from_numpy(truth)[known])
    every = torch.cat(logits)
    share = float(torch.cat(right).float().mean())  # NaN without a point, which no confidence is above
    low, high = 1.0, MOST
    if not _confidence(every, low) > share:
        return low
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _confidence(every, middle) > share else (low, middle)
    return high


def _confidence(logits: Tensor, temperature: float) -> float:
    return float((logits / temperature).softmax(1).amax(1).mean())


def in_smaller(
    network: Deployable, frame: Frame, ignored: npt.NDArray[np.bool_] | None = None, share: float = SMALLER
) -> npt.NDArray[np.uint8]:
    """P classes in a frame H,W,3 made smaller; 255 where pixels of the frame do not count."""
    found = logits_at(network, made_smaller(frame, share), share).argmax(1).numpy().astype(np.uint8)
    if ignored is not None:
        found[points_of(ignored)] = IGNORE_ID
    return found


@torch.inference_mode()
def logits_at(network: Deployable, frame: Frame, share: float = 1.0) -> Tensor:
    """P,C of a frame H,W,3, on a grid over the part that `made_smaller` fills."""
    places = points_of(inner(np.arange(frame.shape[0] * frame.shape[1]).reshape(frame.shape[:2]), share))
    device = next(network.parameters()).device
    logits = network.logits(torch.from_numpy(np.ascontiguousarray(frame))[None].to(device))[0]  # C,H,W
    return logits.flatten(1)[:, torch.from_numpy(places).to(device)].T.float().cpu()
