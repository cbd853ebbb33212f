"""`clst-export`: a checkpoint becomes a verified model file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from clst_runtime.command import command
from clst_runtime.errors import DataError, ModelFileError

if TYPE_CHECKING:
    from clst_runtime.backends.base import Frame


@command()
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option("--onnx", "onnx", is_flag=True, help="Write an ONNX file (float32).")
@click.option("--out", type=click.Path(path_type=Path), help="File to write  [default: beside the checkpoint]")
@click.option("--size", help="Input size HxW  [default: the checkpoint's]")
@click.option("--opset", type=click.Choice(["19", "20"]), default="20", show_default=True, help="ONNX operator set.")
@click.option("--confidence", is_flag=True, help="Add the winner's probability as a second output.")
@click.option(
    "--frames",
    "frames_from",
    type=click.Path(path_type=Path),
    help="Pictures to compare on  [default: the target's, or drawn]",
)
@click.option("--count", default=16, show_default=True, type=click.IntRange(1), help="How many of them.")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
def main(
    checkpoint: Path | None,
    out: Path | None,
    size: str | None,
    opset: str,
    frames_from: Path | None,
    count: int,
    *,
    onnx: bool,
    confidence: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Convert CHECKPOINT (default: the newest run's) without its training-only parts, and verify the result."""
    if not onnx:
        raise click.UsageError("say what to make: --onnx")
    from clst_runtime.optional import require

    for module in ("torch", "onnx", "onnxruntime", "cv2"):
        require(module)
    from clst_export.onnx_export import export_onnx
    from clst_train.checkpoint import load_checkpoint
    from clst_train.training import parse_size

    chosen = checkpoint or newest_checkpoint()
    input_hw = parse_size(size) if size else load_checkpoint(chosen).input_hw
    target = out or chosen.with_suffix(".onnx")
    if target.exists() and not overwrite:
        raise DataError(f"{target} exists; give --overwrite or another --out")
    frames = verification_frames(chosen, frames_from, input_hw, count)
    manifest = export_onnx(
        chosen, target, frames=frames, input_hw=input_hw, opset=int(opset), with_confidence=confidence
    )
    if as_json:
        click.echo(manifest.to_json())
        return
    parity = manifest.parity
    click.echo(f"{target}: {manifest.network}, {input_hw[0]}x{input_hw[1]}, {target.stat().st_size / 2**20:.1f} MiB")
    click.echo(
        f"ONNX Runtime equals PyTorch on {100 * parity['agreement']:.4f} % of the pixels of {parity['frames']} frames; "
        f"{parity['differing_pixels']} differ, all of them ties"
    )


def newest_checkpoint(runs: Path = Path("runs")) -> Path:
    """The newest run's adapted checkpoint, else its source checkpoint; says on stderr which.

    Raises:
        ModelFileError: there is none.
    """
    found = sorted(runs.glob("*/checkpoints/*.pt"), key=lambda path: path.stat().st_mtime)
    results = [path for path in found if path.stem in ("adapted", "source")]
    if not results:
        raise ModelFileError(f"no checkpoint given and none below {runs.resolve()}; train one with clst-train")
    adapted = results[-1].with_name("adapted.pt")
    chosen = adapted if adapted.is_file() else results[-1]
    click.echo(f"taking the newest run's checkpoint, {chosen}", err=True)
    return chosen


def verification_frames(checkpoint: Path, given: Path | None, input_hw: tuple[int, int], count: int) -> list[Frame]:
    """Frames H,W,3 to compare on: `given`, else the target images of the checkpoint's run, else drawn scenes."""
    from clst_train.checkpoint import load_checkpoint
    from clst_train.data.target import open_target

    places = [str(given)] if given is not None else load_checkpoint(checkpoint).config.get("data", {}).get("target", [])
    if given is not None or (places and all(Path(place).exists() for place in places)):
        images = open_target(places, input_hw=input_hw)
        count = min(count, len(images))
        return [images[place * len(images) // count] for place in range(count)]
    import numpy as np

    from clst_train.data.camera_looks import LOOKS
    from clst_train.data.scenes import draw_scene

    click.echo("no target images at hand; comparing on drawn scenes (give --frames for real ones)", err=True)
    looks = list(LOOKS.values())
    return [
        draw_scene(np.random.default_rng([7, index]), looks[index % len(looks)], input_hw)[0] for index in range(count)
    ]
