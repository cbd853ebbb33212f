"""The model card: what a model file is, of what it was made and what was measured, as Markdown for who receives it.

Made of the file's own facts (`inspection.facts_of`), so that a file which was moved alone still has one. The header is
that of model cards of Hugging Face; each of its values is JSON, which every reader of YAML takes. Needs no PyTorch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from shlex import quote
from typing import Any

from clst_runtime.backends.tensorrt.build.check import describe_build_check
from clst_runtime.backends.tensorrt.library import Library
from clst_runtime.backends.tensorrt.sidecar import describe_gpu
from clst_runtime.evaluation.export_digest import KEY as FINGERPRINT
from clst_runtime.system.files.json_values import printable

LICENCES = (
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0",
    "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0", "openrail",
    "unlicense",
)  # fmt: skip
"""Those that the header may name by themselves; others are `other` with a name."""
OF_THE_IMAGES = "Licences of the images that it was made of are not recorded."
MISSING = "not recorded"
NOT_MEASURED = "not measured"
NEEDS = {
    Library.TENSORRT: "TensorRT 10.3 to 11.x, PyCUDA and clst with its extra trt",
    Library.RTX: "clst with its extra rtx and cuda-bindings",
}
BUNDLE = """\
On the device, with {needs} installed:

    clst-export build {name}

builds an engine for that GPU, version, CUDA and driver, compares it with the {frames} class maps in expected/ and
keeps it here; after an update of any of them it is built and compared again. clst-run {name} --source camera:0 does
the same where it has to be. Without these or a GPU, model.onnx runs with ONNX Runtime:
clst-run {name}/model.onnx --source camera:0"""
BASELINE = """

rival.onnx is the same network as fp16. int8 is not faster on every GPU, so both become engines, both are timed on the
device, and int8 is used only where it is really faster; proof-*.json holds the measurements."""
COMMANDS = """\
With clst and {needs} installed:

    clst-doctor --verify {name}
    clst-run {name} --source camera:0 --out driven
    clst-eval {name} --data LABELLED

The first accepts it on a machine, the second segments a camera, the third measures it on labelled images.
`clst-export inspect FILE` prints this card, and that of an engine built of this file with its GPU and versions."""
_SPECIAL = re.compile(r"[\\`*\[<|]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")

Row = tuple[str, str]


def card_path(model: Path) -> Path:
    """`front.onnx` → `front.md`."""
    return model.with_suffix(".md")


def card(facts: Mapping[str, Any]) -> str:
    """The card of a file's or bundle's facts; of a path only its name is shown."""
    model = facts.get("model", facts)
    manifest, name = model["manifest"], _name(facts)
    adapted = "adaptation" in manifest["provenance"]
    kind = ", adapted to a new camera without its labels" if adapted else ""
    about = f"{literal(manifest['network'])} segments road images into {len(manifest['classes']['names'])} classes"
    sections = {
        "What it is": f"{_list(what_it_is(facts, model))}\n\n{_classes(manifest)}",
        "Made of": _list(made_of(manifest)),
        "Measured": _list([*_measured(model), *_proved(facts)]),
        "Run it": _commands(facts, name),
        "Limits": "\n".join(f"- {line}" for line in limits(manifest)),
        "Licence": f"{literal(manifest['provenance'].get('licence', 'not given'))}\n\n{OF_THE_IMAGES}",
    }
    text = "".join(f"\n## {title}\n\n{body}\n" for title, body in sections.items())
    return f"{_header(manifest, model['kind'], adapted=adapted)}\n# {literal(name)}\n\n{about}{kind}.\n{text}"


def _name(facts: Mapping[str, Any]) -> str:
    return printable(Path(facts["path"]).absolute().name)


def literal(text: str) -> str:
    """A text in Markdown as it is, also in a cell of a table: what would mark it up or end the cell is escaped."""
    return _SPECIAL.sub(r"\\\g<0>", text)


def _list(rows: Iterable[Row]) -> str:
    return "\n".join(f"- {literal(name)}: {literal(value)}" for name, value in rows)


def _header(manifest: Mapping[str, Any], kind: str, *, adapted: bool) -> str:
    tags = ["onnx" if kind == "ONNX" else "tensorrt", manifest["precision"], "semantic-segmentation"]
    provenance = manifest["provenance"]
    values: dict[str, Any] = {
        **_licence(provenance.get("licence", "")),
        "library_name": "clst",
        "pipeline_tag": "image-segmentation",
        "tags": [*tags, "domain-adaptation"] if adapted else tags,
    }
    if manifest["parity"].get("labelled") or {"source_miou", "adapted_miou"} & provenance.keys():
        values["metrics"] = ["mean_iou"]
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return "\n".join(["---", *lines, "---", ""])


def _licence(text: str) -> dict[str, str]:
    """The header's words for a licence."""
    if not text:
        return {}
    known = re.sub(r"\s+", "-", text.strip().lower())
    if known in LICENCES:
        return {"license": known}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "other"}


def what_it_is(facts: Mapping[str, Any], model: Mapping[str, Any]) -> list[Row]:
    """Kind, input and output of a model; `facts` is the model itself, or the bundle that it is in."""
    manifest = model["manifest"]
    size, shape = (sign.join(map(str, manifest["input_hw"])) for sign in ("x", ","))
    opset = f", opset {model['opset']}" if "opset" in model else ""
    mean, std = (", ".join(f"{value:g}" for value in manifest[key]) for key in ("mean", "std"))
    confidence = f"; confidence as a second one, 0 to 255{_divided(manifest)}" if manifest["has_confidence"] else ""
    found = [
        ("kind", f"{model['kind']}{opset}, {model['bytes'] / 2**20:.1f} MiB"),
        ("SHA-256", model["sha256"]),
        ("made for", _made_for(model)),
        ("network", f"{manifest['network']}, {manifest['precision']}"),
        ("input", f"{size} {manifest['colour_order']} uint8 1,{shape},3; frames of another size: {manifest['fit']}"),
        ("normalisation", f"inside, mean {mean}; std {std}; network in {manifest['channels'].upper()}"),
        ("output", f"class ids uint8 1,{shape}{confidence}"),
    ]
    for key in ("convolutions", "linear_layers"):
        if model.get(key):
            found.append((key.replace("_", " "), ", ".join(f"{count} {kind}" for kind, count in model[key].items())))
    if facts is not model:
        engines = f"; engines: {', '.join(facts['engines'])}" if facts["engines"] else ""
        found.insert(0, ("bundle", f"a bundle with {facts['frames']} frames to verify on{engines}"))
    return [row for row in found if row[1]]


def _divided(manifest: Mapping[str, Any]) -> str:
    """What its confidence is the softmax of, where that is not the logits themselves."""
    temperature = manifest["temperature"]
    return "" if temperature == 1 else f", by logits divided by {temperature:.3g}"


def _made_for(model: Mapping[str, Any]) -> str:
    if model["kind"] != "ONNX":
        return "the GPU and the versions below" if model["manifest"]["engine"] else ""
    if model["manifest"]["calibration"].get("target") == "cpu":
        return "ONNX Runtime on a CPU"
    return "ONNX Runtime; TensorRT 10.3 to 11.x, which builds an engine of it"


def _classes(manifest: Mapping[str, Any]) -> str:
    """A table of ids, names and colours, and of what each class reached where there were labels."""
    parity, names = manifest["parity"], manifest["classes"]["names"]
    cells = [["id", "class", "colour"], ["--:", "---", "---"]]
    cells += [
        [str(index), literal(each), "#{:02x}{:02x}{:02x}".format(*colour)]
        for index, (each, colour) in enumerate(zip(names, manifest["classes"]["colors"], strict=True))
    ]
    if parity.get("labelled"):
        reached = [_percent(parity.get("iou", {}).get(each, {}).get("model")) for each in names]
        cells = [[*row, iou] for row, iou in zip(cells, ["IoU in %", "--:", *reached], strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def made_of(manifest: Mapping[str, Any]) -> list[Row]:
    """Images, trainings, weights and versions that a model came from; what is not recorded is said so."""
    known = manifest["provenance"]
    others = f"{known['weights_file']}, SHA-256 {known.get('weights_sha256')}" if "weights_file" in known else ""
    versions = {**manifest["tool_versions"]}
    if "commit" in known and "clst" in versions:
        versions["clst"] += f" (commit {known['commit']})"
    rows = [
        ("labelled images of the old camera", known.get("source", MISSING)),
        ("unlabelled images of the new camera", known.get("target", MISSING if "adaptation" in known else "none")),
        ("training on the old camera", known.get("source_training", "by others" if others else MISSING)),
        ("adaptation to the new camera", known.get("adaptation", "none" if known else MISSING)),
        ("weights that others trained", others),
        ("pretrained weights", f"SHA-256 {known['pretrained_sha256']}" if "pretrained_sha256" in known else ""),
        ("package of the network", known.get("package", "")),
        ("classifier layer", known.get("head", "")),
        ("checkpoint", f"SHA-256 {manifest['source_checkpoint_sha256']}"),
        ("made with", ", ".join(f"{tool} {version}" for tool, version in versions.items())),
    ]
    return [row for row in rows if row[1]]


def _measured(model: Mapping[str, Any]) -> list[Row]:
    manifest = model["manifest"]
    known, parity = manifest["provenance"], manifest["parity"]
    rows = [("equal to PyTorch", agreement_text(parity))]
    if parity.get("labelled"):
        own, reference = (_percent(parity.get(key)) for key in ("miou", "reference_miou"))
        reached = f"{own} % on the same images, {reference} % in PyTorch"
        rows.append(("mIoU of this file", reached))
    if manifest["has_confidence"]:
        error = NOT_MEASURED if parity.get("ece") is None else f"{_percent(parity['ece'])} % on the same images"
        rows.append(("expected calibration error", error))
    rows.append(("mIoU in training, old network", known.get("source_miou", NOT_MEASURED)))
    if "adaptation" in known:
        rows.append(("mIoU in training, adapted network", known.get("adapted_miou", NOT_MEASURED)))
    if "ties" in parity:
        rows.append(("pixels that differ", _ties(parity["ties"])))
    for part in ("calibration", "engine"):
        rows += [(f"{part} {key}", _short(value)) for key, value in _selected(manifest[part]).items()]
    answer = manifest["build_check"]
    if answer:
        rows.append(("build check", describe_build_check(answer)))
    if "layers" in answer:
        rows.append(("build check layers", _short({each.lower(): count for each, count in answer["layers"].items()})))
    return rows


def agreement_text(parity: Mapping[str, Any]) -> str:
    """How many pixels of what are as in PyTorch."""
    if "agreement" not in parity:
        return NOT_MEASURED
    images = f" of {parity['images']}" if "images" in parity else ""
    text = f"{100 * parity['agreement']:.4f} % of the pixels of {parity.get('frames')} frames{images}"
    if "min_agreement" in parity.get("bounds", {}):
        text += f"; {100 * parity['bounds']['min_agreement']:g} % asked"
    return text if parity.get("holds", True) else f"{text}; refused"


def _ties(found: Mapping[str, Any]) -> str:
    untied = f"{found.get('untied_pixels')} of them without being ties of PyTorch's logits"
    return f"{found.get('differing_pixels')} of {found.get('frames')} frames, {untied}"


def _selected(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that are shown; `inspect --json` has all."""
    found = {key: value for key, value in facts.items() if key != FINGERPRINT}
    if "methods" in found:
        found["methods"] = {method: _method_text(comparison) for method, comparison in found["methods"].items()}
    return found


def _method_text(comparison: Mapping[str, Any]) -> str:
    agreement = f"{100 * comparison['agreement']:.3f} % of pixels equal"
    return f"{agreement} and mIoU {_percent(comparison['miou'])} %" if comparison["labelled"] else agreement


def _proved(facts: Mapping[str, Any]) -> list[Row]:
    """Of a bundle: what devices measured, and the file that its model is compared with."""
    rows = [("on a device", proof_text(proof)) for proof in facts.get("proofs", {}).values()]
    if facts.get("baseline") is not None:
        manifest = facts["baseline"]["manifest"]
        text = f"{_name(facts['baseline'])}, {manifest['precision']}, SHA-256 {facts['baseline']['sha256']}; "
        rows.append(("compared with", f"{text}equal to PyTorch: {agreement_text(manifest['parity'])}"))
    return rows


def proof_text(proof: Mapping[str, Any]) -> str:
    """What a device measured of a bundle's engines."""
    if "damaged" in proof:
        return f"{proof['damaged']}; the device makes it again"
    machine = proof["machine"]
    library = Library(machine["library"]).label
    device = (
        f"{describe_gpu(machine)}, {library} {machine['tensorrt']}, CUDA {machine['cuda']}, driver {machine['driver']}"
    )
    if not proof["engines"]:
        return f"{device}: not finished, at {proof['trying'][-1]}"
    return f"{device}: {proof['why']}; {proof['used'] or 'none'} is used"


def _commands(facts: Mapping[str, Any], name: str) -> str:
    if facts["kind"] != "bundle":
        needs = "its extras ort and headless" if facts["kind"] == "ONNX" else "its extras trt and headless"
        return COMMANDS.format(name=quote(name), needs=needs)
    library = Library(facts["options"].get("library", Library.TENSORRT))
    text = BUNDLE.format(name=quote(name), needs=NEEDS[library], frames=facts["frames"])
    return text if facts["baseline"] is None else text + BASELINE


def limits(manifest: Mapping[str, Any]) -> list[str]:
    """What must not be expected of a model by its manifest, a sentence each."""
    adapted = "adaptation" in manifest["provenance"]
    known, parity = manifest["provenance"], manifest["parity"]
    found = ["It knows the classes above; whatever else an image shows is put into one of them."]
    if adapted:
        doubt = "" if "adapted_miou" in known else ", and how good it is there was not measured"
        found.append(f"Training used no label of the new camera{doubt}.")
    warns = "; clst-run says when frames look like another camera's" if manifest["domain"] else ""
    found.append(f"What other cameras, places and weather do to it was not measured{warns}.")
    if manifest["has_confidence"]:
        fitted = manifest["temperature"] != 1
        made = "was fitted on training images" if fitted else "is the probability of the softmax as it is"
        found.append(f"Its confidence {made}; on other drives it may be too high.")
    if manifest["precision"] != "fp32" and "agreement" in parity:
        share = 100 * (1 - parity["agreement"])
        found.append(f"{manifest['precision']} rounds: {share:.4f} % of the compared pixels have another class.")
    if parity.get("images") == "synthetic scenes":
        found.append("It was compared with PyTorch on synthetic scenes, not on images of its camera.")
    return found


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.2f}"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(each)}" for key, each in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_short, value)) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
