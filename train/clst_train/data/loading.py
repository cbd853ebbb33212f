"""Batches as a pure function of (seed, iteration): a resumed run gets the batches of an uninterrupted one.

Legend: B images of a batch, K rows and L columns of a crop, H and W of the whole image at the model's input size.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from clst_runtime.classes.labels import IGNORE_ID
from clst_runtime.data.dataset import LabelledDataset
from clst_runtime.imaging.geometry import PADDING_RGB, Content
from clst_train.compute.cores import use_all_cores
from clst_train.compute.ranks import ONE_PROCESS, Ranks
from clst_train.config import AugmentationConfig, Config
from clst_train.data.augment import Geometry, draw_geometry, mixing_mask, vary_colours
from clst_train.data.fitting import fitted
from clst_train.data.look import Look
from clst_train.data.target import TargetImages

SOURCE_STREAM, TARGET_STREAM = 1, 2
COLOUR_OF_SOURCE_TRAINING = 2.0
"""How much stronger colours change there: the network relies less on its own camera's light."""
Batch = TypeVar("Batch")


@dataclass(frozen=True, kw_only=True)
class SourceBatch:
    """Labelled crops of the old camera."""

    images: npt.NDArray[np.uint8]
    """B,K,L,3 RGB."""
    labels: npt.NDArray[np.uint8]
    """B,K,L class ids, 255 = ignore."""
    mixing: npt.NDArray[np.bool_]
    """B,K,L pixels to paste into the target crops."""


@dataclass(frozen=True, kw_only=True)
class TargetBatch:
    """Unlabelled images of the new camera: whole ones for the ensemble, crops for the student."""

    indices: npt.NDArray[np.int64]
    """B positions among the target images, each at most once in a batch."""
    whole: npt.NDArray[np.uint8]
    """B,H,W,3 RGB, only fitted."""
    crops: npt.NDArray[np.uint8]
    """B,K,L,3 RGB, varied in geometry and colour."""
    ignored: npt.NDArray[np.bool_]
    """B,K,L pixels under the ignore mask or in the padding."""
    geometries: tuple[Geometry, ...]
    """How each crop was cut out of its whole image."""
    covered: npt.NDArray[np.bool_] | None = None
    """B,H,W the same of the whole images; None = nothing is."""


def steps_of_pass(images: int, batch: int) -> int:
    """Steps that show each of the images once, `batch` in a step; the last one is filled up with some once more."""
    return -(-images // min(batch, images))


def positions(
    seed: int, stream: int, count: int, batch: int, iteration: int, *, share: int = 0, pass_steps: int = 0
) -> npt.NDArray[np.int64]:
    """Which of `count` images make up a batch: passes are random orders of all, cut into whole batches.

    What a pass lacks to its last batch is filled up with its first images, so that an image occurs twice in a batch
    only where `count` is smaller than that.

    Args:
        seed: the run's.
        stream: what the images are for.
        count: how many there are.
        batch: B.
        iteration: from 0 on.
        share: of which process they are; each has orders of its own.
        pass_steps: steps of a pass, where it is longer than these images need; 0 = as many as they need.

    Returns:
        B positions.
    """
    pass_steps = pass_steps or -(-count // batch)
    number, place = divmod(iteration, pass_steps)
    order = np.random.default_rng([seed, stream, share, number]).permutation(count)
    return np.resize(order, pass_steps * batch)[place * batch : (place + 1) * batch].astype(np.int64)


def _rng(seed: int, stream: int, iteration: int, place: int) -> np.random.Generator:
    return np.random.default_rng([seed, stream, 1, iteration, place])


def _varied(
    rng: np.random.Generator,
    shown: npt.NDArray[np.uint8],
    strength: float,
    geometry: Geometry,
    padding: npt.NDArray[np.bool_] | None,
) -> npt.NDArray[np.uint8]:
    """A crop K,L,3 in other colours; padding H,W keeps the grey it has in deployment."""
    varied = vary_colours(rng, shown, strength)
    if padding is None:
        return varied
    outside = geometry.classes(padding.astype(np.uint8)) > 0  # K,L
    return np.where(outside[..., None], np.array(PADDING_RGB, np.uint8), varied)


def _padding(content: Content, size_hw: tuple[int, int]) -> npt.NDArray[np.bool_] | None:
    return None if content.size_hw == size_hw else content.padding(size_hw)


def source_batch(
    dataset: LabelledDataset,
    config: Config,
    batch: int,
    stage: int,
    iteration: int,
    *,
    places: Sequence[int] | None = None,
    look: tuple[Look, Sequence[npt.NDArray[np.uint8]]] | None = None,
) -> SourceBatch:
    """The labelled crops of one iteration; `stage` is 0 in source training and 1 in adaptation.

    Only the crops at `places` of the batch are made, each identical to the one in the whole batch; None = all.
    `look` is that of the new camera, which they take on (`augmentation.target_look`), and for each crop made the
    pixels of one of its images, 1,P,3 or H,W,3, whose colours it may be.
    """
    images, labels, masks = [], [], []
    augmentation = config.augmentation
    strength = augmentation.colour * (1.0 if stage else COLOUR_OF_SOURCE_TRAINING)
    seed = config.run.seed * 2 + stage
    indices = positions(seed, SOURCE_STREAM, len(dataset), batch, iteration)
    for made, place in enumerate(range(batch) if places is None else places):
        rng = _rng(seed, SOURCE_STREAM, iteration, place)
        sample = fitted(dataset[int(indices[place])], config.model.input_hw, config.fit)
        image, classes = sample.image, sample.labels
        geometry = draw_geometry(rng, augmentation, config.model.input_hw, config.crop_hw)
        if look is not None:
            image = image.copy()
            shown = sample.content.of(image)
            shown[:] = look[0].put_on(shown, look[1][made], rng)
        padding = _padding(sample.content, config.model.input_hw)
        images.append(_varied(rng, geometry.image(image), strength, geometry, padding))
        labels.append(geometry.classes(classes))
        masks.append(mixing_mask(rng, labels[-1], IGNORE_ID))
    return SourceBatch(images=np.stack(images), labels=np.stack(labels), mixing=np.stack(masks))


def target_batch(target: TargetImages, config: Config, iteration: int, here: Ranks = ONE_PROCESS) -> TargetBatch:
    """The target images of one iteration of the adaptation; fewer than a batch when there are fewer images.

    A process draws from its own share of them alone, to fill its part of the batch.
    """
    settings: AugmentationConfig = config.augmentation
    size, own = min(config.adaptation.batch, len(target)), here.share(len(target))
    kept = range(size)[here.part(size, where="adaptation.batch")]
    drawn = positions(
        config.run.seed, TARGET_STREAM, len(own), len(kept), iteration,
        share=here.rank, pass_steps=steps_of_pass(len(target), size),
    )  # fmt: skip
    indices = np.asarray(own, np.int64)[drawn]
    nothing = np.zeros(config.model.input_hw, bool)
    whole, crops, covered, geometries = [], [], [], []
    for place, index in zip(kept, indices.tolist(), strict=True):
        rng = _rng(config.run.seed, TARGET_STREAM, iteration, place)
        whole.append(target[index])
        geometries.append(draw_geometry(rng, settings, config.model.input_hw, config.crop_hw))
        padding, ignored = _padding(target.content(index), config.model.input_hw), target.ignored(index)
        crops.append(_varied(rng, geometries[-1].image(whole[-1]), settings.colour, geometries[-1], padding))
        covered.append(nothing if ignored is None else ignored)
    return TargetBatch(
        indices=indices,
        whole=np.stack(whole),
        crops=np.stack(crops),
        ignored=np.stack([g.classes(each.astype(np.uint8)) > 0 for g, each in zip(geometries, covered, strict=True)]),
        geometries=tuple(geometries),
        covered=np.stack(covered) if any(each.any() for each in covered) else None,
    )


def prefetched(
    make: Callable[[int], Batch], first: int, end: int, *, ahead: int = 2, loaders: int = 1
) -> Iterator[tuple[int, Batch]]:
    """`(iteration, make(iteration))` for first … end−1, in this order, prepared ahead by `loaders` threads.

    At most `ahead` batches, or one for each loader if these are more, wait or are in work beside the one handed out.
    What `make` raises is raised here, when the batch is handed out. `make` is called by several threads at once.
    """
    ahead = max(ahead, loaders)
    with ThreadPoolExecutor(loaders, thread_name_prefix="loader", initializer=use_all_cores) as pool:
        waiting: deque[tuple[int, Future[Batch]]] = deque()
        upcoming = iter(range(first, end))
        try:
            while True:
                for iteration in upcoming:
                    waiting.append((iteration, pool.submit(make, iteration)))
                    if len(waiting) > ahead:
                        break
                if not waiting:
                    return
                iteration, future = waiting.popleft()
                yield iteration, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
