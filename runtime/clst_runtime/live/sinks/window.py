"""The overlay in a window of a desktop."""

from __future__ import annotations

import os
import sys

from clst_runtime.classes.labels import ClassList
from clst_runtime.errors import MissingDependency
from clst_runtime.imaging.overlay import blend
from clst_runtime.live.results import Result
from clst_runtime.live.sinks.base import Sink
from clst_runtime.system.optional import extra, require

TITLE = "clst-run"
DESKTOPS = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")


class WindowSink(Sink):
    """The overlay in a window; `q` or Escape ends the program as Ctrl-C does."""

    name = "window"
    in_main_thread = True

    def __init__(self, classes: ClassList, alpha: float, camera: str = "") -> None:
        """Open it, with the camera's name in its title.

        Raises:
            MissingDependency: there is no desktop, or this OpenCV has no windows.
        """
        self.classes, self.alpha, self._title = classes, alpha, f"{TITLE} {camera}".strip()
        cv2 = require("cv2")
        if sys.platform == "linux" and not any(map(os.environ.get, DESKTOPS)):  # Qt would abort the program
            raise MissingDependency("--window needs a desktop, and none is here (DISPLAY is not set); leave it out")
        try:
            cv2.namedWindow(self._title, cv2.WINDOW_AUTOSIZE)
        except cv2.error as error:
            raise MissingDependency(
                f"this OpenCV has no windows; pip install {extra('desktop')}, or leave out --window"
            ) from error

    def write(self, result: Result) -> None:
        cv2 = require("cv2")
        cv2.imshow(self._title, blend(result.timed.rgb, result.mask, self.classes, self.alpha)[..., ::-1])
        if cv2.waitKey(1) in (27, ord("q")):
            raise KeyboardInterrupt

    def close(self) -> None:
        cv2 = require("cv2")
        if hasattr(cv2, "destroyWindow"):
            try:
                cv2.destroyWindow(self._title)
            except cv2.error:
                return
