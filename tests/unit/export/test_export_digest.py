"""What an export stores so that a benchmark and an acceptance can recognise the verified model."""

from clst_export.card import card
from clst_export.inspection import facts_of
from clst_export.pipeline import Inputs, Request, convert
from clst_export.precision import Precision
from clst_runtime.backends.onnxruntime.session import OrtBackend
from clst_runtime.evaluation.export_digest import compare_with_digest, known_frames, stored_digest


def test_an_exported_file_knows_what_it_said_to_its_frames(checkpoint, frames, tmp_path):
    out = tmp_path / "m.onnx"
    convert(checkpoint, out, Request(precision=Precision.FP32), Inputs(frames=frames[:3]))
    with OrtBackend(out) as backend:
        stored = stored_digest(backend.manifest, where="m.onnx")
        assert len(stored.frames_sha256) == 3
        assert [sum(counts) for counts in stored.class_pixels] == [64 * 96] * 3
        tie = compare_with_digest(backend, stored, known_frames(frames, stored.frames_sha256))
        assert tie.is_equal
        other = compare_with_digest(backend, stored, known_frames(frames[3:], stored.frames_sha256))
        assert (other.found, other.is_equal) == (0, False)
    assert stored.frames_sha256[0] not in card(facts_of(out))


def test_parity_is_told_in_a_few_words_and_as_json_whole(rgb_model):
    iou = {"red": {"reference": 1.0, "model": 0.5}, "blue": {"reference": None, "model": None}}
    comparison = {
        "frames": 2,
        "labelled": False,
        "agreement": 0.9912345,
        "reference_miou": 1.0,
        "miou": 0.75,
        "iou": iou,
    }
    facts = facts_of(rgb_model)
    facts["manifest"]["parity"] = comparison
    facts["manifest"]["calibration"] = {"methods": {"max": comparison, "entropy": {**comparison, "labelled": True}}}
    told = card(facts)
    assert "- equal to PyTorch: 99.1235 % of the pixels of 2 frames\n" in told
    methods = "max 99.123 % of pixels equal, entropy 99.123 % of pixels equal and mIoU 75.00 %"
    assert f"- calibration methods: {methods}\n" in told
    assert "mIoU of this file" not in told
    facts["manifest"]["parity"]["labelled"] = True
    assert "- mIoU of this file: 75.00 % on the same images, 100.00 % in PyTorch\n" in card(facts)
    assert "| 0 | red | #ff0000 | 50.00 |\n| 1 | green | #00ff00 | unknown |\n" in card(facts)
    assert comparison["miou"] == 0.75, "the JSON values stay as they are"
