"""The overlay in a window of a desktop."""

from __future__ import annotations

from clst_runtime.errors import DataError
from clst_runtime.labels import ClassList
from clst_runtime.optional import require
from clst_runtime.overlay import blend
from clst_runtime.results import Result
from clst_runtime.sinks.base import Sink


class WindowSink(Sink):
    """The overlay in a window; `q` or Escape ends the program as Ctrl-C does."""

    name = "window"
    in_main_thread = True

    def __init__(self, classes: ClassList, alpha: float) -> None:
        self.classes, self.alpha = classes, alpha

    def write(self, result: Result) -> None:
        """Show one frame."""
        cv2 = require("cv2")
        try:
            cv2.imshow("clst-run", blend(result.timed.rgb, result.mask, self.classes, self.alpha)[..., ::-1])
            key = cv2.waitKey(1)
        except cv2.error as error:
            raise DataError("this OpenCV has no windows; install 'clst[desktop]', or leave out --window") from error
        if key in (27, ord("q")):
            raise KeyboardInterrupt

    def close(self) -> None:
        """Close the window, where there is one."""
        cv2 = require("cv2")
        if hasattr(cv2, "destroyAllWindows"):
            try:
                cv2.destroyAllWindows()
            except cv2.error:
                return
