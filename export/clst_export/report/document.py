"""A report as plain values: sections of a few kinds of blocks. What writes them (`html`, `markdown`) knows no evidence.

Texts may hold anything: whoever writes them escapes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Tone(str, Enum):
    """How a text is to be taken."""

    PLAIN = "plain"
    GOOD = "good"
    BAD = "bad"
    DOUBT = "doubt"


@dataclass(frozen=True)
class Cell:
    """A cell that is more than its text."""

    text: str
    colour: tuple[int, int, int] | None = None
    """RGB, shown beside the name of a class."""
    share: float | None = None
    """0 … 1, the larger the darker."""


Row = tuple[str | Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Block:
    """What every kind has."""

    title: str = ""
    origin: str = ""
    """Where its numbers come from, and of what their intervals are."""


@dataclass(frozen=True, kw_only=True)
class Text(Block):
    """A paragraph; its lines stay lines."""

    text: str
    tone: Tone = Tone.PLAIN


@dataclass(frozen=True, kw_only=True)
class Points(Block):
    """Sentences, one below the other."""

    items: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Facts(Block):
    """Names and what is known of each."""

    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Legend(Block):
    """The classes and their colours."""

    classes: tuple[Cell, ...]


@dataclass(frozen=True, kw_only=True)
class Table(Block):
    """Rows of cells below a head; the first `names` columns are text, the others numbers."""

    head: tuple[str, ...]
    rows: tuple[Row, ...]
    names: int = 1
    matrix: bool = False
    """Whether it is as wide as it is high, so that its head is written upright."""


@dataclass(frozen=True)
class Picture:
    """The content of a PNG or JPEG file, with a line that says what it shows."""

    title: str
    content: bytes


@dataclass(frozen=True, kw_only=True)
class Pictures(Block):
    """Images side by side."""

    pictures: tuple[Picture, ...]


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points of a chart, x,y; a point without y breaks the line."""

    name: str
    points: tuple[tuple[float, float | None], ...]
    dashed: bool = False
    dots: bool = False


@dataclass(frozen=True, kw_only=True)
class Chart(Block):
    """Lines over x; y is in % from 0 to 100."""

    x: str
    y: str
    lines: tuple[Line, ...]
    x_range: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Missing(Block):
    """Evidence that is not there: what, in one line, and the commands that make it, one after the other."""

    what: str
    commands: tuple[str, ...] = ()


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
    """All of it; its summary is numbered 1, the sections follow."""

    title: str
    subtitle: str
    made: str
    """When and with what; the one line that differs between two reports of the same evidence."""
    summary: tuple[Block, ...]
    sections: tuple[Section, ...]

    def gaps(self) -> list[tuple[list[Section], Missing]]:
        """What is missing in all sections, once for the commands that make it, with the sections that lack it."""
        found: dict[tuple[str, ...], list[tuple[Section, str]]] = {}
        for section in self.sections:
            for each in section.missing:
                found.setdefault(each.commands, []).append((section, each.what))
        return [
            (
                list({section.key: section for section, _ in lacking}.values()),
                Missing(what="; ".join(what for _, what in lacking), commands=commands),
            )
            for commands, lacking in found.items()
        ]
