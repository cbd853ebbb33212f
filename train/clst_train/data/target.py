"""Images of the new camera: folders, video files, or several of them. Never labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clst_runtime.errors import DataError
from clst_runtime.frames import resize_classes, resize_frame
from clst_runtime.images import list_images, read_image
from clst_runtime.optional import require

SHAPE_TOLERANCE = 0.02
"""How far a mask's aspect ratio may be from the camera's."""
VIDEO_SUFFIXES = {".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v"}
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class TargetImages:
    """All target images, by position; image files are read when asked for, video frames are kept in memory."""

    paths: tuple[Path | None, ...]
    """File of each image, None for a video's frame."""
    video_frames: dict[int, Image]
    """Frames of videos H,W,3 at the model's input size, by position."""
    input_hw: tuple[int, int]
    """Rows and columns that every image is brought to."""
    ignored: npt.NDArray[np.bool_] | None
    """H,W of the input size: pixels that are never learned from; None without a mask."""

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image:
        """The whole image H,W,3 RGB at the model's input size."""
        path = self.paths[index]
        return self.video_frames[index] if path is None else resize_frame(read_image(path), self.input_hw)


def open_target(
    places: Sequence[str], *, input_hw: tuple[int, int], ignore_mask: str = "", every: int = 1
) -> TargetImages:
    """Find the target's images.

    Args:
        places: image folders, single images, video files.
        input_hw: rows and columns every image is brought to.
        ignore_mask: image of the camera's own picture; its non-zero pixels are ignored.
        every: take each n-th frame of a video.

    Raises:
        DataError: a place is missing, empty or unreadable, or the mask leaves nothing.
    """
    if not places:
        raise DataError("no target images: give --target a folder of images or a video of the new camera")
    paths: list[Path | None] = []
    frames: dict[int, Image] = {}
    sizes: list[tuple[int, int]] = []
    for place in map(Path, places):
        if place.suffix.lower() in VIDEO_SUFFIXES and place.is_file():
            size_hw, read = _read_video(place, input_hw, every)
            sizes.append(size_hw)
            for frame in read:
                frames[len(paths)] = frame
                paths.append(None)
        elif place.is_file():
            paths.append(place)
        else:
            paths.extend(list_images(place))
    mask = None
    if ignore_mask:
        first = next((path for path in paths if path is not None), None)
        camera_hw = sizes[0] if first is None else read_image(first).shape[:2]
        mask = _read_mask(Path(ignore_mask), input_hw, camera_hw)
    return TargetImages(paths=tuple(paths), video_frames=frames, input_hw=input_hw, ignored=mask)


def _read_mask(path: Path, input_hw: tuple[int, int], camera_hw: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """H,W of the input size; the file may be smaller or larger than the camera's pictures, but not of another shape."""
    pixels = read_image(path).max(axis=2)
    (rows, columns), (camera_rows, camera_columns) = pixels.shape, camera_hw
    if abs(rows * camera_columns / (columns * camera_rows) - 1) > SHAPE_TOLERANCE:
        raise DataError(
            f"{path}: the ignore mask is {columns}×{rows}, the camera's pictures are {camera_columns}×{camera_rows}; "
            "draw it on a picture of this camera"
        )
    mask = resize_classes(pixels, input_hw) > 0
    if mask.all():
        raise DataError(f"{path}: the ignore mask covers every pixel; non-zero means ignore")
    return mask


def _read_video(path: Path, input_hw: tuple[int, int], every: int) -> tuple[tuple[int, int], list[Image]]:
    """Rows and columns of the camera's picture, and every n-th frame at the model's input size."""
    cv2 = require("cv2")
    capture = cv2.VideoCapture(str(path))
    frames: list[Image] = []
    size_hw = (0, 0)
    try:
        position = 0
        while capture.isOpened() and capture.grab():
            if position % every == 0:
                intact, frame = capture.retrieve()
                if intact:
                    size_hw = frame.shape[:2]
                    frames.append(resize_frame(np.ascontiguousarray(frame[..., ::-1]), input_hw))
            position += 1
    finally:
        capture.release()
    if not frames:
        raise DataError(f"{path}: no frame could be read; is it a video that OpenCV can decode?")
    return size_hw, frames
