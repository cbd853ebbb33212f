"""Cameras, looked at without opening them here: a broken one would never give this process back."""

from __future__ import annotations

import getpass
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from clst_runtime.doctor.findings import Finding, State
from clst_runtime.system.install_hints import hint
from clst_runtime.system.machine import text_of
from clst_runtime.system.platforms import Platform
from clst_runtime.system.programs import Runner, run_program

CAMERA_SECONDS = 5.0
"""How long one camera may take to list its formats."""
SIZES_TOLD = 4
"""Sizes that are named of each pixel format."""


@dataclass(frozen=True, kw_only=True)
class CameraFormat:
    """One pixel format and the sizes a camera offers in it."""

    pixels: str
    """Four letters, e.g. `YUYV`."""
    sizes: tuple[tuple[int, int, float], ...]
    """Columns, rows and the highest frame rate (0 where none is given) of each size."""

    @property
    def text(self) -> str:
        """The largest sizes with their rates."""
        largest = sorted(self.sizes, reverse=True)[:SIZES_TOLD]
        text = [f"{columns}x{rows}{f' at {fps:g}/s' if fps else ''}" for columns, rows, fps in largest]
        text += [f"{len(self.sizes) - SIZES_TOLD} smaller ones"] if len(self.sizes) > SIZES_TOLD else []
        return " ".join([self.pixels, ", ".join(text)]).strip()


def may_open(path: Path) -> bool:
    """Whether this user may read and write a device; it is not opened for that."""
    return os.access(path, os.R_OK | os.W_OK)


def examine_cameras(
    platform: Platform,
    root: Path = Path("/"),
    run: Runner = run_program,
    *,
    allowed: Callable[[Path], bool] = may_open,
    has_tool: Callable[[], bool] = lambda: shutil.which("v4l2-ctl") is not None,
) -> list[Finding]:
    """A finding for each camera of Video4Linux, or one that there is none. `has_tool`: v4l2-ctl is installed."""
    numbers = [re.fullmatch(r"video([0-9]+)", path.name) for path in (root / "dev").glob("video*")]
    nodes = [root / "dev" / f"video{number}" for number in sorted(int(each[1]) for each in numbers if each)]
    findings = [_camera(node, platform, root, run, allowed, has_tool) for node in nodes]
    if findings:
        return findings
    text = "no /dev/video*; a video, a folder of images or a stream can be used"
    remedy = "plug a camera in; in a container give it the device (docker run --device /dev/video0)"
    return [Finding(name="Cameras", state=State.MISSING, text=text, hint=remedy)]


def _camera(
    node: Path,
    platform: Platform,
    root: Path,
    run: Runner,
    allowed: Callable[[Path], bool],
    has_tool: Callable[[], bool],
) -> Finding:
    title = text_of(root / "sys/class/video4linux" / node.name / "name") or "name unknown"
    name = f"Camera {node.name.removeprefix('video')}"
    if not allowed(node):
        text = f"{title}: {_user()} may not open /dev/{node.name}"
        remedy = f"sudo usermod -aG video {_user()}, then log in again"
        return Finding(name=name, state=State.MISSING, text=text, hint=remedy)
    if not has_tool():
        return Finding(name=name, state=State.NOTE, text=f"{title}; formats unknown", hint=hint("v4l", platform))
    output = run(["v4l2-ctl", "-d", f"/dev/{node.name}", "--list-formats-ext"], seconds=CAMERA_SECONDS)
    if output is None:
        text = f"{title}: does not answer v4l2-ctl within {CAMERA_SECONDS:g} s"
        remedy = "unplug it and plug it in again; end other programs that use it"
        return Finding(name=name, state=State.CONFLICT, text=text, hint=remedy)
    formats = parse_formats(output)
    if not formats:
        return Finding(name=name, state=State.NOTE, text=f"{title}: gives no images (metadata of another camera)")
    text = "; ".join(each.text for each in formats)
    return Finding(name=name, state=State.GOOD, text=f"{title}: {text}; --source camera:{name.split()[1]}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # containers run under numbers that have no name
        return str(os.getuid())


def parse_formats(text: str) -> list[CameraFormat]:
    """What `v4l2-ctl --list-formats-ext` lists, of its old and its new form."""
    found: list[tuple[str, dict[tuple[int, int], float]]] = []
    size: tuple[int, int] | None = None
    for line in text.splitlines():
        if pixels := re.search(r"(?:\[\d+\]|Pixel Format\s*): '(.{4})'", line):
            found.append((pixels[1].strip(), {}))
            size = None
        elif found and (sizes := re.search(r"Size: \w+ .*?(\d+)x(\d+)(?: with step.*)?$", line.strip())):
            size = (int(sizes[1]), int(sizes[2]))
            found[-1][1].setdefault(size, 0.0)
        elif found and size is not None and (rate := re.search(r"\((\d+(?:\.\d+)?)(?:-\d+\.\d+)? fps\)", line)):
            found[-1][1][size] = max(found[-1][1][size], float(rate[1]))
    return [
        CameraFormat(pixels=pixels, sizes=tuple((*size, fps) for size, fps in sizes.items())) for pixels, sizes in found
    ]
