"""Frames of videos as OpenCV hands them out, without those that were not really decoded.

From 4.13 on OpenCV lets FFmpeg 8 convert colours, which refuses interlaced frames, as many H.264 and MPEG-2 files
have; OpenCV does not check, returns True and hands out what lay in its memory: the image before, or what another
program's memory once held. Only a line on standard error shows it. So the first image is converted under supervision,
and one again that is the same as the one before, as each is whose conversion failed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np

from clst_runtime.errors import DataError
from clst_runtime.imaging.containers import is_cut, is_mp4
from clst_runtime.imaging.decoder_messages import overheard, reset_decoder_logging
from clst_runtime.imaging.geometry import Image, Layout
from clst_runtime.imaging.media import name_for_opencv
from clst_runtime.system.optional import require

DAMAGED_IN_A_ROW = 250
"""Reads that may fail one after another before a video is taken to be over; at the end each costs about 10 µs."""
SWSCALE = "swscaler"
"""FFmpeg's part that converts colours."""
STEP = 16
"""Of an image so many rows and columns apart are compared with the one before."""
LEAST_SHARE = 0.9
"""Of the frames that a file announces, which are not always counted: a sound that is longer makes them more. So does
rounding; a second may be missing besides."""
FPS, FOURCC, COUNT, ORIENTATION = 5, 6, 7, 48  # cv2.CAP_PROP_…
MOTION_JPEG = tuple(int.from_bytes(name, "little") for name in (b"MJPG", b"mjpg", b"jpeg"))


class Frames:
    """The images of a capture that has the methods of `cv2.VideoCapture`."""

    def __init__(self, capture: Any) -> None:
        self.capture = capture
        self.complaint = ""
        """Why the last image was none, by what decoded it."""
        self._before: Image | None = None
        self._was_clean = False
        backend = str(getattr(capture, "getBackendName", str)())
        self.by_ffmpeg = backend == "FFMPEG"
        self._is_jpeg = self.by_ffmpeg and capture.get(FOURCC) in MOTION_JPEG
        # An image upside down is turned where it lies, so that one that was not converted differs from the one before
        self._always = backend == "V4L2" or (self.by_ffmpeg and capture.get(ORIENTATION) == 180)

    def grab(self) -> bool:
        """Go on to the next frame; False if there is none, or it is damaged."""
        self.complaint = ""
        if not self._is_jpeg:
            return bool(self.capture.grab())
        good, self.complaint = overheard(self.capture.grab)
        return bool(good)

    def retrieve(self, into: Image | None = None) -> Image | None:
        """The image that was grabbed, in `into` if it fits; None if there is none or it could not be converted.

        A source of which the decoder complains from the first frame on has a habit and no damage.
        """
        good, image = self._converted(into)
        if not good or image is None or image.size == 0:
            return None
        self._before = image[::STEP, ::STEP].copy()
        if not self.complaint:
            self._was_clean = True
        elif SWSCALE not in self.complaint and not self._was_clean:
            self.complaint = ""
        return None if self.complaint else image

    def _converted(self, into: Image | None) -> tuple[bool, Image | None]:
        if self._always or (self.by_ffmpeg and self._before is None):
            (good, image), complaint = overheard(lambda: self.capture.retrieve(into))
        else:
            (good, image), complaint = self.capture.retrieve(into), ""
            if good and self.by_ffmpeg and self._is_suspect(image):
                (good, image), complaint = overheard(lambda: self.capture.retrieve(image))
        self._always = self._always or SWSCALE in complaint  # there will be more, each with lines of its own
        self.complaint = self.complaint or complaint
        return good, image

    @property
    def reason(self) -> str:
        """Why the last image was none; "" where no reason is known."""
        if "interlaced" in self.complaint:
            return "its frames are interlaced, which this OpenCV cannot convert"
        return f"its frames cannot be decoded ({self.complaint})" if self.complaint else ""

    def _is_suspect(self, image: Image) -> bool:
        """Whether it looks like the one before, or is the first of its size."""
        if self._before is None:
            return False
        now = image[::STEP, ::STEP]
        return now.shape != self._before.shape or bool(np.array_equal(now, self._before))


class Video(ABC):
    """Frames that lie one after another in a file or folder; `videos.open_video` opens it."""

    fps: float | None = None
    """Frames a second; None = not known."""
    layout = Layout.BGR
    """Of the frame read last."""
    stamp_ns: int | None = None
    """Of the frame read last: when it was taken, by the recording's own clock; None = that is not known."""
    frame_id = ""
    """Of the frame read last: the camera's frame of coordinates."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.position = -1
        """Of the frame read last, counted from 0; damaged ones before it count."""
        self.damaged = 0
        """Frames that could not be read, though later ones could."""
        self.why = ""
        """What was wrong with the last of them, where that is known."""
        self._read = 0

    def read(self, into: Image | None = None) -> Image | None:
        """The next frame in `layout`, in `into` if that can be; None at the end.

        Raises:
            DataError: there is no frame, or one that is decoded but cannot be handed out.
        """
        while self.skip():
            image = self.retrieve(into)
            if image is not None:
                self._read += 1
                return image
            self.damaged += 1
        if self._read == 0:
            why = f" ({self.why})" if self.why else ""
            raise DataError(f"{self.path}: not one frame could be read{why}; the file is damaged")
        return None

    @abstractmethod
    def skip(self) -> bool:
        """Go to the next frame that can be read; False at the end."""

    @abstractmethod
    def retrieve(self, into: Image | None = None) -> Image | None:
        """The frame that was gone to; None where it is damaged. Raises: as `read`."""

    def skip_to(self, position: int) -> None:
        """Go on until the next frame is that at `position`, or the one after it where that is damaged."""
        while self.position + 1 < position and self.skip():
            pass

    @abstractmethod
    def count(self) -> int:
        """Frames of an untouched video, of which none is decoded where that can be; damaged ones count."""

    @abstractmethod
    def warnings(self, *, ended: bool = True) -> list[str]:
        """What is wrong with it; `ended`: whether it was read to its end."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file; a second call does nothing."""


class VideoFile(Video):
    """The frames of a video file in order, over damaged places: H,W,3 BGR."""

    def __init__(self, path: Path) -> None:
        """Raises: DataError: it is no video that can be read."""
        super().__init__(path)
        reset_decoder_logging()
        with name_for_opencv(path) as name:
            self._capture = require("cv2").VideoCapture(name)
        if not self._capture.isOpened():
            raise DataError(f"{path}: not a video that this OpenCV can read")
        self._frames = Frames(self._capture)
        self.by_ffmpeg = self._frames.by_ffmpeg
        fps = float(self._capture.get(FPS))
        self.fps = fps if fps > 0 else None
        self.announced = float(self._capture.get(COUNT))
        """Its own number of frames: counted, an estimate, or nonsense."""

    def skip(self) -> bool:
        for failed in range(DAMAGED_IN_A_ROW):
            if self._frames.grab():
                self.position += 1 + failed
                self.damaged += failed
                return True
        return False

    def retrieve(self, into: Image | None = None) -> Image | None:
        image = self._frames.retrieve(into)
        if image is None and SWSCALE in self._frames.complaint:
            raise DataError(self._not_converted())
        return image

    def count(self) -> int:
        """By packets, of which none is decoded; 0 where there is none. A file of half an hour takes about 0.3 s."""
        count = 0
        if self.by_ffmpeg:
            cv2 = require("cv2")
            with name_for_opencv(self.path) as name:
                packets = cv2.VideoCapture(name, cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
            while packets.grab():
                count += 1
            packets.release()
        count = count or max(0, int(self.announced))
        while count == 0 and self.skip():
            pass
        return count or self.position + 1

    def warnings(self, *, ended: bool = True) -> list[str]:
        lines = [f"{self.path}: damaged frames were left out: {self.damaged}"] if self.damaged else []
        announced, found = int(self.announced), self.position + 1
        read = f"{self.path}: {found} of {max(announced, found)} announced frames could be read"
        if is_cut(self.path):
            lines.append(f"{read}; it is truncated" if ended else f"{self.path}: it is truncated")
        elif ended and found < LEAST_SHARE * announced - (self.fps or 25) and not is_mp4(self.path):
            lines.append(f"{read}; is it damaged?")  # MP4 counts frames that it hides, too
        return lines

    def close(self) -> None:
        self._capture.release()

    def _not_converted(self) -> str:
        hint = "-vf yadif " if "interlaced" in self._frames.complaint else ""
        return (
            f"{self.path}: frame {self.position}: {self._frames.reason}; make another video of it: "
            f"ffmpeg -i {self.path.name} {hint}new.mp4"
        )
