"""Both networks of a finished run in the feature space of both cameras' images (`clst-data features`)."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from clst_runtime.classes.labels import ClassList
from clst_runtime.data.dataset import open_dataset
from clst_runtime.data.subsets import evenly_spread
from clst_runtime.errors import ConfigError
from clst_train.config import Config
from clst_train.data.target import open_target
from clst_train.engine.run_folder import open_run
from clst_train.inspection.feature_space import ProbeImage, Stage, cloud_of, labelled_images, unlabelled_images
from clst_train.method.batchnorm import estimate_statistics
from clst_train.models.checkpoint import Checkpoint, build_from_checkpoint, load_checkpoint
from clst_train.models.deployable import normalise
from clst_train.models.normalisation import Normalisation
from clst_train.models.segmenter import Segmenter
from clst_train.models.wrapped import WrappedNetwork


def stages_of_run(
    path: Path,
    *,
    source: str | None = None,
    split: str | None = None,
    target: Sequence[str] = (),
    labels: Path | None = None,
    labels_split: str = "val",
    count: int = 60,
) -> tuple[Stage, Stage, ClassList]:
    """The feature space of a run's source.pt and adapted.pt, and their classes.

    Args:
        path: the run folder.
        source: labelled images of the old camera; None = the run's.
        split: their split; None = the run's.
        target: images or videos of the new camera; empty = the run's.
        labels: labelled images of the new camera, whose images and labels are taken instead of `target`.
        labels_split: their split.
        count: images of each camera at most.

    Raises:
        ConfigError: no run folder, or no images. DataError: images cannot be used, or the run has not adapted yet.
        ModelFileError: a checkpoint is damaged.
    """
    folder, config = open_run(path)
    before = load_checkpoint(folder.source)
    classes = before.classes
    old = _old_images(config, source, split, before, count)
    if labels is not None:
        dataset = open_dataset(labels, split=labels_split, classes=classes)
        new = list(labelled_images(dataset, before.input_hw, count, before.fit))
    else:
        new = _new_images(target or config.data.target, before, count)
    first, second = _network(before), _network(load_checkpoint(folder.adapted))
    # The adapted network's statistics are the new camera's. In training the prototypes were means of features under
    # the old camera's own, so its images get theirs back here.
    of_old = copy.deepcopy(second)
    estimate_statistics(of_old, _batches(old, of_old.normalisation))
    stages = [
        Stage(
            title=title,
            source=cloud_of(for_old, old),
            target=cloud_of(for_new, new),
        )
        for title, for_old, for_new in (("before adaptation", first, first), ("after adaptation", of_old, second))
    ]
    return stages[0], stages[1], classes


def _network(checkpoint: Checkpoint) -> Segmenter:
    """The checkpoint's network, whose features are asked for beside its logits."""
    network = build_from_checkpoint(checkpoint)
    if isinstance(network, WrappedNetwork):
        network.measure(checkpoint.input_hw)
    return network


def _batches(images: Sequence[ProbeImage], by: Normalisation) -> Iterator[Tensor]:
    """Images as normalised batches of 2 or more; a single one stays alone."""
    size = 4
    for start in range(0, max(1, len(images) - 1), size):
        frames = [torch.from_numpy(image.frame) for image in images[start : start + size]]
        yield normalise(torch.stack(frames), by)


def _old_images(
    config: Config, source: str | None, split: str | None, before: Checkpoint, count: int
) -> list[ProbeImage]:
    place = source or config.data.source
    if not place:
        raise ConfigError("no source images: give --source the labelled images of the old camera")
    own = source is None or source == config.data.source  # split and mapping are the run's only for its own source
    dataset = open_dataset(
        Path(place),
        split=split or (config.data.source_split if own else "train"),
        classes=before.classes,
        mapping_file=Path(config.data.mapping) if own and config.data.mapping else None,
    )
    return list(labelled_images(dataset, before.input_hw, count, before.fit))


def _new_images(target: Sequence[str], before: Checkpoint, count: int) -> list[ProbeImage]:
    choose = functools.partial(evenly_spread, most=count)
    images = open_target(target, input_hw=before.input_hw, fit=before.fit, choose=choose)
    return list(unlabelled_images(images, count))
