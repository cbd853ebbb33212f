"""Old and new model on the same labels: changes counted by hand, what is clear about them, and what ends with 6."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from clst_runtime.backends.base import Prediction
from clst_runtime.classes.labels import ClassList
from clst_runtime.cli.evaluate import main as clst_eval
from clst_runtime.data.dataset import open_dataset
from clst_runtime.errors import ConfigError
from clst_runtime.evaluation import evaluate
from clst_runtime.evaluation.change import Bounds, Verdict, change_of, check_comparable, measure_change
from clst_runtime.imaging.image_files import write_png
from tests.conftest import RGB_CLASSES, rgb_manifest, write_labelled, write_rgb_model
from tests.support.command_line import call

RED, GREEN, BLUE = range(3)
NO_STRETCH_TWICE = np.arange(6)


def image(*, right, wrong, absent=False):
    """Sums 3,C of an image with ten red pixels, `wrong` of which are taken for green, and ten blue ones, all right."""
    red = 0 if absent else right + wrong
    return np.array([[0 if absent else right, 0, 10], [red, 0, 10], [0 if absent else right, wrong, 10]])


GOOD, HALF, BAD = (image(right=n, wrong=10 - n) for n in (10, 5, 0))
NO_RED = image(right=0, wrong=0, absent=True)


def change(old, new, stretches=NO_STRETCH_TWICE):
    return change_of(np.stack(old), np.stack(new), stretches, RGB_CLASSES)


def test_a_gain_that_is_alike_in_every_image_is_better_and_its_interval_has_no_width():
    """Red from 5/10 to 10/10, blue 1; green, which no label has, is left out though the old model says it."""
    found = change([HALF] * 6, [GOOD] * 6)
    assert found.verdict is Verdict.BETTER
    assert found.old.iou[[RED, BLUE]].tolist() == [0.5, 1]
    assert np.isnan(found.old.iou[GREEN])
    assert (found.old.miou, found.new.miou, found.miou_points) == (0.75, 1, 25)
    assert (found.old.pixel_accuracy, found.new.pixel_accuracy) == (0.75, 1)
    assert (found.interval, found.intervals) == ((25, 25), ((50, 50), None, (0, 0)))
    assert (found.pixels.tolist(), found.images_with.tolist()) == ([60, 0, 60], [6, 0, 6])
    assert found.text() == "better: mIoU changes by +25.00 points (95 % interval +25.00 to +25.00), on 6 images"
    assert found.failures(Bounds()) == []


def test_a_loss_is_worse_and_names_the_class_that_loses():
    found = change([GOOD] * 6, [HALF] * 6)
    assert (found.verdict, found.worse_classes) == (Verdict.WORSE, ["red"])
    assert found.failures(Bounds()) == [found.text()]
    assert found.text().endswith("on 6 images; worse classes: red -50.00")


def test_a_gain_in_some_images_and_a_loss_in_others_is_unclear():
    found = change([HALF] * 6, [GOOD, BAD] * 3)
    assert (found.verdict, found.miou_points) == (Verdict.UNCLEAR, 0)
    low, high = found.interval
    assert -25 <= low < 0 < high <= 25
    assert found.failures(Bounds()) == []


def test_an_interval_that_reaches_0_is_unclear():
    """One of six gains: a third of the resamples lack it."""
    found = change([HALF] * 6, [GOOD] + [HALF] * 5)
    assert (found.verdict, found.interval[0], found.miou_points) == (Verdict.UNCLEAR, 0, pytest.approx(25 / 6))


@pytest.mark.parametrize(
    ("count", "text"), [(1, "only 1 independent stretch in"), (4, "only 4 independent stretches in")]
)
def test_few_stretches_have_no_interval_and_no_verdict_however_large_the_change(count, text):
    found = change([GOOD] * 6, [BAD] * 6, np.arange(6) % count)
    assert (found.verdict, found.interval, found.intervals) == (Verdict.UNCLEAR, None, (None,) * 3)
    assert text in found.text()
    assert found.miou_points == -50
    assert found.failures(Bounds(max_drop=99)) == [
        "IoU of red falls by 100.00 points, from 100.00 to 0.00 %; at most 99 allowed"
    ]


def test_images_of_one_stretch_are_drawn_together():
    """Thirty images, a third of them better, all in two of six stretches: as two of six."""
    stretches = np.arange(30) // 5
    found = change([HALF] * 30, [GOOD] * 10 + [HALF] * 20, stretches)
    assert found.interval == change([HALF] * 6, [GOOD] * 2 + [HALF] * 4).interval
    assert change([HALF] * 30, [GOOD] * 10 + [HALF] * 20, np.arange(30)).interval[0] > found.interval[0]
    assert "on 30 images in 6 stretches, as neighbours show the same scene" in found.text()


def test_a_class_of_fewer_than_five_stretches_has_a_change_but_no_interval():
    found = change([HALF] * 4 + [NO_RED] * 4, [GOOD] * 4 + [NO_RED] * 4, np.arange(8))
    assert (found.points[RED], found.intervals[RED], found.images_with[RED]) == (50, None, 4)
    assert found.interval is not None


def test_a_resample_without_a_class_is_the_mean_of_the_others_for_both_models():
    """Red is lost in the one image of twelve that has it; a third of the resamples have blue alone, as before."""
    found = change([GOOD] + [NO_RED] * 11, [BAD] + [NO_RED] * 11, np.arange(12))
    assert (found.miou_points, found.interval) == (-50, (-50, 0))


def test_equal_scores_in_every_image_are_no_change_and_have_no_interval():
    found = change([HALF] * 6, [HALF] * 6)
    assert (found.verdict, found.interval) == (Verdict.NO_CHANGE, None)
    assert found.text() == "no change: both models score the same on each of 6 images"


def test_each_model_s_own_scores_have_intervals_too_even_where_nothing_changes():
    """Of six images three have red at 1 and three at 0; blue is 1 in each."""
    found = change([GOOD, BAD] * 3, [GOOD, BAD] * 3)
    assert (found.new.miou, found.new.interval, found.old.interval) == (0.75, found.old.interval, found.new.interval)
    low, high = found.new.interval
    assert 0.5 <= low < 0.75 < high <= 1
    assert found.new.intervals[1:] == (None, (1, 1)), "green is in no label"
    assert found.new.intervals[RED] == (pytest.approx(2 * low - 1), pytest.approx(2 * high - 1))
    assert change([GOOD] * 4, [BAD] * 4, np.arange(4)).new.interval is None


def test_bounds_are_of_the_new_model_and_of_the_classes_that_are_named():
    found = change([GOOD] * 6, [image(right=8, wrong=2)] * 6, np.zeros(6, int))  # red 80 %, mIoU 90 %
    assert found.failures(Bounds(min_miou=90, max_drop=20)) == []
    assert found.failures(Bounds(max_drop=19, safety=("blue",))) == []
    assert found.failures(Bounds(min_miou=91, max_drop=19)) == [
        "mIoU is 90.00 %, at least 91 % asked",
        "IoU of red falls by 20.00 points, from 100.00 to 80.00 %; at most 19 allowed",
    ]


def test_a_safety_class_that_no_image_has_does_not_pass():
    found = change([GOOD] * 6, [GOOD] * 6)
    assert found.failures(Bounds(max_drop=1)) == []
    (failure,) = found.failures(Bounds(max_drop=1, safety=("green", "red")))
    assert failure.startswith("no image has green")


def test_safety_classes_without_a_drop_are_refused():
    with pytest.raises(ConfigError, match="give --max-drop, too"):
        Bounds(safety=("red",))


def named(*names):
    return ClassList(name="n", names=names, colours=((0, 0, 0),) * len(names))


def test_the_first_class_that_one_model_lacks_is_named():
    check_comparable(named("a", "b"), named("b", "a"))
    with pytest.raises(ConfigError, match=r"the new model has no class 'b', the other one has \(3 classes and 2\)"):
        check_comparable(named("a", "b", "c"), named("d", "a"))
    with pytest.raises(ConfigError, match="the old model has no class 'c'"):
        check_comparable(named("a"), named("a", "c"))


class Says:
    """A model that takes every pixel for one class."""

    description = "says"

    def __init__(self, class_id, classes=RGB_CLASSES):
        self.class_id, self.manifest, self.seen = class_id, rgb_manifest(classes=classes), 0

    def predict(self, frame):
        self.seen += 1
        return Prediction(classes=np.full(frame.shape[:2], self.class_id, np.uint8))


def test_each_image_is_read_once_and_seen_by_both_models_once(tmp_path, monkeypatch):
    data = open_dataset(write_labelled(tmp_path), split="val", classes=RGB_CLASSES)
    read, old, new = [], Says(RED), Says(BLUE)
    from clst_runtime.data import dataset

    real = dataset.read_image
    monkeypatch.setattr(dataset, "read_image", lambda path: read.append(path.name) or real(path))
    seen = []

    def see(sample, predictions):
        seen.append((sample.name, [int(each.classes[0, 0]) for each in predictions]))

    found = measure_change(old, new, data, see)
    assert seen[0] == ("images/val/0.png", [RED, BLUE])
    assert (read, old.seen, new.seen) == (["0.png", "1.png", "2.png"], 3, 3)
    assert (found.old.iou[RED], found.new.iou[RED]) == (pytest.approx(63 / 127), 0)
    assert measure_change(old, old, data).verdict is Verdict.NO_CHANGE
    assert old.seen == 6


def test_classes_in_another_order_are_compared_by_name(tmp_path):
    data = open_dataset(write_labelled(tmp_path), split="val", classes=RGB_CLASSES)
    assert measure_change(Says(RED), Says(2, named("blue", "green", "red")), data).verdict is Verdict.NO_CHANGE


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Eight images of stripes by chance, a model that sees them as they are, and one that sees BGR."""
    here, random = tmp_path_factory.mktemp("given"), np.random.default_rng(0)
    data = write_labelled(here / "data", count=8, size_hw=(32, 64))
    for index in range(8):
        labels = random.integers(0, 3, (32, 64), np.uint8)[::4, ::4].repeat(4, 0).repeat(4, 1)
        write_png(data / "labels" / "val" / f"{index}.png", labels)
        write_png(data / "images" / "val" / f"{index}.png", np.eye(3, dtype=np.uint8)[labels] * 200)
    return SimpleNamespace(
        data=data, right=write_rgb_model(here / "right.onnx"), wrong=write_rgb_model(here / "wrong.onnx", swapped=True)
    )


def test_the_right_model_is_better_and_the_other_way_round_ends_with_6(given):
    done = call(clst_eval, given.wrong, given.right, "--data", given.data)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("better: mIoU changes by +")
    assert done.stdout.splitlines()[-1].endswith("on 8 images")
    done = call(clst_eval, given.right, given.wrong, "--data", given.data, "--max-drop", 1, "--safety", "red, green")
    assert done.exit_code == 6
    worse, *drops = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert worse.startswith("error: worse: mIoU changes by -")
    assert [line.split(" falls")[0] for line in drops] == ["error: IoU of red"]


def test_json_has_everything_alone_on_standard_output(given):
    done = call(clst_eval, given.right, given.wrong, "--data", given.data, "--min-miou", 99, "--json")
    values = json.loads(done.stdout)
    assert done.exit_code == 6
    assert (values["verdict"], values["images"], values["stretches"]) == ("worse", 8, 8)
    assert (values["old"]["miou"], values["old"]["model"]) == (1.0, str(given.right))
    assert values["new"]["iou"]["green"] == 1.0
    assert values["classes"]["red"]["images"] == 8
    assert values["classes"]["red"]["interval_points"][1] < 0
    assert values["miou"]["change_points"] == pytest.approx(100 / 3 - 100), "red and blue are lost, green is not"
    assert values["miou"]["interval_points"] == [pytest.approx(100 / 3 - 100)] * 2, "in each image"
    assert [text.split()[0] for text in values["failures"]] == ["worse:", "mIoU"]


def test_a_copy_of_the_same_file_is_no_change_and_runs_once(given, tmp_path):
    copy = tmp_path / "copy.onnx"
    copy.write_bytes(given.right.read_bytes())
    done = call(clst_eval, given.right, copy, "--data", given.data)
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (
        0,
        "no change: both models score the same on each of 8 images",
    )


def test_a_smallest_miou_holds_for_one_model_too(given):
    assert call(clst_eval, given.right, "--data", given.data, "--min-miou", 100).exit_code == 0
    done = call(clst_eval, given.wrong, "--data", given.data, "--min-miou", 99.5)
    assert done.exit_code == 6
    assert done.stderr.splitlines()[-1].endswith("at least 99.5 % asked")


def one_class(given, root):
    data = write_labelled(root, count=2, size_hw=(8, 16))
    for index in range(2):
        write_png(data / "labels" / "val" / f"{index}.png", np.full((8, 16), GREEN, np.uint8))
    return data


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--max-drop", "1", "--safety", "gren"), "--safety: no class 'gren'; did you mean 'green'?"),
        (("--safety", "red"), "give --max-drop, too"),
        (("--data", "{one_image}"), "1 image; two models"),
        (("--data", "{one_class}"), "have green only, of which mIoU says little"),
    ],
)
def test_bad_input_ends_with_3_before_any_inference(given, tmp_path, monkeypatch, arguments, words):
    monkeypatch.setattr(evaluate, "prediction_at", None)
    monkeypatch.setattr("clst_runtime.evaluation.change.prediction_at", None)
    places = {"one_image": write_labelled(tmp_path / "a", count=1), "one_class": one_class(given, tmp_path / "b")}
    chosen = [word.format(**places) for word in arguments]
    done = call(clst_eval, given.right, given.wrong, "--data", given.data, *chosen)
    assert done.exit_code == 3, done.stderr
    assert words in done.stderr.splitlines()[-1]


def test_a_largest_drop_of_one_model_and_models_of_other_classes_end_with_3(given, tmp_path):
    done = call(clst_eval, given.right, "--data", given.data, "--max-drop", 1)
    assert (done.exit_code, done.stderr) == (
        3,
        "error: --max-drop is from an old model to a new one; give both, old first\n",
    )
    other = write_rgb_model(tmp_path / "o.onnx", manifest=rgb_manifest(classes=named("red", "green", "sky")).to_json())
    done = call(clst_eval, given.right, other, "--data", given.data)
    assert done.exit_code == 3
    assert "the new model has no class 'blue'" in done.stderr.splitlines()[-1]
