"""`clst-run`: live segmentation of a camera, a video or a folder."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clst_runtime.cli.command import command, json_option, log_backend
from clst_runtime.cli.gpu_options import gpu_of, gpu_options
from clst_runtime.cli.ros_arguments import RosCommand, check_ros, ros_arguments
from clst_runtime.errors import ClstError, DataError, ModelFileError, message_of
from clst_runtime.system.credentials import all_without_credentials, without_credentials
from clst_runtime.system.numbers import THREADS, Real, Whole
from clst_runtime.system.progress import is_shown
from clst_runtime.system.standard_streams import never_wait_for_standard_error, standard_output

if TYPE_CHECKING:
    from clst_runtime.backends.base import Backend
    from clst_runtime.backends.cuda.options import GpuOptions
    from clst_runtime.backends.selection import Choice
    from clst_runtime.live.monitor.sink import MonitorSink
    from clst_runtime.live.output_folder import OutFolder
    from clst_runtime.live.pipeline import Observers, Stop
    from clst_runtime.live.sinks.base import Sink
    from clst_runtime.live.statistics import RunStatistics
    from clst_runtime.sources import Source, Timeouts

_log = logging.getLogger(__name__)
UNKNOWN_FPS = 10.0
REPORT_SECONDS = 3.0
"""How long the report may take to be written: a full disk is reported at once, a stalled one never."""


@command(kind=RosCommand)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--source", required=True,
              help="Folder, video, recording, camera:0, csi:0, rtsp://…, gst:…, ros2:/TOPIC, raw:WxH.")  # fmt: skip
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
@click.option("--deadline-ms", type=Real(min=0, min_open=True), help="A mask older than this is a miss.")
@click.option("--stale-after", default=10, show_default=True, type=Whole(1), help="Misses in a row: stale.")
@click.option("--patience", "patience_seconds", type=Real(0),
              help="Seconds without a camera before giving up  [default: 10 at the start, then never]")  # fmt: skip
@click.option("--statistics-every", type=Real(min=0, min_open=True),
              help="Seconds between lines of statistics.jsonl in --out, or of standard error without it.")  # fmt: skip
@click.option("--collect", type=click.Path(path_type=Path),
              help="Folder, or NAME.mcap, for frames that look like another camera's, to adapt to it.")  # fmt: skip
@click.option("--frames", "limit", type=Whole(1), help="Stop after so many frames.")
@click.option("--threads", type=THREADS, help="CPU threads.")
@click.option("--alpha", default=0.5, show_default=True, type=Real(0, 1), help="Strength of the colours.")
@click.option("--overwrite", is_flag=True, help="Replace an older run's files in --out, and --mcap.")
@json_option("Statistics")
def main(model: Path, source: str, out: Path | None, **options: Any) -> None:
    """Segment what --source gives with MODEL. Ctrl-C and SIGTERM are the normal end: it reports and exits with 0."""
    never_wait_for_standard_error()
    check(model, source, out, options)
    from clst_runtime.backends.selection import choose_backend, has_choice
    from clst_runtime.live.output_folder import locked
    from clst_runtime.live.pipeline import Stop, run_pipeline, stopped_by_signals
    from clst_runtime.live.statistics import Deadline, RunStatistics
    from clst_runtime.sources import open_source

    deadline = Deadline(milliseconds=options["deadline_ms"], stale_after=options["stale_after"])
    stop = Stop()
    with ExitStack() as opened:
        folder = None if out is None else opened.enter_context(claim(out, source, options))
        gpu = gpu_of(options)
        choice = choose_backend(model, options["backend"]) if has_choice(model) else None
        name = options["backend"] if choice is None else choice.name
        backend = opened.enter_context(open_backend(model, source, name, gpu, options))
        log_backend(backend, options["threads"])
        frames = opened.enter_context(
            open_source(source, timeouts=timeouts_of(options["patience_seconds"]), ros_args=ros_arguments(options))
        )
        statistics = RunStatistics(deadline, live=frames.live)
        described = {"model": str(model), "source": without_credentials(source)}
        for warning in getattr(backend, "warnings", ()):
            _log.warning(f"model: {warning}")  # now, for a drive may last for weeks
            statistics.warn(warning)
        if options["collect"] is not None and options["collect"].suffix.lower() != ".mcap":
            opened.enter_context(locked(options["collect"]))
        sinks = all_or_none(open_sinks(backend, frames, statistics, folder, options, described))
        observers = opened.enter_context(watching(description_of(backend, choice), folder))
        run_report = RunReport(statistics, backend, folder, options, described, stop, observers)
        with stopped_by_signals(stop):
            try:
                run_pipeline(frames, backend, sinks, limit=options["limit"], statistics=statistics,
                             observers=observers, stop=stop)  # fmt: skip
            except (Exception, KeyboardInterrupt):
                if (frames.live or stop.at_once) and statistics.frames:  # what was driven is worth its report
                    write_report(run_report)
                raise
            write_report(run_report)
    if stop.at_once:  # the second signal came while the report was written
        raise KeyboardInterrupt
    if statistics.failures:
        raise DataError(f"not everything was recorded: {'; '.join(statistics.failures)}")


def check(model: Path, source: str, out: Path | None, options: dict[str, Any]) -> None:
    """Refuse what cannot be before anything is opened.

    Raises:
        UsageError: options that contradict each other. DataError: a standard stream that is closed.
    """
    if out is None and (options["masks"] or options["pictures"]):
        raise click.UsageError("--masks and --pictures need --out")
    if out is not None and options["collect"] is not None and out.absolute() == options["collect"].absolute():
        raise click.UsageError("--collect and --out each need a folder of their own")
    check_mcap(options["mcap"], source, options)
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


def check_mcap(path: Path | None, source: str, options: dict[str, Any]) -> None:
    """Refuse a file for masks that cannot be.

    Raises:
        UsageError: no MCAP file by its name. DataError: it is there, is read by this run, or cannot be written.
        MissingDependency: no package that writes it.
    """
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
    read, _ = split_options(Path(source))
    if path.exists() and read.exists() and path.samefile(read):
        raise DataError(f"{path} is read by this run; give another --mcap")
    if path.exists() and not options["overwrite"]:
        raise DataError(f"{path} exists; give another --mcap or --overwrite")
    check_can_write(path)


def claim(out: Path, source: str, options: dict[str, Any]) -> AbstractContextManager[OutFolder]:
    """The folder for results, which nothing else may write and a failed start leaves as it is."""
    from clst_runtime.live.output_folder import claimed

    strange = [name for name, option in (("masks", "masks"), ("overlays", "pictures")) if options[option]]
    return claimed(out, overwrite=options["overwrite"], strange=strange, source=source)


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


@contextmanager
def watching(description: str, folder: OutFolder | None) -> Iterator[Observers]:
    """What follows the run beside the sinks: the folder for results, the terminal, the service manager."""
    from clst_runtime.live.pipeline import Observers
    from clst_runtime.live.statistics import ENDED, LOST, STARTING
    from clst_runtime.live.systemd import Notifier

    notifier = Notifier()
    states, waited_for = [STARTING], {""}

    def ready(_: RunStatistics) -> None:
        if folder is not None:
            folder.begin()
        _log.info(f"ready: {description}")
        notifier.ready()

    def tick(statistics: RunStatistics) -> None:
        show_progress(statistics)
        state, why = statistics.state, statistics.why
        if state not in (states[-1], ENDED) or (state == STARTING and why not in waited_for):
            _log.info(f"state: {state} ({why})" if why and state in (STARTING, LOST) else f"state: {state}")
            states[:] = [state]
            waited_for.add(why)
        notifier.alive(state)

    yield Observers(ready=ready, tick=tick)
    notifier.stopping()


def open_log(statistics: RunStatistics, folder: OutFolder | None, every_seconds: float) -> Sink:
    """The log of statistics; in a folder it begins with the first frame."""
    from clst_runtime.live.statistics_log import StatisticsLog
    from clst_runtime.system.files.json_lines import JsonLines

    if folder is None:
        return StatisticsLog(statistics, lambda facts: click.echo(json.dumps(facts), err=True), every_seconds)
    lines = JsonLines(folder.path / "statistics.jsonl")
    return StatisticsLog(statistics, lines.append, every_seconds, begun=lambda: folder.begun, close=lines.close)


def all_or_none(sinks: Iterator[Sink]) -> list[Sink]:
    """Open one after the other; where one cannot be, those before it are closed, and no socket stays behind."""
    opened: list[Sink] = []
    with ExitStack() as undone:
        for sink in sinks:
            undone.callback(sink.close)
            opened.append(sink)
        undone.pop_all()
    return opened


def open_sinks(
    backend: Backend,
    source: Source,
    statistics: RunStatistics,
    folder: OutFolder | None,
    options: dict[str, Any],
    facts: dict[str, str],
) -> Iterator[Sink]:
    """The sinks that were asked for, opened one after the other."""
    from clst_runtime.live.sinks.mcap_files import McapMaskSink
    from clst_runtime.live.sinks.stream import open_stream
    from clst_runtime.live.sinks.window import WindowSink

    classes, alpha = backend.manifest.classes, options["alpha"]
    for each in options["streams"]:
        yield open_stream(each, classes, alpha, stdout=standard_output(), statistics=statistics)
    if options["ros2"] is not None:
        from clst_runtime.live.sinks.ros2 import open_ros2

        yield open_ros2(ros_arguments(options), classes, alpha, statistics=statistics, source=facts["source"])
    if folder is not None:
        yield from open_files(backend, source, folder.path, options)
    if options["mcap"] is not None:
        yield McapMaskSink(options["mcap"], classes)
    watch = open_monitor(backend, source, statistics, options)
    if watch is not None:
        yield watch
    if options["statistics_every"] is not None:
        yield open_log(statistics, folder, options["statistics_every"])
    if options["web"] is not None:
        yield open_page(backend, source, statistics, folder, options, facts)
    if options["window"]:  # last: the loop itself shows a picture, and the others have it by then
        yield WindowSink(classes, alpha)


def open_files(backend: Backend, source: Source, out: Path, options: dict[str, Any]) -> Iterator[Sink]:
    """The sinks that write into `--out`; each makes its file with the first frame."""
    from clst_runtime.live.sinks.files import FrameLogSink, ImageSink, MaskSink
    from clst_runtime.live.sinks.video import VideoSink
    from clst_runtime.live.sinks.video_files import video_suffix
    from clst_runtime.system.optional import extra

    classes, alpha = backend.manifest.classes, options["alpha"]
    yield FrameLogSink(out / "frames.jsonl", classes)
    if options["video"]:
        fps = None if source.live else source.fps or UNKNOWN_FPS
        suffix = video_suffix()
        if suffix != ".mp4":
            _log.info("overlay.mkv: Motion JPEG, large; pip install %s for H.264 (overlay.mp4)", extra("video"))
        yield VideoSink(out / f"overlay{suffix}", classes, fps, alpha)
    if options["masks"]:
        yield MaskSink(out / "masks")
    if options["pictures"]:
        yield ImageSink(out / "overlays", classes, alpha)


def open_page(
    backend: Backend,
    source: Source,
    statistics: RunStatistics,
    folder: OutFolder | None,
    options: dict[str, Any],
    facts: dict[str, str],
) -> Sink:
    """Serve the live page; recordings that its viewers start go below the folder."""
    from clst_runtime.live.web import RunInfo, open_web, parse_web_address

    fps = None if source.live else source.fps
    info = RunInfo(manifest=backend.manifest, backend=backend.description, alpha=options["alpha"], fps=fps, **facts)
    recordings = None if folder is None else folder.path / "recordings"
    page = open_web(parse_web_address(options["web"]), statistics=statistics, facts=info, recordings=recordings,
                    token=options["web_token"])  # fmt: skip
    # A token made for this run has to be shown; one that was given is known, and may be in use for years
    _log.info(f"page: {page.url if options['web_token'] is None else without_credentials(page.url)}")
    return page


def show_progress(statistics: RunStatistics) -> None:
    """A line on the terminal that is written over, where there is a terminal."""
    if is_shown() and sys.stderr.isatty() and statistics.frames % 10 == 0:
        click.echo(
            f"\r{statistics.state}: {statistics.frames} frames, {statistics.fps:.1f} frames/s ", nl=False, err=True
        )


def open_monitor(
    backend: Backend, source: Source, statistics: RunStatistics, options: dict[str, Any]
) -> MonitorSink | None:
    """The monitor of the camera, where the model has a reference; changes are logged at once and kept as warnings.

    The statistics tell its state from then on.
    """
    from clst_runtime.live.monitor.sink import open_monitor

    def warn(message: str) -> None:
        _log.warning(f"camera: {message}")
        statistics.warn(message)

    if not source.live and not backend.manifest.domain and options["collect"] is None:
        return None  # of files nobody asked
    watch = open_monitor(backend.manifest, source, collect=options["collect"], report=warn)
    statistics.domain = None if watch is None else watch.snapshot
    return watch


@dataclass(frozen=True)
class RunReport:
    """What the report is made of, and whom its writing keeps informed."""

    statistics: RunStatistics
    backend: Backend
    folder: OutFolder | None
    options: dict[str, Any]
    described: dict[str, str]
    stop: Stop
    observers: Observers

    def as_text(self) -> str:
        """All statistics as JSON."""
        facts = {**self.described, "backend": self.backend.description, **self.statistics.to_json()}
        return json.dumps(all_without_credentials(facts), indent=1)

    def try_to(self, work: Callable[[], None], what: str) -> bool:
        """Do it, unless it fails or takes too long, which is noted among the run's failures."""
        from clst_runtime.live.pipeline import HURRY_SECONDS
        from clst_runtime.system.timeouts import in_time

        seconds = lambda: HURRY_SECONDS if self.stop.at_once else REPORT_SECONDS  # noqa: E731
        try:
            in_time(work, seconds, meanwhile=lambda: self.observers.tick(self.statistics))
        except BrokenPipeError:
            if not self.statistics.failures:  # else the exit code must report them
                raise
            return False
        except (ClstError, OSError) as error:
            reason = getattr(error, "strerror", None) or message_of(error)
            self.statistics.failures.append(f"{what}: {reason}")
            return False
        return True


def write_report(run_report: RunReport) -> None:
    """Write statistics.json and the legend, print the report; on standard error what cannot go where it belongs."""
    statistics, folder, options = run_report.statistics, run_report.folder, run_report.options
    if folder is not None and folder.begun and not run_report.try_to(lambda: keep(run_report, folder.path), "report"):
        click.echo(run_report.as_text(), err=True)
    for warning in statistics.warnings:
        _log.warning(f"warning: {warning}")
    text = run_report.as_text() if options["as_json"] else report(statistics)
    aside = any(writes_to_stdout(stream) for stream in options["streams"])
    if aside or not run_report.try_to(lambda: print_whole(text), "report on standard output"):
        click.echo(text, err=True)


def keep(run_report: RunReport, folder: Path) -> None:
    """Write statistics.json and the legend. Raises: DataError: that cannot be."""
    from clst_runtime.imaging.image_files import write_png
    from clst_runtime.imaging.overlay import legend
    from clst_runtime.system.files.atomic import write_text

    write_text(folder / "statistics.json", run_report.as_text() + "\n")
    write_png(folder / "legend.png", legend(run_report.backend.manifest.classes))


def print_whole(text: str) -> None:
    """Print it. Raises: OSError: standard output is full, or its reader has gone."""
    stream = standard_output()
    stream.write(f"{text}\n".encode(errors="backslashreplace"))
    stream.flush()


def report(statistics: RunStatistics) -> str:
    """What the run came to, in a few lines."""
    values = statistics.to_json()
    end = f" ({'interrupted' if statistics.end == 'Ctrl-C' else statistics.end})" if statistics.interrupted else ""
    lines = [f"{statistics.frames} frames in {statistics.seconds:.1f} s, {statistics.fps:.1f} frames/s, "
             f"{values['dropped']} dropped{end}"]  # fmt: skip
    for name, text in (("inference_ms", "inference"), ("capture_to_mask_ms", "capture to mask")):
        if values[name]:
            values_text = ", ".join(f"{key} {values[name][key]:.1f}" for key in ("median", "p90", "p99", "max"))
            lines.append(f"{text} ms: {values_text}")
    if values["drops"]:
        lines.append("dropped: " + ", ".join(f"{count} {cause}" for cause, count in sorted(values["drops"].items())))
    if statistics.deadline.milliseconds is not None:
        lines.append(f"deadline {statistics.deadline.milliseconds:g} ms: {statistics.misses} missed, at most "
                     f"{statistics.longest_streak} in a row")  # fmt: skip
    if statistics.stale_spells or statistics.losses:
        lines.append(f"stale {statistics.stale_spells} times, camera lost {statistics.losses} times")
    return "\n".join(lines)
