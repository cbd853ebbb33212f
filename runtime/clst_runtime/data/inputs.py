"""What a place on a command line stands for in images: the same for every command.

- an image: itself;
- the root of a data set in a known layout (`LAYOUTS`): its images, of one split where one is asked for;
- any other folder: every image below it, but what is named like a label (`LABEL_FOLDERS`, `LABEL_ENDINGS`);
- a folder of results (of a run, a bundle, a data set's labels): nothing, it is refused.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clst_runtime.data.formats import FORMATS
from clst_runtime.errors import DataError
from clst_runtime.imaging.image_files import read_image
from clst_runtime.imaging.media import (
    IMAGE_SUFFIXES,
    Kind,
    files_below,
    is_video,
    kind_of,
    split_options,
    without_suffix,
)
from clst_runtime.imaging.videos import open_video
from clst_runtime.system.credentials import without_credentials
from clst_runtime.system.files.json_values import printable
from clst_runtime.system.files.paths import check_folder

LAYOUTS = (
    ("leftImg8bit", ("cityscapes", "idd")),
    ("images/train", ("folder",)),
    ("images/val", ("folder",)),
    ("images", ("gta5",)),
    ("RGB", ("synthia",)),
    ("701_StillsRaw_full", ("camvid",)),
)
"""Image folder below a data set's root, and the formats it belongs to; label folders play no part in this."""
LABEL_FOLDERS = frozenset({"labels", "label", "gtfine", "gtcoarse", "gt", "labeledapproved_full", "annotations"})
LABEL_ENDINGS = ("_labelids", "_labeltrainids", "_instanceids", "_gtfine_color", "_gtcoarse_color", "_label")
TELLS_NOTHING = frozenset({"images", "frames", "train", "val", "test", "leftimg8bit", "rgb", "701_stillsraw_full"})
"""Folders inside a data set that have the same names in all of them."""
RESULTS = (
    (("config.toml", "checkpoints"), ("examples",), "a run of clst-train"),
    (("frames.jsonl",), ("masks", "overlays"), "results of clst-run"),
    (("statistics.json", "legend.png"), (), "results of clst-run"),  # of several cameras
    (("bundle.json",), ("expected", "rival-expected"), "a bundle of clst-export"),
)
"""What only a folder of results holds, its folders of images that no camera took, and what it is."""


@dataclass(frozen=True, kw_only=True)
class InputImages:
    """The images that a place stands for."""

    place: Path
    paths: tuple[Path, ...]
    """Sorted; at least one."""
    remarks: tuple[str, ...] = ()
    """What was taken and what was left out; commands print it."""

    def names(self) -> list[str]:
        """A name of its own for each image, for files that are made of it: its path below the place.

        The suffix stays where names would be equal without it, also on a disk that ignores the case of
        letters.
        """
        root = self.place if self.place.is_dir() else self.place.parent
        return own_names([path.relative_to(root) for path in self.paths])


def place_name(place: str | Path) -> str:
    """What a place is called before strangers: its name, or of `…/dusk/images/train` that of the data set, dusk.

    The folders above, which are this machine's, are left out.
    """
    before, options = split_options(Path(place))
    path = Path(os.path.abspath(before))
    telling = [part for part in path.parts[1:] if part.lower() not in TELLS_NOTHING]
    name = telling[-1] if telling else path.name
    return printable(without_credentials(f"{name}?{options}" if options else name))


def images_of(place: Path, *, split: str | None = None) -> InputImages:
    """The images that a place stands for; `split` is that of a data set's root, None takes all.

    Raises:
        DataError: there is no such place, it holds no image or only results, or a file or folder cannot be read.
    """
    if place.is_file():
        if kind_of(place) is not Kind.IMAGE:
            raise DataError(f"{place}: not an image or video by what it holds; convert it, e.g. to PNG or MP4")
        return InputImages(place=place, paths=(place,))
    check_folder(place)
    _refuse_results(place)
    for inner, formats in LAYOUTS:
        if split is not None and (place / inner).is_dir():
            return _images_of_split(place, inner, formats, split)
    return _images_below(place)


def check_place(place: Path) -> None:
    """Find out before any work that a place of target images is a video or holds images, and that the first is whole.

    Raises:
        DataError: it is not so.
    """
    if not split_options(place)[0].exists():
        raise DataError(f"{place}: no such folder, image or video")
    if not is_video(place):
        read_image(images_of(place, split="train").paths[0])
        return
    video = open_video(place)
    try:
        video.read()
    finally:
        video.close()


def _images_of_split(root: Path, inner: str, formats: tuple[str, ...], split: str) -> InputImages:
    for name in formats:
        found = tuple(pair.image for pair in FORMATS[name].files(root, split))
        if found:
            text = f"{root}: a data set in the {name} layout; its {len(found)} images of split {split} are taken"
            return InputImages(place=root, paths=found, remarks=(text,))
    raise DataError(
        f"{root}: a data set with images in {root / inner}, but none of split {split}; name the folder of images itself"
    )


def _images_below(folder: Path) -> InputImages:
    kinds = {path: kind_of(path) for path in files_below(folder)}
    found = [path for path, kind in kinds.items() if kind is Kind.IMAGE]
    videos = [path for path, kind in kinds.items() if kind is Kind.VIDEO]
    labels = [path for path in found if _is_named_like_a_label(path.relative_to(folder))]
    written = {place for place in {path.parent for path in kinds} if _results_of(place) is not None}
    results = [path for path in found if not written.isdisjoint(path.parents)]
    left_out = {*labels, *results}
    kept = tuple(path for path in found if path not in left_out)
    beside = [f"{len(labels)} files named like labels are left out, e.g. {labels[0]}"] if labels else []
    beside += [f"{len(results)} results of commands are left out, e.g. {results[0]}"] if results else []
    beside += [f"{len(videos)} videos are left out, e.g. {videos[0]}; name a video itself"] if videos else []
    if not kept:
        others = Counter(path.suffix.lower() or "no suffix" for path, kind in kinds.items() if kind is None)
        counted = ", ".join(f"{count} {name}" for name, count in others.most_common(3))
        beside += [f"files of other kinds: {counted}"] if others else []
        raise DataError("; ".join([f"{folder}: no image in it ({', '.join(sorted(IMAGE_SUFFIXES))})", *beside]))
    return InputImages(place=folder, paths=kept, remarks=tuple(f"{folder}: {text}" for text in beside))


def _is_named_like_a_label(relative: Path) -> bool:
    inside = any(part.lower() in LABEL_FOLDERS for part in relative.parts[:-1])
    return inside or without_suffix(relative).name.lower().endswith(LABEL_ENDINGS)


def _refuse_results(folder: Path) -> None:
    """A folder that commands have written, one of its folders, or the labels of a data set."""
    place = Path(os.path.abspath(folder))
    what = _results_of(place) or next(
        (what for _, inner, what in RESULTS if place.name in inner and _results_of(place.parent) == what), None
    )
    if what is not None:
        raise DataError(f"{folder}: {what}, no images of a camera; give the camera's own folder or video")
    for labels in (place, *place.parents[:2]):
        images = [inner for inner, _ in LAYOUTS if (labels.parent / inner).is_dir()]
        if labels.name.lower() in LABEL_FOLDERS and images:
            raise DataError(f"{folder}: labels of a data set, no images; give {labels.parent / images[0]}")


def _results_of(folder: Path) -> str | None:
    """Which command has written a folder; None = none has."""
    return next((what for signs, _, what in RESULTS if all((folder / sign).exists() for sign in signs)), None)


def names_below(paths: Sequence[Path]) -> list[str]:
    """`own_names` by the paths below the folder that they have in common."""
    above = os.path.commonpath([path.parent for path in paths])
    return own_names([path.relative_to(above) for path in paths])


def own_names(paths: Sequence[Path]) -> list[str]:
    """A name for each path, with `/` between folders; no two are equal, whatever the case of their letters.

    Bytes that are no UTF-8 and control characters are written as `\\xff`.
    """
    whole = [_printable(path.as_posix()) for path in paths]
    short = [_printable(without_suffix(path).as_posix()) for path in paths]
    folders = {_folded(parent.as_posix()) for name in short for parent in Path(name).parents}
    uses, whole_uses = Counter(map(_folded, short)), Counter(map(_folded, whole))
    names = []
    taken: set[str] = set()
    for with_suffix, name in zip(whole, short, strict=True):
        alike = uses[_folded(name)] > 1 and whole_uses[_folded(with_suffix)] == 1
        if alike or _folded(f"{name}.png") in folders:
            name = with_suffix
        number, first = 1, name
        while _folded(name) in taken:
            number, name = number + 1, f"{first}~{number + 1}"
        taken.add(_folded(name))
        names.append(name)
    return names


def _printable(name: str) -> str:
    text = os.fsencode(name).decode(errors="backslashreplace")
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _folded(name: str) -> str:
    """Equal for names that some disk takes for the same."""
    return unicodedata.normalize("NFC", name.casefold())
