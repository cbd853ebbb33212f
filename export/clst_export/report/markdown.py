"""A report as Markdown, for a review beside code: all texts and tables; images and charts are in the HTML file."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clst_export.card import literal
from clst_export.report.document import Block, Facts, Legend, Missing, Points, Report, Row, Table, Text


def flat(text: str) -> str:
    """A text as it is, in one line."""
    return literal(" ".join(text.split()))


def to_markdown(report: Report) -> str:
    """The whole file."""
    numbered = list(enumerate(report.sections, start=2))
    index = [(f"{number} {each.title}", str(len(each.missing) or "nothing"), each.question, each.topic)
             for number, each in numbered]  # fmt: skip
    parts = [f"# {flat(report.title)}", flat(report.subtitle), flat(report.made), "## 1 Summary"]
    parts += map(block_markdown, report.summary)
    parts += ["### Where the evidence is", _table(("section", "missing", "answers", "topic"), index, names=4)]
    if gaps := "\n".join(f"- {_missing(each)}" for _, each in report.gaps()):
        parts += ["### What is not known, and what tells it", gaps]
    for number, section in numbered:
        parts += [f"## {number} {flat(section.title)}", f"*{flat(section.question)}*"]
        parts += [f"*{flat(section.origin)}*"] if section.origin else []
        parts += map(block_markdown, section.blocks)
    return "\n\n".join(parts) + "\n"


def block_markdown(block: Block) -> str:
    """A block with its title and origin."""
    title = [f"### {flat(block.title)}"] if block.title else []
    origin = [f"*{flat(block.origin)}*"] if block.origin else []
    return "\n\n".join([*title, _body(block), *origin])


def _body(block: Block) -> str:
    match block:
        case Text():
            return "  \n".join(flat(line) for line in block.text.splitlines())
        case Points():
            return "\n".join(f"- {flat(item)}" for item in block.items)
        case Legend():
            return ", ".join(flat(f"{each.text} #{bytes(each.colour or ()).hex()}") for each in block.classes)
        case Facts():
            return "\n".join(f"- {flat(name)}: {flat(value)}" for name, value in block.rows)
        case Table():
            return _table(block.head, block.rows, names=block.names)
        case Missing():
            return f"Missing: {_missing(block)}"
    return "(in the HTML report)"


def _missing(block: Missing) -> str:
    commands = ", then ".join(map(_code, block.commands))
    return f"{flat(block.what)}: {commands}" if commands else flat(block.what)


def _code(text: str) -> str:
    """In more backticks than stand in a row in it, so that none in it ends it."""
    ticks = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}{text}{ticks}"


def _table(head: Sequence[str], rows: Sequence[Row], *, names: int) -> str:
    marks = ["---" if place < names else "--:" for place in range(len(head))]
    cells = [[flat(cell if isinstance(cell, str) else cell.text) for cell in row] for row in (head, *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in [cells[0], marks, *cells[1:]])
