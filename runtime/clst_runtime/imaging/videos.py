"""The one door to what gives frames one after another: video files, and topics of recordings."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from clst_runtime.errors import ConfigError
from clst_runtime.imaging.media import is_recording, split_options
from clst_runtime.imaging.recordings import Recording
from clst_runtime.imaging.video_frames import Video, VideoFile


def open_video(place: Path) -> Video:
    """A video file, or of a recording the topic that `drive.mcap?topic=/front` names.

    Raises:
        DataError: it cannot be read. ConfigError: options that cannot be.
    """
    path, options = split_options(place)
    if is_recording(path):
        return Recording(place)
    if options:
        raise ConfigError(f"{place}: only recordings of topics take options behind a ?; give {path}")
    return VideoFile(path)


def count_frames(place: Path) -> int:
    """How many frames a video has, if that can be without decoding any; damaged and hidden ones count.

    Raises:
        As `open_video`.
    """
    with closing(open_video(place)) as video:
        return video.count()
