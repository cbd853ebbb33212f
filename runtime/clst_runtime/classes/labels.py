"""Class lists and label mappings: what a pixel's number means. Defined here once, for every package.

Class lists are data. A model's ids run 0 … C−1 without gaps; `IGNORE_ID` marks pixels without a label.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_runtime.errors import ConfigError, DataError, did_you_mean
from clst_runtime.system.files import json_values
from clst_runtime.system.files.json_values import field, no_others, read_json_object, several, shown, whole

IGNORE_ID = 255
MAX_CLASSES = 255  # ids 0 … 254; 255 is IGNORE_ID


@dataclass(frozen=True, kw_only=True)
class ClassList:
    """The classes of a model or a data set, in the order of their ids."""

    name: str
    """How the list is called, e.g. `road19`."""
    names: tuple[str, ...]
    """C class names, unique."""
    colours: tuple[tuple[int, int, int], ...]
    """C RGB colours for images."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.names) <= MAX_CLASSES:
            raise ConfigError(
                f"class list {self.name!r} has {len(self.names)} classes; 1 to {MAX_CLASSES} are possible"
            )
        if len(set(self.names)) != len(self.names):
            raise ConfigError(f"class list {self.name!r} names a class twice: {', '.join(self.names)}")
        if len(self.colours) != len(self.names):
            raise ConfigError(f"class list {self.name!r}: {len(self.names)} names but {len(self.colours)} colours")

    def __len__(self) -> int:
        return len(self.names)

    def palette(self) -> npt.NDArray[np.uint8]:
        """256,3 RGB: the colour of each id, black where there is no class."""
        table = np.zeros((256, 3), np.uint8)
        table[: len(self)] = self.colours
        return table

    def to_json(self) -> dict[str, Any]:
        """The list as plain JSON values, the form of `classes.json`."""
        return {"name": self.name, "names": list(self.names), "colors": [list(c) for c in self.colours]}

    @staticmethod
    def from_json(value: Mapping[str, Any], *, name: str) -> ClassList:
        """Read the form of `classes.json`; without `colors`, distinct ones are chosen.

        Raises:
            ConfigError: the names are missing or the entries are not of that form.
        """
        try:
            _check_keys(value)
            if not isinstance(value.get("names"), (list, tuple)):
                raise ValueError(f"names is {shown(value.get('names'))}, expected a list")
            if len(value["names"]) > MAX_CLASSES:
                raise ValueError(f"{len(value['names'])} classes, at most {MAX_CLASSES} are possible")
            names = field(value, "names", several(len(value["names"]), json_values.name))
            given = {"colors": value.get("colors"), "name": value.get("name")}
            colours: tuple[tuple[int, ...], ...] = distinct_colours(len(names))
            if given["colors"] is not None:
                colours = field(given, "colors", several(len(names), several(3, whole(0, 255))))
            called = json_values.printable(name) if given["name"] is None else field(given, "name", json_values.name)
        except ValueError as error:
            raise ConfigError(
                f'class list {name!r}: {error} (expected {{"names": ["road", …], "colors": [[r, g, b], …]}})'
            ) from error
        return ClassList(name=called, names=names, colours=tuple((r, g, b) for r, g, b in colours))


def _check_keys(value: Mapping[str, Any]) -> None:
    """Notes of other names are welcome, but not what is nearly a known name, nor another id to ignore."""
    known = ("name", "names", "colors")
    for key in value:
        if key not in known and difflib.get_close_matches(key, known, n=1, cutoff=0.7):
            no_others({key: None}, known)
        if key.startswith("ignore") and value[key] != IGNORE_ID:
            raise ValueError(f"{key} is {shown(value[key])}, but {IGNORE_ID} is ignored in labels; give a mapping file")


def distinct_colours(count: int) -> tuple[tuple[int, int, int], ...]:
    """`count` RGB colours that differ in hue, for a class list that brings none."""
    golden, colours = 0.61803398875, []
    for index in range(count):
        hue = (index * golden) % 1.0 * 6.0
        value = 230 - 70 * (index % 3)
        rise = int(value * (1.0 - abs(hue % 2.0 - 1.0)))
        sector = [
            (value, rise, 0),
            (rise, value, 0),
            (0, value, rise),
            (0, rise, value),
            (rise, 0, value),
            (value, 0, rise),
        ]
        colours.append(sector[int(hue)])
    return tuple(colours)


def builtin_names() -> list[str]:
    """The class lists that ship with the package."""
    folder = resources.files("clst_runtime.classes") / "lists"
    return sorted(entry.name.removesuffix(".json") for entry in folder.iterdir() if entry.name.endswith(".json"))


def load_class_list(name_or_path: str | Path) -> ClassList:
    """A shipped class list by its name, or any user's from a JSON file.

    Raises:
        ConfigError: no such list or file, or the file is not of that form.
    """
    text_name = str(name_or_path)
    if text_name in builtin_names():
        text = (resources.files("clst_runtime.classes") / "lists" / f"{text_name}.json").read_text("utf-8")
        return ClassList.from_json(json.loads(text), name=text_name)
    path = Path(name_or_path)
    if not path.is_file():
        raise ConfigError(
            f"no class list {text_name!r}: neither a file nor shipped; {did_you_mean(text_name, builtin_names())}"
        )
    return ClassList.from_json(read_json_object(path), name=path.stem)


@dataclass(frozen=True, kw_only=True)
class LabelMapping:
    """From the ids in label files to the ids of a class list; no other id is guessed."""

    table: npt.NDArray[np.int32]
    """One entry for each raw id 0 … len−1: class id, `IGNORE_ID`, or −1 for an id that must not occur."""

    def apply(self, raw: npt.NDArray[np.integer[Any]], *, where: str) -> npt.NDArray[np.uint8]:
        """Map raw ids H,W to class ids H,W uint8.

        Raises:
            DataError: an id outside the map occurs; the message counts them. `where` names the file.
        """
        if raw.ndim != 2:
            raise DataError(f"{where}: label image has shape {raw.shape}, expected one channel H,W")
        unknown = self.unknown_ids(raw)
        if unknown:
            text = ", ".join(f"{value} ({count} pixels)" for value, count in sorted(unknown.items())[:8])
            raise DataError(f"{where}: label ids outside the map: {text}; add them to the mapping or fix the labels")
        return np.asarray(self.table[raw], np.uint8)

    def unknown_ids(self, raw: npt.NDArray[np.integer[Any]]) -> dict[int, int]:
        """Raw ids that the map does not know, each with its number of pixels."""
        values, counts = np.unique(raw, return_counts=True)
        known = (values >= 0) & (values < len(self.table))
        inside = np.where(known, self.table[np.clip(values, 0, len(self.table) - 1)], -1)
        return {int(v): int(n) for v, n, target in zip(values, counts, inside, strict=True) if target < 0}

    def then(self, second: LabelMapping) -> LabelMapping:
        """This mapping followed by another one: raw ids → this list's ids → the other list's ids."""
        mapped = self.table.copy()
        real = (mapped >= 0) & (mapped != IGNORE_ID)
        mapped[real] = second.table[mapped[real]]
        return LabelMapping(table=mapped)


def identity_mapping(classes: ClassList) -> LabelMapping:
    """Labels that are class ids already; 255 is ignored, every other value is unknown."""
    table = np.full(256, -1, np.int32)
    table[: len(classes)] = np.arange(len(classes))
    table[IGNORE_ID] = IGNORE_ID
    return LabelMapping(table=table)


def relate(source: ClassList, target: ClassList, pairs: Mapping[str, str | None] | None = None) -> LabelMapping:
    """Map one class list to another: by `pairs` (source name → target name, None = ignore), else by equal names.

    Without `pairs`, source classes whose name the target lacks are ignored; at least half of the shorter list's
    names must be in both, because two lists that share only `sky` do not speak of the same classes.

    Raises:
        ConfigError: a name in `pairs` is in neither list, a source class is missing from it, nothing is left, or
            without `pairs` too few names are equal.
    """
    if pairs is None:
        pairs = _by_equal_names(source, target)
    for name in pairs:
        if name not in source.names:
            raise ConfigError(f"mapping: {source.name} has no class {name!r}; {did_you_mean(name, source.names)}")
    missing = [name for name in source.names if name not in pairs]
    if missing:
        raise ConfigError(f"mapping from {source.name}: no entry for {', '.join(missing)}; give a class or null")
    table = np.full(256, -1, np.int32)
    table[IGNORE_ID] = IGNORE_ID
    for index, name in enumerate(source.names):
        wanted = pairs[name]
        if wanted is not None and wanted not in target.names:
            raise ConfigError(f"mapping: {target.name} has no class {wanted!r}; {did_you_mean(wanted, target.names)}")
        table[index] = IGNORE_ID if wanted is None else target.names.index(wanted)
    if not (table[: len(source)] != IGNORE_ID).any():
        raise ConfigError(f"mapping from {source.name} to {target.name} leaves no class; give a mapping file")
    return LabelMapping(table=table)


def _by_equal_names(source: ClassList, target: ClassList) -> dict[str, str | None]:
    shared = [name for name in source.names if name in target.names]
    if 2 * len(shared) < min(len(source), len(target)):
        raise ConfigError(
            f"of the classes of {source.name} ({', '.join(source.names)}) and of {target.name} "
            f"({', '.join(target.names)}) only {len(shared)} have equal names ({', '.join(shared) or 'none'}); "
            "give a mapping file that relates them"
        )
    return {name: name if name in target.names else None for name in source.names}


def unrelated(source: ClassList, target: ClassList, mapping: LabelMapping) -> list[str]:
    """What a mapping between two lists leaves out: source classes ignored, target classes never labelled."""
    ids = mapping.table[: len(source)]
    ignored = [name for name, index in zip(source.names, ids, strict=True) if index == IGNORE_ID]
    lacking = [name for index, name in enumerate(target.names) if index not in ids]
    text = [f"pixels of {', '.join(ignored)} are ignored, {target.name} has no such class"] if ignored else []
    return text + ([f"no label of {source.name} becomes {', '.join(lacking)}"] if lacking else [])


def load_mapping(path: Path, source: ClassList, target: ClassList) -> LabelMapping:
    """Read a mapping file, `{"map": {"source class": "target class" or null, …}}`.

    Raises:
        DataError: unreadable. ConfigError: it does not fit the two lists.
    """
    pairs = read_json_object(path).get("map")
    if not isinstance(pairs, dict) or not all(wanted is None or isinstance(wanted, str) for wanted in pairs.values()):
        raise ConfigError(f'{path}: expected {{"map": {{"source class": "target class" or null}}}}')
    return relate(source, target, pairs)
