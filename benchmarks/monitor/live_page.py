"""A screenshot of the live page: synthetic images of the new camera go through a pipe into clst-run.

    make demo && python -m benchmarks.monitor.live_page demo/run/checkpoints/adapted.pt --out docs/live_page.png

In a clone, from its root; it needs Chromium and the packages of the tests. All data is synthetic. The model is
exported anew with a reference of such images, so that the page shows whose camera it is, too.
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import click
import numpy as np
import numpy.typing as npt
from PIL import Image

from clst_runtime.errors import DataError, MissingDependency
from clst_runtime.imaging.image_files import write_png
from clst_train.synthetic.camera_looks import find_look
from clst_train.synthetic.scenes import draw_scene
from tests.support.browser import CHROMIUM, opened

SIZE_HW = (480, 960)
KNOWN, SEEN = 64, 40
"""Scenes that the camera is known by; scenes that it sees then."""
RUN = "from clst_runtime.cli.run import main; main()"
EXPORT = "from clst_export.cli.export import main; main()"


def drawn(seed: int, index: int) -> npt.NDArray[np.uint8]:
    """A drawn scene of `SIZE_HW` as the new camera sees it."""
    return draw_scene(np.random.default_rng([seed, index]), find_look("new"), SIZE_HW)[0]


def exported(checkpoint: Path, folder: Path) -> Path:
    """The checkpoint as ONNX, with a reference of synthetic images of the size that the camera will give."""
    for index in range(KNOWN):
        write_png(folder / "known" / f"{index:03d}.png", drawn(1, index))
    model = folder / "front.onnx"
    call = [sys.executable, "-c", EXPORT, str(checkpoint), "--onnx", "--calib", str(folder / "known")]
    subprocess.run([*call, "--out", str(model)], check=True, stdout=subprocess.DEVNULL)
    return model


@dataclass
class Show:
    """What the camera sees."""

    scenes: Sequence[bytes]
    """RGB, one after another for a second each."""
    held: int | None = None
    """The scene that it stands still at."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Ends it."""


def give(stream: IO[bytes], show: Show, fps: float) -> None:
    """Write images at a steady rate until `stop` is set."""
    begun = time.monotonic()
    for index in itertools.count():
        if show.stop.wait(max(0.0, begun + index / fps - time.monotonic())):
            return
        try:
            place = int(index / fps) if show.held is None else show.held
            stream.write(show.scenes[place % len(show.scenes)])
        except OSError:
            return


async def look_at(url: str, out: Path, show: Show, *, seconds: float, scene: int, profile: str) -> None:
    """Open the page, wait until its charts are full, and write what is seen while it is at a scene."""
    async with opened(url, profile, width=1440, height=900) as tab:
        await tab.until("document.body.dataset.state === 'ready'", 180)
        await asyncio.sleep(seconds)
        for pressed in ("true", "false", "true"):  # a finished one, and one that goes on
            await tab.value("document.getElementById('record').click()")
            await tab.until(f"document.getElementById('record').getAttribute('aria-pressed') === '{pressed}'")
            await asyncio.sleep(2.0)
        show.held = scene
        await asyncio.sleep(4.0)
        await tab.until("document.body.dataset.state === 'ready'")
        await tab.screenshot(out)


def make_smaller(path: Path, width: int) -> None:
    """The same image, `width` pixels wide; colours in steps of 6, so that a camera's noise takes less room."""
    image = Image.open(path).convert("RGB")
    image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    coarse = np.minimum((np.asarray(image).astype(int) + 3) // 6 * 6, 255).astype(np.uint8)
    Image.fromarray(coarse).save(path, optimize=True)


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, exists=True))
@click.option("--out", type=click.Path(path_type=Path), default=Path("docs/live_page.png"), show_default=True)
@click.option("--fps", default=10.0, show_default=True, help="Of the camera.")
@click.option("--deadline-ms", default=100.0, show_default=True)
@click.option("--seconds", default=62.0, show_default=True, help="A minute fills the charts.")
@click.option("--scene", default=5, show_default=True, help="At which the screenshot is taken.")
@click.option("--width", default=1100, show_default=True, help="Of the screenshot, in pixels.")
def main(checkpoint: Path, out: Path, fps: float, deadline_ms: float, seconds: float, scene: int, width: int) -> None:
    """Take a screenshot of the page while CHECKPOINT drives with synthetic images."""
    if CHROMIUM is None:
        raise MissingDependency("no Chromium here; apt-get install chromium")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = exported(checkpoint.resolve(), folder)
        scenes = [drawn(2, index).tobytes() for index in range(SEEN)]
        call = [sys.executable, "-c", RUN, model.name, "--source", f"raw:{SIZE_HW[1]}x{SIZE_HW[0]}?fps={fps:g}"]
        call += ["--web", "0", "--deadline-ms", f"{deadline_ms:g}", "--out", "driven", "--no-video"]
        call += ["--collect", "new_camera"]
        process = subprocess.Popen(
            call, stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=folder
        )
        show = Show(scenes)
        giving = threading.Thread(target=give, args=(process.stdin, show, fps), daemon=True)
        try:
            lines = iter(process.stderr.readline, b"") if process.stderr is not None else iter(())
            address = next((line.decode() for line in lines if line.startswith(b"page: ")), "")
            if not address:
                raise DataError(f"clst-run ended with {process.wait()} before it had a page")
            giving.start()
            url, profile = address.removeprefix("page: ").strip(), str(folder / "browser")
            asyncio.run(look_at(url, out, show, seconds=seconds, scene=scene, profile=profile))
        finally:
            show.stop.set()
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    make_smaller(out, width)
    click.echo(f"{out}: {out.stat().st_size >> 10} KiB")


if __name__ == "__main__":
    main()
