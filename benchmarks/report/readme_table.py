"""Write the tables of measured numbers from the committed result files into README.md and the documents.

python -m benchmarks.report.readme_table

A file with rows of methods is a change of camera; where its name is that of its pair it is in the overview. Those in
results/earlier/ are of earlier tests and stay out of the tables.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.adaptation.pairs import PAIRS
from benchmarks.export import commands, networks, precision, quantizers
from benchmarks.performance import decoders
from benchmarks.record import RESULTS, machine_text, markdown

ROOT = RESULTS.parents[1]
BEGIN, END = "<!-- measured: made by benchmarks/report/readme_table.py -->", "<!-- end -->"
BASELINES = (
    "statistics",
    "entropy",
    "entropy_extras",
    "mean_teacher",
    "mean_teacher_extras",
    "mean_teacher_full",
)
MERGED = "… merged to the 5 groups that both label alike (ground, living things, vehicles, objects, sky)"
PRECISION = "precision_"


def cell(row: dict[str, Any] | None) -> str:
    """Mean and spread of a row's mIoU, in points."""
    return "" if row is None else f"{row['miou_mean']:.1f}" + plus_minus(row["miou_std"])


def plus_minus(spread: float | None) -> str:
    """Spread of several seeds; empty for one."""
    return "" if spread is None else f" ± {spread:.1f}"


def share(row: dict[str, Any]) -> str:
    """What a row recovers of the way to the oracle."""
    return "" if row["recovery"] is None else f"{round(100 * row['recovery'])} %"


def lead(row: dict[str, Any]) -> str:
    """How far CLST is ahead of a row: spread of the seeds' differences, interval over stretches of drives."""
    ahead = row.get("clst_ahead")
    if ahead is None:
        return ""
    return f"{ahead['mean']:+.1f}{plus_minus(ahead['std'])} ({ahead['low']:+.1f} … {ahead['high']:+.1f})"


def overview(pairs: list[dict[str, Any]]) -> list[str]:
    """A line for each change of camera, and for its merged groups where it has them; empty without any."""
    rows = []
    for pair in pairs:
        for title, scored in ((pair["title"], pair["methods"]), (MERGED, pair.get("merged"))):
            if scored is None or "clst" not in scored:
                continue
            names = [name for name in BASELINES if name in scored]
            best = max(names, key=lambda name: float(scored[name]["miou_mean"]))
            baseline = f"{cell(scored[best])} ({pair['methods'][best]['title']})"
            cells = (cell(scored["source"]), baseline, cell(scored["clst"]), cell(scored.get(pair["oracle"])))
            rows.append((title, *cells, share(scored["clst"]), lead(scored[best])))
    headers = ("change of camera", "old network", "best baseline", "CLST", "oracle", "recovered", "CLST ahead by")
    return markdown(headers, rows)[:-1] if rows else []


def rows_of(result: dict[str, Any]) -> list[str]:
    """Every row of one result file of benchmarks/adaptation/compare.py."""
    way = f"; recovered of the way to `{result['oracle']}`" if result["oracle"] else ""
    lines = [f"{result['title']}, {result['size']}, {result['source_steps']} steps of source training, "
             f"{result['steps']} of adaptation{way}:", ""]  # fmt: skip
    headers = ("method", "mIoU", "recovered", "CLST ahead by", "choice split", "seeds", "minutes")
    for scored in (result["methods"], result.get("merged", {})):
        rows = []
        for name, each in scored.items():
            method = result["methods"][name]
            others = sorted({run["commit"] for run in method["runs"]} - {result["commit"]})
            title = method["title"] + (f" (commit {', '.join(others)})" if others else "")
            seconds = [run["seconds"] for run in method["runs"] if run["seconds"] is not None]
            minutes = f"{sum(seconds) / len(seconds) / 60:.0f}" if seconds else ""
            cells = (
                title,
                cell(each),
                share(each),
                lead(each),
                cell(each.get("choice")),
                str(len(each["miou"])),
                minutes,
            )
            rows.append(cells)
        if scored is not result["methods"]:
            lines += [f"{MERGED}:", ""] if rows else []
        lines += markdown(headers, rows) if rows else []
    return lines


def measured_where(result: dict[str, Any], name: str) -> str:
    """File, machine, date and commit of a result, as an item of a list."""
    return f"- `benchmarks/results/{name}.json`: {machine_text(result)}, {result['date']}, commit {result['commit']}."


def further_lines() -> list[str]:
    """A section for each result file that has tables."""
    lines: list[str] = []
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        if path.name.startswith(PRECISION):
            body, runs = precision.show(result), [result]
        elif "methods" in result:
            body, runs = rows_of(result), [result]
        elif path == quantizers.RESULT:
            body, runs = quantizers.show(result), result["networks"]
        elif path == commands.RESULT:
            body, runs = commands.show(result), result["networks"]
        elif path == networks.RESULT:
            body, runs = networks.show(result), result["networks"]
        else:
            continue
        where = dict.fromkeys(measured_where(each, path.stem) for each in runs)
        lines += [f"## {path.stem}", "", *body, *where, ""]
    return lines[:-1]


def decoder_lines() -> list[str]:
    """Latency of the built-in networks, and the decoders that were compared."""
    result = json.loads(decoders.RESULT.read_text())
    return [*decoders.show(result), measured_where(result, decoders.RESULT.stem)]


def blocks() -> dict[Path, list[str]]:
    """What stands between the two marks in each file."""
    paths = [RESULTS / f"{name.replace('-', '_')}.json" for name in PAIRS]
    pairs = overview([json.loads(path.read_text()) for path in paths if path.is_file()])
    section = ["## Changes of camera", "", *pairs, ""] if pairs else []
    return {
        ROOT / "README.md": pairs,
        ROOT / "docs" / "measurements.md": [*section, *further_lines()],
        ROOT / "docs" / "networks.md": decoder_lines(),
    }


def replaced(text: str, lines: list[str]) -> str:
    """`text` with `lines` between its two marks."""
    before, _, rest = text.partition(BEGIN)
    return "\n".join([f"{before}{BEGIN}", *lines, f"{END}{rest.partition(END)[2]}"])


def main() -> None:
    """Write the files."""
    for path, lines in blocks().items():
        path.write_text(replaced(path.read_text(), lines))


if __name__ == "__main__":
    main()
