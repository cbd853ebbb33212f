"""Write the tables of measured numbers from the committed result files into README.md and the documents.

python -m benchmarks.report.readme_table

A file whose name is that of its pair is a camera change; any other is a further measurement.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from benchmarks.export import commands, networks, precision, quantizers
from benchmarks.performance import decoders
from benchmarks.record import RESULTS, markdown

ROOT = RESULTS.parents[1]
BEGIN, END = "<!-- measured: made by benchmarks/report/readme_table.py -->", "<!-- end -->"
BASELINES = {"batchnorm": "BatchNorm statistics", "entropy": "entropy min.", "mean_teacher": "mean teacher + ClassMix"}
COMPARED = BASELINES | {"mean_teacher_start": "… + start share"}
METHODS = {"source": "old network", **BASELINES, "clst": "CLST", "oracle": "oracle"}
MERGED = "… merged to the 5 groups that both label alike (ground, living things, vehicles, objects, sky)"
LEAD_TEXT = "Points that CLST is ahead: the mean over the seeds and each seed, whose rows share a source network."
SEEN_TEXT = (
    "The same networks on at most 200 of the images that they were adapted to, by labels that no adaptation read."
)
PRECISION = "precision_"


def cell(row: dict[str, Any] | None) -> str:
    """Mean and spread of a method's mIoU, in points."""
    if row is None:
        return ""
    spread = f" ± {row['miou_std']:.1f}" if len(row["miou"]) > 1 else ""
    return f"{row['miou_mean']:.1f}{spread}"


def share(clst: dict[str, Any]) -> str:
    """What CLST recovers of the way to the oracle."""
    return "" if clst["recovery"] is None else f"{round(100 * clst['recovery'])} %"


def title_of(result: dict[str, Any]) -> str:
    """What a pair is called; older result files have another word for the synthetic scenes."""
    return str(result["title"]).replace("drawn scenes", "synthetic scenes")


def scored(pairs: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Title and methods of each pair, and of its merged groups where it has them."""
    lines = []
    for pair in pairs:
        lines.append((title_of(pair), pair["methods"]))
        if "merged" in pair:
            lines.append((MERGED, pair["merged"]))
    return lines


def best_baseline(methods: dict[str, Any]) -> str:
    """Score and name of the best baseline."""
    best = max(BASELINES, key=lambda name: float(methods.get(name, {}).get("miou_mean", -1)))
    return f"{cell(methods[best])} ({BASELINES[best]})"


def readme_lines(pairs: list[dict[str, Any]]) -> list[str]:
    """The README's table: a line for each camera change."""
    rows = []
    for pair in pairs:
        each = pair["methods"]
        scores = (cell(each["source"]), best_baseline(each), cell(each["clst"]), cell(each.get("oracle")))
        rows.append((title_of(pair), *scores, share(each["clst"])))
    return markdown(("camera change", "old network", "best baseline", "CLST", "oracle", "recovered"), rows)[:-1]


def pair_lines(pairs: list[dict[str, Any]]) -> list[str]:
    """All methods of each camera change, on its test images and on the images adapted to."""
    rows, seen = [], []
    for title, methods in scored(pairs):
        clst = methods["clst"]
        rows.append((title, *(cell(methods.get(name)) for name in METHODS), share(clst), str(len(clst["miou"]))))
        if "seen" in clst:
            seen.append((title, {name: each["seen"] for name, each in methods.items() if "seen" in each}))
    names = [name for name in METHODS if name != "oracle"]
    seen_rows = [(title, *(cell(each.get(name)) for name in names)) for title, each in seen]
    return [
        *("## Camera changes", ""),
        *markdown(("camera change", *METHODS.values(), "recovered", "seeds"), rows),
        *(exported_line(pairs), ""),
        *("### CLST against each baseline", "", LEAD_TEXT, "", *lead_table(scored(pairs))),
        *("### On the images adapted to", "", SEEN_TEXT, ""),
        *markdown(("camera change", *(METHODS[name] for name in names)), seen_rows),
        *("CLST ahead by:", "", *lead_table(seen)),
        *(f"{measured_where(pair, pair['name'])} {pair['source_steps']} + {pair['steps']} steps." for pair in pairs),
        "",
    ]


def lead_table(pairs: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """How far CLST is ahead of each baseline where there are several seeds."""
    rows = [(title, [lead_of_seeds(each.get(name)) for name in COMPARED]) for title, each in pairs]
    return markdown(("camera change", *COMPARED.values()), ([title, *cells] for title, cells in rows if any(cells)))


def lead_of_seeds(row: dict[str, Any] | None) -> str:
    """Mean and each seed's difference, where there are several seeds."""
    ahead = (row or {}).get("clst_ahead", {})
    each = ahead.get("seeds", [])
    return "" if len(each) < 2 else f"{ahead['mean']:+.1f} ({', '.join(f'{value:+.1f}' for value in each)})"


def exported_line(pairs: list[dict[str, Any]]) -> str:
    """How the exported networks of all pairs compare with PyTorch."""
    files = [each for pair in pairs for each in pair["methods"]["clst"]["exported"]]
    gap = max(abs(each["miou"] - each["reference_miou"]) for each in files)
    agreement = math.floor(1e5 * min(each["agreement"] for each in files)) / 1e3
    return (
        f"The exported ONNX files of all {len(files)} CLST networks give the class that PyTorch gives on at least "
        f"{agreement:.3f} % of the test pixels; their mIoU differs by at most {100 * gap:.4f} points."
    )


def ablation_lines(result: dict[str, Any]) -> list[str]:
    """Every row of one pair, made by benchmarks/adaptation/compare.py --name."""
    seeds = len(result["methods"]["clst"]["seeds"])
    merged, with_seen = result.get("merged"), "seen" in result["methods"]["clst"]
    headers = ["method", "mIoU", "CLST ahead by (95 % interval)"]
    headers += ["of merged groups", "CLST ahead by"] if merged else []
    headers += ["on images adapted to", "CLST ahead by"] if with_seen else []
    rows = []
    for name, each in result["methods"].items():
        scores = [each, *([merged[name]] if merged else []), *([each.get("seen")] if with_seen else [])]
        rows.append([each["title"], *(text for score in scores for text in (cell(score), lead(score)))])
    budget = f"{result['source_steps']} steps of source training, {result['steps']} of adaptation"
    return [
        f"{title_of(result)}, {result['size']}, {budget}, {'one seed' if seeds == 1 else f'{seeds} seeds'}:",
        "",
        *markdown(headers, rows),
    ]


def lead(row: dict[str, Any] | None) -> str:
    """How far CLST is ahead of a method, with its interval."""
    ahead = (row or {}).get("clst_ahead")
    return "" if ahead is None else f"{ahead['mean']:+.1f} ({ahead['low']:+.1f} … {ahead['high']:+.1f})"


def measured_where(result: dict[str, Any], name: str) -> str:
    """File, machine, date and commit of a result, as an item of a list."""
    machine = result["machine"]
    gpus = [text.split(",")[0] for text in machine["gpus"]]
    return (
        f"- `benchmarks/results/{name}.json`: {', '.join([*gpus, machine['cpu']])}, {machine['cores']} cores, "
        f"{result['date']}, commit {result['commit']}."
    )


def further_lines() -> list[str]:
    """Precision, ablations, other budgets and other machines, a section for each result file."""
    lines: list[str] = []
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text())
        if path.name.startswith(PRECISION):
            body, runs = precision.show(result), [result]
        elif "methods" in result and path.stem != result["name"]:
            body, runs = ablation_lines(result), [result]
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
    results = [(path.stem, json.loads(path.read_text())) for path in sorted(RESULTS.glob("*.json"))]
    pairs = [result for stem, result in results if "methods" in result and stem == result["name"]]
    return {
        ROOT / "README.md": readme_lines(pairs),
        ROOT / "docs" / "measurements.md": [*pair_lines(pairs), *further_lines()],
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
