"""Images of the new camera: folders, video files, or several of them. Never labels.

`clst_runtime.data.inputs` finds the images of a place; of a data set's root it is the split `train`, without labels.
A file counts once, however many names it has or places it lies in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from clst_runtime.data.inputs import images_of
from clst_runtime.data.subsets import Subset
from clst_runtime.errors import DataError
from clst_runtime.imaging.geometry import Content, Fit, content_of, fit_frame, resize_classes
from clst_runtime.imaging.ignore_mask import IgnoreMask
from clst_runtime.imaging.image_files import read_image
from clst_runtime.imaging.media import is_video
from clst_runtime.imaging.videos import count_frames
from clst_train.data.headers import check_images
from clst_train.data.video_store import FrameFile, decode

CHECKED_IMAGES = 5
"""Images of a place that are checked for being labels."""
LABEL_VALUES, LABEL_FLATNESS = 64, 0.8
"""Labels have no more different pixels than this, and at least this share of them equals its right neighbour.

CamVid's and IDD's labels have up to 12 and 0.94 to 0.99, their images more than 10,000 and at most 0.3.
"""
LIKE_LABELS = "as label files are; give the camera's images"
MOST_FRAMES = 3000
"""Frames of videos that a run takes at most: the recipe's 12,000 target crops
show each four times, and of half an hour they are 0.6 s apart."""
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class TargetImages(Sequence[Image]):
    """All target images, by position; each is read when asked for."""

    paths: tuple[Path | None, ...]
    """File of each image, None for a video's frame."""
    video_frames: Mapping[int, Image]
    """Frames of videos H,W,3 at the model's input size, by position."""
    input_hw: tuple[int, int]
    """Rows and columns that every image is brought to."""
    fit: Fit = Fit.STRETCH
    """How."""
    sizes: tuple[tuple[int, int], ...] = ()
    """Rows and columns of each image as the camera gave it."""
    origins: tuple[Path, ...] = ()
    """The file that each image comes from, videos too."""
    mask: npt.NDArray[np.bool_] | None = None
    """The ignore mask of the camera's image, at any size; None = there is none."""
    remarks: tuple[str, ...] = ()
    """What was taken of each place and what was left out, for messages."""

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Image: ...
    @overload
    def __getitem__(self, index: slice) -> Subset[Image]: ...
    def __getitem__(self, index: int | slice) -> Image | Subset[Image]:
        """One image, or some of them."""
        return Subset(self, range(len(self))[index]) if isinstance(index, slice) else self.image(index)

    def image(self, index: int) -> Image:
        """The whole image H,W,3 RGB at the model's input size."""
        path = self.paths[index]
        return self.video_frames[index] if path is None else fit_frame(read_image(path), self.input_hw, self.fit)

    def content(self, index: int) -> Content:
        """Where the camera's image lies in the fitted one; this may differ within a set."""
        return content_of(self.input_hw if self.fit is Fit.STRETCH else self.sizes[index], self.input_hw, self.fit)

    def shown(self, index: int) -> tuple[Image, npt.NDArray[np.bool_] | None]:
        """What the camera shows in the fitted image, without padding, and pixels of it that do not count."""
        content, ignored = self.content(index), self.ignored(index)
        return content.of(self.image(index)), None if ignored is None else content.of(ignored)

    def ignored(self, index: int) -> npt.NDArray[np.bool_] | None:
        """H,W of the input size: pixels of the image that are never learned from; None = all are.

        They are those under the ignore mask, and a letterbox's padding.
        """
        content = self.content(index)
        padded = content.size_hw != self.input_hw
        if self.mask is None:
            return content.padding(self.input_hw) if padded else None
        shown = resize_classes(self.mask.astype(np.uint8), content.size_hw) > 0
        if not padded:
            return shown
        ignored = content.padding(self.input_hw)
        content.of(ignored)[:] = shown
        return ignored


Choice = Callable[[int], Sequence[int]]
"""Of a number of images the positions of those that are wanted, ascending."""


@dataclass(frozen=True, kw_only=True)
class FoundTarget:
    """What lies in the places of a target: image files first, then each video's frames."""

    files: tuple[Path, ...]
    """Image files."""
    videos: tuple[Path, ...]
    """Video files."""
    counts: tuple[int, ...]
    """Frames of each video."""
    every: int
    """Which n-th frame of a video counts as an image."""
    remarks: tuple[str, ...]
    """As in `TargetImages`."""

    def __len__(self) -> int:
        return len(self.files) + sum(len(range(0, count, self.every)) for count in self.counts)

    def frames_of(self, chosen: Sequence[int]) -> list[list[int]]:
        """For each video the frames that `chosen` images stand for."""
        begin, wanted = len(self.files), []
        for count in self.counts:
            images = len(range(0, count, self.every))
            wanted.append([self.every * (place - begin) for place in chosen if begin <= place < begin + images])
            begin += images
        return wanted


def open_target(
    places: Sequence[str],
    *,
    input_hw: tuple[int, int],
    fit: Fit = Fit.STRETCH,
    ignore_mask: str = "",
    every: int = 1,
    choose: Choice | None = None,
) -> TargetImages:
    """Find the target's images; frames of videos are decoded, once, into a file on the disk.

    Args:
        places: image folders, single images, video files.
        input_hw: rows and columns every image is brought to.
        fit: how they are.
        ignore_mask: mask at the camera's image size; its non-zero pixels are ignored.
        every: take each n-th frame of a video; 0 = so that all videos together give at most `MOST_FRAMES`.
        choose: which of so many images are wanted, ascending; None = all.

    Raises:
        DataError: a place is missing, empty, unreadable or full of labels, an image has no 8 bits, the mask
            leaves nothing, or the disk has no room for the frames.
    """
    found = find_target(places, every=every)
    target = _taken(found, input_hw, fit, choose)
    return with_mask(target, Path(ignore_mask)) if ignore_mask else target


def find_target(places: Sequence[str], *, every: int = 1) -> FoundTarget:
    """What lies in the places, as `open_target` takes it; no frame is decoded.

    Raises:
        DataError: a place is missing, empty, unreadable or full of labels.
    """
    if not places:
        raise DataError("no target images: give --target a folder of images or a video of the new camera")
    files: list[Path] = []
    videos: list[Path] = []
    remarks: list[str] = []
    for place in map(Path, places):
        if is_video(place):
            videos.append(place)
        else:
            found = images_of(place, split="train")
            _check_no_labels(place, found.paths)
            files.extend(found.paths)
            remarks.extend(found.remarks)
    (files, repeated), (videos, videos_repeated) = _each_once(files), _each_once(videos)
    if repeated := repeated + videos_repeated:
        remarks.append(
            f"{repeated} target images or videos have several names or lie in several places; each counts once"
        )
    counts = tuple(map(count_frames, videos))
    for video, count in zip(videos, counts, strict=True):
        if count == 0:
            raise DataError(f"{video}: not one frame could be read; the file is damaged")
    every = every or max(1, -(-sum(counts) // MOST_FRAMES))
    return FoundTarget(files=tuple(files), videos=tuple(videos), counts=counts, every=every, remarks=tuple(remarks))


def _taken(found: FoundTarget, input_hw: tuple[int, int], fit: Fit, choose: Choice | None) -> TargetImages:
    chosen = choose(len(found)) if choose else range(len(found))
    files = [found.files[place] for place in chosen if place < len(found.files)]
    wanted = found.frames_of(chosen)
    hint = "give shorter videos" if choose is None else "ask for fewer"
    frames = FrameFile(sum(map(len, wanted)), input_hw, len(files), hint) if any(wanted) else None
    of_files, sizes = check_images(files, used_hw=input_hw)
    origins, remarks, counts = list(files), [*found.remarks, *of_files], list(found.counts)
    for place, (video, positions) in enumerate(zip(found.videos, wanted, strict=True)):
        if frames is None or not positions:
            continue
        taken, count, warnings = decode(video, positions, frames, input_hw, fit)
        if choose is not None and len(taken) < len(positions) and count < counts[place]:
            counts[place] = count
            return _taken(dataclasses.replace(found, counts=tuple(counts)), input_hw, fit, choose)
        sizes, origins = (*sizes, *taken), [*origins, *[video] * len(taken)]
        each = f", one in {found.every}" if found.every > 1 else ""
        remarks += [*warnings, f"{video}: {len(taken)} of {counts[place]} frames are taken{each}"]
    return TargetImages(
        paths=(*files, *[None] * (len(origins) - len(files))),
        video_frames={} if frames is None else frames,
        input_hw=input_hw,
        fit=fit,
        sizes=sizes,
        origins=tuple(origins),
        remarks=tuple(remarks),
    )


def hides(target: TargetImages) -> bool:
    """Whether some of its pixels may be never learned from: there is a mask, or padding."""
    return target.mask is not None or target.fit is not Fit.STRETCH


def with_mask(target: TargetImages, path: Path) -> TargetImages:
    """The images with an ignore mask over all of them.

    Raises:
        DataError: it is no image, not of the shape of the first image, or leaves nothing.
    """
    mask = IgnoreMask(path)
    mask.check(target.sizes[0])
    masked = dataclasses.replace(target, mask=mask.hidden > 0)
    if np.all(masked.ignored(0)):  # at the model's size, where single pixels may be lost
        raise DataError(f"{path}: the ignore mask covers every pixel; non-zero means ignore")
    return masked


def _check_no_labels(place: Path, images: Sequence[Path]) -> None:
    """Refuse a place where each checked image is flat areas of few values; one alone may be a covered lens.

    A labels folder that is given itself cannot be recognised by its name.
    """
    checked = images[:: -(-len(images) // CHECKED_IMAGES)]
    counts = [_values_of_a_label(path) for path in checked]
    if not all(counts):
        return
    if place in images:
        raise DataError(f"{place}: an image of areas of few values ({counts[0]}), {LIKE_LABELS}")
    raise DataError(f"{place}: its images are areas of few values ({checked[0].name}: {counts[0]}), {LIKE_LABELS}")


def _values_of_a_label(path: Path) -> int:
    """How many different pixels the file has if it is flat and has few as a label does, else 0."""
    try:
        image = read_image(path)
    except DataError:
        return 0  # damaged or not of 8 bits: reported when the image is read
    colours = image.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    if colours.shape[1] < 2 or np.mean(colours[:, 1:] == colours[:, :-1]) < LABEL_FLATNESS:
        return 0
    count = len(np.unique(colours))
    return count if 2 <= count <= LABEL_VALUES else 0


def _each_once(files: list[Path]) -> tuple[list[Path], int]:
    """The files without repetition, by what they really are, in their order; and how many were repeated."""
    first: dict[Path, Path] = {}
    for path in files:
        first.setdefault(path.resolve(), path)
    return list(first.values()), len(files) - len(first)
