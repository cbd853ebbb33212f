"""`clst-export`: a checkpoint becomes a verified model file; `inspect` reads one, `build` makes a bundle's engine."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from clst_export import PACKAGES
from clst_runtime.cli.command import Group, json_option, print_json, threads_text
from clst_runtime.cli.gpu_options import cuda_option
from clst_runtime.system.numbers import Real, Whole

if TYPE_CHECKING:
    from clst_export.pipeline import Inputs, Request
    from clst_train.models.checkpoint import Checkpoint

_log = logging.getLogger(__name__)
PRECISIONS = ("fp32", "fp16", "int8")


class DefaultGroup(Group):
    """A group whose first command may be left out: `clst-export CHECKPOINT --onnx` is `clst-export convert …`."""

    default = "convert"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default command in front, and the default precision behind a bare `--onnx`."""
        args, place = list(args), 0
        while place < len(args) and re.fullmatch("-[qv]+|--quiet|--verbose|--log-file(=.*)?", args[place]):
            place += 2 if args[place] == "--log-file" else 1  # options of every command, in front of the subcommand
        if place >= len(args) or args[place] not in self.commands:
            args.insert(place := 0, self.default)
        if args[place] == self.default and "--onnx" in args:
            place = args.index("--onnx") + 1
            if place == len(args) or args[place] not in PRECISIONS:
                args.insert(place, PRECISIONS[0])
        return super().parse_args(ctx, args)


@click.group(cls=DefaultGroup)
def main() -> None:
    """Export a checkpoint; look at a model file; build a bundle's engine on the device."""


@main.command(epilog="Also: clst-export inspect FILE, clst-export build BUNDLE|ENGINE (each with --help).")
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option("--onnx", type=click.Choice(PRECISIONS), help="Write an ONNX file; bare --onnx is fp32.")
@click.option(
    "--trt", type=click.Choice(PRECISIONS), help="Build a TensorRT engine: for this machine's GPU, or --for rtx."
)
@click.option("--for", "target", type=click.Choice(["tensorrt", "rtx", "cpu"]), default="tensorrt", show_default=True,
              help="rtx: engines of TensorRT for RTX, built without a GPU; cpu: an int8 ONNX file.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="File to write  [default: beside the checkpoint]")
@click.option("--size", help="Input size HxW  [default: the checkpoint's]")
@click.option("--opset", type=click.Choice(["19", "20"]), default="19", show_default=True, help="ONNX operator set.")
@click.option("--confidence", is_flag=True, help="Add the winner's probability as a second output.")
@click.option("--frames", "frames_from", type=click.Path(path_type=Path),
              help="Images to compare on  [default: the target's, or synthetic scenes]")  # fmt: skip
@click.option("--count", type=Whole(1), help="How many of them  [default: 16, with --data all]")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Labelled images to compare on: mIoU instead of agreement."
)
@click.option("--split", default="val", show_default=True, help="Which split of --data.")
@click.option(
    "--mapping", type=click.Path(path_type=Path), help="JSON file relating the classes of --data to the model's."
)
@click.option(
    "--calib",
    multiple=True,
    type=click.Path(),
    help="Images or video of the camera: int8 is calibrated on them, clst-run knows it by them  "
    "[default: the target's]",
)
@click.option("--calib-count", type=Whole(1), help="How many of them  [default: all, at most 64]")
@click.option("--calib-method", type=click.Choice(["best", "max", "percentile", "entropy"]), default="best",
              show_default=True, help="int8: method of its ranges; best compares all on held-out frames.")  # fmt: skip
@click.option("--max-miou-drop", type=Real(0, 100),
              help="int8: lose no more points, keeping the fewest layers in higher precision.")  # fmt: skip
@click.option("--min-agreement", type=Real(0, 100), help="Smallest share of equal pixels, in %.")
@click.option("--bundle", is_flag=True, help="Make a folder to copy to the device, which builds the engine there.")
@click.option("--workspace-mib", type=Whole(1), help="TensorRT: memory for tactics.")
@click.option("--timing-cache", type=click.Path(path_type=Path), help="TensorRT: file that makes later builds faster.")
@click.option("--optimisation-level", type=Whole(0, 5), help="TensorRT: 0 = fast build … 5 = long search.")
@click.option("--dla", type=Whole(0), help="TensorRT: run on this DLA core, the GPU takes what it cannot.")
@cuda_option
@click.option("--licence", metavar="TEXT", help="Licence of the weights, for the model card.")
@click.option("--overwrite", is_flag=True, help="Replace existing files.")
@json_option("Manifest")
def convert(checkpoint: Path | None, onnx: str | None, trt: str | None, **options: Any) -> None:
    """Convert CHECKPOINT, a file or a run's folder (default: the newest run's), and prove the result.

    fp32 and fp16 must give PyTorch's classes; int8 must hold --max-miou-drop, or lose no more than 1 point. With extra
    rtx, TensorRT for RTX must build it. A file that does not prove itself is kept as NAME.rejected.onnx with a report
    beside it, and the exit code is 6. NAME.md, the model card, says what the file is.

    An int8 engine or bundle gets an fp16 one beside it: both are timed on the GPU, and int8 is preferred only if it is
    really faster.
    """
    if onnx is None and trt is None:
        raise click.UsageError("say what to make: --onnx or --trt, each with fp32, fp16 or int8")
    if onnx is not None and trt is not None:
        raise click.UsageError(
            "two things were asked; give --onnx or --trt (which writes its ONNX file too), one at a time"
        )
    precision = onnx or trt or ""
    refuse_contradictions(precision, trt, options)
    from clst_runtime.system.optional import check_installed, require

    check_installed(*PACKAGES)
    from clst_export.card import card_path
    from clst_export.outputs import check_given, check_outputs, newest_checkpoint, output_paths
    from clst_runtime.system.files.paths import checkpoint_of

    chosen = newest_checkpoint() if checkpoint is None else checkpoint_of(checkpoint)
    paths = output_paths(chosen, precision, trt, options)
    check_outputs(chosen, paths, overwrite=options["overwrite"])
    check_given(chosen, options)
    if trt is not None:
        from clst_runtime.backends.tensorrt.build.engine import check_can_build

        check_can_build(build_options(options).library, options["cuda"])
    for module in PACKAGES:
        require(module)
    from clst_export.inputs import collect
    from clst_train.models.checkpoint import load_checkpoint

    _log.info(f"exporting {precision} on cpu, {threads_text(require('torch').get_num_threads())}")
    loaded = load_checkpoint(chosen)
    request, inputs = collect(loaded, precision, options)
    try:
        produce(loaded, paths, request, inputs, options)
    finally:
        if "bundle" in paths:  # its ONNX files are in it then, or it has failed
            for name in paths.keys() & {"onnx", "baseline_onnx"}:
                paths[name].unlink(missing_ok=True)
                card_path(paths[name]).unlink(missing_ok=True)


def produce(
    checkpoint: Checkpoint, paths: dict[str, Path], request: Request, inputs: Inputs, options: dict[str, Any]
) -> None:
    """Make every file of `paths` and report on it."""
    from clst_export.cli.conversion import report
    from clst_export.pipeline import trace_network, write_model
    from clst_runtime.backends.tensorrt.build.check import describe_build_check

    network = trace_network(checkpoint, request, inputs)
    conversion = write_model(network, paths["onnx"], request, log=_log.info)
    show(report(conversion, paths["onnx"], request.budget), options)
    if options["as_json"]:
        click.echo(conversion.manifest.to_json())
    if "not_checked" in conversion.manifest.build_check:
        _log.info(describe_build_check(conversion.manifest.build_check))
    baseline = None
    if "baseline_onnx" in paths:
        from clst_export.inputs import baseline_request
        from clst_export.tensorrt.fp16_baseline import write_baseline

        baseline = write_baseline(network, paths["baseline_onnx"], baseline_request(request, options), log=_log.info)
    if "engine" in paths:
        make_engine(paths, baseline, inputs, options)
    if "bundle" in paths:
        make_bundle(paths, baseline, inputs, options)


def show(text: str, options: dict[str, Any]) -> None:
    """To standard output, which with --json is for that alone: then it is a message."""
    if options["as_json"]:
        _log.info(text)
    else:
        click.echo(text)


def refuse_contradictions(precision: str, trt: str | None, options: dict[str, Any]) -> None:
    """Options that do not fit each other are a usage error, not silently dropped."""
    for name, default in {"calib_method": "best", "max_miou_drop": None}.items():
        if precision != "int8" and options[name] != default:
            raise click.UsageError(f"--{name.replace('_', '-')} is for int8, not for {precision}")
    if options["target"] == "cpu" and (precision != "int8" or trt is not None or options["bundle"]):
        raise click.UsageError("--for cpu is for --onnx int8, a file for ONNX Runtime's CPU; it is no use to TensorRT")
    if options["target"] == "rtx":
        refuse_for_rtx(trt, options)
    if trt is not None and options["bundle"]:
        raise click.UsageError("--trt builds here, --bundle is for building on the device; give --onnx with --bundle")
    if trt is None and options["cuda"] != "auto":
        raise click.UsageError("--cuda is for --trt; of a bundle the device chooses the library that calls its GPU")
    if trt is None and not options["bundle"]:
        refuse_builders_options(options, "is for --trt or --bundle")
    if options["mapping"] is not None and options["data"] is None:
        raise click.UsageError("--mapping relates the classes of --data; give both")


def refuse_for_rtx(trt: str | None, options: dict[str, Any]) -> None:
    """What TensorRT for RTX makes nothing of."""
    from clst_runtime.backends.tensorrt.build.options import NOT_FOR_RTX

    if trt is None and not options["bundle"]:
        raise click.UsageError("--for rtx is for --trt or --bundle; the ONNX file for it is the one for TensorRT")
    refuse_builders_options(options, f"is not for RTX: {NOT_FOR_RTX}")


def refuse_builders_options(options: dict[str, Any], why: str) -> None:
    """What is for TensorRT's builder alone."""
    for name in ("workspace_mib", "timing_cache", "optimisation_level", "dla"):
        if options[name] is not None:
            raise click.UsageError(f"--{name.replace('_', '-')} {why}")


def build_options(options: dict[str, Any]) -> Any:
    """What was asked of TensorRT."""
    from clst_runtime.backends.tensorrt.build.options import BuildOptions
    from clst_runtime.backends.tensorrt.library import Library

    given = {"library": Library.RTX if options["target"] == "rtx" else None,
             "workspace_mib": options["workspace_mib"], "timing_cache": options["timing_cache"],
             "optimisation_level": options["optimisation_level"], "dla_core": options["dla"],
             "min_agreement": None if options["min_agreement"] is None else options["min_agreement"] / 100}  # fmt: skip
    return BuildOptions(**{name: value for name, value in given.items() if value is not None})


def make_engine(paths: dict[str, Path], baseline: Path | None, inputs: Inputs, options: dict[str, Any]) -> None:
    """Build, verify and write the engine beside its ONNX file; of int8 also fp16, and compare their times."""
    from clst_runtime.backends.cuda.options import GpuOptions
    from clst_runtime.backends.tensorrt.build.engine import build_engine, built_engine_note
    from clst_runtime.backends.tensorrt.build.progress import show_progress

    gpu = GpuOptions(cuda=options["cuda"])
    manifest = build_engine(
        paths["onnx"], paths["engine"], options=build_options(options), frames=inputs.frames,
        progress=show_progress(), gpu=gpu, must_compare=options["target"] != "rtx",
    )  # fmt: skip
    show(f"{paths['engine']}: {built_engine_note(manifest)}", options)
    if options["target"] == "rtx" and manifest.precision == "int8":
        _log.info(
            "its int8 was not timed beside fp16, as its GPU may be any; make that engine too and clst-bench both there"
        )
    if baseline is not None:
        from clst_export.tensorrt.fp16_baseline import build_baseline

        build_baseline(paths["engine"], baseline, paths["baseline_engine"], inputs.frames,
                       options=build_options(options), gpu=gpu,
                       log=lambda message: show(message, options))  # fmt: skip


def make_bundle(paths: dict[str, Path], baseline: Path | None, inputs: Inputs, options: dict[str, Any]) -> None:
    """Write the folder for the device, copies of the ONNX files in it."""
    from clst_export.tensorrt.bundle import write_bundle

    write_bundle(paths["onnx"], paths["bundle"], inputs.frames, options=build_options(options), baseline=baseline)
    show(f"{paths['bundle']}: copy it to the device, there: clst-export build {quote(paths['bundle'].name)}", options)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--frames", help="For an engine: images or a video of the camera, to verify it on.")
@cuda_option
@json_option("The engine's manifest")
def build(model: Path, frames: str | None, cuda: str, *, as_json: bool) -> None:
    """Build and prove the engine of a bundle for this machine, also after an update; a proved one is kept as it is.

    MODEL may be an .engine file of another GPU, TensorRT or driver, or a damaged one: it is built again from the ONNX
    file beside it, as it was built before. Needs TensorRT and a GPU, but neither PyTorch nor onnx.
    """
    if model.suffix.lower() == ".onnx" and not model.is_dir():
        wanted = quote(str(model.with_suffix(".engine")))
        raise click.UsageError(f"{model}: name the engine to build of it: clst-export build {wanted} --frames IMAGES")
    is_engine = model.suffix.lower() == ".engine" and not model.is_dir()
    if is_engine != (frames is not None):
        raise click.UsageError(
            f"{model}: give --frames images or a video of the camera to verify the engine on"
            if is_engine
            else "--frames is for an .engine file; a bundle has images of its own"
        )
    from clst_runtime.backends.cuda.options import GpuOptions
    from clst_runtime.backends.tensorrt.build.engine import built_engine_note
    from clst_runtime.backends.tensorrt.sidecar import read_engine

    gpu = GpuOptions(cuda=cuda)
    if frames is not None:
        from clst_runtime.backends.tensorrt.build.rebuild import FRAMES, rebuild_engine
        from clst_runtime.evaluation.latency.comparison import frames_to_measure

        engine = model
        manifest = rebuild_engine(
            model, lambda made: frames_to_measure(frames, made.input_hw, made.fit, count=FRAMES), gpu=gpu
        )
    else:
        from clst_runtime.backends.tensorrt.bundle.device_engine import build_bundle

        engine = build_bundle(model, gpu)
        manifest = read_engine(engine)[1]
    click.echo(manifest.to_json() if as_json else f"{engine}: {built_engine_note(manifest)}")


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option()
def inspect(file: Path, *, as_json: bool) -> None:
    """Print the model card of FILE (an ONNX file, an engine or a bundle): what it is, of what, measured how."""
    from clst_export.card import card
    from clst_export.inspection import facts_of

    facts = facts_of(file)
    if as_json:
        print_json(facts)
    else:
        click.echo(card(facts), nl=False)
