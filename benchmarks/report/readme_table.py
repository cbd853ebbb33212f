"""Write the tables of measured numbers from the committed result files: the README's and docs/measurements.md's.

python -m benchmarks.report.readme_table

A file whose name is that of its pair is the pair's line in the README; any other is a table in docs/measurements.md.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from benchmarks.export import quantizers

HERE = Path(__file__).parents[1]
BEGIN, END = "<!-- measured: made by benchmarks/report/readme_table.py -->", "<!-- end -->"
HEADERS = ("camera change", "steps", "old network", "BatchNorm statistics", "entropy min.", "mean teacher + ClassMix",
           "CLST", "oracle", "recovered", "seeds")  # fmt: skip
COLUMNS = ("source", "batchnorm", "entropy", "mean_teacher", "clst", "oracle")
MERGED_WORDS = "the 5 groups that both label alike (ground, living things, vehicles, objects, sky)"
RIVALS = {"batchnorm": "BatchNorm statistics", "entropy": "entropy min.", "mean_teacher": "mean teacher + ClassMix",
          "mean_teacher_start": "… + start share"}  # fmt: skip
PRECISION = "precision_"
PRECISION_TITLES = {"camvid_dusk": "CamVid at dusk, adapted network"}


def cell(row: dict[str, Any] | None) -> str:
    """Mean and spread of a method's mIoU, in points."""
    if row is None:
        return ""
    spread = f" ± {row['miou_std']:.1f}" if len(row["miou"]) > 1 else ""
    return f"{row['miou_mean']:.1f}{spread}"


def row(title: str, steps: str, methods: dict[str, Any]) -> str:
    """One line of the table."""
    clst = methods["clst"]
    cells = [cell(methods.get(name)) for name in COLUMNS]
    share = "" if clst["recovery"] is None else f"{round(100 * clst['recovery'])} %"
    return f"| {title} | {steps} | {' | '.join(cells)} | {share} | {len(clst['miou'])} |"


def rows(result: dict[str, Any]) -> list[str]:
    """The lines of one pair: its score, and that over merged groups where it has one."""
    steps = f"{result['source_steps']} + {result['steps']}"
    lines = [row(result["title"], steps, result["methods"])]
    if "merged" in result:
        lines.append(row(f"… merged to {MERGED_WORDS}", "", result["merged"]))
    return lines


def lead_lines(results: list[dict[str, Any]]) -> list[str]:
    """How far CLST is ahead of each rival: mean over the seeds, and each of them."""
    lines = [
        "CLST ahead by, in points: mean over the seeds, and each seed, whose rows share a source network:",
        "",
        f"| camera change | {' | '.join(RIVALS.values())} |",
        "|---" * (len(RIVALS) + 1) + "|",
    ]
    for result in results:
        for title, methods in ((result["title"], result["methods"]), ("… merged", result.get("merged", {}))):
            cells = [lead_of_seeds(methods.get(name)) for name in RIVALS]
            if any(cells):
                lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def seen_lines(results: list[dict[str, Any]]) -> list[str]:
    """The scores on the images adapted to, and how far CLST is ahead of each rival there."""
    names = [name for name in COLUMNS if name != "oracle"]
    heads = [head for head, name in zip(HEADERS[2:], COLUMNS, strict=False) if name in names]
    leads = [f"CLST ahead of {rival}" for name, rival in RIVALS.items() if name != "batchnorm"]
    lines = [
        "The same networks on the unlabelled images that they were adapted to (at most 200 of them, evenly spread), by "
        "labels that no adaptation has read:",
        "",
        f"| camera change | {' | '.join([*heads, *leads])} |",
        "|---" * (1 + len(heads) + len(leads)) + "|",
    ]
    for result in results:
        for title, methods in ((result["title"], result["methods"]), ("… merged", result.get("merged", {}))):
            if "seen" in methods.get("clst", {}):
                seen = {name: each.get("seen") for name, each in methods.items()}
                cells = [cell(seen.get(name)) for name in names]
                cells += [lead_of_seeds(seen.get(name)) for name in RIVALS if name != "batchnorm"]
                lines.append(f"| {title} | {' | '.join(cells)} |")
    return lines


def lead_of_seeds(row: dict[str, Any] | None) -> str:
    """Mean and each seed's difference, where there are several seeds."""
    ahead = (row or {}).get("clst_ahead", {})
    each = ahead.get("seeds", [])
    return "" if len(each) < 2 else f"{ahead['mean']:+.1f} ({', '.join(f'{value:+.1f}' for value in each)})"


def exported_line(results: list[dict[str, Any]]) -> str:
    """How the exported networks of all pairs stand against PyTorch."""
    files = [each for result in results for each in result["methods"]["clst"]["exported"]]
    gap = max(abs(each["miou"] - each["reference_miou"]) for each in files)
    agreement = math.floor(1e5 * min(each["agreement"] for each in files)) / 1e3
    return (
        f"The exported ONNX files of all {len(files)} CLST networks say the same as PyTorch on at least "
        f"{agreement:.3f} % of the test pixels; their mIoU differs by at most {100 * gap:.4f} points."
    )


def table() -> str:
    """The whole table with where it was measured."""
    paths = sorted((HERE / "results").glob("*.json"))
    results = [json.loads(path.read_text()) for path in paths]
    measured = [(path.stem, result) for path, result in zip(paths, results, strict=True) if "methods" in result]
    pairs = [result for stem, result in measured if stem == result["name"]]
    lines = [
        "mIoU in % on the new camera's labelled test images (only read for the score), DDRNet-23-slim from scratch; "
        "every method starts from the same source network and trains for the same number of steps (source training + "
        "adaptation):",
        "",
        f"| {' | '.join(HEADERS)} |",
        "|---" * len(HEADERS) + "|",
        *(line for result in pairs for line in rows(result)),
        "",
        "Recovered: CLST's share of the way from the old network to one trained on the new camera's labels (oracle).",
        exported_line(pairs),
        "",
        *lead_lines(pairs),
        "",
        *seen_lines(pairs),
        "",
    ]
    lines.extend(measured_where(result, result["name"]) for result in pairs)
    for path in paths:
        if path.name.startswith(PRECISION):
            result = json.loads(path.read_text())
            lines.extend(("", *precision_lines(result), "", measured_where(result, path.stem)))
    return "\n".join(lines)


def further_tables() -> str:
    """Ablations, other budgets and other machines."""
    lines: list[str] = []
    for path in sorted((HERE / "results").glob("*.json")):
        result = json.loads(path.read_text())
        if "methods" in result and path.stem != result["name"]:
            lines.extend((f"## {path.stem}", "", *ablation_lines(result), "", measured_where(result, path.stem), ""))
        elif path == quantizers.RESULT:
            where = dict.fromkeys(measured_where(each, path.stem) for each in result["networks"])
            lines.extend((f"## {path.stem}", "", *quantizers.show(result).splitlines(), "", *where, ""))
    return "\n".join(lines[:-1])


def ablation_lines(result: dict[str, Any]) -> list[str]:
    """Every row of one pair, made by benchmarks/adaptation/compare.py --name."""
    seeds = len(result["methods"]["clst"]["seeds"])
    headers = ["method", "mIoU", "CLST ahead by (95 % interval)"]
    merged = result.get("merged")
    if merged is not None:
        headers += ["of merged groups", "CLST ahead by"]
    if "seen" in result["methods"]["clst"]:
        headers += ["on images adapted to", "CLST ahead by"]
    budget = f"{result['source_steps']} steps of source training, {result['steps']} of adaptation"
    lines = [
        f"{result['title']}, {result['size']}, {budget}, {'one seed' if seeds == 1 else f'{seeds} seeds'}:",
        "",
        f"| {' | '.join(headers)} |",
        "|---" * len(headers) + "|",
    ]
    for name, each in result["methods"].items():
        cells = [each["title"], cell(each), lead(each)]
        if merged is not None:
            cells += [cell(merged[name]), lead(merged[name])]
        if "seen" in result["methods"]["clst"]:
            cells += [cell(each.get("seen")), lead(each.get("seen", {}))]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def lead(row: dict[str, Any]) -> str:
    """How far CLST is ahead of a method, with its interval."""
    ahead = row.get("clst_ahead")
    return "" if ahead is None else f"{ahead['mean']:+.1f} ({ahead['low']:+.1f} … {ahead['high']:+.1f})"


def measured_where(result: dict[str, Any], name: str) -> str:
    """File, machine, date and commit of a result."""
    machine = result["machine"]
    gpus = [text.split(",")[0] for text in machine["gpus"]]
    return (
        f"`benchmarks/results/{name}.json`: {', '.join([*gpus, machine['cpu']])}, {machine['cores']} cores, "
        f"{result['date']}, commit {result['commit']}."
    )


def precision_lines(result: dict[str, Any]) -> list[str]:
    """What a precision costs, made by benchmarks/export/precision.py."""
    title = PRECISION_TITLES.get(result["name"], result["name"])
    budget = result["budget_points"]
    asked = "everything quantised" if budget is None else f"INT8 to a budget of {budget} points"
    lines = [
        f"Precision, {title}, {asked}; speed is host to host on the CPU as a ratio to fp32 in one process, beside it "
        "that of the convolutions alone:",
        "",
        "| network | file | mIoU | mIoU lost | pixels equal | MiB | INT8 convolutions | speed | of convolutions |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for network in result["networks"]:
        for each in network["flavours"]:
            parity, name = each["parity"], f"{network['network']}, {network['input_hw'][0]}x{network['input_hw'][1]}"
            kept, count = each["calibration"].get("kept", []), each["calibration"].get("quantised")
            share = "" if count is None else f"{count} of {count + len(kept)}"
            lost = round(100 * (parity["reference_miou"] - parity["miou"]), 2) + 0.0  # no minus before a zero
            runs_here = each["flavour"] in ("fp32", "int8-cpu")
            ratios = (each["speed_against_fp32"], each["convolution_speed_against_fp32"])
            speed = " | ".join(f"{ratio:.2f}×" if runs_here else "on the device" for ratio in ratios)
            lines.append(
                f"| {name} | {each['flavour']} | {100 * parity['miou']:.2f} | {lost:.2f} | "
                f"{100 * parity['agreement']:.2f} % | {each['bytes'] / 2**20:.1f} | {share} | {speed} |"
            )
    return lines


def main() -> None:
    """Replace what stands between the two marks, in both files."""
    root = HERE.parent
    for path, words in ((root / "README.md", table()), (root / "docs" / "measurements.md", further_tables())):
        before, _, rest = path.read_text().partition(BEGIN)
        path.write_text(f"{before}{BEGIN}\n{words}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
