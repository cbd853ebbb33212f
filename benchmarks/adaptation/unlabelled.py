"""What is seen of networks on images of a new camera without labels, every candidate for a verdict, and the truth.

    python -m benchmarks.adaptation.unlabelled KIND/NAME --target LABELLED --source LABELLED --work FOLDER CKPT…

It is kept in WORK, a file for each network, for `benchmarks.adaptation.unlabelled_judge`. KIND is that of the change:
camera, light or country; NAME is the camera's.

Legend: K images, C classes, H rows and W columns of an image.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from benchmarks.record import provenance
from clst_runtime.classes.labels import IGNORE_ID
from clst_runtime.data.dataset import LabelledDataset, open_dataset
from clst_runtime.data.subsets import evenly_spread
from clst_runtime.evaluation.confusion import confusion_of
from clst_runtime.evaluation.evaluate import predict_at
from clst_runtime.evaluation.unlabelled import MOST_IMAGES, Seen, inner_hw, labelled_pixels, predictions
from clst_runtime.imaging.geometry import fit_frame, fit_labels, resize_classes, resize_frame
from clst_runtime.system.files.atomic import written_whole
from clst_runtime.system.files.hashing import file_sha256
from clst_train.models.checkpoint import build_from_checkpoint, load_checkpoint
from clst_train.models.checkpoint_backend import TorchBackend, open_checkpoint
from clst_train.models.deployable import normalise_in_training

Maps = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float64]
FEATURES, LEAST_PIXELS = 20_000, 20
"""Pixels that a linear head is fitted to, and that a class needs for a prototype."""
EACH = 2
"""Rows and columns of the kept class maps: every second one."""


def labelled(place: str, classes: Any = None) -> LabelledDataset:
    """ROOT, ROOT:SPLIT or ROOT:SPLIT:MAPPING, in the networks' classes; without a split it is `train`."""
    root, split, mapping = [*place.split(":"), "", ""][:3]
    return open_dataset(
        Path(root), split=split or "train", classes=classes, mapping_file=Path(mapping) if mapping else None
    )


def see(checkpoint: Path, target: str, source: str, *, neighbours: bool) -> dict[str, Any]:
    """All that is kept of a network on one camera."""
    with open_checkpoint(checkpoint) as model:
        classes = model.manifest.classes
        count, images, old = len(classes), labelled(target, classes), labelled(source, classes)
        places = evenly_spread(len(images), MOST_IMAGES)
        samples = [images[place] for place in places]
        whole, total = [], Seen.nothing(count)
        views: dict[str, list[npt.NDArray[np.int64]]] = {"mirrored": [], "larger": [], "truth": []}
        for number, sample in enumerate(samples):
            seen, small = predictions(model, sample.image)
            total += Seen.of(seen, small, count)
            whole.append(seen[::EACH, ::EACH])
            views["truth"].append(confusion_of(sample.labels, seen, count))
            views["mirrored"].append(confusion_of(seen, predict_at(model, sample.image[:, ::-1])[:, ::-1], count))
            views["larger"].append(confusion_of(*_larger(model, sample.image, seen, number), count))
        kept = {
            "predicted": total.predicted,
            "smaller": total.agreement,
            "maps": np.stack(whole),
            "labelled": labelled_pixels(old),
            **{name: np.sum(each, 0) for name, each in views.items()},
        }
        if neighbours:
            kept["over time"] = _over_time(model, images, count)
    return kept | _of_features(checkpoint, samples, [old[place] for place in evenly_spread(len(old), MOST_IMAGES)])


def _larger(model: TorchBackend, image: Maps, seen: Maps, number: int) -> tuple[Maps, Maps]:
    """Classes in a corner of an image, cut from the whole's and of the corner made as large as the image."""
    size_hw = image.shape[:2]
    rows, columns = inner_hw(size_hw)
    top, left = (size_hw[0] - rows) * (number // 2 % 2), (size_hw[1] - columns) * (number % 2)
    cut = (slice(top, top + rows), slice(left, left + columns))
    larger = predict_at(model, resize_frame(np.ascontiguousarray(image[cut]), (size_hw[0], size_hw[1])))
    return resize_classes(np.ascontiguousarray(seen[cut]), (size_hw[0], size_hw[1])), larger


def _over_time(model: TorchBackend, images: LabelledDataset, count: int) -> npt.NDArray[np.int64]:
    """C,C: classes of an image, and of its neighbour's moved along the optical flow, where that leads back."""
    flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # type: ignore[attr-defined]
    found = np.zeros((count, count), np.int64)
    before: tuple[Any, Any] | None = None
    for place in range(len(images)):
        frame = fit_frame(images[place].image, model.manifest.input_hw, model.manifest.fit)
        grey, seen = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), model.predict(frame).classes
        if before is not None:
            back, forth = flow.calc(grey, before[0], None), flow.calc(before[0], grey, None)
            rows, columns = np.indices(grey.shape, np.float32)
            to = (columns + back[..., 0], rows + back[..., 1])
            there = cv2.remap(forth, *to, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=1e3)
            moved = cv2.remap(before[1], *to, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=IGNORE_ID)
            moved[np.abs(back + there).max(2) > 1] = IGNORE_ID
            found += confusion_of(moved, seen, count)
        before = (grey, seen)
    return found


def _of_features(checkpoint: Path, target: list[Any], source: list[Any]) -> dict[str, Any]:
    """Expected IoU by probabilities; linear heads between the cameras; how far prototypes are apart."""
    held = load_checkpoint(checkpoint)
    network = build_from_checkpoint(held).eval()
    count, size_hw = network.class_count, held.input_hw
    new, old = (_features(network, [fit_frame(each.image, size_hw, held.fit) for each in some])
                for some in (target, source))  # fmt: skip
    probabilities = new[1]
    highest, winner = probabilities.max(1), probabilities.argmax(1)
    by_winner = np.eye(count)[winner]
    expected = np.stack([by_winner.T @ highest, by_winner.sum(0), probabilities.sum(0)])  # hits, predicted, true
    truth = np.concatenate(
        [resize_classes(fit_labels(each.labels, size_hw, held.fit), new[2]).ravel() for each in source]
    )
    rng = np.random.default_rng(0)
    known = np.flatnonzero(truth != IGNORE_ID)
    some_new, some_old = (rng.permutation(each)[:FEATURES] for each in (np.arange(len(winner)), known))
    reverse = _head(new[0][some_new], winner[some_new], count)(old[0][known])
    forward = _head(old[0][some_old], truth[some_old], count)(new[0])
    return {
        "expected": expected,
        "entropy": -(probabilities * np.log(np.maximum(probabilities, 1e-9))).sum(1).mean(),
        "reverse validation": confusion_of(truth[known].astype(np.uint8), reverse, count),
        "source head": confusion_of(winner.astype(np.uint8), forward, count),
        "prototypes": _prototypes(new[0][some_new], winner[some_new], count),
        "source prototypes": _prototypes(old[0][some_old], truth[some_old], count),
    }


def _features(network: Any, frames: list[Maps]) -> tuple[Values, Values, tuple[int, int]]:
    """Features and probabilities of all pixels of the last layers, and that layer's size."""
    features: list[Values] = []
    probabilities: list[Values] = []
    with torch.inference_mode():
        for begin in range(0, len(frames), 8):
            batch = torch.from_numpy(np.stack(frames[begin : begin + 8]))
            found = network.training_outputs(normalise_in_training(batch, network.normalisation))
            logits = F.interpolate(found.logits.float(), found.features.shape[2:], mode="bilinear", align_corners=False)
            for kept, values in ((features, found.features.float()), (probabilities, logits.softmax(1))):
                kept.append(values.permute(0, 2, 3, 1).flatten(0, 2).numpy())
    size = found.features.shape[2:]
    return np.concatenate(features), np.concatenate(probabilities), (int(size[0]), int(size[1]))


def _head(features: Values, classes: npt.NDArray[Any], count: int) -> Any:
    """A linear classifier by least squares, classes alike, as a function of features to class ids."""
    mean, spread = features.mean(0), features.std(0) + 1e-6

    def prepared(values: Values) -> Any:
        return np.c_[(values - mean) / spread, np.ones(len(values))]

    weights = 1 / np.maximum(np.bincount(classes, minlength=count), 50)[classes]
    inputs, weights = prepared(features), weights / weights.mean()
    square = (inputs * weights[:, None]).T @ inputs + 0.01 * len(inputs) * np.eye(inputs.shape[1])
    wanted = (inputs * weights[:, None]).T @ (np.eye(count)[classes] - 1 / count)
    solution: Values = np.linalg.solve(square, wanted)
    return lambda values: (prepared(values) @ solution).argmax(1).astype(np.uint8)


def _prototypes(features: Values, classes: npt.NDArray[Any], count: int) -> Values:
    """C,D mean directions of a class's features, of length 1; NaN where it has too few pixels."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    having = [unit[classes == each] for each in range(count)]
    means = [each.mean(0) if len(each) >= LEAST_PIXELS else np.full(unit.shape[1], np.nan) for each in having]
    found: Values = np.stack([each / np.linalg.norm(each) for each in means])
    return found


@click.command(help=__doc__)
@click.argument("camera")
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option(
    "--target", required=True, help="Labelled images of the new camera: ROOT, ROOT:SPLIT or ROOT:SPLIT:MAPPING."
)
@click.option("--source", required=True, help="Old camera, in the same way.")
@click.option("--work", required=True, type=click.Path(path_type=Path), help="Where it is kept.")
@click.option("--neighbours", is_flag=True, help="The images follow one another quickly: look over time, too.")
def main(camera: str, checkpoints: tuple[Path, ...], target: str, source: str, work: Path, *, neighbours: bool) -> None:
    torch.set_num_threads(1)
    folder = work / camera
    folder.mkdir(parents=True, exist_ok=True)
    for checkpoint in checkpoints:
        kept = folder / f"{file_sha256(checkpoint)[:16]}.npz"
        if kept.is_file():
            continue
        found = see(checkpoint, target, source, neighbours=neighbours)
        name = "/".join(checkpoint.with_suffix("").parts[-3:]).replace("/checkpoints", "")
        with written_whole(kept) as part:
            np.savez_compressed(part, name=name, origin=json.dumps(provenance()), **found)
        click.echo(f"{camera}: {name}")


if __name__ == "__main__":
    main()
