"""How well clst-run tells the model's own camera from another one, and what the look costs.

    python -m benchmarks.monitor.domain_shift --data DIR MODEL.onnx…

A reference is measured on one half of a camera's drive; windows of the other half should be near it, those of other
cameras far. Each half is the reference once. CamVid's drives are brought to a frame a second, so that a window of K
frames is K seconds; IDD-Lite's images are single ones of many drives, the video is one road. What counts as what:

    same    the other half of the drive(s) that the reference is of
    drive   another drive of the same camera by day: should be near, as far as one drive shows it
    light   the same camera at dusk (or by day, where the reference is of dusk)
    other   another camera

The models should have been exported with --confidence; the reference in them is not used. The result goes to
benchmarks/results/domain_shift.json.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.record import RESULTS, provenance, write_result
from clst_runtime.backends.onnxruntime.session import OrtBackend
from clst_runtime.imaging.geometry import Fitter, Layout
from clst_runtime.imaging.image_files import read_image
from clst_runtime.live.monitor.drift import HELD, OTHER_ABOVE, SAME_BELOW, DriftDetector, State
from clst_runtime.live.monitor.features import (
    CLASSES,
    CONFIDENCE,
    IMAGE_PARTS,
    PARTS,
    feature_names,
    frame_features,
    part_of,
)
from clst_runtime.live.monitor.reference import SIZES, Reference, windows
from clst_runtime.live.pipeline import without_padding
from clst_runtime.sources.files import VideoSource

SECOND = 30
"""CamVid's frame numbers a second."""
DRIVES = {"CamVid 0006R0": "0006R0", "CamVid 0016E5": "0016E5", "CamVid dusk": "0001TP"}
DAY = ("CamVid 0006R0", "CamVid 0016E5")
IDD = ("IDD-Lite train", "IDD-Lite val")
VIDEO = "US video"
EVERY_IDD = 4
"""Of IDD-Lite's 1264 training images, each n-th."""
CASES = {
    "CamVid, both drives by day": DAY,
    "CamVid, one drive by day": DAY[1:],
    "CamVid at dusk, a minute": ("CamVid dusk",),
    "IDD-Lite": IDD[:1],
}
"""Drives that a reference is half of."""
WHOLE_CASES = {"CamVid, both drives by day, whole": DAY, "CamVid at dusk, whole": ("CamVid dusk",)}
"""The same with nothing held back for the camera itself: what an export stores."""
COSTED = 200
"""Frames that the cost of a look is measured on."""


def images(data: Path) -> Iterator[tuple[str, Any]]:
    """(drive, RGB image) of every image used, each drive in order of time."""
    found = sorted((data / "camvid" / "images").glob("*/*.jpg"), key=lambda path: (path.stem[:6], _number(path)))
    for drive, prefix in DRIVES.items():
        last = -SECOND
        for path in (path for path in found if path.stem.startswith(prefix)):
            if _number(path) - last >= SECOND:
                last = _number(path)
                yield drive, read_image(path)
    for drive, split, every in zip(IDD, ("train", "val"), (EVERY_IDD, 1), strict=True):
        for path in sorted((data / "idd_lite" / "images" / split).glob("*.jpg"))[::every]:
            yield drive, read_image(path)
    yield from ((VIDEO, image) for image in _video(data / "video" / "solidWhiteRight.mp4"))


def _number(path: Path) -> int:
    return int(path.stem[6:].lstrip("_f"))


def _video(path: Path) -> Iterator[Any]:
    """Five frames a second of nine seconds: too short a video for a frame a second."""
    with VideoSource(path) as source:
        for timed in source:
            if timed.index % 5 == 0:
                yield timed.rgb


def prints_of(model: Path, data: Path, threads: int) -> tuple[dict[str, Any], tuple[str, ...], dict[str, Any]]:
    """Fingerprints N,D by drive, their names, and the milliseconds of a look and of an inference."""
    found: dict[str, list[Any]] = {}
    looks, inferences = [], []
    with OrtBackend(model, threads=threads) as backend:
        manifest, classes = backend.manifest, backend.manifest.classes
        names = feature_names(classes.names, has_confidence=manifest.has_confidence)
        fitter = Fitter(manifest.input_hw, manifest.fit)
        for drive, image in images(data):
            frame = fitter.fit(image, Layout.RGB)
            begin = time.perf_counter_ns()
            prediction = backend.predict(frame)
            middle = time.perf_counter_ns()
            shown, predicted = fitter.content.of(frame), without_padding(prediction, fitter.content)
            found.setdefault(drive, []).append(frame_features(shown, predicted, len(classes)))
            looks.append(time.perf_counter_ns() - middle)
            inferences.append(middle - begin)
        cost = {
            "threads": threads,
            "input_hw": list(manifest.input_hw),
            "look_ms": float(np.median(looks[-COSTED:])) / 1e6,
            "inference_ms": float(np.median(inferences[-COSTED:])) / 1e6,
        }
    return {drive: np.array(prints) for drive, prints in found.items()}, names, cost


def kept(folder: Path | None, model: Path, make: Callable[[Path], Any]) -> Any:
    """The fingerprints of a model from the folder, or made and put there."""
    if folder is None:
        return make(model)
    path = folder / f"{model.stem}.json"
    if not path.exists():
        prints, names, cost = make(model)
        folder.mkdir(parents=True, exist_ok=True)
        plain = {drive: found.tolist() for drive, found in prints.items()}
        path.write_text(json.dumps({"prints": plain, "names": names, "cost": cost}))
    stored = json.loads(path.read_text())
    prints = {drive: np.array(found) for drive, found in stored["prints"].items()}
    return prints, tuple(stored["names"]), stored["cost"]


def kind(drive: str, own: Sequence[str]) -> str:
    """What a drive is to a reference of the drives `own`; see the head of this file."""
    if drive in own or (drive in IDD and own[0] in IDD):
        return "same"
    if drive.startswith("CamVid") and own[0].startswith("CamVid"):
        return "drive" if drive in DAY and own[0] in DAY else "light"
    return "other"


def measure(prints: dict[str, Any], names: tuple[str, ...], own: Sequence[str], size: int) -> dict[str, Any]:
    """Shifts of all windows of a size, by drive, each half of `own` being the reference once."""
    shifts: dict[str, list[float]] = {}
    for reference_half in (0, 1):
        halves = [np.array_split(prints[drive], 2) for drive in own]
        reference = Reference.of([half[reference_half] for half in halves], names)
        tested = {f"{drive}, other half": half[1 - reference_half] for drive, half in zip(own, halves, strict=True)}
        tested |= {drive: found for drive, found in prints.items() if drive not in own}
        for drive, found in tested.items():
            shifts.setdefault(drive, []).extend(reference.compare(w).shift for w in windows(found, size))
    by_kind: dict[str, list[float]] = {}
    for drive, values in shifts.items():
        by_kind.setdefault(kind(drive.partition(",")[0], own), []).extend(values)
    return {
        "reference_frames": reference.frames,
        "kinds": {name: summary(values, by_kind["same"], OTHER_ABOVE) for name, values in by_kind.items()},
        "drives": {name: summary(values, by_kind["same"], OTHER_ABOVE) for name, values in shifts.items()},
    }


def measure_whole(prints: dict[str, Any], names: tuple[str, ...], own: Sequence[str], size: int) -> dict[str, Any]:
    """Shifts of all windows of the drives that are not in the reference; there is none of the same camera then."""
    reference = Reference.of([prints[drive] for drive in own], names)
    shifts = {drive: [reference.compare(w).shift for w in windows(found, size)]
              for drive, found in prints.items() if drive not in own}  # fmt: skip
    return {"reference_frames": reference.frames,
            "drives": {drive: summary(values, [], OTHER_ABOVE) for drive, values in shifts.items()}}  # fmt: skip


def summary(values: Sequence[float], same: Sequence[float], threshold: float) -> dict[str, Any]:
    """Of shifts: quantiles, the share above the shipped threshold, and the AUROC against the same camera's."""
    if not values:
        return {"windows": 0}
    array, others = np.array(values), np.array(same)
    pairs = array[:, None] - others
    wins = ((pairs > 0).mean() + (pairs == 0).mean() / 2) if len(others) else None
    low, median, high = np.quantile(array, (0.05, 0.5, 0.95))
    return {"windows": len(array), "q05": low, "median": median, "q95": high, "max": float(array.max()),
            "above": float((array > threshold).mean()), "auroc": wins}  # fmt: skip


def drive_past(prints: dict[str, Any], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The monitor itself, a frame a second: on the own camera, then on another; when does it notice?

    The reference is the first half of both drives by day. IDD-Lite's images have no order of time: they are taken
    as if they had.
    """
    own = [np.array_split(prints[drive], 2) for drive in DAY]
    passed = []
    for drive in ("CamVid dusk", *IDD):
        detector = DriftDetector(Reference.of([half[0] for half in own], names), 0)
        before = [detector.compare_next(values).state for values in np.concatenate([half[1] for half in own])]
        after = [detector.compare_next(values).state for values in prints[drive]]
        passed.append({
            "own_frames": len(before), "false_alarm_frames": before.count(State.OTHER), "then": drive,
            "frames": len(after), "delay_frames": after.index(State.OTHER) + 1 if State.OTHER in after else None,
        })  # fmt: skip
    return passed


def select(prints: dict[str, Any], names: tuple[str, ...], parts: Sequence[str]) -> tuple[dict[str, Any], Any]:
    """Only the numbers of some parts."""
    places = [place for place, name in enumerate(names) if part_of(name) in parts]
    return {drive: found[:, places] for drive, found in prints.items()}, tuple(names[place] for place in places)


def ablations() -> dict[str, tuple[str, ...]]:
    """Which parts are asked alone."""
    return {"everything": PARTS, "image alone": IMAGE_PARTS, "model alone": (CLASSES, CONFIDENCE),
            **{part: (part,) for part in PARTS}}  # fmt: skip


def show(result: dict[str, Any]) -> str:
    """The result as lines."""
    lines = []
    for model in result["models"]:
        lines.append(f"{model['model']}: a look {model['cost']['look_ms']:.2f} ms, inference "
                     f"{model['cost']['inference_ms']:.1f} ms")  # fmt: skip
        for row in model["rows"]:
            kinds = "  ".join(
                f"{name} {found['median']:.2f} ({100 * found['above']:.0f} % above, AUROC {found['auroc']:.3f})"
                for name, found in row["kinds"].items() if found["windows"]
            )  # fmt: skip
            lines.append(f"  {row['case']}, {row['parts']}, {row['size']} frames: {kinds}")
        for row in model["whole"]:
            drives = "  ".join(f"{name} {found['median']:.2f} ({100 * found['above']:.0f} % above)"
                               for name, found in row["drives"].items() if found["windows"])  # fmt: skip
            lines.append(f"  {row['case']}, {row['size']} frames: {drives}")
        lines.extend(f"  drive past: {passed}" for passed in model["drive_past"])
    return "\n".join(lines)


def shortened(value: Any) -> Any:
    """The result to four digits, the single drives only where everything is compared."""
    if isinstance(value, dict):
        short = value.get("parts") not in (None, "everything")
        return {name: shortened(found) for name, found in value.items() if not (short and name == "drives")}
    if isinstance(value, list):
        return [shortened(found) for found in value]
    return round(float(value), 4) if isinstance(value, float) else value


@click.command()
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--data", required=True, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--name", "names_of", multiple=True, help="What a model is called in the result  [default: its file]")
@click.option("--prints", "prints_folder", type=click.Path(path_type=Path, file_okay=False),
              help="Folder that keeps the fingerprints, so that another rule is tried without the models.")  # fmt: skip
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1))
def main(
    models: tuple[Path, ...], data: Path, names_of: tuple[str, ...], threads: int, prints_folder: Path | None
) -> None:
    """Measure MODELS and write the result."""
    measured = []
    for place, model in enumerate(models):
        fresh = prints_folder is None or not (prints_folder / f"{model.stem}.json").exists()
        prints, names, cost = kept(prints_folder, model, lambda path: prints_of(path, data, threads))
        rows = []
        for case, own in CASES.items():
            for title, parts in ablations().items():
                for size in SIZES:
                    if title not in ("everything", "image alone", "model alone") and size != 16:
                        continue
                    found = measure(*select(prints, names, parts), own, size)
                    rows.append({"case": case, "parts": title, "size": size, **found})
        measured.append({
            "fingerprints": "measured in this run" if fresh else "of an earlier run, as its cost",
            "model": names_of[place] if place < len(names_of) else model.name, "cost": cost,
            "pictures": {drive: len(found) for drive, found in prints.items()}, "rows": rows,
            "whole": [{"case": case, "size": size, **measure_whole(prints, names, own, size)}
                      for case, own in WHOLE_CASES.items() for size in SIZES],
            "drive_past": drive_past(prints, names),
        })  # fmt: skip
    thresholds = {"other_above": OTHER_ABOVE, "same_below": SAME_BELOW, "held": HELD}
    result = {**provenance(), "thresholds": thresholds, "models": measured}
    write_result(RESULTS / "domain_shift.json", shortened(result))
    click.echo(show(result))


if __name__ == "__main__":
    main()
