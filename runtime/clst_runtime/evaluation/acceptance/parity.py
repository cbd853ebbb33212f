"""Parity on the device, without the checkpoint: against what was stored at export. Three ways, the strictest first.

1. A bundle holds frames and the class maps of its ONNX file: the engine is compared with them, pixel by pixel.
2. The manifest holds hashes of frames and of class maps: on those of the given images that are the very same, the
   class maps must be the same, or differ on no more pixels than the export's own bound allows.
3. With labels, on the export's own images, mIoU must not fall below the export's by more than its bound.

On other images than the export's nothing can be judged; the mIoU is only reported.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clst_runtime.backends.base import Backend
from clst_runtime.backends.tensorrt.build.options import BuildOptions
from clst_runtime.backends.tensorrt.bundle.format import load_expected, load_frames, read_bundle
from clst_runtime.data.dataset import LabelledDataset, open_dataset
from clst_runtime.data.formats import find_format
from clst_runtime.errors import ClstError
from clst_runtime.evaluation.evaluate import evaluate
from clst_runtime.evaluation.export_digest import compare_with_digest, known_frames, stored_digest
from clst_runtime.evaluation.latency.comparison import SEARCHED
from clst_runtime.imaging.geometry import fit_frame
from clst_runtime.sources import open_source
from clst_runtime.system.numbers import finite_or_none

MIN_AGREEMENT = 0.999
"""For an export that stored no bound."""


@dataclass(kw_only=True)
class ParityOutcome:
    """What came out."""

    holds: bool | None = None
    """None = there was nothing to judge by."""
    parts: list[str] = field(default_factory=list)
    """Of each way a line."""
    values: dict[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        return "; ".join(self.parts) or "nothing to compare with: give --data with the export's own images"

    def add(self, name: str, text: str, values: dict[str, Any], *, holds: bool | None) -> None:
        """Take in one way; one that does not hold decides."""
        self.parts.append(text)
        self.values[name] = {**values, "holds": holds}
        if holds is not None:
            self.holds = holds if self.holds is None else self.holds and holds


def compare_with_export(backend: Backend, model: Path, data: Path | None) -> ParityOutcome:
    """Compare by every way that is open.

    Raises:
        ModelFileError: the bundle or the stored hashes are damaged. DataError: the data cannot be read.
    """
    outcome = ParityOutcome()
    if model.is_dir():
        _by_bundle(backend, model, outcome)
    dataset = labelled(data, backend, outcome) if data is not None else None
    same_images = _by_digest(backend, data, outcome)
    if dataset is not None:
        _by_labels(backend, dataset, outcome, same_images=same_images)
    return outcome


def _by_bundle(backend: Backend, folder: Path, outcome: ParityOutcome) -> None:
    bundle = read_bundle(folder)
    own = next(
        (model for model in bundle.models if model.sha256 == backend.manifest.engine.get("onnx_sha256")), bundle.model
    )
    expected, equal, pixels = load_expected(folder, own), 0, 0
    for frame, wanted in zip(load_frames(folder, bundle), expected.maps, strict=True):
        equal += int(np.count_nonzero(backend.predict(frame).classes == wanted))
        pixels += wanted.size
    needed = bundle.options.agreement_needed(backend.manifest.precision)
    agreement = equal / pixels
    text = f"{100 * agreement:.3f} % of pixels as {expected.reference} on {len(expected.maps)} frames of the bundle"
    values = {"agreement": agreement, "needed": needed, "frames": len(expected.maps), "reference": expected.reference}
    outcome.add("bundle", f"{text}, {100 * needed:.3f} % needed", values, holds=agreement >= needed)


def _by_digest(backend: Backend, data: Path | None, outcome: ParityOutcome) -> bool:
    """Whether all of the export's frames were found."""
    known = stored_digest(backend.manifest, where=backend.manifest.network)
    if known is None or data is None:
        return False
    size, fit = backend.manifest.input_hw, backend.manifest.fit
    with open_source(str(images_of(data))) as source:
        images = (fit_frame(timed.rgb, size, fit) for timed in itertools.islice(source, SEARCHED))
        found = known_frames(images, known.frames_sha256)
    tie = compare_with_digest(backend, known, found)
    least = agreement_needed(backend)
    holds = None if tie.found == 0 else tie.equal == tie.found or 1.0 - tie.differing_share >= least
    outcome.add("fingerprint", tie.text, tie.to_json() | {"min_agreement": least}, holds=holds)
    return tie.found == tie.of


def agreement_needed(backend: Backend) -> float:
    """Share of equal pixels (0 … 1) that the export asked for; of an engine what its build asked for."""
    manifest = backend.manifest
    if manifest.engine:
        where = manifest.network
        return BuildOptions.from_json(manifest.engine.get("options", {}), where=where).agreement_needed(
            manifest.precision
        )
    return float(manifest.parity.get("bounds", {}).get("min_agreement", MIN_AGREEMENT))


def labelled(data: Path, backend: Backend, outcome: ParityOutcome) -> LabelledDataset | None:
    """Those images of a labelled data set that the export took, if it took some; None, and why, if it is none."""
    try:
        find_format(data, None)
    except ClstError:
        outcome.add("labels", f"{data} holds no labels", {}, holds=None)
        return None
    try:
        dataset = open_dataset(data, split="val", classes=backend.manifest.classes)
        return dataset.spread(int(backend.manifest.parity.get("frames", len(dataset))) or len(dataset))
    except ClstError as error:
        outcome.add("labels", f"no labels were used ({error.message})", {}, holds=None)
        return None


def images_of(data: Path) -> Path:
    """The folder of a data set's images, so that its label files are not taken for images."""
    for name in ("images/val", "images", "leftImg8bit/val", "leftImg8bit"):
        if (data / name).is_dir():
            return data / name
    return data


def _by_labels(backend: Backend, dataset: LabelledDataset, outcome: ParityOutcome, *, same_images: bool) -> None:
    result, parity = evaluate(backend, dataset), backend.manifest.parity
    stored = parity.get("miou") if parity.get("labelled") else None
    text = f"mIoU {100 * result.miou:.2f} on {result.frames} labelled images"
    values: dict[str, Any] = {"miou": finite_or_none(result.miou), "frames": result.frames}
    if stored is None or not same_images or result.frames != parity.get("frames"):
        reason = "stored no mIoU" if stored is None else "was judged on other images"
        outcome.add("labels", f"{text} (not judged: the export {reason})", values, holds=None)
        return
    bound = float(parity.get("bounds", {}).get("max_miou_drop", 0.0005))
    drop = float(stored) - result.miou
    text = f"{text}, {100 * float(stored):.2f} at export"
    outcome.add("labels", text, values | {"stored": stored, "max_miou_drop": bound}, holds=drop <= bound)
