"""Write the README's table of measured numbers from the committed result files.

python benchmarks/readme_table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BEGIN, END = "<!-- measured: made by benchmarks/readme_table.py -->", "<!-- end -->"
TITLES = {
    "drawn": "drawn scenes, old → new camera, 10 classes",
    "idd_to_camvid": "IDD-Lite → CamVid, 7 groups",
    "camvid_to_idd": "CamVid → IDD-Lite, 7 groups",
    "camvid_dusk": "CamVid by day → at dusk, 11 classes",
}
PRECISION = "precision_"
PRECISION_TITLES = {"camvid_dusk": "CamVid at dusk, adapted network"}
ALIKE = ("drivable", "living things", "vehicles", "far objects", "sky")
"""The groups that CamVid and IDD-Lite label alike; walls, kerbs and verges differ by definition."""
ALIKE_IN = ("idd_to_camvid", "camvid_to_idd")


def mean_over(result: dict[str, Any], method: str, names: tuple[str, ...]) -> float:
    """Mean IoU in points over some classes, averaged over the seeds."""
    values = [run[method]["iou"][name] for run in result["runs"] for name in names]
    return 100 * sum(values) / len(values)


def row(result: dict[str, Any]) -> str:
    """One line of the table; where the data sets label only some classes alike, those stand in brackets."""
    summary, seeds = result["summary"], len(result["runs"])
    cells = []
    for method in ("source_only", "batchnorm_statistics", "adapted"):
        spread = f" ± {summary[method]['miou_std']:.1f}" if seeds > 1 else ""
        alike = f" ({mean_over(result, method, ALIKE):.1f})" if result["name"] in ALIKE_IN else ""
        cells.append(f"{summary[method]['miou_mean']:.1f}{spread}{alike}")
    gap = max(abs(run["onnx"]["miou"] - run["adapted"]["miou"]) for run in result["runs"])
    agreement = min(run["agreement"] for run in result["runs"])
    name = TITLES.get(result["name"], result["name"])
    return f"| {name} | {' | '.join(cells)} | {100 * gap:.4f} | {100 * agreement:.3f} % | {seeds} |"


def table() -> str:
    """The whole table with where it was measured."""
    paths = sorted((HERE / "results").glob("*.json"))
    results = [json.loads(path.read_text()) for path in paths if not path.name.startswith(PRECISION)]
    lines = [
        "mIoU in % on the new camera's labelled images (only read for the score), DDRNet-23-slim from scratch:",
        "",
        "| camera change | old network | BatchNorm statistics only | CLST | ONNX differs by | pixels equal | seeds |",
        "|---|---|---|---|---|---|---|",
        *(row(result) for result in results),
        "",
        f"In brackets: the groups that both data sets label alike ({', '.join(ALIKE)}).",
        "",
    ]
    lines.extend(measured_where(result, result["name"]) for result in results)
    for path in paths:
        if path.name.startswith(PRECISION):
            result = json.loads(path.read_text())
            lines.extend(("", *precision_lines(result), "", measured_where(result, path.stem)))
    return "\n".join(lines)


def measured_where(result: dict[str, Any], name: str) -> str:
    """File, machine, date and commit of a result."""
    machine = result["machine"]
    return (
        f"`benchmarks/results/{name}.json`: {machine['cpu']}, {machine['cores']} cores, "
        f"{result['date']}, commit {result['commit']}."
    )


def precision_lines(result: dict[str, Any]) -> list[str]:
    """What a precision costs, made by benchmarks/precision.py."""
    title = PRECISION_TITLES.get(result["name"], result["name"])
    budget = result["budget_points"]
    asked = "everything quantised" if budget is None else f"INT8 to a budget of {budget} points"
    lines = [
        f"Precision, {title}, {asked}; speed is host to host on the CPU as a ratio to fp32 in one process:",
        "",
        "| network | file | mIoU | mIoU lost | pixels equal | MiB | convolutions in INT8 | speed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for network in result["networks"]:
        for each in network["flavours"]:
            parity, name = each["parity"], f"{network['network']}, {network['input_hw'][0]}x{network['input_hw'][1]}"
            kept, count = each["calibration"].get("kept", []), each["calibration"].get("quantised")
            share = "" if count is None else f"{count} of {count + len(kept)}"
            lost = round(100 * (parity["reference_miou"] - parity["miou"]), 2) + 0.0  # no minus before a zero
            runs_here = each["flavour"] in ("fp32", "int8-cpu")
            speed = f"{each['speed_against_fp32']:.2f}×" if runs_here else "on the device"
            lines.append(
                f"| {name} | {each['flavour']} | {100 * parity['miou']:.2f} | {lost:.2f} | "
                f"{100 * parity['agreement']:.2f} % | {each['bytes'] / 2**20:.1f} | {share} | {speed} |"
            )
    return lines


def main() -> None:
    """Replace the part of the README between the two marks."""
    readme = HERE.parent / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
