"""The exported files: do they compute what was trained, how fast are they, and what did a device say of them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clst_export.card import agreement_text, proof_text
from clst_export.report.document import Block, Facts, Missing, Points, Section, Table, Text, Tone
from clst_export.report.evidence import Evidence, Given, Values, accepted_checkpoint, step_of
from clst_export.report.wording import NONE, a_file, again, export, percent
from clst_runtime.backends.tensorrt.build.check import describe_build_check
from clst_runtime.data.inputs import place_name
from clst_runtime.live.latency import UNSTEADY

NAMES = ("median", "p90", "p99", "max")
KINDS = {
    "engine_only": ("Engine-only latency", "frame where the network computes, to class ids there"),
    "host_to_host": ("Host-to-host latency", "frame in memory at the model's size, to mask in memory"),
    "glass_to_mask": ("Capture-to-mask latency", "frame handed over by the driver, to mask at the camera's size"),
}
"""Keys of results, with what each kind is called and holds; two kinds never share a table."""


def section(evidence: Evidence) -> Section:
    blocks: list[Block] = [*_parity(evidence)]
    blocks += [_latency(evidence, kind, title, what) for kind, (title, what) in KINDS.items()]
    for acceptance in evidence.acceptances:
        blocks += _acceptance(acceptance, evidence)
    if not evidence.acceptances:
        verify = f"clst-doctor --verify {a_file(evidence)} --data IMAGES --report accepted.md"
        commands = (verify, again(evidence, "--acceptance accepted.md"))
        blocks.append(Missing(what="No device has accepted it; the first command is for the device", commands=commands))
    return Section(
        key="deployment", title="Deployed files and device", topic="performance", blocks=tuple(blocks),
        question="Do the exported files compute what was trained, how fast, and was it accepted on its device?",
    )  # fmt: skip


def _parity(evidence: Evidence) -> list[Block]:
    blocks: list[Block] = []
    if evidence.files:
        head = ("file", "precision", "pixels as in PyTorch", "differ without a tie", "mIoU % (PyTorch)", "TensorRT",
                "result")  # fmt: skip
        origin = "Origin: counted at each export on every pixel of the frames named, hence without an interval."
        rows = tuple(_parity_row(each) for each in evidence.models)
        blocks.append(Table(title="Parity of the exports", head=head, rows=rows, origin=origin, names=len(head)))
    else:
        blocks.append(Missing(what="Nothing was exported from it", commands=export(evidence, "--confidence")))
    proofs = tuple(
        (Path(each["path"]).name, proof_text(proof))
        for each in evidence.files
        for proof in each.get("proofs", {}).values()
    )
    blocks += [Facts(title="Engines built on devices", rows=proofs)] if proofs else []
    blocks += [Points(items=tuple(f"left out: {why}" for why in evidence.left_out))] if evidence.left_out else []
    return blocks


def _parity_row(model: Values) -> tuple[str, ...]:
    manifest, parity = model["manifest"], model["manifest"]["parity"]
    ties, checked = parity.get("ties", {}), manifest["build_check"]
    untied = f"{ties['untied_pixels']} pixels of {ties['frames']} frames" if "untied_pixels" in ties else NONE
    labelled = NONE
    if parity.get("labelled"):
        labelled = f"{percent(parity.get('miou'), 2)} ({percent(parity.get('reference_miou'), 2)})"
    result = "not measured" if "holds" not in parity else "within its bounds" if parity["holds"] else "refused"
    return (
        Path(model["path"]).name, manifest["precision"], agreement_text(parity), untied, labelled,
        describe_build_check(checked) or "not asked", "refused" if "refused" in checked else result,
    )  # fmt: skip


def _latency(evidence: Evidence, kind: str, title: str, what: str) -> Block:
    rows = [row for given in evidence.acceptances for row in _of_acceptance(given, kind)]
    rows += [row for given in evidence.latencies for row in _of_bench(given, kind, evidence.checkpoint_sha256)]
    if not rows:
        images = "--live camera:0" if kind == "glass_to_mask" else "--data IMAGES"
        bench = f"clst-bench {a_file(evidence)} {images} --out latency.json"
        return Missing(what=f"{title} was not measured", commands=(bench, again(evidence, "--latency latency.json")))
    return Table(
        title=title,
        head=("model, machine, images", "runs", *(f"{name} ms" for name in NAMES)),
        rows=tuple(rows),
        origin=f"From {what}. Origin: the file named in each line; spread over runs, not over machines.",
    )


def _of_acceptance(given: Given, kind: str) -> list[tuple[str, ...]]:
    name = {"host_to_host": "latency", "glass_to_mask": "live run"}.get(kind, "")
    values = step_of(given.values, name).get("values", {})
    summary, samples = values.get(f"{kind}_ms"), values.get("samples_ns")
    if not isinstance(summary, dict) or not summary:
        return []
    images = place_name(str(values.get("source", values.get("frames", NONE))))
    replayed = ", replayed without a camera" if values.get("replayed_fps") is not None else ""
    remarks = "; ".join([given.path.name, *_unsteady(summary)])
    label = f"{accepted_file(given.values)}, {machine_of(given.values)}, {images}{replayed} ({remarks})"
    return [(label, str(len(samples)) if isinstance(samples, list) else NONE, *_times(summary))]


def _of_bench(given: Given, kind: str, own: str) -> list[tuple[str, ...]]:
    """Of its models, which need not all be of this network."""
    rows = []
    prefix = "" if kind == "host_to_host" else f"{kind}_"
    images = place_name(given.values["frames"])
    for entry in given.values["results"]:
        summary = entry.get(f"{kind}_ms")
        if not isinstance(summary, dict) or not summary:
            continue
        parts = [place_name(entry["model"]), entry["backend"], machine_of(given.values), images]
        remarks = [given.path.name, *_unsteady(summary)]
        remarks += [str(entry[f"{prefix}note"])] if entry.get(f"{prefix}note") else []
        if (network := entry.get("checkpoint_sha256")) != own:
            remarks.append("which network is not recorded" if network is None else "another network")
        label = f"{', '.join(parts)} ({'; '.join(remarks)})"
        rows.append((label, str(entry.get(f"{prefix}runs", NONE)), *_times(summary)))
    return rows


def _unsteady(summary: Mapping[str, Any]) -> list[str]:
    spread = summary.get("cov")
    return ["unsteady"] if isinstance(spread, int | float) and spread > UNSTEADY else []


def _times(summary: Mapping[str, Any]) -> list[str]:
    return [f"{summary[name]:.2f}" if isinstance(summary.get(name), int | float) else NONE for name in NAMES]


def machine_of(values: Values) -> str:
    """Processor and GPUs in a few words."""
    machine = values["machine"]
    gpus = machine.get("gpus")
    named: Sequence[Any] = gpus if isinstance(gpus, list) else []
    return ", ".join([str(machine["cpu"]), *map(str, named)])


def accepted_file(values: Values) -> str:
    """Name of the file that was accepted."""
    plan = values.get("plan")
    model = plan.get("model") if isinstance(plan, dict) else None
    return place_name(model) if isinstance(model, str) else "model"


def verdict_tone(values: Values) -> Tone:
    """Of an acceptance."""
    if values["exit_code"] != 0:
        return Tone.BAD
    return Tone.GOOD if values["verdict"] == "accepted" else Tone.DOUBT


def _acceptance(given: Given, evidence: Evidence) -> list[Block]:
    values = given.values
    rows = [(step["name"], step["status"], f"{step['seconds']:.1f}", step["told"]) for step in values["steps"]]
    named = f"{accepted_file(values)} on {machine_of(values)}, {values['date']}"
    text = f"{values['verdict']}: {named}{_tie(given, evidence)}"
    return [
        Text(title=f"Acceptance of {accepted_file(values)}", text=text, tone=verdict_tone(values)),
        Table(
            head=("step", "result", "seconds", "what was found"),
            rows=tuple(rows),
            names=4,
            origin=f"Origin: {given.path.name}, written by clst-doctor --verify on the device.",
        ),
    ]


def _tie(given: Given, evidence: Evidence) -> str:
    """What has to be said where the accepted file is not one of the report's, to the byte."""
    values = step_of(given.values, "file").get("values", {})
    files = values.get("files")
    sums = {str(each) for each in (values.get("sha256"), *(files.values() if isinstance(files, dict) else []))}
    if sums & {each["sha256"] for each in (evidence.model, *evidence.models)}:
        return ""
    if accepted_checkpoint(given.values) is None:
        return "; which network it was is not recorded"
    return "; its file is none of those above, though of the same checkpoint"
