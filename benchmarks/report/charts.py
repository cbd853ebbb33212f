"""Charts of results."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

LONGEST_LABEL = 40
"""Letters in one line of a row's title; what is longer is broken."""


def draw_methods(rows: dict[str, Any], title: str, path: Path) -> None:
    """One bar a method (mean over seeds), a dot for each seed, the source network and the oracle as lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.5 * len(rows) + 1.4), layout="constrained")
    axes = figure.add_subplot()
    highest = max(max(row["miou"]) for row in rows.values())  # numbers stand beside the last dot, one below another
    for place, (name, row) in enumerate(rows.items()):
        axes.barh(place, row["miou_mean"], color="tab:green" if name == "clst" else "lightsteelblue", height=0.7)
        axes.plot(row["miou"], [place] * len(row["miou"]), "k.", markersize=5)
        axes.text(highest + 0.3, place + 0.02, f"{row['miou_mean']:.1f}", va="center", fontsize=9)
    for name, colour in (("source", "tab:red"), ("oracle", "tab:blue")):
        if name in rows:
            axes.axvline(rows[name]["miou_mean"], color=colour, linewidth=1, linestyle="--")
    titles = [textwrap.fill(row["title"], LONGEST_LABEL) for row in rows.values()]
    axes.set_yticks(range(len(rows)), titles, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel("mIoU on the new camera, %")
    least = max(0, min(min(row["miou"]) for row in rows.values()) - 10)
    axes.set_xlim(least, highest + 0.1 * (highest - least))
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
