"""The reference of the camera, measured at export by the graph that ships."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from clst_export.camera_reference import MOST_FRAMES, measured, reference_segments, spread_over
from clst_export.cli.export import main
from clst_export.pipeline import Inputs, Request, convert
from clst_export.precision import Precision
from clst_runtime.artifact.manifest import Manifest
from clst_runtime.artifact.onnx_metadata import read_onnx_manifest
from clst_runtime.backends.base import Prediction
from clst_runtime.backends.onnxruntime.session import OrtBackend
from clst_runtime.data.subsets import Subset
from clst_runtime.errors import DataError
from clst_runtime.imaging.geometry import Fit, fit_frame
from clst_runtime.imaging.image_files import write_png
from clst_runtime.live.monitor.drift import State
from clst_runtime.live.monitor.features import feature_names, frame_features
from clst_runtime.live.monitor.reference import LEAST_FRAMES, Reference
from clst_runtime.live.monitor.sink import MonitorSink
from clst_runtime.live.pipeline import Segmenter
from clst_runtime.sources.base import TimedFrame
from tests.conftest import rgb_manifest, write_rgb_model
from tests.unit.export.conftest import scene


@pytest.fixture(scope="module")
def checkpoint(narrow_checkpoint):
    return narrow_checkpoint


@pytest.fixture(scope="module")
def camera(tmp_path_factory):
    """A folder of 33 synthetic scenes."""
    folder = tmp_path_factory.mktemp("camera")
    for index in range(33):
        write_png(folder / f"{index:03d}.png", scene(index)[0])
    return folder


def test_a_small_set_is_one_stretch_and_a_large_one_eight_of_32_over_all_of_it():
    assert spread_over(5, 9) == [(0, 5)]
    assert spread_over(256, MOST_FRAMES) == [(0, 256)]
    runs = spread_over(1000, MOST_FRAMES)
    assert [end - begin for begin, end in runs] == [32] * 8
    assert (runs[0][0], runs[-1][1]) == (0, 1000)
    assert all(runs[place][1] <= runs[place + 1][0] for place in range(7))
    assert spread_over(10, 1) == [(0, 1)]


def test_stretches_are_read_in_their_order_and_only_when_asked_for(camera):
    (segment,), note = reference_segments([str(camera)], (64, 96))
    assert (len(segment), note) == (33, "")
    assert (segment[2] == scene(2)[0]).all()
    assert [frame.shape for frame in segment[1:3]] == [(64, 96, 3)] * 2
    later = Subset(segment.items, range(30, 33))
    assert [(a == scene(30 + place)[0]).all() for place, a in enumerate(later)] == [True] * 3
    with pytest.raises(IndexError):
        later[3]


def test_several_places_share_the_frames_by_their_size(camera, tmp_path, monkeypatch):
    write_png(tmp_path / "one.png", scene(99)[0])
    monkeypatch.setattr("clst_export.camera_reference.MOST_FRAMES", 32)
    segments, _ = reference_segments([str(camera), str(tmp_path / "one.png")], (64, 96))
    assert sum(map(len, segments)) == 31 // 8 * 8 + 1


def test_no_pictures_or_too_few_are_a_note_with_the_cure(tmp_path):
    segments, note = reference_segments([], (64, 96))
    assert (segments, note) == (
        [], "clst-run will not notice another camera: no images of this one; give --calib IMAGES"
    )  # fmt: skip
    write_png(tmp_path / "0.png", scene(0)[0])
    segments, note = reference_segments([str(tmp_path)], (64, 96))
    assert segments == []
    assert f"1 images of this one, {LEAST_FRAMES} needed" in note


def test_a_video_is_measured_once_a_second(tmp_path):
    import cv2

    path = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 2.0, (32, 16))
    for index in range(64):
        writer.write(np.full((16, 32, 3), 3 * index, np.uint8))
    writer.release()
    (segment,), _ = reference_segments([str(path)], (16, 32))
    assert len(segment) == 32
    assert [round(float(frame.mean()) / 3) for frame in segment[:4]] == [0, 2, 4, 6]


def test_the_reference_is_of_the_models_own_predictions(tmp_path):
    manifest = rgb_manifest()
    frames = [np.random.default_rng(index).integers(0, 256, (8, 16, 3), np.uint8) for index in range(32)]
    with OrtBackend(write_rgb_model(tmp_path / "m.onnx")) as backend:
        reference = measured(backend, [frames, []])
        expected = np.mean([frame_features(frame, backend.predict(frame), 3) for frame in frames], axis=0)
        with pytest.raises(DataError, match="31 images"):
            measured(backend, [frames[:31]])
    assert reference.spread.mean == pytest.approx(expected)
    assert reference.names == feature_names(manifest.classes.names, has_confidence=False)
    assert expected[-3:] == pytest.approx([np.sqrt(1 / 3)] * 3, abs=0.05)  # red, green and blue alike


@pytest.mark.parametrize("size_hw", [(24, 24), (6, 48), (1, 64)])
def test_driving_looks_at_just_what_the_reference_was_measured_on(tmp_path, size_hw):
    """Of a letterbox: the picture without its padding, and what the model says of it."""
    manifest = rgb_manifest(fit=Fit.LETTERBOX)
    pictures = [np.random.default_rng(index).integers(0, 256, (*size_hw, 3), np.uint8) for index in range(32)]
    for index, picture in enumerate(pictures):
        write_png(tmp_path / "camera" / f"{index:02d}.png", picture)
    segments, _ = reference_segments([str(tmp_path / "camera")], (8, 16), Fit.LETTERBOX)
    seen = []

    class Looking:
        took_last = False
        status = SimpleNamespace(state=State.UNKNOWN, words="")

        def look(self, frame, prediction):
            seen.append(frame_features(frame, prediction, 3))
            return self.status

    with OrtBackend(write_rgb_model(tmp_path / "m.onnx", manifest=manifest.to_json())) as backend:
        reference = measured(backend, segments)
        segmenter = Segmenter(backend, at_camera_size=False)
        watch = MonitorSink(Looking(), (8, 16), lambda timed: float(timed.index), fit=Fit.LETTERBOX)
        for index, picture in enumerate(pictures):
            watch.write(segmenter.segment(TimedFrame(index=index, image=picture, captured_ns=0, name="x")))
    assert len(seen) == 32
    assert reference.spread.mean == pytest.approx(np.mean(seen, axis=0))
    whole = [fit_frame(picture, (8, 16), Fit.LETTERBOX) for picture in pictures]
    padded = np.mean(
        [frame_features(frame, Prediction(classes=frame.argmax(2).astype(np.uint8)), 3) for frame in whole], 0
    )
    assert np.abs(padded - np.mean(seen, axis=0)).max() > 0.1  # with padding it would be another camera


def test_convert_writes_it_into_the_manifest_and_leaves_the_graph_alone(checkpoint, frames, camera, tmp_path):
    segments, _ = reference_segments([str(camera)], (64, 96))
    request = Request(precision=Precision.FP32, with_confidence=True)
    told = []
    plain = convert(checkpoint, tmp_path / "a.onnx", request, Inputs(frames=frames[:2]))
    done = convert(
        checkpoint, tmp_path / "b.onnx", request, Inputs(frames=frames[:2], reference=segments), log=told.append
    )
    assert plain.manifest.domain == {}
    manifest = read_onnx_manifest(tmp_path / "b.onnx")
    assert manifest.domain == done.manifest.domain
    assert manifest.model_sha256 == plain.manifest.model_sha256
    names = feature_names(manifest.classes.names, has_confidence=True)
    reference = Reference.from_json(manifest.domain, names)
    assert (reference.frames, told) == (33, ["measuring the camera on 33 frames"])
    with OrtBackend(tmp_path / "b.onnx") as backend:
        own = np.array([frame_features(scene(i)[0], backend.predict(scene(i)[0]), 10) for i in range(33, 49)])
        other = [scene(i, "old")[0] for i in range(33, 49)]
        others = np.array([frame_features(frame, backend.predict(frame), 10) for frame in other])
    assert reference.compare(own).shift < 1.2 < 1.5 < reference.compare(others).shift


def test_a_manifest_written_before_there_was_a_reference_is_still_read():
    older = json.loads(rgb_manifest().to_json())
    del older["domain"]
    assert Manifest.from_json(json.dumps(older), where="old.onnx").domain == {}


def test_the_command_takes_calib_for_fp32_and_says_when_there_is_none(checkpoint, camera, tmp_path):
    out = tmp_path / "m.onnx"
    call = [str(checkpoint), "--onnx", "fp32", "--out", str(out), "--count", "1"]
    done = CliRunner().invoke(main, [*call, "--calib", str(camera)])
    assert done.exit_code == 0, done.output
    assert "measuring the camera on 33 frames" in done.output
    assert read_onnx_manifest(out).domain["frames"] == 33
    done = CliRunner().invoke(main, [*call, "--overwrite"])
    assert done.exit_code == 0, done.output
    assert "will not notice another camera: no images of this one; give --calib IMAGES" in done.output
    assert read_onnx_manifest(out).domain == {}
