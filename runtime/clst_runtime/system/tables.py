"""Results as text tables."""

from __future__ import annotations

import math
from collections.abc import Sequence


def format_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their content; the first left, the others right aligned."""
    lines = [list(headers), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headers))]
    texts = []
    for line in lines:
        cells = [
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        texts.append("  ".join(cells).rstrip())
    return "\n".join([texts[0], "-" * sum((*widths, 2 * (len(widths) - 1))), *texts[1:]])


def percent(value: float, digits: int = 2) -> str:
    """0 … 1 as points out of 100; `–` for NaN."""
    return f"{100.0 * value:.{digits}f}" if math.isfinite(value) else "–"
