"""What `clst-run` leaves at its end: files in `--out`, and lines or JSON on standard output."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from clst_runtime.backends.base import Backend
from clst_runtime.cli.run_outputs import OpenCamera
from clst_runtime.errors import ClstError, message_of
from clst_runtime.live.output_folder import OutFolder
from clst_runtime.live.pipeline import HURRY_SECONDS, Stop
from clst_runtime.live.statistics import RunStatistics
from clst_runtime.system.credentials import all_without_credentials
from clst_runtime.system.standard_streams import standard_output
from clst_runtime.system.timeouts import in_time

_log = logging.getLogger(__name__)
Tick = Callable[[RunStatistics], None]
REPORT_SECONDS = 3.0
"""How long the report may take to be written: a full disk is reported at once, a stalled one never."""


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What the report is made of."""

    cameras: Sequence[OpenCamera]
    folder: OutFolder | None
    """Of the whole run; of a camera without a name its own."""
    model: str
    backend: Backend
    as_json: bool
    aside: bool
    """Whether standard output belongs to a stream."""
    stop: Stop

    def of(self, camera: OpenCamera) -> dict[str, Any]:
        """All statistics of a camera as JSON."""
        facts = {"model": self.model, **facts_of(camera), "backend": self.backend.description}
        return facts | camera.statistics.to_json()

    @property
    def of_all(self) -> dict[str, Any]:
        """Those of a camera without a name, or of each by its name."""
        if not self.cameras[0].order.name:
            return self.of(self.cameras[0])
        cameras = {each.order.name: facts_of(each) | each.statistics.to_json() for each in self.cameras}
        return {"model": self.model, "backend": self.backend.description, "cameras": cameras}

    def try_to(self, camera: OpenCamera, work: Callable[[], None], what: str, tick: Tick) -> bool:
        """Do it, unless it fails or takes too long, which is noted among the camera's failures."""
        seconds = lambda: HURRY_SECONDS if self.stop.at_once else REPORT_SECONDS  # noqa: E731
        failures = camera.statistics.failures
        try:
            in_time(work, seconds, meanwhile=lambda: tick(camera.statistics))
        except BrokenPipeError:
            if not failures:  # else the exit code must report them
                raise
            return False
        except (ClstError, OSError) as error:
            failures.append(f"{what}: {getattr(error, 'strerror', None) or message_of(error)}")
            return False
        return True

    def write(self, tick: Tick) -> None:
        """Files in the folders, the report on standard output; on standard error what cannot go where it belongs.

        Args:
            tick: called while something takes long.
        """
        for camera in self.cameras:
            folder = camera.folder
            keeping = None if folder is None or not folder.begun else self._keeping(folder, as_text(self.of(camera)))
            if keeping is not None and not self.try_to(camera, keeping, "report", tick):
                click.echo(as_text(self.of(camera)), err=True)
            for warning in camera.statistics.warnings:
                _log.warning(f"{camera.order.before}warning: {warning}")
        first, whole = self.cameras[0], self.folder
        if first.order.name and whole is not None and whole.begun:
            self.try_to(first, self._keeping(whole, as_text(self.of_all)), "report of all cameras", tick)
        text = as_text(self.of_all) if self.as_json else "\n".join(map(in_words, self.cameras))
        if self.aside or not self.try_to(first, lambda: print_whole(text), "report on standard output", tick):
            click.echo(text, err=True)

    def _keeping(self, folder: OutFolder, text: str) -> Callable[[], None]:
        return lambda: keep(folder.path, text, self.backend)

    @property
    def failures(self) -> list[str]:
        """What was not recorded, of all cameras."""
        return [f"{each.order.before}{failure}" for each in self.cameras for failure in each.statistics.failures]


def facts_of(camera: OpenCamera) -> dict[str, str]:
    """What of a camera was read, and where not."""
    ignored = camera.order.ignored
    return {"source": camera.shown} | ({} if ignored is None else {"ignore_mask": str(ignored)})


def as_text(facts: dict[str, Any]) -> str:
    """JSON without anybody's password."""
    return json.dumps(all_without_credentials(facts), indent=1)


def keep(folder: Path, text: str, backend: Backend) -> None:
    """Write statistics.json and the legend. Raises: DataError: that cannot be."""
    from clst_runtime.imaging.image_files import write_png
    from clst_runtime.imaging.overlay import legend
    from clst_runtime.system.files.atomic import write_text

    write_text(folder / "statistics.json", text + "\n")
    write_png(folder / "legend.png", legend(backend.manifest.classes))


def print_whole(text: str) -> None:
    """Print it. Raises: OSError: standard output is full, or its reader has gone."""
    stream = standard_output()
    stream.write(f"{text}\n".encode(errors="backslashreplace"))
    stream.flush()


def in_words(camera: OpenCamera) -> str:
    """What the run of a camera came to, in a few lines."""
    statistics = camera.statistics
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
    return "\n".join(f"{camera.order.before}{line}" for line in lines)
