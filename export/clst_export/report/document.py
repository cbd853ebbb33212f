"""A report as plain values: sections of a few kinds of blocks. What writes them (`html`, `markdown`) knows no evidence.

Texts may hold anything: whoever writes them escapes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class Tone(str, Enum):
    """How a text is to be taken."""

    PLAIN = "plain"
    GOOD = "good"
    BAD = "bad"
    DOUBT = "doubt"


@dataclass(frozen=True)
class Swatch:
    """A cell that names a class, with its colour."""

    text: str
    colour: tuple[int, int, int]


@dataclass(frozen=True)
class Shaded:
    """A cell that is the darker the larger its share is, 0 … 1."""

    text: str
    share: float


Cell = str | Swatch | Shaded


@dataclass(frozen=True, kw_only=True)
class Text:
    """A paragraph; its lines stay lines."""

    text: str
    tone: Tone = Tone.PLAIN
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Names and what is known of each."""

    rows: tuple[tuple[str, str], ...]
    title: str = ""
    origin: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of cells below a head; the first `names` columns are text, the others numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    origin: str = ""
    """Where its numbers come from, and of what their intervals are."""
    names: int = 1
    matrix: bool = False
    """Whether it is as wide as it is high, so that its head is written upright."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An image file's content."""

    title: str
    kind: str
    """`png` or `jpeg`."""
    content: bytes


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Images side by side."""

    title: str
    pictures: tuple[Picture, ...]
    origin: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points of a chart, x,y; a point without y breaks the line."""

    name: str
    points: tuple[tuple[float, float | None], ...]
    dashed: bool = False
    dots: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines over x; y is in % from 0 to 100."""

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    x_range: tuple[float, float]
    origin: str = ""


@dataclass(frozen=True, kw_only=True)
class Points:
    """Sentences, one below the other."""

    items: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Legend:
    """The classes and their colours."""

    classes: tuple[Swatch, ...]


@dataclass(frozen=True, kw_only=True)
class Missing:
    """Evidence that is not there."""

    what: str
    """In one line."""
    commands: tuple[str, ...] = ()
    """That make it, one after the other."""


Block = Text | Points | Facts | Legend | Table | Pictures | Chart | Missing


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part with a heading."""

    key: str
    """Its anchor."""
    title: str
    question: str
    """What it answers."""
    topic: str
    """Which kind of evidence it holds."""
    blocks: tuple[Block, ...]
    origin: str = ""
    """Where its numbers come from, but for those of blocks that say otherwise."""

    @property
    def missing(self) -> tuple[Missing, ...]:
        return tuple(block for block in self.blocks if isinstance(block, Missing))


@dataclass(frozen=True, kw_only=True)
class Report:
    """All of it."""

    title: str
    subtitle: str
    made: str
    """When and with what; the one line that differs between two reports of the same evidence."""
    summary: tuple[Block, ...]
    sections: tuple[Section, ...]

    def gaps(self) -> dict[tuple[str, ...], list[tuple[Section, Missing]]]:
        """What is missing in all sections, by the commands that make it."""
        found: dict[tuple[str, ...], list[tuple[Section, Missing]]] = {}
        for section in self.sections:
            for missing in section.missing:
                found.setdefault(missing.commands, []).append((section, missing))
        return found

    def numbered(self) -> Iterator[tuple[int, Section]]:
        """Sections and their numbers; 1 is the summary."""
        return enumerate(self.sections, start=2)
