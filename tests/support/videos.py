"""What is in a video, read as any player would read it."""

import cv2


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
