"""The exported files: do they compute what was trained, how fast are they, and what did a device say of them?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from clst_export.card import agreement_text, proof_text
from clst_export.report.document import Block, Facts, Missing, Points, Table, Text, Tone
from clst_export.report.evidence import Evidence, Given, Read, accepted_checkpoint, step_of
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


def blocks(evidence: Evidence) -> list[Block]:
    """Parity of each file, latency by kind, and what devices said."""
    blocks = [*_parity(evidence), *(_latency(evidence, kind) for kind in KINDS)]
    for acceptance in evidence.acceptances:
        blocks += _acceptance(acceptance, evidence)
    if not evidence.acceptances:
        verify = f"clst-doctor --verify {a_file(evidence)} --data IMAGES --report accepted.md"
        commands = (verify, again(evidence, "--acceptance accepted.md"))
        blocks.append(Missing(what="No device has accepted it; the first command is for the device", commands=commands))
    return blocks


def _parity(evidence: Evidence) -> Iterator[Block]:
    if evidence.files:
        head = ("file", "precision", "pixels as in PyTorch", "differ without a tie", "mIoU % (PyTorch)", "TensorRT",
                "result")  # fmt: skip
        origin = "Origin: counted at each export on every pixel of the frames named, hence without an interval."
        rows = tuple(_parity_row(each) for each in evidence.models)
        yield Table(title="Parity of the exports", head=head, rows=rows, origin=origin, names=len(head))
    else:
        yield Missing(what="Nothing was exported from it", commands=export(evidence, "--confidence"))
    proofs = tuple(
        (Path(each["path"]).name, proof_text(proof))
        for each in evidence.files
        for proof in each.get("proofs", {}).values()
    )
    if proofs:
        yield Facts(title="Engines built on devices", rows=proofs)
    if evidence.left_out:
        yield Points(items=tuple(f"left out: {why}" for why in evidence.left_out))


def _parity_row(model: Read) -> tuple[str, ...]:
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


def _latency(evidence: Evidence, kind: str) -> Block:
    title, what = KINDS[kind]
    rows = [row for given in evidence.acceptances for row in _of_acceptance(given, kind)]
    rows += [row for given in evidence.latencies for row in _of_bench(given, kind, evidence.checkpoint_sha256)]
    if not rows:
        images = "--live camera:0" if kind == "glass_to_mask" else "--data IMAGES"
        bench = f"clst-bench {a_file(evidence)} {images} --out latency.json"
        return Missing(what=f"{title} was not measured", commands=(bench, again(evidence, "--latency latency.json")))
    head = ("model, machine, images", "runs", *(f"{name} ms" for name in NAMES))
    origin = f"From {what}. Origin: the file named in each line; spread over runs, not over machines."
    return Table(title=title, head=head, rows=tuple(rows), origin=origin)


def _of_acceptance(given: Given, kind: str) -> Iterator[tuple[str, ...]]:
    values = step_of(given.values, {"host_to_host": "latency", "glass_to_mask": "live run"}.get(kind, ""))
    samples = values.get("samples_ns")
    images = place_name(str(values.get("source", values.get("frames", NONE))))
    images += ", replayed without a camera" if values.get("replayed_fps") is not None else ""
    what = [accepted_file(given.values), machine_of(given.values), images]
    yield from _row(given, what, values.get(f"{kind}_ms"), len(samples) if isinstance(samples, list) else NONE)


def _of_bench(given: Given, kind: str, own: str) -> Iterator[tuple[str, ...]]:
    """Of its models, which need not all be of this network."""
    prefix = "" if kind == "host_to_host" else f"{kind}_"
    for entry in given.values["results"]:
        what = [place_name(entry["model"]), entry["backend"], machine_of(given.values),
                place_name(given.values["frames"])]  # fmt: skip
        remarks = [str(entry[f"{prefix}note"])] if entry.get(f"{prefix}note") else []
        if (network := entry.get("checkpoint_sha256")) != own:
            remarks.append("which network is not recorded" if network is None else "another network")
        yield from _row(given, what, entry.get(f"{kind}_ms"), entry.get(f"{prefix}runs", NONE), *remarks)


def _row(given: Given, what: list[str], summary: object, runs: object, *remarks: str) -> Iterator[tuple[str, ...]]:
    """A line of a table; none where nothing was measured."""
    if not isinstance(summary, dict) or not summary:
        return
    spread = summary.get("cov")
    unsteady = ["unsteady"] if isinstance(spread, int | float) and spread > UNSTEADY else []
    times = (f"{summary[name]:.2f}" if isinstance(summary.get(name), int | float) else NONE for name in NAMES)
    yield f"{', '.join(what)} ({'; '.join([given.path.name, *unsteady, *remarks])})", str(runs), *times


def machine_of(values: Read) -> str:
    """Processor and GPUs in a few words."""
    gpus = values["machine"].get("gpus")
    return ", ".join([values["machine"]["cpu"], *map(str, gpus if isinstance(gpus, list) else [])])


def accepted_file(values: Read) -> str:
    """Name of the file that was accepted."""
    plan = values.get("plan")
    model = plan.get("model") if isinstance(plan, dict) else None
    return place_name(model) if isinstance(model, str) else "model"


def _acceptance(given: Given, evidence: Evidence) -> Iterator[Block]:
    values, name = given.values, accepted_file(given.values)
    tone = Tone.BAD if values["exit_code"] else Tone.GOOD if values["verdict"] == "accepted" else Tone.DOUBT
    text = f"{values['verdict']}: {name} on {machine_of(values)}, {values['date']}{_tie(values, evidence)}"
    yield Text(title=f"Acceptance of {name}", text=text, tone=tone)
    rows = tuple((step["name"], step["status"], f"{step['seconds']:.1f}", step["told"]) for step in values["steps"])
    origin = f"Origin: {given.path.name}, written by clst-doctor --verify on the device."
    yield Table(head=("step", "result", "seconds", "what was found"), rows=rows, names=4, origin=origin)


def _tie(accepted: Read, evidence: Evidence) -> str:
    """What has to be said where the accepted file is not one of the report's, to the byte."""
    values = step_of(accepted, "file")
    files = values.get("files")
    sums = {str(each) for each in (values.get("sha256"), *(files.values() if isinstance(files, dict) else []))}
    if sums & {each["sha256"] for each in (evidence.model, *evidence.models)}:
        return ""
    if accepted_checkpoint(accepted) is None:
        return "; which network it was is not recorded"
    return "; its file is none of those above, though of the same checkpoint"
