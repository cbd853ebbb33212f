"""`clst-demo`: the whole loop on drawn scenes, on a laptop's CPU."""

from __future__ import annotations

from pathlib import Path

import click

from clst_runtime.command import command
from clst_runtime.errors import DataError
from clst_runtime.numbers import Whole


@command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="Folder to make.")
@click.option("--scenes", default=200, show_default=True, type=Whole(8), help="Training scenes a camera.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Any setting of the recipe.")
def main(out: Path, scenes: int, settings: tuple[str, ...]) -> None:
    """Draw an old and a new camera, train, adapt, export, prove parity, drive; leaves pictures and a table."""
    from clst_runtime.optional import require

    for module in ("torch", "onnx", "onnxruntime", "cv2", "matplotlib", "tomli_w"):
        require(module)
    from clst_export.demo import run_demo

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} exists and is not empty; remove it or give another --out")
    click.echo(run_demo(out, scenes=scenes, settings=settings))
