"""What is in a video, read as any player would read it."""

import cv2
import numpy as np

from clst_train.synthetic.camera_looks import find_look
from clst_train.synthetic.scenes import draw_scene


def frames_of(path):
    """Every frame that can be read, BGR."""
    capture, frames = cv2.VideoCapture(str(path.absolute())), []
    while True:
        good, frame = capture.read()
        if not good:
            capture.release()
            return frames
        frames.append(frame)


def times_of(path):
    """The times in seconds at which frames are shown."""
    capture, times = cv2.VideoCapture(str(path.absolute())), []
    while capture.grab():
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
    capture.release()
    return times


def film_new_camera(path, *, frames, size_hw=(64, 96)):
    """A video of synthetic scenes as the new camera sees them, each frame another scene; returns the images, RGB."""
    images = [draw_scene(np.random.default_rng(index), find_look("new"), size_hw)[0] for index in range(frames)]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, size_hw[::-1])
    for image in images:
        writer.write(image[..., ::-1])
    writer.release()
    return images
