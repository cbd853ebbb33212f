"""The feature space: hand-made clouds whose distances can be counted, and the command on a tiny run."""

import json

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from clst_runtime.classes.labels import load_class_list
from clst_runtime.errors import DataError
from clst_train.cli.data import main as clst_data
from clst_train.engine.logger import SilentLogbook
from clst_train.engine.run import Run
from clst_train.engine.run_folder import create_run
from clst_train.inspection.feature_space import (
    Cloud,
    ProbeImage,
    Stage,
    cloud_of,
    common_plane,
    draw_feature_space,
    measure_gap,
)
from clst_train.models.deployable import normalise
from clst_train.models.networks import build_segmenter
from clst_train.models.normalisation import IMAGENET
from clst_train.models.segmenter import TrainingOutputs
from clst_train.recipes.recipe import config_from_mapping
from tests.conftest import write_labelled
from tests.support.command_line import call
from tests.support.miniature import drawn_cameras

pytestmark = pytest.mark.usefixtures("narrow")


def cloud(*points_of_classes):
    """A cloud from one list of points per class."""
    points = [point for points in points_of_classes for point in points]
    classes = [index for index, points in enumerate(points_of_classes) for _ in points]
    return Cloud(points=np.array(points, np.float32).reshape(len(points), -1), classes=np.array(classes, np.int64))


def test_the_ratio_is_that_of_distances_counted_by_hand():
    """Class 0: centres (0,0) and (0,3), 3 apart; class 1: (4,0) and (4,1), 1 apart: mean 2.

    Between classes: 4 in the source; (0,3)–(4,1) is √20 in the target: mean (4 + √20) / 2.
    """
    source = cloud([(-1, 0), (1, 0)], [(4, 0)])
    target = cloud([(0, 2), (0, 4)], [(4, 1)])
    gap = measure_gap(Stage(title="x", source=source, target=target), 2)
    assert gap.of_class.tolist() == [3.0, 1.0]
    assert gap.between_classes == pytest.approx((4 + np.sqrt(20)) / 2)
    assert gap.ratio == pytest.approx(4 / (4 + np.sqrt(20)))


def test_cameras_that_lie_on_each_other_have_no_gap():
    same = cloud([(0, 0)], [(1, 0)])
    assert measure_gap(Stage(title="x", source=same, target=same), 2).ratio == 0.0


def test_a_class_that_one_camera_lacks_is_left_out_on_both_sides():
    """Class 2 exists in the source only, far away: it must not stretch the distance between classes."""
    source, target = cloud([(0, 0)], [(2, 0)], [(100, 0)]), cloud([(0, 1)], [(2, 1)])
    gap = measure_gap(Stage(title="x", source=source, target=target), 3)
    assert gap.of_class[:2].tolist() == [1.0, 1.0]
    assert np.isnan(gap.of_class[2])
    assert gap.between_classes == 2.0
    assert gap.ratio == 0.5


def test_one_common_class_or_none_has_no_ratio():
    one = Stage(title="x", source=cloud([(0, 0)]), target=cloud([(1, 0)]))
    assert np.isnan(measure_gap(one, 1).ratio)
    none = Stage(title="x", source=cloud([(0, 0)], []), target=cloud([], [(1, 0)]))
    assert np.isnan(measure_gap(none, 2).ratio)


def test_the_plane_is_that_of_the_two_longest_directions():
    """Points on a line of length 8 along axis 1, 2 along axis 2, 0 elsewhere: all variance is in the plane."""
    source, target = cloud([(0, 4, 0), (0, -4, 0)]), cloud([(0, 0, 1), (0, 0, -1)])
    origin, axes, share = common_plane([Stage(title="x", source=source, target=target)])
    assert origin.tolist() == [0, 0, 0]
    assert axes == pytest.approx(np.array([[0, 1, 0], [0, 0, 1]]))
    assert share == pytest.approx(1.0)
    # a third direction of length 2·√2 takes 4 of 32 + 2 + 4
    third = Stage(title="x", source=source, target=cloud([(0, 0, 1), (0, 0, -1), (2**0.5, 0, 0), (-(2**0.5), 0, 0)]))
    assert common_plane([third])[2] == pytest.approx(36 / 38)


def test_too_few_points_make_no_plane():
    with pytest.raises(DataError, match="2 class means were found, a figure needs 3"):
        common_plane([Stage(title="x", source=cloud([(0, 0)]), target=cloud([(1, 1)]))])


class Colours(nn.Module):
    """A stand-in for a network whose features are the image's three channels; class = the strongest."""

    feature_channels, output_stride, class_count = 3, 1, 3
    normalisation = IMAGENET

    def __init__(self):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))

    def training_outputs(self, images):
        return TrainingOutputs(features=images, logits=images, auxiliary=None)


def test_points_are_means_of_unit_features_by_label_or_by_prediction():
    frame = np.zeros((2, 4, 3), np.uint8)
    frame[..., 0] = 255  # red everywhere: the strongest channel
    frame[:, 2:, 1] = 200
    labels = np.array([[0, 0, 1, 255]] * 2, np.uint8)
    features = normalise(torch.from_numpy(frame)[None], IMAGENET)[0].permute(1, 2, 0).numpy()
    unit = features / np.linalg.norm(features, axis=2, keepdims=True)
    found = cloud_of(Colours(), [ProbeImage(frame, labels)], minimum_pixels=2)
    assert found.classes.tolist() == [0, 1]
    assert found.points == pytest.approx(np.stack([unit[0, 0], unit[0, 2]]), abs=1e-6)
    predicted = cloud_of(Colours(), [ProbeImage(frame)], minimum_pixels=1)
    mean = unit.mean(axis=(0, 1))
    assert predicted.classes.tolist() == [0]
    assert predicted.points[0] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
    right = np.array([[False, False, True, True]] * 2)
    visible = cloud_of(Colours(), [ProbeImage(frame, ignored=right)], minimum_pixels=1)
    assert visible.points[0] == pytest.approx(unit[0, 0], abs=1e-6)


def test_nothing_labelled_or_too_few_pixels_give_an_empty_cloud_not_an_error():
    frame = np.zeros((2, 2, 3), np.uint8)
    ignored = np.full((2, 2), 255, np.uint8)
    for views in ([], [ProbeImage(frame, ignored)], [ProbeImage(frame, np.zeros((2, 2), np.uint8))]):
        found = cloud_of(Colours(), views, minimum_pixels=5)
        assert found.points.shape == (0, 3)
        assert np.isnan(found.centres(3)).all()


def test_a_picture_is_drawn_with_classes_that_a_camera_lacks(tmp_path):
    classes = load_class_list("scenes10")
    before = Stage(title="before", source=cloud([(0, 0), (1, 0)], [(3, 3)]), target=cloud([(0, 2)]))
    after = Stage(title="after", source=cloud([(0, 0)], [(3, 3)]), target=cloud([(0, 1)], [], [(3, 2)]))
    draw_feature_space(tmp_path / "deep" / "f.png", (before, after), classes)
    with Image.open(tmp_path / "deep" / "f.png") as picture:
        assert picture.width > 1200
        colours = {colour for _, colour in picture.convert("RGB").getcolors(2**24)}
    assert {classes.colours[0], classes.colours[1], classes.colours[2]} <= colours


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with a random network before and another after, without the hours between."""
    root = tmp_path_factory.mktemp("features")
    drawn_cameras(root, train=3, val=2)
    values = {
        "data": {"source": str(root / "old"), "target": [str(root / "new" / "images" / "train")]},
        "model": {"input_hw": [64, 96], "classes": "scenes10"},
    }
    config = config_from_mapping(values, where="x")
    folder = create_run(root / "run", config)
    from clst_train.models.checkpoint import save_checkpoint

    for seed, (stage, path) in enumerate((("source", folder.source), ("adapted", folder.adapted))):
        torch.manual_seed(seed)
        network = build_segmenter("ddrnet23_slim", 10)
        fields = {"config": config, "folder": folder, "classes": load_class_list("scenes10"), "segmenter": network}
        empty = {"source": [], "target": [], "logbook": SilentLogbook()}
        empty |= dict.fromkeys(("validation", "device", "autocast"))
        save_checkpoint(path, Run(**fields, **empty).checkpoint(stage, 1))
    return folder


def test_the_command_finds_a_run_s_own_images_and_draws(run):
    done = call(clst_data, "features", run.path)
    assert done.exit_code == 0, done.stderr
    assert "ratio" in done.stdout
    assert "own predictions" in done.stdout
    assert (run.path / "features.png").stat().st_size > 0


@pytest.mark.parametrize(("verdict", "warns"), [("worse", True), ("better", False)])
def test_where_the_verdict_is_worse_the_picture_and_standard_error_say_so(run, tmp_path, monkeypatch, verdict, warns):
    titles = []
    monkeypatch.setattr(Figure, "suptitle", lambda figure, text, **_: titles.append(text))
    run.verdict.write_text(json.dumps({"verdict": verdict, "text": "…", "miou": {"change_points": -3.456}}))
    try:
        done = call(clst_data, "features", run.path, "--count", 1, "--out", tmp_path / "f.png")
    finally:
        run.verdict.unlink()
    assert done.exit_code == 0, done.stderr
    line = "on labelled images the adapted network is worse, by 3.46 points of mIoU, whatever this shows"
    assert (f"warning: {line} ({run.verdict})" in done.stderr) == warns
    assert titles == ["Feature space of the two cameras" + f"\n{line}" * warns]


def test_labels_of_the_new_camera_are_used_only_when_they_are_given(run, tmp_path):
    new = run.path.parent / "new"
    done = call(clst_data, "features", run.path, "--labels", new, "--count", 2, "--out", tmp_path / "f.png", "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert values["labelled"] is True
    assert len(values["ratio"]) == 2
    assert all(value > 0 for value in values["ratio"])
    assert set(values["distance"]) == set(load_class_list("scenes10").names)
    assert values["picture"] == str(tmp_path / "f.png")


def test_the_old_camera_is_seen_with_its_own_statistics_after_adaptation(run):
    """Running statistics of the adapted network that fit nothing change the new camera's points, not the old one's."""
    from clst_train.inspection.run_features import stages_of_run
    from clst_train.models.checkpoint import load_checkpoint

    _, plain, _ = stages_of_run(run.path, count=2)
    content = torch.load(run.adapted, weights_only=True)
    whole = run.adapted.read_bytes()
    name = next(name for name in content["segmenter_state"] if name.endswith("running_mean"))
    content["segmenter_state"][name] += 5.0
    torch.save(content, run.adapted)
    try:
        assert load_checkpoint(run.adapted).stage == "adapted"
        _, moved, _ = stages_of_run(run.path, count=2)
    finally:
        run.adapted.write_bytes(whole)
    assert np.array_equal(plain.source.points, moved.source.points)
    assert not np.array_equal(plain.target.points, moved.target.points)


def test_what_cannot_be_drawn_is_said_in_one_line(run, tmp_path):
    write_labelled(tmp_path / "other", split="val")
    create_run(tmp_path / "unfinished", config_from_mapping({}, where="x"))
    cases = [
        ((tmp_path,), "is no run of clst-train"),
        ((tmp_path / "unfinished",), "source.pt is missing"),
        ((run.path, "--labels", tmp_path / "other"), "only 0 have equal names"),
        ((run.path, "--source", tmp_path / "none"), "no such folder"),
        ((run.path, "--target", tmp_path / "none"), "no such folder"),
    ]
    for arguments, words in cases:
        done = call(clst_data, "features", *arguments, "--out", tmp_path / "f.png")
        assert (done.exit_code, words in done.stderr) == (3, True), (arguments, done.stderr)
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert not (tmp_path / "f.png").exists()
