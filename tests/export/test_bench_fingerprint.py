"""What an export stores so that a benchmark and an acceptance can tell that they run the model that was judged."""

from clst_export.convert import Material, Request, convert
from clst_export.inspection import describe, facts_of
from clst_export.precision import Precision
from clst_runtime.backends.ort import OrtBackend
from clst_runtime.fingerprint import compare_fingerprint, known_frames, stored_fingerprint


def test_an_exported_file_knows_what_it_said_to_its_frames(checkpoint, frames, tmp_path):
    out = tmp_path / "m.onnx"
    convert(checkpoint, out, Request(precision=Precision.FP32), Material(frames=frames[:3]))
    with OrtBackend(out) as backend:
        stored = stored_fingerprint(backend.manifest, where="m.onnx")
        assert len(stored.frames_sha256) == 3
        assert [sum(counts) for counts in stored.class_pixels] == [64 * 96] * 3
        tie = compare_fingerprint(backend, stored, known_frames(frames, stored.frames_sha256))
        assert tie.is_tied
        other = compare_fingerprint(backend, stored, known_frames(frames[3:], stored.frames_sha256))
        assert (other.found, other.is_tied) == (0, False)
    assert stored.frames_sha256[0] not in describe(facts_of(out))
