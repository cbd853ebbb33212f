"""What `clst-demo` shows on the new camera's test images, and what it costs.

    nice python -m benchmarks.adaptation.demo OUT [--name NAME] [--set SECTION.KEY=VALUE …]

Seconds on a busy machine say nothing, so the processor time of all threads is recorded beside them.
The result goes to benchmarks/results/<name>.json.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from benchmarks.record import RESULTS, provenance, write_result

METHODS = {"source": "source_only", "batchnorm": "batchnorm_statistics", "clst": "reference", "exported": "candidate"}
"""Names as in the camera changes, and those in the demo's results.json."""


def scores(values: dict[str, Any]) -> dict[str, Any]:
    """mIoU in points, and IoU of each class from 0 to 1, of each method in the demo's results.json."""
    return {
        "miou": {ours: 100 * values[theirs]["miou"] for ours, theirs in METHODS.items()},
        "iou": {ours: values[theirs]["iou"] for ours, theirs in METHODS.items()},
        "agreement": values["agreement"],
    }


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--name", default="demo", show_default=True, help="Of the result file.")
@click.option("--set", "settings", multiple=True, help="Any setting of the recipe.")
def main(out: Path, name: str, settings: tuple[str, ...]) -> None:
    """Run the demo in the folder OUT and record it."""
    made, started = provenance(), time.perf_counter()
    command = [sys.executable, "-c", "from clst_export.cli.demo import main; main()", "--out", str(out)]
    subprocess.run([*command, *(part for each in settings for part in ("--set", each))], check=True)
    seconds, spent = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    times = {"seconds": round(seconds), "processor_seconds": round(spent.ru_utime + spent.ru_stime)}
    values = json.loads((out / "results.json").read_text())
    write_result(
        RESULTS / f"{name}.json", {"name": name, **made, "settings": list(settings), **times, **scores(values)}
    )


if __name__ == "__main__":
    main()
