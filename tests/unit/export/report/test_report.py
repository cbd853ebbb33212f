"""Reports of a tiny run and of model files: what stands in them, that nothing leaves the file, and bad input."""

import hashlib
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clst_export.cli.report import main as clst_report
from clst_export.report.evidence import COMPARISON
from clst_export.tensorrt.bundle import write_bundle
from clst_runtime.classes.labels import ClassList
from clst_runtime.evaluation.acceptance.report import report_text
from clst_runtime.evaluation.acceptance.run import Acceptance, Plan, Status, Step
from clst_runtime.imaging.image_files import write_png
from clst_runtime.system.files.json_values import check_fields
from clst_train.config import MEAN, STD, Config
from clst_train.engine.run_folder import create_run
from clst_train.models.checkpoint import Checkpoint, save_checkpoint
from clst_train.models.networks import build_segmenter
from clst_train.recipes.recipe import config_from_mapping
from tests.conftest import RGB_CLASSES, SIZE_HW, rgb_manifest, write_labelled, write_rgb_model
from tests.support.command_line import call
from tests.unit.export.report.test_written import Page, check_alone

pytestmark = pytest.mark.usefixtures("narrow")
SECTIONS = [
    "summary", "adaptation", "data", "performance", "robustness", "deployment", "monitoring", "traceability", "limits",
]  # fmt: skip
NAMES = ("<b>red</b>", 'green|"&amp;', "`blue`*")
CLASSES = ClassList(name="rgb", names=NAMES, colours=RGB_CLASSES.colours)


def write_checkpoint(path, *, stage, seed):
    torch.manual_seed(seed)
    network = build_segmenter("ddrnet23_slim", 3)
    facts = {"source": "5 images of old", "target": "4 images of <new>", "adaptation": "3 steps"} if seed else {}
    content = {"network": "ddrnet23_slim", "classes": CLASSES, "input_hw": (64, 64), "mean": MEAN, "std": STD}
    save_checkpoint(
        path, Checkpoint(**content, stage=stage, iteration=1, segmenter_state=network.state_dict(), facts=facts)
    )
    return hashlib.sha256(path.read_bytes()).hexdigest()


def labelled(root, count=8):
    """Stripes by chance, in the very colours; the names of classes and of an image would break a page."""
    rng = np.random.default_rng(0)
    data = write_labelled(root, count=count, size_hw=(64, 64))
    (data / "classes.json").write_text(json.dumps(CLASSES.to_json()))
    for index in range(count):
        labels = rng.integers(0, 3, (8, 8), np.uint8).repeat(8, 0).repeat(8, 1)
        name = '<i>&"0' if index == 0 else str(index)
        for folder, pixels in (("labels", labels), ("images", np.eye(3, dtype=np.uint8)[labels] * 200)):
            (data / folder / "val" / f"{index}.png").unlink()
            write_png(data / folder / "val" / f"{name}.png", pixels)
    return data


@pytest.fixture(scope="module")
def made(narrow, tmp_path_factory):
    """A finished run with two exported files, labels, an acceptance of one of the files, a latency and notes."""
    here = tmp_path_factory.mktemp("report")
    data = labelled(here / "data")
    values = {"data": {"source": str(data), "source_split": "val", "target": [str(data / "images" / "val")]}}
    run = create_run(here / "runs" / "<front>", config_from_mapping(Config().to_mapping() | values, where="x"))
    write_checkpoint(run.source, stage="source", seed=0)
    sha256 = write_checkpoint(run.adapted, stage="adapted", seed=1)
    parity = {"images": "dusk", "frames": 3, "agreement": 0.5, "holds": False}
    for name, changes in {"a": {}, "b.rejected": {"parity": parity, "precision": "fp16"}}.items():
        manifest = rgb_manifest(classes=CLASSES, source_checkpoint_sha256=sha256, **changes)
        write_rgb_model(run.adapted.with_name(f"{name}.onnx"), manifest=manifest.to_json())
    write_rgb_model(run.adapted.with_name("of-another.onnx"))
    write_png(run.examples / "before_after.png", np.zeros((8, 3000, 3), np.uint8))
    write_png(run.path / "curves.png", np.zeros((8, 8, 3), np.uint8))
    (here / "accepted.md").write_text(acceptance(run.adapted.with_name("a.onnx"), sha256))
    (here / "latency.json").write_text(json.dumps(latency()))
    (here / "notes.txt").write_text("Taken in <May>.\nBy us.\n\nLicence: ours.\x07\n")
    return SimpleNamespace(here=here, run=run, data=data, sha256=sha256)


def acceptance(model, checkpoint_sha256):
    steps = [
        Step(name="file", values={"sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
                                  "manifest": {"checkpoint_sha256": checkpoint_sha256}}),
        Step(name="parity", status=Status.NOT_JUDGED, text="other <pictures>"),
        Step(name="latency", values={"host_to_host_ms": {"median": 2, "p99": 3.5}, "samples_ns": [1, 2]}),
    ]  # fmt: skip
    return report_text(Acceptance(plan=Plan(model=model), date="2026-11-29", steps=steps))


def latency(**more):
    entry = {"model": "far/a.onnx", "backend": "ORT", "engine_only_ms": {"median": 1.25, "max": 9}}
    entry |= {"engine_only_runs": 7, **more}
    return {"date": "today", "machine": {"cpu": "Z80"}, "frames": "noise", "results": [entry]}


@pytest.fixture(scope="module")
def whole(made):
    """The report of all of it, as HTML and Markdown, and what the command printed."""
    here, out = made.here, made.here / "whole.html"
    arguments = [made.run.path, "--val", made.data, "--acceptance", here / "accepted.md", "--latency",
                 here / "latency.json", "--notes", here / "notes.txt"]  # fmt: skip
    done = call(clst_report, *arguments, "--out", out)
    assert done.exit_code == 0, done.stderr
    text = out.with_suffix(".md").read_text()
    return SimpleNamespace(page=Page(out.read_text()), text=text, out=out, printed=done.stdout, arguments=arguments)


def test_it_is_one_file_with_every_section_whose_hash_is_printed(whole):
    check_alone(whole.page)
    assert whole.page.values("id") == SECTIONS
    for line, path in zip(whole.printed.splitlines(), (whole.out, whole.out.with_suffix(".md")), strict=True):
        assert line == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}"
    assert len(whole.page.values("src")) >= 2 + 4 * 4, "before and after, curves, and at least four images of four"


def test_names_of_classes_images_runs_and_devices_are_escaped(whole):
    for text in (*NAMES, 'images/val/<i>&"0.png', "Report of <front>", "other <pictures>", "Taken in <May>.\nBy us."):
        assert text in whole.page.text
    assert not {tag for tag, _ in whole.page.elements} & {"b", "may", "front", "pictures", "new"}
    assert "| \\<b>red\\</b> |" in whole.text
    assert "Licence: ours.\n" in whole.text


def test_it_says_how_good_it_is_what_was_exported_and_what_devices_said(whole, made):
    text = whole.text
    assert re.search(r"better|worse|unclear", text.split("## 1 Summary\n\n")[1])
    assert "on 8 images" in text
    assert re.search(r"- mIoU: [\d.]+ % \(95 % interval [\d.]+ to [\d.]+\); old network", text)
    assert "| a.onnx | fp32 | not measured |" in text
    assert re.search(
        r"\| b\.rejected\.onnx \| fp16 \| 50\.0000 % of the pixels of 3 frames of dusk; refused .*refused \|", text
    )
    assert "of-another.onnx" not in text
    assert re.search(r"\| a\.onnx, .*accepted\.md\) \| 2 \| 2\.00 \| – \| 3\.50 \| – \|", text)
    assert "| a.onnx, ORT, Z80, noise (latency.json; which network is not recorded) | 7 | 1.25 | – | – | 9.00 |" in text
    assert "accepted, but not judged: parity: a.onnx on" in text
    assert f"| network | checkpoints/adapted.pt | {made.sha256} |" in text


def test_labelled_images_that_the_training_has_read_are_told(whole):
    assert "- of these, learned from: 8, by their paths\n" in whole.text
    assert "- of these, adapted to: 8, by their paths\n" in whole.text
    assert "the scores below are of images that it knows" in whole.text


def test_it_claims_no_conformity(whole):
    assert "claims no conformity with them or with any other standard" in whole.page.text
    assert not re.search(r"(?<!no )conform", whole.page.text)


def test_the_same_evidence_gives_the_same_report_but_for_the_line_that_says_when(made, whole, monkeypatch, tmp_path):
    monkeypatch.setattr("clst_export.cli.report.made_now", lambda: "Made on another day.")
    out = tmp_path / "again.html"
    assert call(clst_report, *whole.arguments, "--out", out).exit_code == 0
    for one, other in ((whole.out, out), (whole.out.with_suffix(".md"), out.with_suffix(".md"))):
        lines = zip(one.read_text().splitlines(), other.read_text().splitlines(), strict=True)
        (differing,) = [(before, after) for before, after in lines if before != after]
        assert re.sub(r"Made [\d: -]+ by clst .*?\)\.", "Made on another day.", differing[0]) == differing[1]


def comparison(of_new=None, **more):
    """A run's `verdict.json`."""
    scores = {"miou": 0.5, "backend": "PyTorch", "model": "m", "iou": dict.fromkeys(NAMES, 0.5)}
    one = {"pixels": 3, "images": 2, "change_points": 1.0, "interval_points": [0.5, 2.0]}
    change = {"change_points": 1.0, "interval_points": None}
    values = {"verdict": "better", "text": "better: by a lot", "images": 2, "stretches": 2, "old": scores,
              "new": scores | (of_new or {}), "classes": dict.fromkeys(NAMES, one), "miou": change}  # fmt: skip
    return values | more


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (comparison(worse_classes=3), "worse_classes is 3, expected a list of classes"),
        (comparison(worse_classes=[["x"]]), "worse_classes is "),
        (comparison(of_new={"reliability": {"bins": []}}), "ece is missing"),
        (comparison(of_new={"reliability": {"bins": [], "ece": "x"}}), "ece is 'x', expected a number"),
        (comparison(of_new={"miou_interval": "ab"}), "miou_interval is 'ab', expected a list of 2 values"),
        (comparison(of_new={"iou_interval": None}), "iou_interval is None, expected an object"),
        (comparison(of_new={"iou_interval": {NAMES[0]: [1]}}), "expected a list of 2 values"),
    ],
)
def test_a_verdict_is_checked_in_every_value_that_the_report_shows(values, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        check_fields(values, COMPARISON)


def test_without_labels_it_shows_the_run_s_verdict_and_names_the_commands_for_what_is_missing(made, tmp_path):
    verdict = made.run.verdict
    verdict.write_text(json.dumps(comparison()))
    try:
        done = call(clst_report, made.run.path)
        assert (done.exit_code, done.stderr) == (0, "")
    finally:
        verdict.unlink()
    text = (made.run.path / "report.md").read_text()
    assert text.split("## 1 Summary\n\n")[1].startswith("better: by a lot\n")
    assert "Missing: What is taken for what was not measured: `clst-data pick " in text
    assert "`clst-doctor --verify " in text
    assert "| \\`blue\\`\\* | 50.0 | – | +1.0 | +0.5 to +2.0 | 50.0 | 2 |" in text


def test_an_estimate_without_labels_is_shown_as_a_doubt_and_not_as_a_measurement(made, tmp_path):
    run = shutil.copytree(made.run.path, tmp_path / "run")
    one = {"change_points": -1.0, "interval_points": [-3.0, 1.0]}
    values = {"verdict": "better", "text": "better: by about +2.0 points", "images": 40, "miou": one,
              "classes": dict.fromkeys(NAMES, one)}  # fmt: skip
    (run / "estimate.json").write_text(json.dumps(values))
    assert call(clst_report, run, "--overwrite").exit_code == 0
    text, page = (run / "report.md").read_text(), Page((run / "report.html").read_text())
    first, second, *_ = text.split("## 1 Summary\n\n")[1].split("\n\n")
    assert first == "How good it is on the new camera was not measured."
    assert second == "Estimated without labels: better: by about +2.0 points"
    assert {found.get("class") for _, found in page.elements} >= {"text doubt"}
    assert "text good" not in {found.get("class") for _, found in page.elements}
    assert "| verdict without labels | estimate.json |" in text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("verdict.json", b'{"verdict": "best"}', "verdict.json is damaged (verdict is 'best'"),
        ("verdict.json", b"", "verdict.json is damaged ("),
        ("estimate.json", b'{"verdict": "wor', "estimate.json is damaged ("),
        ("curves.png", None, "curves.png: not a readable image ("),
        ("curves.png", b"", "curves.png: not a readable image ("),
        ("examples/before_after.png", b"GIF", "before_after.png: not a readable image ("),
    ],
)  # fmt: skip
def test_what_is_damaged_in_a_run_s_folder_is_named_in_its_place_with_what_makes_it_again(
    made, tmp_path, name, content, words
):
    run = shutil.copytree(made.run.path, tmp_path / "run")
    (run / name).write_bytes((run / name).read_bytes()[:45] if content is None else content)
    assert call(clst_report, run, "--overwrite").exit_code == 0
    text = (run / "report.md").read_text()
    (line,) = [line for line in text.splitlines() if line.startswith("Missing: ") and words in line.replace("\\", "")]
    assert re.search(rf"\): `clst-train --resume {run}`$", line)


def test_a_log_that_cannot_be_read_is_told_in_the_place_of_its_hash(made, tmp_path, monkeypatch):
    def read(path):
        if path.name == "log.jsonl":
            raise PermissionError(13, "Permission denied")
        return "f" * 64

    monkeypatch.setattr("clst_export.report.about.file_sha256", read)
    (made.run.path / "log.jsonl").write_text("{}\n")
    assert call(clst_report, made.run.path, "--out", tmp_path / "r.html").exit_code == 0
    assert "| log of the run | log.jsonl | cannot be read: Permission denied |" in (tmp_path / "r.md").read_text()


def test_a_bundle_is_scored_by_its_onnx_file(tmp_path):
    bundle = tmp_path / "front"
    write_bundle(write_rgb_model(tmp_path / "m.onnx"), bundle, [np.zeros((*SIZE_HW, 3), np.uint8)])
    done = call(clst_report, bundle, "--val", write_labelled(tmp_path / "data"))
    assert done.exit_code == 0, done.stderr
    text = (tmp_path / "front.report.md").read_text()
    assert "mIoU 100.0 % on 3 images" in text
    assert "| model.onnx | fp32 |" in text


def test_names_that_are_no_utf_8_are_written_as_question_marks(made, tmp_path):
    run = shutil.copytree(made.run.path, tmp_path / "drive\udce9")
    done = call(clst_report, run, "--out", tmp_path / "r.html")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "r.md").read_text().startswith("# Report of drive?\n")


def test_a_model_alone_is_scored_without_an_old_one_and_its_report_lies_beside_its_card(tmp_path):
    model = write_rgb_model(tmp_path / "m.onnx")
    (tmp_path / "m.md").write_text("the card")
    done = call(clst_report, model, "--val", write_labelled(tmp_path / "data"))
    assert done.exit_code == 0, done.stderr
    text = (tmp_path / "m.report.md").read_text()
    assert "mIoU 100.0 % on 3 images" in text
    assert "| red | 100.0 | – | 3 |" in text
    assert "| green | – | – | 0 |" in text
    assert "- classes that no label has: green\n" in text
    assert "old network" not in text
    assert (tmp_path / "m.md").read_text() == "the card"


def unfinished(made, here):
    values = {"data": {"target": ["x"]}}
    run = create_run(here / "half", config_from_mapping(Config().to_mapping() | values, where="x"))
    write_checkpoint(run.source, stage="source", seed=0)
    return [run.path]


def no_acceptance(made, here):
    (here / "no.md").write_text("# Acceptance of nothing\n")
    return [made.run.path, "--acceptance", here / "no.md"]


def of_another(made, here):
    (here / "other.md").write_text(acceptance(made.run.adapted.with_name("a.onnx"), "f" * 64))
    return [made.run.path, "--acceptance", here / "other.md"]


def latency_of_another(made, here):
    (here / "other.json").write_text(json.dumps(latency(checkpoint_sha256="e" * 64)))
    return [made.run.path, "--latency", here / "other.json"]


def no_latency(made, here):
    (here / "no.json").write_text('{"results": 3}')
    return [made.run.path, "--latency", here / "no.json"]


def other_classes(made, here):
    return [made.run.path, "--val", write_labelled(here / "data")]


def existing(made, here):
    (here / "r.md").write_text("mine")
    return [made.run.path, "--out", here / "r.html"]


def over_an_input(made, here):
    (here / "r.md").write_text(acceptance(made.run.adapted.with_name("a.onnx"), made.sha256))
    return [made.run.path, "--acceptance", here / "r.md", "--out", here / "r.html", "--overwrite"]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (lambda made, here: [here / "nothing"], 4, "nothing: no such run or model file"),
        (lambda made, here: [here], 3, "is no run of clst-train: it has no config.toml"),
        (unfinished, 4, "half is not finished, it has no checkpoints/adapted.pt; go on with it: clst-train --resume"),
        (lambda made, here: [write_rgb_model(here / "m.onnx", manifest=None)], 4, "m.onnx"),
        (lambda made, here: [made.run.path, write_rgb_model(here / "m.onnx")], 4, "was exported from another"),
        (other_classes, 3, "only 0 have equal names"),
        (lambda made, here: [made.run.path, "--val", here / "no"], 3, "no: no such folder"),
        (no_acceptance, 3, "no.md is no acceptance of clst-doctor --verify"),
        (of_another, 3, "other.md is about another network (checkpoint SHA-256 ffffffffffff…)"),
        (latency_of_another, 3, "other.json is about another network (checkpoint SHA-256 eeeeeeeeeeee…)"),
        (no_latency, 3, "no.json is no result of clst-bench"),
        (existing, 3, "r.md exists; give --overwrite or another --out"),
        (over_an_input, 3, "r.md is something that the report is about"),
        (lambda made, here: [made.run.path, "--out", here / "r.pdf"], 3, "give a name that ends in .html"),
        (lambda made, here: [made.run.path, "--val-split", "val"], 2, "--val-split and --val-mapping are about --val"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_with_its_exit_code_and_leaves_nothing(made, tmp_path, arguments, code, words):
    given = arguments(made, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    out = [] if "--out" in given else ["--out", tmp_path / "out.html"]
    done = call(clst_report, *given, *out)
    assert done.exit_code == code, done.stderr
    assert words in done.stderr.splitlines()[-1]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
