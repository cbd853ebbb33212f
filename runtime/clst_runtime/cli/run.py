"""`clst-run`: live segmentation of cameras, a video or a folder."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clst_runtime.cli.cameras import CameraOrder, cameras_of
from clst_runtime.cli.command import command, json_option, log_backend
from clst_runtime.cli.gpu_options import gpu_of, gpu_options
from clst_runtime.cli.ros_arguments import RosCommand, check_ros, ros_arguments
from clst_runtime.errors import ClstError, ConfigError, DataError, ModelFileError
from clst_runtime.system.numbers import THREADS, Real, Whole
from clst_runtime.system.progress import is_shown
from clst_runtime.system.standard_streams import never_wait_for_standard_error

if TYPE_CHECKING:
    from clst_runtime.backends.base import Backend
    from clst_runtime.backends.cuda.options import GpuOptions
    from clst_runtime.backends.selection import Choice
    from clst_runtime.cli.run_outputs import OpenCamera
    from clst_runtime.cli.run_report import RunReport
    from clst_runtime.live.output_folder import OutFolder
    from clst_runtime.live.pipeline import Observers, Stop
    from clst_runtime.live.statistics import RunStatistics
    from clst_runtime.sources import Timeouts

_log = logging.getLogger(__name__)
WORST_FIRST = ("ended", "lost", "stale", "starting", "ready")
"""States of cameras as the service manager hears of them: one that has ended gives no mask any more."""


@command(kind=RosCommand)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--source", "sources", required=True, multiple=True,
              help="Folder, video, recording, camera:0, csi:0, rtsp://…, gst:…, ros2:/TOPIC, raw:WxH; "
              "of several cameras each with a name: front=camera:0.")  # fmt: skip
@click.option("--backend", default="auto", show_default=True,
              help="tensorrt, ort-tensorrt, ort-cuda or ort-cpu; auto prints its choice and why.")  # fmt: skip
@gpu_options
@click.option("--rebuild", is_flag=True,
              help="Build an engine that cannot be used here again, from its ONNX file beside it.")  # fmt: skip
@click.option("--fallback", is_flag=True,
              help="Run a bundle's ONNX file in ONNX Runtime where no engine of it can be used.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Folder for overlay.mp4, statistics and masks.")
@click.option(
    "--video/--no-video", default=True, show_default=True, help="Write overlay.mp4 (overlay.mkv without PyAV)."
)
@click.option("--masks", is_flag=True, help="Write masks/<frame>.png with class ids at camera size.")
@click.option("--mcap", type=click.Path(path_type=Path), metavar="NAME.mcap",
              help="Write masks as images of ROS with the source's stamps, for Foxglove and rosbag2.")  # fmt: skip
@click.option("--pictures", is_flag=True, help="Write overlays/<frame>.png.")
@click.option("--window", is_flag=True, help="Show the overlay; q ends.")
@click.option("--web", metavar="[HOST:]PORT", help="Live page and /metrics; a token guards it on a network.")
@click.option("--web-token", envvar="CLST_WEB_TOKEN", help="For --web; else one is made and shown where it is needed.")
@click.option("--stream", "streams", multiple=True,
              help="To other programs: masks:-, overlay:unix:/run/clst.sock, masks:tcp:127.0.0.1:5555.")  # fmt: skip
@click.option("--ros2", metavar="NODE",
              help="Publish as this ROS 2 node, as /clst; ROS's own arguments after --ros-args.")  # fmt: skip
@click.option("--ignore-mask", "ignore_masks", multiple=True, metavar="[NAME=]PNG",
              help="Of the camera; non-zero = bonnet, lens border: class 255 there.")  # fmt: skip
@click.option("--deadline-ms", type=Real(min=0, min_open=True), help="A mask older than this is a miss.")
@click.option("--stale-after", default=10, show_default=True, type=Whole(1), help="Misses in a row: stale.")
@click.option("--patience", "patience_seconds", type=Real(0),
              help="Seconds without a camera before giving up  [default: 10 at the start, then never]")  # fmt: skip
@click.option("--statistics-every", type=Real(min=0, min_open=True),
              help="Seconds between lines of statistics.jsonl in --out, or of standard error without it.")  # fmt: skip
@click.option("--collect", type=click.Path(path_type=Path),
              help="Folder, or NAME.mcap, for frames that look like another camera's, to adapt to it.")  # fmt: skip
@click.option("--frames", "limit", type=Whole(1), help="Stop after so many frames (of each camera).")
@click.option("--threads", type=THREADS, help="CPU threads.")
@click.option("--alpha", default=0.5, show_default=True, type=Real(0, 1), help="Strength of the colours.")
@click.option("--overwrite", is_flag=True, help="Replace an older run's files in --out, and --mcap.")
@json_option("Statistics")
def main(model: Path, sources: tuple[str, ...], **options: Any) -> None:
    """Segment what --source gives with MODEL. Ctrl-C and SIGTERM are the normal end: it reports and exits with 0.

    --source may be repeated, with a name for each camera: --source front=camera:0 --source rear=camera:1. Folders then
    have one for each camera; where {camera} stands in --stream, --ros2, --mcap or a file of --collect, its name does.
    """
    never_wait_for_standard_error()
    orders = cameras_of(sources, options)
    for order in orders:
        check(model, order.source, order.options)
        check_mcap(order.options, [each.source for each in orders])
    ignored = [order.ignore_mask() for order in orders]
    from clst_runtime.backends.selection import choose_backend, has_choice
    from clst_runtime.cli.run_outputs import open_sinks
    from clst_runtime.live.pipeline import Camera, Stop, run_cameras, stopped_by_signals

    stop = Stop()
    with ExitStack() as opened:
        whole, *folders = claimed_folders(orders, options, opened)
        gpu = gpu_of(options)
        choice = choose_backend(model, options["backend"]) if has_choice(model) else None
        name = options["backend"] if choice is None else choice.name
        backend = opened.enter_context(open_backend(model, orders[0].source, name, gpu, options))
        log_backend(backend, options["threads"])
        cameras = [open_camera(order, folder, opened) for order, folder in zip(orders, folders, strict=True)]
        warn_of_model(backend, cameras)
        sinks = open_sinks(model, backend, cameras)
        watch = Watch(description_of(backend, choice), whole)
        opened.callback(watch.stop)
        runs = [
            Camera(
                source=camera.source,
                sinks=own,
                statistics=camera.statistics,
                observers=watch.observers(camera),
                ignored=mask,
            )
            for camera, own, mask in zip(cameras, sinks, ignored, strict=True)
        ]
        report = report_of(model, backend, cameras, whole, stop)
        with stopped_by_signals(stop):
            try:
                run_cameras(runs, backend, limit=options["limit"], stop=stop)
            except (Exception, KeyboardInterrupt):
                # What was driven is worth its report
                if (cameras[0].source.live or stop.at_once) and any(each.statistics.frames for each in cameras):
                    report.write(watch.tick)
                raise
            report.write(watch.tick)
    if stop.at_once:  # the second signal came while the report was written
        raise KeyboardInterrupt
    if report.failures:
        raise DataError(f"not everything was recorded: {'; '.join(report.failures)}")


def check(model: Path, source: str, options: dict[str, Any]) -> None:
    """Refuse what cannot be of a camera before anything is opened.

    Raises:
        UsageError: options that contradict each other. DataError: a standard stream that is closed.
    """
    out = options["out"]
    if out is None and (options["masks"] or options["pictures"]):
        raise click.UsageError("--masks and --pictures need --out")
    if out is not None and options["collect"] is not None and out.absolute() == options["collect"].absolute():
        raise click.UsageError("--collect and --out each need a folder of their own")
    if options["rebuild"] and model.suffix.lower() != ".engine":
        raise click.UsageError("--rebuild is for an .engine file; a bundle is built again by itself where it has to be")
    if options["fallback"] and (model.is_file() or options["backend"] != "auto"):
        raise click.UsageError("--fallback is for a bundle whose engine cannot be used, and not with --backend")
    if options["rebuild"] and source.startswith("raw:"):
        raise click.UsageError(
            "--rebuild verifies on images of --source, and standard input gives each only once; build before: "
            f"clst-export build {model} --frames FOLDER"
        )
    if len([stream for stream in options["streams"] if writes_to_stdout(stream)]) > 1:
        raise click.UsageError("only one --stream can have standard output; give the others a socket")
    check_ros(source, options)
    if source.startswith("raw:") and sys.__stdin__ is None:
        raise DataError(f"{source}: standard input is closed")
    for stream in options["streams"]:
        if writes_to_stdout(stream) and sys.__stdout__ is None:
            raise DataError(f"--stream {stream}: standard output is closed")


def check_mcap(options: dict[str, Any], sources: Iterable[str]) -> None:
    """Refuse a file for masks that cannot be.

    Raises:
        UsageError: no MCAP file by its name. DataError: it is there, is read by this run, or cannot be written.
        MissingDependency: no package that writes it.
    """
    path = options["mcap"]
    if path is None:
        return
    from clst_runtime.imaging.media import split_options
    from clst_runtime.system.files.atomic import check_can_write
    from clst_runtime.system.optional import check_installed

    if path.suffix.lower() != ".mcap":
        raise click.UsageError(f"--mcap {path}: give a file NAME.mcap")
    if options["collect"] is not None and path.absolute() == options["collect"].absolute():
        raise click.UsageError("--mcap and --collect each need a file of their own")
    check_installed("mcap", "rosbags.typesys")
    for read in (split_options(Path(source))[0] for source in sources):
        if path.exists() and os.path.exists(read) and path.samefile(read):
            raise DataError(f"{path} is read by this run; give another --mcap")
    if path.exists() and not options["overwrite"]:
        raise DataError(f"{path} exists; give another --mcap or --overwrite")
    check_can_write(path)


def claimed_folders(
    orders: Sequence[CameraOrder], options: dict[str, Any], opened: ExitStack
) -> Iterator[OutFolder | None]:
    """The folder for results and, in it, that of each camera that has a name; None for each without `--out`.

    Nothing else may write into them, and a failed start leaves them as they are.
    """
    from clst_runtime.live.output_folder import claimed

    strange = [name for name, option in (("masks", "masks"), ("overlays", "pictures")) if options[option]]
    overwrite, sources = options["overwrite"], [order.source for order in orders]

    def claim(out: Path | None, strange: Iterable[str]) -> OutFolder | None:
        if out is None:
            return None
        return opened.enter_context(claimed(out, overwrite=overwrite, strange=strange, sources=sources))

    named = bool(orders[0].name)
    whole = claim(options["out"], () if named else strange)
    yield whole
    for order in orders:
        yield claim(order.options["out"], strange) if named else whole


def open_camera(order: CameraOrder, folder: OutFolder | None, opened: ExitStack) -> OpenCamera:
    """A camera with its statistics, which is read from now on. Raises: as `open_source` and `locked`."""
    from clst_runtime.cli.run_outputs import OpenCamera
    from clst_runtime.live.output_folder import locked
    from clst_runtime.live.statistics import Deadline, RunStatistics
    from clst_runtime.sources import open_source

    options, collect = order.options, order.options["collect"]
    timeouts = timeouts_of(options["patience_seconds"])
    try:
        source = opened.enter_context(open_source(order.source, timeouts=timeouts, ros_args=ros_arguments(options)))
    except (ConfigError, DataError) as error:
        raise type(error)(f"{order.before}{error.message}") from error
    deadline = Deadline(milliseconds=options["deadline_ms"], stale_after=options["stale_after"])
    if collect is not None and collect.suffix.lower() != ".mcap":
        opened.enter_context(locked(collect))
    return OpenCamera(order=order, source=source, statistics=RunStatistics(deadline, live=source.live), folder=folder)


def warn_of_model(backend: Backend, cameras: Sequence[OpenCamera]) -> None:
    """Now, for a drive may last for weeks, and in the statistics."""
    for warning in getattr(backend, "warnings", ()):
        _log.warning(f"model: {warning}")
        for camera in cameras:
            camera.statistics.warn(warning)


def open_backend(model: Path, source: str, name: str, gpu: GpuOptions, options: dict[str, Any]) -> Backend:
    """The model, ready to predict; if that was allowed, an engine that cannot be used here is built again, and in the
    place of a bundle's engine its ONNX file is run.

    Raises:
        What `open_model` and `rebuild_engine` raise.
    """
    from clst_runtime.backends import open_model, open_without_engine
    from clst_runtime.backends.cuda.device import CudaFailed

    try:
        return open_model(model, threads=options["threads"], backend=name, gpu=gpu)
    except CudaFailed:  # the process has to be started again
        raise
    except ClstError as error:
        if options["fallback"] and model.is_dir():
            return open_without_engine(model, error, threads=options["threads"])
        if not options["rebuild"] or not isinstance(error, ModelFileError):
            raise
        from clst_runtime.backends.tensorrt.build.engine import EngineNotKept
        from clst_runtime.backends.tensorrt.build.rebuild import FRAMES, rebuild_engine
        from clst_runtime.evaluation.latency.comparison import frames_to_measure

        _log.info(f"{error.message}; --rebuild: done now")
        try:
            rebuild_engine(
                model, lambda made: frames_to_measure(source, made.input_hw, made.fit, count=FRAMES), gpu=gpu
            )
        except EngineNotKept as unkept:
            return unkept.open(model, gpu)
        return open_model(model, threads=options["threads"], backend=name, gpu=gpu)


def writes_to_stdout(stream: str) -> bool:
    """Whether a `--stream` takes standard output, so that text must go elsewhere."""
    return stream.endswith(":-")


def timeouts_of(seconds: float | None) -> Timeouts | None:
    """The patience of a live source, as asked for."""
    from clst_runtime.sources import Timeouts

    return None if seconds is None else Timeouts(start_seconds=seconds, lost_seconds=seconds)


def description_of(backend: Backend, choice: Choice | None) -> str:
    """What computes and why, as text."""
    rows, columns = backend.manifest.input_hw
    text = f"{backend.description}, input {rows}x{columns}"
    return text if choice is None else f"{text} ({choice.reason})"


class Watch:
    """What follows the run beside the sinks: the folders for results, the terminal, the service manager."""

    def __init__(self, description: str, whole: OutFolder | None) -> None:
        """Args: whole: the folder of all cameras."""
        from clst_runtime.live.systemd import Notifier

        self._description, self._whole = description, whole
        self._notifier, self._is_ready = Notifier(), False
        self._watched: dict[str, RunStatistics] = {}

    def observers(self, camera: OpenCamera) -> Observers:
        """What follows a camera."""
        from clst_runtime.live.pipeline import Observers
        from clst_runtime.live.statistics import STARTING

        self._watched[camera.order.name] = camera.statistics
        states, waited_for = [STARTING], {""}

        def ready(_: RunStatistics) -> None:
            for folder in (self._whole, camera.folder):
                if folder is not None:
                    folder.begin()
            if not self._is_ready:
                self._is_ready = True
                _log.info(f"ready: {self._description}")
                self._notifier.ready()

        def tick(statistics: RunStatistics) -> None:
            state, why = statistics.state, statistics.why
            is_over = all(each.end for each in self._watched.values())
            if (state != states[-1] and not is_over) or (state == STARTING and why not in waited_for):
                self._tell(camera, state, why)
                states[:] = [state]
                waited_for.add(why)
            self.tick(statistics)

        return Observers(ready=ready, tick=tick)

    def _tell(self, camera: OpenCamera, state: str, why: str) -> None:
        from clst_runtime.live.statistics import ENDED, LOST, STARTING

        failures = camera.statistics.failures
        if state == ENDED:  # while others go on
            why = "; ".join(failures) or camera.statistics.end
        level = logging.WARNING if state == ENDED and failures else logging.INFO
        shown = f" ({why})" if why and state in (STARTING, LOST, ENDED) else ""
        _log.log(level, f"{camera.order.before}state: {state}{shown}")

    def tick(self, changed: RunStatistics) -> None:
        """Show signs of life: a line that is written over where there is a terminal, the worst state to systemd."""
        if is_shown() and sys.stderr.isatty() and changed.frames % 10 == 0:
            told = [f"{name} {each.state}: {each.frames} frames, {each.fps:.1f} frames/s".strip()
                    for name, each in self._watched.items()]  # fmt: skip
            click.echo(f"\r{'; '.join(told)} ", nl=False, err=True)
        states = {name: each.state for name, each in self._watched.items()}
        worst = min(states.values(), key=WORST_FIRST.index)
        each = ", ".join(f"{name} {state}" for name, state in states.items())
        self._notifier.alive(worst if len(states) == 1 else f"{worst} ({each})")

    def stop(self) -> None:
        """The end has begun."""
        self._notifier.stopping()


def report_of(
    model: Path, backend: Backend, cameras: Sequence[OpenCamera], whole: OutFolder | None, stop: Stop
) -> RunReport:
    """What will be reported of the run."""
    from clst_runtime.cli.run_report import RunReport

    options = cameras[0].order.options
    return RunReport(
        cameras=cameras, folder=whole, model=str(model), backend=backend, as_json=options["as_json"], stop=stop,
        aside=any(writes_to_stdout(stream) for stream in options["streams"]),
    )  # fmt: skip
