"""`clst-demo`: the whole loop on synthetic scenes, on a laptop's CPU."""

from __future__ import annotations

from pathlib import Path

import click

from clst_runtime.cli.command import command
from clst_runtime.system.numbers import Whole


@command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("demo"), show_default=True, help="Folder to make.")
@click.option("--scenes", default=200, show_default=True, type=Whole(8), help="Training scenes a camera.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Any setting of the recipe.")
def main(out: Path, scenes: int, settings: tuple[str, ...]) -> None:
    """Make synthetic scenes, train, adapt, export, check parity, drive; leaves images and a table."""
    from clst_runtime.system.files.paths import check_new_folder
    from clst_runtime.system.optional import check_installed, require

    packages = ("torch", "onnx", "onnxscript", "onnxruntime", "cv2", "matplotlib")
    check_installed(*packages)
    from clst_train.engine.options import check_settings, configure

    check_new_folder(out, hint="remove it or give another --out")
    check_settings(configure("demo", {"settings": settings}))
    for module in packages:
        require(module)
    from clst_export.demo import run_demo

    click.echo(run_demo(out, scenes=scenes, settings=settings))
