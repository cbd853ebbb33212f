"""Which frames of the new camera to label, and the frames themselves.

The drive is cut into as many equal stretches as frames are wanted, and the middle of each is taken: frames that are
chosen for what models make of them show another change of accuracy than the drive does (decision 44).
Legend: H rows, W columns of the camera's image.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from clst_runtime.backends.base import Frame
from clst_runtime.data.subsets import evenly_spread
from clst_runtime.errors import DataError
from clst_runtime.imaging.geometry import to_rgb
from clst_runtime.imaging.image_files import read_image
from clst_runtime.imaging.videos import open_video
from clst_train.data.target import FoundTarget
from clst_train.data.video_store import frames_at


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a frame is found."""

    path: Path
    """An image or a video."""
    frame: int | None = None
    """Of a video, from 0 on."""
    time_s: float | None = None
    """Since the video's beginning, by its frame rate; None where it has none."""


def pick_frames(found: FoundTarget, count: int) -> list[Place]:
    """So many frames, in the drive's order.

    Raises:
        DataError: there are fewer.
    """
    if len(found) < count:
        raise DataError(f"{count} frames asked, {len(found)} found; add images or lower --count")
    chosen = evenly_spread(len(found), count, centred=True)
    videos = zip(found.videos, found.frames_of(chosen), strict=True)
    return [
        *(Place(path=found.files[index]) for index in chosen if index < len(found.files)),
        *(Place(path=video, frame=frame) for video, frames in videos for frame in frames),
    ]


def images_at(places: Sequence[Place]) -> Iterator[tuple[Place, Frame]]:
    """Images H,W,3 RGB as the camera gave them, each video in one pass; for a damaged frame the next serves.

    Raises:
        DataError: one is unreadable, or a video ends before its frame.
    """
    for path, group in itertools.groupby(places, key=lambda place: place.path):
        wanted = [place.frame for place in group if place.frame is not None]
        if not wanted:
            yield Place(path=path), read_image(path)
            continue
        video, found = open_video(path), 0
        try:
            for frame in frames_at(video, wanted):
                found += 1
                time_s = None if video.fps is None else round(video.position / video.fps, 3)
                yield Place(path=path, frame=video.position, time_s=time_s), to_rgb(frame, video.layout)
        finally:
            video.close()
        if found < len(wanted):
            raise DataError(f"{path}: {found} of {len(wanted)} frames could be read; the file is damaged, repair it")
