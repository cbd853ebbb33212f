"""A report as one HTML file that needs no other: images as data URIs, charts as SVG, no script.

Everything that is no `Markup` is escaped by `tag`, so that no name of a class or a file can become an element.
"""

from __future__ import annotations

import base64
import html
from importlib import resources

from clst_export.report.document import (
    Block,
    Cell,
    Chart,
    Facts,
    Legend,
    Line,
    Missing,
    Picture,
    Pictures,
    Points,
    Report,
    Section,
    Shaded,
    Swatch,
    Table,
    Text,
)

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What a browser may load: nothing that is not in the file."""
SUMMARY = "summary"


class Markup(str):
    """HTML, as against text."""


def tag(name: str, /, *children: str, **attributes: str) -> Markup:
    """An element; `class_` is the attribute class, and `_` in others is `-`."""
    given = "".join(f' {key.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{name}{given}>{joined(*children)}</{name}>")


def lines(*children: Markup) -> Markup:
    """Each on a line of its own, so that two reports can be compared."""
    return Markup("".join(f"\n{each}" for each in children) + "\n")


def joined(*children: str) -> Markup:
    return Markup("".join(each if isinstance(each, Markup) else html.escape(each) for each in children))


def to_html(report: Report) -> str:
    """The whole file."""
    style = (resources.files("clst_export.report") / "style.css").read_text("utf-8")
    head = tag(
        "head",
        Markup('<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{html.escape(POLICY)}">\n'),
        tag("title", report.title),
        tag("style", Markup(style)),
    )
    body = tag("body", tag("main", lines(_header(report), _summary(report), *map(_section_of, report.numbered()))))
    return f'<!doctype html>\n<html lang="en">\n{head}\n{body}\n</html>\n'


def _header(report: Report) -> Markup:
    links = [(SUMMARY, "Summary"), *((section.key, section.title) for section in report.sections)]
    places = [tag("li", tag("a", title, href=f"#{key}")) for key, title in links]
    parts = [
        tag("h1", report.title),
        tag("p", report.subtitle, class_="subtitle"),
        tag("p", report.made, class_="made"),
        tag("nav", tag("ol", *places)),
    ]
    return tag("header", lines(*parts))


def _summary(report: Report) -> Markup:
    rows = [
        tag("tr", tag("th", tag("a", f"{number} {section.title}", href=f"#{section.key}"), scope="row"),
            tag("td", _state(section)), tag("td", section.question), tag("td", section.topic))
        for number, section in report.numbered()
    ]  # fmt: skip
    head = tag("tr", *(tag("th", each, scope="col") for each in ("section", "missing", "answers", "topic")))
    index = _scrolling(tag("table", tag("thead", head), tag("tbody", *rows), class_="words"))
    gaps = [_gap(*each) for each in report.gaps().items()]
    blocks = [tag("h2", "1 Summary"), *map(block_html, report.summary), tag("h3", "Where the evidence is"), index]
    blocks += [tag("h3", "What is not known, and what tells it"), tag("ul", *gaps)] if gaps else []
    return tag("section", lines(*blocks), id=SUMMARY)


def _gap(commands: tuple[str, ...], lacking: list[tuple[Section, Missing]]) -> Markup:
    sections = {section.key: section.title for section, _ in lacking}
    links = [tag("a", title, href=f"#{key}") for key, title in sections.items()]
    listed = joined(*(part for link in links for part in (", ", link)))[2:]
    what = "; ".join(each.what for _, each in lacking)
    return tag("li", Markup(listed), ": ", _missing_text(Missing(what=what, commands=commands)))


def _state(section: Section) -> Markup:
    count = len(section.missing)
    return tag("span", str(count) if count else "nothing", class_="bad" if count else "good")


def _section_of(numbered: tuple[int, Section]) -> Markup:
    number, section = numbered
    heads = [tag("h2", f"{number} {section.title}"), tag("p", section.question, class_="question")]
    return tag("section", lines(*heads, _origin(section.origin), *map(block_html, section.blocks)), id=section.key)


def block_html(block: Block) -> Markup:
    match block:
        case Text():
            return joined(_title(block.title), tag("p", block.text, class_=f"text {block.tone.value}"))
        case Points():
            return tag("ul", *(tag("li", item) for item in block.items))
        case Legend():
            return tag("p", *(tag("span", _swatch(each), each.text) for each in block.classes), class_="legend")
        case Facts():
            rows = [joined(tag("dt", name), tag("dd", value)) for name, value in block.rows]
            return joined(_title(block.title), tag("dl", *rows), _origin(block.origin))
        case Table():
            return joined(_title(block.title), _table(block), _origin(block.origin))
        case Pictures():
            return joined(
                _title(block.title),
                tag("div", *map(_picture, block.pictures), class_="pictures"),
                _origin(block.origin),
            )
        case Chart():
            return joined(_title(block.title), _scrolling(chart_svg(block)), _origin(block.origin))
        case Missing():
            return tag("p", "Missing: ", _missing_text(block), class_="text missing")


def _missing_text(block: Missing) -> Markup:
    codes = [(", then " if place else ": ", tag("code", each)) for place, each in enumerate(block.commands)]
    return joined(block.what, *(part for pair in codes for part in pair))


def _title(text: str) -> Markup:
    return tag("h3", text) if text else Markup()


def _origin(text: str) -> Markup:
    return tag("p", text, class_="origin") if text else Markup()


def _scrolling(content: Markup) -> Markup:
    """What may be wider than the page; it can be reached by keys, too."""
    return tag("div", content, class_="wide", tabindex="0")


def _table(block: Table) -> Markup:
    heads = [
        tag("th", tag("span", each), scope="col", class_="name" if place < block.names else "number")
        for place, each in enumerate(block.head)
    ]
    rows = [tag("tr", *(_cell(each, place, block.names) for place, each in enumerate(row))) for row in block.rows]
    kind = "matrix" if block.matrix else "numbers" if block.names < len(block.head) else "words"
    return _scrolling(tag("table", tag("thead", tag("tr", *heads)), tag("tbody", *rows), class_=kind))


def _cell(cell: Cell, place: int, names: int) -> Markup:
    name, more = ("th", {"scope": "row"}) if place == 0 else ("td", {})
    more["class_"] = "name" if place < names else "number"
    match cell:
        case Swatch():
            return tag(name, _swatch(cell), cell.text, **more)
        case Shaded():
            more["class_"] += " shaded"
            return tag(name, cell.text, style=f"--share:{100 * min(max(cell.share, 0), 1):.0f}%", **more)
    return tag(name, cell, **more)


def _swatch(cell: Swatch) -> Markup:
    return tag("i", class_="swatch", style="background:#{:02x}{:02x}{:02x}".format(*cell.colour))


def _picture(picture: Picture) -> Markup:
    content = base64.b64encode(picture.content).decode()
    source = html.escape(picture.title)
    image = Markup(f'<img src="data:image/{picture.kind};base64,{content}" alt="{source}">')
    return tag("figure", image, tag("figcaption", picture.title))


LEFT, TOP, WIDTH, HEIGHT = 46, 10, 640, 200
"""Of a chart's field, in its own units."""


def chart_svg(chart: Chart) -> Markup:
    """Lines on axes, with a key above."""
    low, high = chart.x_range
    span = (high - low) or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + WIDTH * (x - low) / span, TOP + HEIGHT * (1 - y / 100)

    parts = [_grid(y, at(low, y)[1]) for y in (0, 25, 50, 75, 100)]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = low + share * (high - low)
        parts.append(_svg_text(f"{x:g}" if span <= 1 else f"{x:.0f}", at(x, 0)[0], TOP + HEIGHT + 16, "middle"))
    parts.append(_svg_text(chart.x, LEFT + WIDTH / 2, TOP + HEIGHT + 34, "middle"))
    for number, line in enumerate(chart.lines):
        parts += _drawn(line, number, at)
    size = f"0 0 {LEFT + WIDTH + 14} {TOP + HEIGHT + 42}"
    key = [tag("span", line.name, class_=f"key line{place}") for place, line in enumerate(chart.lines)]
    drawing = tag("svg", *parts, viewBox=size, role="img", aria_label=f"{chart.title}: {chart.y} over {chart.x}")
    return tag("figure", tag("figcaption", f"{chart.y}: ", *key), drawing, class_="chart")


def _grid(value: int, y: float) -> Markup:
    line = tag("line", x1=str(LEFT), x2=str(LEFT + WIDTH), y1=f"{y:.1f}", y2=f"{y:.1f}", class_="grid")
    return joined(line, _svg_text(str(value), LEFT - 6, y + 4, "end"))


def _svg_text(text: str, x: float, y: float, anchor: str) -> Markup:
    return tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor)


def _drawn(line: Line, number: int, at: object) -> list[Markup]:
    """Its unbroken pieces, and dots where it has some."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in line.points:
        if y is None:
            pieces.append([])
        else:
            pieces[-1].append(at(x, y))  # type: ignore[operator]
    dash = " dashed" if line.dashed else ""
    drawn = [
        tag("polyline", points=" ".join(f"{x:.1f},{y:.1f}" for x, y in piece), class_=f"line{number}{dash}")
        for piece in pieces
        if len(piece) > 1
    ]
    dotted = [piece for piece in pieces if line.dots or len(piece) == 1]
    return drawn + [
        tag("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r="3", class_=f"line{number}") for piece in dotted for x, y in piece
    ]
