"""The cameras of a run: the names that `--source` gives them, and where the outputs of each go."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clst_runtime.imaging.media import split_options
from clst_runtime.live.output_folder import CAMERA_NAME, IMAGE_FOLDERS, RECORDING_FOLDER
from clst_runtime.system.credentials import without_credentials

if TYPE_CHECKING:
    from clst_runtime.imaging.ignore_mask import IgnoreMask

PLACE = "{camera}"
"""Stands for a camera's name in `--stream`, `--ros2`, `--mcap` and `--collect`."""
NAMED = re.compile(r"([^/:?.=\s]*)=(.+)", re.DOTALL)
"""A name and what follows; addresses and options of sources have other signs before their first `=`."""
TAKEN = (*IMAGE_FOLDERS, RECORDING_FOLDER)


@dataclass(frozen=True, kw_only=True)
class CameraOrder:
    """One `--source`, and the command's options as they hold for it."""

    name: str
    """Empty where it is the only one and has none."""
    source: str
    options: dict[str, Any]
    ignored: Path | None = None
    """The file of its ignore mask."""

    @property
    def before(self) -> str:
        """What messages about it begin with."""
        return f"{self.name}: " if self.name else ""

    def ignore_mask(self) -> IgnoreMask | None:
        """Its `--ignore-mask`. Raises: DataError: it cannot be read, or leaves nothing."""
        if self.ignored is None:
            return None
        from clst_runtime.imaging.ignore_mask import IgnoreMask

        return IgnoreMask(self.ignored)


def cameras_of(sources: Sequence[str], options: dict[str, Any]) -> list[CameraOrder]:
    """Each source with its name and its own outputs; one without a name keeps the options as they are.

    Raises:
        UsageError: a name that is missing, cannot be one or is there twice; a source that is there twice; files beside
            cameras; an output that cameras cannot share. ConfigError: an option of a source that cannot be.
    """
    named = [_split(source, alone=len(sources) == 1) for source in sources]
    if len(named) > 1:
        _check_names(named)
        _check_kinds(named)
    _check_places(named, options)
    masks = _ignore_masks([name for name, _ in named], options["ignore_masks"])
    return [
        CameraOrder(name=name, source=source, options=_own(name, options), ignored=masks.get(name))
        for name, source in named
    ]


def _split(source: str, *, alone: bool) -> tuple[str, str]:
    found = None if os.path.exists(split_options(Path(source))[0]) else NAMED.fullmatch(source)
    if found is None:
        if not alone:
            raise click.UsageError(
                f"--source {without_credentials(source)}: of several cameras each needs a name, as "
                f"--source front={without_credentials(source)}"
            )
        return "", source
    name, rest = found.groups()
    if CAMERA_NAME.fullmatch(name) is None or name in TAKEN:
        why = f"{name!r} names a folder of results" if name in TAKEN else f"{name!r} is no name of a camera"
        raise click.UsageError(
            f"--source {without_credentials(source)}: {why}; give small letters, digits and _, a letter first, as front"
        )
    return name, rest


def _check_names(named: Sequence[tuple[str, str]]) -> None:
    """Raises: UsageError: one name, or one source, is there twice."""
    names: dict[str, str] = {}
    devices: dict[object, str] = {}
    for name, source in named:
        shown = without_credentials(source)
        if name in names:
            raise click.UsageError(
                f"two cameras are named {name!r}: {names[name]} and {shown}; give each a name of its own"
            )
        names[name] = shown
        other = devices.setdefault(_device(source), name)
        if other != name:
            raise click.UsageError(f"{other} and {name} are both {shown}; a source can be given once")


def _device(source: str) -> object:
    """What is the same where two sources read the same."""
    from clst_runtime.sources import is_live
    from clst_runtime.sources.address import live_address

    if source.startswith(("raw:", "csi:")):
        return "raw:" if source.startswith("raw:") else source.partition("?")[0]
    address = live_address(source) if is_live(source) else None
    if address is not None:
        return address.kind, address.place
    place, options = split_options(Path(source))
    return os.path.realpath(place), options


def _check_kinds(named: Sequence[tuple[str, str]]) -> None:
    """Raises: UsageError: files, which wait, beside cameras, which do not."""
    from clst_runtime.sources import is_live

    live = {is_live(source): name for name, source in named}
    if len(live) == 2:
        raise click.UsageError(
            f"{live[True]} is a camera and {live[False]} is read from files; give one kind. A recording is played as "
            "its camera gave it by ?topic=/TOPIC&rate=1"
        )


def _check_places(named: Sequence[tuple[str, str]], options: dict[str, Any]) -> None:
    """Raises: UsageError: an output that is one place for several cameras, or names a camera where none has a name."""
    for option, place in _places(options):
        shown = f"{option} {without_credentials(place)}"
        kind, _, address = place.partition(":")
        if len(named) > 1 and option == "--stream" and address.startswith("tcp:"):
            raise click.UsageError(f"{shown}: a port is one camera's; give a socket, as {kind}:unix:/run/{PLACE}.sock")
        if len(named) > 1 and PLACE not in place:
            raise click.UsageError(f"{shown}: with several cameras say where {PLACE} goes in it, the camera's name")
        if not named[0][0] and PLACE in place:
            raise click.UsageError(f"{shown}: {PLACE} is a camera's name; give one, as --source front=…")


def _places(options: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Outputs that are one file, socket or node, by option."""
    yield from (("--stream", stream) for stream in options["streams"])
    for name in ("ros2", "mcap"):
        if options[name] is not None:
            yield f"--{name}", str(options[name])
    if _is_file(options["collect"]):
        yield "--collect", str(options["collect"])


def _ignore_masks(names: Sequence[str], given: Sequence[str]) -> dict[str, Path]:
    """The file of each `--ignore-mask`, by the camera's name. Raises: UsageError: it names no camera, or one twice."""
    masks: dict[str, Path] = {}
    for each in given:
        found = NAMED.fullmatch(each) if names[0] else None
        name, path = found.groups() if found is not None else ("", each)
        if name not in names:
            raise click.UsageError(f"--ignore-mask {each}: say which camera's, as --ignore-mask {names[0]}={path}")
        if name in masks:
            raise click.UsageError(f"--ignore-mask {each}: {masks[name]} is given for the same camera")
        masks[name] = Path(path)
    return masks


def _is_file(collect: Path | None) -> bool:
    return collect is not None and collect.suffix.lower() == ".mcap"


def _own(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options for one camera: folders of its own, its name in the places of the others."""
    if not name:
        return options
    own = options | {"camera": name}  # names the ROS 2 node that reads it, too
    own["streams"] = tuple(stream.replace(PLACE, name) for stream in options["streams"])
    for key in ("ros2", "mcap"):
        if options[key] is not None:
            own[key] = type(options[key])(str(options[key]).replace(PLACE, name))
    if options["out"] is not None:
        own["out"] = options["out"] / name
    if options["collect"] is not None:
        collect = options["collect"]
        own["collect"] = Path(str(collect).replace(PLACE, name)) if _is_file(collect) else collect / name
    return own
