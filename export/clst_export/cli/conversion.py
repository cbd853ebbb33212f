"""The result of an export as text."""

from __future__ import annotations

from pathlib import Path

from clst_export.pipeline import Conversion
from clst_export.quantization.search import curve_table, draw_curve
from clst_runtime.backends.tensorrt.build.check import describe_build_check
from clst_runtime.system.tables import format_table, percent


def report(conversion: Conversion, path: Path, budget: float | None) -> str:
    """The file, its parity and per-class IoU; for a budget also the curve, with a picture beside the file."""
    manifest, comparison = conversion.manifest, conversion.comparison
    lines: list[str] = []
    if conversion.budget is not None and budget is not None:
        picture = path.with_suffix(".curve.png")
        draw_curve(conversion.budget, picture, max_drop=budget)
        lines.extend((curve_table(conversion.budget), f"curve: {picture}"))
    rows, columns = manifest.input_hw
    size = path.stat().st_size / 2**20
    lines.append(f"{path}: {manifest.network}, {manifest.precision}, {rows}x{columns}, {size:.1f} MiB")
    lines.append(f"{100 * comparison.agreement:.4f} % of the pixels of {comparison.frames} frames equal PyTorch's")
    if "ties" in manifest.parity:
        ties = manifest.parity["ties"]
        untied = f"{ties['untied_pixels']} of them without being ties of PyTorch's logits"
        lines.append(f"{ties['differing_pixels']} pixels of {ties['frames']} frames differ, {untied}")
    if comparison.labelled:
        per_class = zip(comparison.classes.names, comparison.reference_iou, comparison.candidate_iou, strict=True)
        cells = [[name, percent(a), percent(b), percent(b - a, 3)] for name, a, b in per_class]
        a, b = comparison.reference_miou, comparison.candidate_miou
        cells.append(["mIoU", percent(a), percent(b), percent(b - a, 3)])
        lines.append(format_table(["class", "PyTorch fp32", manifest.precision, "difference"], cells))
    if "layers" in manifest.build_check:
        lines.append(describe_build_check(manifest.build_check))
    return "\n".join(lines)
