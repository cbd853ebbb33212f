"""The log of a run: a JSON line per entry, and the curves as an image."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from clst_runtime.system.files.atomic import written_whole
from clst_runtime.system.files.json_values import check_fields, one_of, parse_object, whole
from clst_runtime.system.numbers import LARGEST_INTEGER
from clst_runtime.system.optional import require

SHARES = ("agreement", "confidence")
"""Logged as 0 … 1, plotted in % beside the mIoU."""
ENTRY = {"stage": one_of("source", "adapted"), "iteration": whole(0, LARGEST_INTEGER)}
"""What every line has, for `check_fields`."""


class Logbook:
    """The log of one run folder; it goes on where a resumed run left it."""

    def __init__(self, folder: Path, *, steps_before_labels: int = 0) -> None:
        """The log in `folder`, of a run whose adaptation begins with so many steps of entropy."""
        self.begin = steps_before_labels
        self.path = folder / "log.jsonl"
        self.curves = folder / "curves.png"
        self.entries: list[dict[str, Any]] = []
        for line in self.path.read_text(errors="replace").splitlines() if self.path.is_file() else []:
            with suppress(ValueError):  # a line that a killed run has half written, maybe with the next one behind it
                self.entries.append(check_fields(parse_object(line), ENTRY))

    def forget_after(self, stage: str, iteration: int) -> None:
        """Drop what an interrupted run logged after the checkpoint to resume from."""
        order = ["source", "adapted"]
        self.entries = [
            entry
            for entry in self.entries
            if (order.index(entry["stage"]), entry["iteration"]) <= (order.index(stage), iteration)
        ]
        with written_whole(self.path) as temporary:
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in self.entries))

    def add(self, stage: str, iteration: int, **values: float) -> None:
        """Append one line; a value that is not a number becomes null."""
        entry: dict[str, Any] = {"stage": stage, "iteration": iteration}
        entry |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        self.entries.append(entry)
        with self.path.open("a") as stream:
            stream.write(json.dumps(entry) + "\n")

    def last(self, stage: str, iteration: int, name: str) -> float | None:
        """The newest value of that name at that step; None where it was not logged, or was no number."""
        found = [entry[name] for entry in self.entries
                 if (entry["stage"], entry["iteration"]) == (stage, iteration) and name in entry]  # fmt: skip
        return found[-1] if found else None

    @property
    def old_miou(self) -> float | None:
        """The old network's in %: the last of source training; None = it is not known."""
        logged = [entry["miou"] for entry in self.entries if entry["stage"] == "source" and "miou" in entry]
        return logged[-1] if logged else None

    def draw(self) -> None:
        """Draw losses and mIoU of both stages as one image."""
        require("matplotlib")
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12, 6), layout="constrained")
        for column, stage in enumerate(("source", "adapted")):
            rows = [entry for entry in self.entries if entry["stage"] == stage and entry["iteration"]]  # a step's
            for row, names in enumerate((_loss_names(rows), ["miou", "agreement", "confidence"])):
                axes = figure.add_subplot(2, 2, 1 + column + 2 * row)
                for name in names:
                    percent = 100 if name in SHARES else 1
                    points = [
                        (entry["iteration"], percent * entry[name]) for entry in rows if entry.get(name) is not None
                    ]
                    if points:
                        marker = "." if name == "miou" or len(points) == 1 else None  # a line needs two points
                        axes.plot(*zip(*points, strict=True), label=name, marker=marker)
                if stage == "adapted" and rows:
                    self._mark(axes, row)
                axes.set_title(
                    f"{'Source training' if stage == 'source' else 'Adaptation'}: {('loss', 'quality in %')[row]}"
                )
                axes.set_xlabel("iteration")
                axes.grid(alpha=0.3)
                if axes.has_data():
                    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)  # beside the curves
                else:
                    needs_labels = row and self.old_miou is None
                    text = "nothing logged; --val LABELLED shows mIoU" if needs_labels else "nothing logged"
                    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color="grey")
        FigureCanvasAgg(figure)
        with written_whole(self.curves) as temporary:
            figure.savefig(temporary, format="png", dpi=90)

    def _mark(self, axes: Any, row: int) -> None:
        """Lines where self-training begins and, in the row of quality, how good the old network is."""
        if row and self.old_miou is not None:
            label = f"old network, miou {self.old_miou:.1f}"
            axes.axhline(self.old_miou, color="black", linestyle="--", linewidth=1, label=label)
        if self.begin:
            label = "self-training begins"
            axes.axvline(self.begin, color="grey", linestyle=":", label=label)


class SilentLogbook(Logbook):
    """The log of a rank that is not the first: it keeps nothing."""

    def __init__(self) -> None:
        self.entries = []

    def forget_after(self, stage: str, iteration: int) -> None:
        """Nothing was kept."""

    def add(self, stage: str, iteration: int, **values: float) -> None:
        """The first rank keeps it."""

    def draw(self) -> None:
        """The first rank draws."""


def _loss_names(rows: list[dict[str, Any]]) -> list[str]:
    known = ("loss", "source", "self_training", "contrastive", "entropy")
    return [name for name in known if any(name in row for row in rows)]
