"""What a model answered to some frames at export, small enough for the manifest.

So a measurement can prove on the device that it timed the model that was judged: the frames are known by their
hashes, the class maps too, and where a class map is another one, the pixels of each class bound from below how many
pixels differ. Legend: H rows, W columns of the model's input, C classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clst_runtime.artifact.manifest import Manifest
from clst_runtime.backends.base import Backend, Classes, Frame
from clst_runtime.data.subsets import Subset, evenly_spread
from clst_runtime.errors import ModelFileError

KEY = "fingerprint"
"""Where it stands in `Manifest.parity`."""
MOST_FRAMES = 16


@dataclass(frozen=True, kw_only=True)
class ExportDigest:
    """Frames by their hashes, and a digest of the class map of each."""

    frames_sha256: tuple[str, ...]
    """SHA-256 of each frame's H·W·3 bytes."""
    classes_sha256: tuple[str, ...]
    """SHA-256 of each class map's H·W bytes."""
    class_pixels: tuple[tuple[int, ...], ...]
    """Pixels of each of the C classes in each class map."""
    computed_by: str
    """The backend's description."""

    def to_json(self) -> dict[str, Any]:
        return {
            "frames_sha256": list(self.frames_sha256),
            "classes_sha256": list(self.classes_sha256),
            "class_pixels": [list(counts) for counts in self.class_pixels],
            "computed_by": self.computed_by,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any], *, where: str) -> ExportDigest:
        """Read the form of `to_json`.

        Raises:
            ModelFileError: it has another form.
        """
        try:
            found = ExportDigest(
                frames_sha256=tuple(map(str, value["frames_sha256"])),
                classes_sha256=tuple(map(str, value["classes_sha256"])),
                class_pixels=tuple(tuple(map(int, counts)) for counts in value["class_pixels"]),
                computed_by=str(value["computed_by"]),
            )
            if not len(found.frames_sha256) == len(found.classes_sha256) == len(found.class_pixels):
                raise ValueError("its lists differ in length")
            return found
        except (KeyError, TypeError, ValueError) as error:
            raise ModelFileError(f"{where}: its parity's {KEY} is damaged ({error}); export the model again") from error


@dataclass(frozen=True, kw_only=True)
class DigestComparison:
    """A model here compared with its digest of the export."""

    of: int
    """Frames of the fingerprint."""
    found: int
    """How many of them were among the images given."""
    equal: int
    """On how many of those the class maps are the same, to the pixel."""
    differing_share: float
    """At least this share of the pixels of the found frames differs (0 … 1), by the pixels of each class."""
    computed_by: str

    @property
    def is_equal(self) -> bool:
        """Whether every frame was found and gave the same class map."""
        return self.found == self.equal == self.of > 0

    @property
    def text(self) -> str:
        if self.found == 0:
            return "not tied to the parity run: other frames than those of the export"
        frames = f"{self.found} of the export's {self.of} frames"
        if self.equal == self.found:
            return f"the same classes as at export on {frames}"
        return (
            f"other classes than at export on {self.found - self.equal} of {frames}, "
            f"at least {100 * self.differing_share:.3f} % of their pixels ({self.computed_by} there)"
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "frames_of_export": self.of,
            "found": self.found,
            "equal": self.equal,
            "differing_share_at_least": self.differing_share,
            "tied": self.is_equal,
            "told": self.text,
        }


def take_digest(backend: Backend, frames: Sequence[Frame]) -> ExportDigest:
    """Run a model on at most `MOST_FRAMES` frames H,W,3, evenly spread."""
    chosen = list(Subset(frames, evenly_spread(len(frames), MOST_FRAMES)))
    maps = [np.array(backend.predict(frame).classes) for frame in chosen]
    number = len(backend.manifest.classes)
    return ExportDigest(
        frames_sha256=tuple(map(array_sha256, chosen)),
        classes_sha256=tuple(map(array_sha256, maps)),
        class_pixels=tuple(tuple(_pixels(classes, number)) for classes in maps),
        computed_by=backend.description,
    )


def known_frames(frames: Iterable[Frame], digests: Collection[str]) -> dict[str, Frame]:
    """Those of `frames` that have one of the digests; read on only until all are found."""
    wanted, found = set(digests), dict[str, Frame]()
    if not wanted:
        return found
    for frame in frames:
        digest = array_sha256(frame)
        if digest in wanted:
            found[digest] = frame
        if len(found) == len(wanted):
            break
    return found


def stored_digest(manifest: Manifest, *, where: str) -> ExportDigest | None:
    """What the manifest holds; None if the model was exported without.

    Raises:
        ModelFileError: it is damaged.
    """
    stored = manifest.parity.get(KEY)
    return None if stored is None else ExportDigest.from_json(stored, where=where)


def compare_with_digest(backend: Backend, known: ExportDigest, frames: Mapping[str, Frame]) -> DigestComparison:
    """Run a model on those frames of its fingerprint that `known_frames` found."""
    places = {digest: place for place, digest in enumerate(known.frames_sha256)}
    found = {digest: place for digest, place in places.items() if digest in frames}
    equal, moved, pixels = 0, 0, 0
    for digest, place in found.items():
        classes = backend.predict(frames[digest]).classes
        equal += array_sha256(classes) == known.classes_sha256[place]
        there = known.class_pixels[place]
        here = _pixels(classes, len(there))
        moved += sum(abs(ours - theirs) for ours, theirs in zip(here, (*there, *([0] * len(here))), strict=False))
        pixels += classes.size
    share = moved / 2 / pixels if pixels else 0.0  # a pixel of another class is one less here and one more there
    return DigestComparison(
        of=len(places), found=len(found), equal=equal, differing_share=share, computed_by=known.computed_by
    )


def classes_sha256(maps: Sequence[Classes]) -> str:
    """SHA-256 over class maps H,W, in order."""
    digest = hashlib.sha256()
    for classes in maps:
        digest.update(np.ascontiguousarray(classes).data)
    return digest.hexdigest()


def array_sha256(array: Frame) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _pixels(classes: Classes, number: int) -> list[int]:
    return [int(count) for count in np.bincount(classes.ravel(), minlength=number)]
