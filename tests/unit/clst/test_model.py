"""`clst.load_model`: camera images in, class maps of the same size out, one clear error for everything else."""

import logging
import sys
import threading

import numpy as np
import pytest

import clst
from clst.errors import ClstError, ConfigError, DataError, MissingDependency, ModelFileError
from clst.model import Model
from clst_export.tensorrt.bundle import write_bundle
from clst_runtime.backends.base import Prediction
from clst_runtime.cli.run import main as clst_run
from clst_runtime.imaging.geometry import Fit
from clst_runtime.imaging.image_files import read_label, write_png
from tests.conftest import SIZE_HW, rgb_manifest, write_rgb_model
from tests.support.command_line import call

RED, GREEN, BLUE = range(3)


def noise(size_hw, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size_hw, 3), np.uint8)


@pytest.fixture
def model(rgb_model):
    with clst.load_model(rgb_model) as opened:
        yield opened


class Fake:
    """A backend whose maps are those given; `segmenting` is called in each prediction."""

    description = "fake"

    def __init__(self, classes, confidence=None, *, segmenting=lambda: None, **manifest):
        self.prediction = Prediction(classes=classes, confidence=confidence)
        self.manifest, self.segmenting, self.closed = rgb_manifest(**manifest), segmenting, 0

    def predict(self, frame):
        assert frame.shape == (*SIZE_HW, 3)
        self.segmenting()
        return self.prediction

    def close(self):
        self.closed += 1


def test_a_camera_image_gives_a_class_of_each_of_its_pixels(model):
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, :30, 0] = image[:, 30:, 2] = 200
    result = model.segment(image)
    assert result.classes.shape == (20, 60)
    assert result.classes.dtype == np.uint8
    assert (result.classes[:, :28] == RED).all()
    assert (result.classes[:, 32:] == BLUE).all()
    assert result.confidence is None


def test_bgr_images_give_what_the_same_ones_in_rgb_give(model):
    image = noise((33, 47))
    swapped = model.segment(image[..., ::-1], color="bgr")
    np.testing.assert_array_equal(swapped.classes, model.segment(image).classes)


@pytest.mark.parametrize("size_hw", [SIZE_HW, (1, 1), (8, 17), (64, 16), (301, 7)])
def test_every_size_comes_back_at_that_size(model, size_hw):
    assert model.segment(noise(size_hw)).classes.shape == size_hw


def test_views_and_read_only_arrays_are_accepted(model):
    image = noise((16, 64))[::2, ::4]
    wanted = model.segment(image.copy()).classes
    image.flags.writeable = False
    np.testing.assert_array_equal(model.segment(image).classes, wanted)
    np.testing.assert_array_equal(model.segment(np.asfortranarray(image)).classes, wanted)


@pytest.mark.parametrize("size_hw", [SIZE_HW, (20, 60)])
def test_results_belong_to_the_caller(model, size_hw):
    """They may be changed, and the next call leaves them as they are."""
    image = noise(size_hw)
    first = model.segment(image).classes
    kept = first.copy()
    first.flat[0] = 9
    kept.flat[0] = 9
    model.segment(255 - image)
    np.testing.assert_array_equal(first, kept)
    assert model.segment(image).classes.flat[0] != 9


@pytest.mark.parametrize("fit", list(Fit))
def test_the_masks_are_those_of_clst_run(tmp_path, fit):
    path = write_rgb_model(tmp_path / "m.onnx", manifest=rgb_manifest(fit=fit).to_json())
    sizes = [(30, 50), (50, 30), SIZE_HW, (8, 5), (4, 16)]
    for index, size_hw in enumerate(sizes):
        write_png(tmp_path / f"in{index}" / "a.png", noise(size_hw, index))
        arguments = ("--source", tmp_path / f"in{index}", "--out", tmp_path / f"out{index}", "--masks", "--no-video")
        assert call(clst_run, path, *arguments).exit_code == 0
    with clst.load_model(str(path)) as model:
        for index, size_hw in enumerate(sizes):
            wanted = read_label(tmp_path / f"out{index}" / "masks" / "a.png")
            image = noise(size_hw, index)
            np.testing.assert_array_equal(model.segment(image).classes, wanted)
            np.testing.assert_array_equal(model.segment(image[..., ::-1], color="bgr").classes, wanted)


def test_confidence_comes_at_the_size_of_the_image_and_without_padding():
    """16x16 in 8x16: a letterbox shows it in columns 4-11."""
    classes = np.broadcast_to(np.arange(16, dtype=np.uint8), SIZE_HW)
    model = Model(Fake(classes, 10 * classes, fit=Fit.LETTERBOX, has_confidence=True), "fake")
    result = model.segment(noise((16, 16)))
    assert result.classes[0].tolist() == [4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11]
    np.testing.assert_array_equal(result.confidence, 10 * result.classes)


class Unreadable:
    """Has no array to give, as a tensor on a GPU."""

    def __array__(self, *arguments, **options):
        raise TypeError("not on this device")


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 16, 3), np.float32),
        np.zeros((8, 16), np.uint8),
        np.zeros((8, 16, 1), np.uint8),
        np.zeros((8, 16, 4), np.uint8),
        np.zeros((1, 8, 16, 3), np.uint8),
        np.zeros((3, 8, 16), np.uint8),
        np.zeros((0, 16, 3), np.uint8),
        np.zeros((8, 0, 3), np.uint8),
        np.broadcast_to(np.uint8(0), (1, 16385, 3)),
        None,
        "image.png",
        [[1], [1, 2]],
        Unreadable(),
    ],
    ids=lambda image: str(getattr(image, "shape", type(image).__name__)),
)
def test_what_is_no_camera_image_is_refused_with_its_shape(model, image):
    with pytest.raises(DataError, match=r"^image is .*; give "):
        model.segment(image)
    assert model.segment(noise((9, 9))).classes.shape == (9, 9)


@pytest.mark.parametrize("color", ["RGB", "gray", "nv12", "", None])
def test_another_colour_word_is_refused_with_those_that_are_known(model, color):
    with pytest.raises(ConfigError, match=r"^color .*known: bgr, rgb"):
        model.segment(noise((8, 16)), color=color)


def test_what_is_no_model_is_refused(tmp_path):
    for name, error, words in (
        ("none.onnx", ModelFileError, "no such model file"),
        ("a.txt", ModelFileError, "unknown kind of model file"),
        ("broken.onnx", ModelFileError, "damaged"),
        ("folder", ModelFileError, "folder"),
        ("foreign.onnx", ModelFileError, "manifest"),
    ):
        if name == "folder":
            (tmp_path / name).mkdir()
        elif name == "foreign.onnx":
            write_rgb_model(tmp_path / name, manifest=None)
        elif name != "none.onnx":
            (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(error, match=words) as caught:
            clst.load_model(tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("threads", [0, -1, 1.0, True, "2", 100_000])
def test_threads_are_a_whole_number_of_cores(rgb_model, threads):
    with pytest.raises(ConfigError, match=r"^threads = "):
        clst.load_model(rgb_model, threads=threads)


def test_an_unknown_backend_is_refused_with_the_nearest_name(rgb_model):
    with pytest.raises(ConfigError, match="did you mean 'ort-cpu'"):
        clst.load_model(rgb_model, backend="ort-cpus")


def test_a_checkpoint_needs_pytorch_which_is_said(tmp_path, monkeypatch):
    (tmp_path / "m.pt").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependency, match=r"pip install -e '\.\[train\]'"):
        clst.load_model(tmp_path / "m.pt")


def test_a_bundle_without_its_engine_names_the_file_that_runs_without_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    folder = tmp_path / "front"
    write_bundle(write_rgb_model(tmp_path / "m.onnx"), folder, [noise(SIZE_HW)])
    with pytest.raises(MissingDependency, match="tensorrt cannot be imported") as caught:
        clst.load_model(folder)
    assert str(folder / "model.onnx") in str(caught.value)
    with clst.load_model(folder, backend="ort-cpu") as model:
        assert model.segment(noise((4, 4))).classes.shape == (4, 4)


def test_after_its_end_a_model_says_so(rgb_model):
    with clst.load_model(rgb_model, threads=1, backend="ort-cpu") as model:
        assert model.manifest.classes.names == ("red", "green", "blue")
        assert "CPU" in model.description
    model.close()
    with pytest.raises(ClstError, match="was closed; load it again"):
        model.segment(noise((8, 16)))
    assert model.manifest.input_hw == SIZE_HW


def test_a_call_that_overlaps_another_one_is_refused_and_the_first_one_ends_well():
    inside, go_on, results = threading.Event(), threading.Event(), []

    def segmenting():
        inside.set()
        assert go_on.wait(10)

    backend = Fake(np.zeros(SIZE_HW, np.uint8), segmenting=segmenting)
    model = Model(backend, "front.onnx")
    thread = threading.Thread(target=lambda: results.append(model.segment(noise((4, 4)))))
    thread.start()
    assert inside.wait(10)
    for use in (lambda: model.segment(noise((4, 4))), model.close):
        with pytest.raises(ClstError, match=r"front.onnx is in use by another thread; load one model per thread"):
            use()
    go_on.set()
    thread.join(10)
    assert results[0].classes.shape == (4, 4)
    model.close()
    model.close()
    assert backend.closed == 1


def test_a_failed_call_leaves_the_model_usable():
    def failing():
        raise ClstError("the GPU is busy")

    backend = Fake(np.zeros(SIZE_HW, np.uint8), segmenting=failing)
    model = Model(backend, "fake")
    with pytest.raises(ClstError, match="busy"):
        model.segment(noise((4, 4)))
    backend.segmenting = lambda: None
    assert model.segment(noise((4, 4))).classes.shape == (4, 4)


def test_one_thread_may_load_and_another_one_segment(model):
    results = []
    thread = threading.Thread(target=lambda: results.append(model.segment(noise((4, 4)))))
    thread.start()
    thread.join(10)
    assert results[0].classes.shape == (4, 4)


def test_what_the_backend_warns_of_is_logged(monkeypatch, caplog):
    backend = Fake(np.zeros(SIZE_HW, np.uint8))
    backend.warnings = ["CUDA does not compute all of it"]
    monkeypatch.setattr("clst.model.open_model", lambda path, **options: backend)
    with caplog.at_level(logging.WARNING, logger="clst"):
        clst.load_model("m.onnx")
    assert caplog.messages == backend.warnings
