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
    results = [json.loads(path.read_text()) for path in sorted((HERE / "results").glob("*.json"))]
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
    for result in results:
        machine = result["machine"]
        lines.append(
            f"`benchmarks/results/{result['name']}.json`: {machine['cpu']}, {machine['cores']} cores, "
            f"{result['date']}, commit {result['commit']}."
        )
    return "\n".join(lines)


def main() -> None:
    """Replace the part of the README between the two marks."""
    readme = HERE.parent / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
