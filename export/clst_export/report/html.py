"""A report as one HTML file that needs no other: images as data URIs, charts as SVG, no script.

The template escapes every text, so that no name of a class or a file can become an element.
"""

from __future__ import annotations

import base64
from itertools import groupby
from typing import Any

from clst_export.report.document import Chart, Line, Picture, Report
from clst_runtime.system.optional import require

LEFT, TOP, WIDTH, HEIGHT = 46, 10, 640, 200
"""Of a chart's field, in its own units."""


def to_html(report: Report) -> str:
    """The whole file."""
    jinja2: Any = require("jinja2")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clst_export.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
    )  # fmt: skip
    environment.globals |= {
        "kind": lambda block: type(block).__name__, "data_uri": data_uri, "pieces": pieces, "ticks": ticks,
        "left": LEFT, "top": TOP, "right": LEFT + WIDTH, "bottom": TOP + HEIGHT,
    }  # fmt: skip
    return str(environment.get_template("report.html.jinja").render(report=report))


def data_uri(picture: Picture) -> str:
    """The image as an address that holds it."""
    kind = "jpeg" if picture.content.startswith(b"\xff\xd8") else "png"
    return f"data:image/{kind};base64,{base64.b64encode(picture.content).decode()}"


def pieces(chart: Chart, line: Line) -> list[list[str]]:
    """The unbroken pieces of a line, each point as `x,y` in the drawing's units."""
    low, high = chart.x_range
    return [
        [f"{LEFT + WIDTH * (x - low) / (high - low):.1f},{TOP + HEIGHT * (1 - (y or 0) / 100):.1f}" for x, y in group]
        for known, group in groupby(line.points, key=lambda point: point[1] is not None)
        if known
    ]


def ticks(chart: Chart) -> list[tuple[float, str]]:
    """Of the x axis: places in the drawing's units, and the values there."""
    low, high = chart.x_range
    values = [low + quarter * (high - low) / 4 for quarter in range(5)]
    return [(LEFT + WIDTH * quarter / 4, f"{each:.0f}" if high - low > 1 else f"{each:g}")
            for quarter, each in enumerate(values)]  # fmt: skip
