"""The model card: its header as YAML, its rows by hand, and texts that would break either."""

import json
import re
from pathlib import Path

import pytest

from clst_export.card import card, card_path
from clst_export.inspection import facts_of
from clst_runtime.artifact.manifest import Manifest
from clst_runtime.classes.labels import ClassList
from tests.conftest import rgb_manifest, write_rgb_model

RUN = {
    "source": "703 images of idd, split train",
    "source_training": "8000 steps of 8 images, seed 1, 2026-11-28, clst 0.1.0 (commit 0123456789ab)",
    "source_miou": "41.20 % on 46 images of dusk, split val",
    "target": "300 images of dusk",
    "adaptation": "3000 steps of 4 images, seed 1, 2026-11-29, clst 0.1.0 (commit 0123456789ab)",
    "adapted_miou": "52.31 % on 46 images of dusk, split val",
    "pretrained_sha256": "a" * 64,
    "commit": "ba9876543210",
}
PARITY = {"images": "dusk", "frames": 16, "labelled": False, "agreement": 0.99987, "bounds": {"min_agreement": 0.999}}


def card_of(tmp_path: Path, **changes: object) -> str:
    return card(facts_of(write_rgb_model(tmp_path / "front.onnx", manifest=rgb_manifest(**changes).to_json())))


def header(text: str) -> dict[str, object]:
    """The front matter, which holds a JSON value a line: what a reader of YAML 1.2 makes of it."""
    _, lines, _ = text.split("---\n", 2)
    assert text.startswith("---\n")
    pairs = (re.fullmatch(r"([a-z_]+): (.*)", line) for line in lines.splitlines())
    return {pair[1]: json.loads(pair[2]) for pair in pairs}


def rows(text: str) -> dict[str, str]:
    return dict(line.removeprefix("- ").split(": ", 1) for line in text.splitlines() if re.match("- [^:]*: ", line))


def test_a_card_says_what_the_file_is_of_what_it_was_made_and_what_was_measured(tmp_path):
    made = {"clst": "0.1.0", "torch": "2.13.0"}
    text = card_of(tmp_path, provenance={**RUN, "licence": "CC BY-NC-SA 4.0"}, parity=PARITY, tool_versions=made)
    assert header(text) == {
        "license": "cc-by-nc-sa-4.0", "library_name": "clst", "pipeline_tag": "image-segmentation",
        "tags": ["onnx", "fp32", "semantic-segmentation", "domain-adaptation"], "metrics": ["mean_iou"],
    }  # fmt: skip
    assert "\n# front.onnx\n\nbrightest_channel segments road images into 3 classes, adapted to a new camera" in text
    assert "| id | class | colour |\n| --: | --- | --- |\n| 0 | red | #ff0000 |\n| 1 | green | #00ff00 |\n" in text
    told = rows(text)
    assert told["input"] == "8x16 RGB uint8 1,8,16,3; frames of another size: stretch"
    assert told["labelled images of the old camera"] == RUN["source"]
    assert told["unlabelled images of the new camera"] == RUN["target"]
    assert told["adaptation to the new camera"] == RUN["adaptation"]
    assert told["pretrained weights"] == f"SHA-256 {'a' * 64}"
    assert told["made with"] == "clst 0.1.0 (commit ba9876543210), torch 2.13.0"
    assert told["equal to PyTorch"] == "99.9870 % of the pixels of 16 frames of dusk; 99.9 % asked"
    assert told["mIoU in training, old network"] == RUN["source_miou"]
    assert told["mIoU in training, adapted network"] == RUN["adapted_miou"]
    assert "\n- Training used no label of the new camera.\n" in text
    assert "\n    clst-run front.onnx --source camera:0 --out driven\n" in text
    assert "\n## Licence\n\nCC BY-NC-SA 4.0\n" in text


def test_a_file_from_before_the_card_says_what_is_missing_and_invents_nothing(tmp_path):
    old = json.loads(rgb_manifest().to_json())
    del old["provenance"], old["parity"]
    assert Manifest.from_json(json.dumps(old), where="x").provenance == {}
    text = card(facts_of(write_rgb_model(tmp_path / "old.onnx", manifest=json.dumps(old))))
    assert header(text).keys() == {"library_name", "pipeline_tag", "tags"}
    told = rows(text)
    assert told["labelled images of the old camera"] == "not recorded"
    assert told["adaptation to the new camera"] == "not recorded"
    assert told["equal to PyTorch"] == told["mIoU in training, old network"] == "not measured"
    assert "adapted network" not in text
    assert "\n## Licence\n\nnot given\n" in text


def test_a_network_that_was_not_adapted_or_not_scored_says_so(tmp_path):
    told = rows(card_of(tmp_path, provenance={"source_training": "8000 steps"}))
    assert told["adaptation to the new camera"] == told["unlabelled images of the new camera"] == "none"
    text = card_of(
        tmp_path, provenance={"adaptation": "300 steps", "weights_file": "w.pth", "weights_sha256": "b" * 64}
    )
    assert "no label of the new camera, and how good it is there was not measured." in text
    assert rows(text)["training on the old camera"] == "by others"
    assert rows(text)["weights that others trained"] == f"w.pth, SHA-256 {'b' * 64}"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("CC BY 4.0", {"license": "cc-by-4.0"}),
        ('"Ours": all | rights #1, no: 5 %', {"license": "other", "license_name": "ours-all-rights-1-no-5"}),
        ("…", {"license": "other", "license_name": "other"}),
    ],
)
def test_a_licence_that_the_header_does_not_know_is_another_one_with_a_name(tmp_path, given, found):
    values = header(card_of(tmp_path, provenance={"licence": given}))
    assert {key: value for key, value in values.items() if key.startswith("license")} == found


def test_names_that_would_break_a_table_or_the_text_are_escaped(tmp_path):
    names = ("a|b", "`x` *y* _z_ traffic_sign", '<b>: "c" &lt; [d](e) \\')
    classes = ClassList(name="odd", names=names, colours=((0, 0, 0),) * 3)
    text = card_of(tmp_path, classes=classes, network="net:N?label='<i>|'", provenance={"licence": "a | *b*: <c>"})
    assert "\n| 0 | a\\|b | #000000 |\n" in text
    assert "\n| 1 | \\`x\\` \\*y\\* \\_z\\_ traffic_sign | #000000 |\n" in text
    assert '\n| 2 | \\<b>: "c" \\&lt; \\[d](e) \\\\ | #000000 |\n' in text
    assert "\n- network: net:N?label='\\<i>\\|', fp32\n" in text
    assert "\n## Licence\n\na \\| \\*b\\*: \\<c>\n" in text


def test_a_rounded_file_tells_its_limits(tmp_path):
    parity = {**PARITY, "images": "synthetic scenes", "holds": False}
    text = card_of(tmp_path, precision="fp16", parity=parity, has_confidence=True, domain={"frames": 3})
    assert "\n- fp16 rounds: 0.0130 % of the compared pixels have another class.\n" in text
    assert "\n- It was compared with PyTorch on synthetic scenes, not on images of its camera.\n" in text
    assert "\n- Its confidence is the probability of the softmax as it is; on other drives it may be" in text
    assert rows(text)["expected calibration error"] == "not measured"
    assert rows(text)["output"] == "class ids uint8 1,8,16; confidence as a second one, 0 to 255"
    assert "do to it was not measured; clst-run says when frames look like another camera's.\n" in text
    assert rows(text)["equal to PyTorch"].endswith("; refused")


def test_a_fitted_confidence_tells_its_temperature_and_where_there_were_labels_its_error(tmp_path):
    parity = {**PARITY, "labelled": True, "ece": 0.0123}
    text = card_of(tmp_path, parity=parity, has_confidence=True, temperature=1.25)
    assert rows(text)["output"].endswith("; confidence as a second one, 0 to 255, by logits divided by 1.25")
    assert rows(text)["expected calibration error"] == "1.23 % on the same images"
    assert "\n- Its confidence was fitted on training images; on other drives it may be too high.\n" in text
    assert "calibration error" not in card_of(tmp_path, temperature=1.25)


def test_a_card_shows_no_folder_of_this_machine(tmp_path):
    assert str(tmp_path) not in card_of(tmp_path, provenance=RUN)
    assert card_path(Path("here/front.fp16.onnx")) == Path("here/front.fp16.md")
