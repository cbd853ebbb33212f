"""A camera whose faults can be ordered: what `cv2.VideoCapture` would be, in the reading process.

Its address is a folder with a plan for each opening, written by the test.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

OPENER = "tests.fakes.camera:open_fake"


class FakeCamera:
    """Gives the frames of one plan; a frame's first pixel is its number, in BGR, the rest of the frame as well."""

    def __init__(self, plan: dict) -> None:
        self.plan, self.given = plan, 0
        self._number = -1

    def isOpened(self):  # noqa: N802
        time.sleep(self.plan.get("opening", 0.0))
        return not self.plan.get("absent", False)

    def get(self, what):
        return 30.0 if what == 5 else 0.0

    def grab(self):
        self._number += 1
        event = self.plan["events"].get(str(self._number), "")
        time.sleep(self.plan.get("pause", 0.005))
        if event == "hang":
            time.sleep(1000)
        if event.startswith("tell "):  # a line to the parent that is none of the reader's own
            os.write(json.loads(sys.argv[2])["messages"], event.removeprefix("tell ").encode() + b"\n")
        if event.startswith("mutter "):
            os.write(2, (event.removeprefix("mutter ") + "\n").encode())
        if event == "babble":
            os.write(2, b"error while decoding MB 7 44\n" * 40_000)
        if event == "raise":
            raise ValueError("a plane\nof a negative size")
        if event == "die":
            os.kill(os.getpid(), 9)
        if event == "end":
            raise EOFError
        self._event = event
        return not event.startswith("lost")

    def retrieve(self, into=None):
        if self._event == "corrupt":
            return False, None
        if self._event == "empty":
            return True, np.zeros((0, 0, 3), np.uint8)
        rows, columns = self.plan.get("size", (4, 6))
        if self._event.startswith("size "):
            rows, columns = map(int, self._event.split()[1:])
            self.plan["size"] = (rows, columns)
        value = (self._number % 250, 0, 7)
        if into is not None and into.shape == (rows, columns, 3):
            into[...] = value
            return True, into
        return True, np.full((rows, columns, 3), value, np.uint8)


def open_fake(address):
    """Open by the next of the plans in the folder that the address names."""
    folder = Path(str(address.place))
    plans = json.loads((folder / "plans.json").read_text())
    count = len(list(folder.glob("opened-*")))
    (folder / f"opened-{count}").touch()
    return FakeCamera(plans[min(count, len(plans) - 1)])


def write_plans(folder: Path, *plans: dict) -> Path:
    """One plan for each opening, the last one for all later ones; `events`: number of a frame → what happens."""
    folder.mkdir(exist_ok=True)
    whole = [{"events": {}, **plan} for plan in plans]
    (folder / "plans.json").write_text(json.dumps(whole))
    return folder


def openings(folder: Path) -> int:
    """How often the camera has been opened."""
    return len(list(folder.glob("opened-*")))
