"""The shipped recipes: their values, and the literature's data sets in miniature from training to evaluation."""

import json
import shutil

import numpy as np
import pytest
import torch

from clst_runtime.backends.base import Prediction
from clst_runtime.classes.labels import load_class_list
from clst_runtime.cli.evaluate import main as clst_eval
from clst_runtime.data.dataset import open_dataset
from clst_runtime.evaluation.evaluate import EvaluationResult, evaluate
from clst_runtime.imaging.geometry import Fit
from clst_runtime.imaging.image_files import read_label
from clst_train.cli.train import main as clst_train
from clst_train.engine.options import configure
from clst_train.models.built_in.deeplab import DeepLabV2
from clst_train.models.checkpoint import load_checkpoint
from tests.conftest import write_labelled
from tests.support.command_line import call
from tests.support.miniature import write_cityscapes, write_gta5, write_synthia

pytestmark = pytest.mark.usefixtures("narrow", "no_pictures")
TINY = (
    *("--set", "source.iterations=1", "--set", "adaptation.iterations=1", "--set", "run.precision=fp32"),
    *("--set", "model.input_hw=[32,64]", "--set", "augmentation.crop_hw=[32,32]"),
)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("literature")
    return {
        "gta5": write_gta5(root / "gta5"),
        "synthia": write_synthia(root / "synthia"),
        "cityscapes": write_cityscapes(root / "cityscapes"),
    }


@pytest.mark.parametrize(("name", "classes"), [("gta5_to_cityscapes", 19), ("synthia_to_cityscapes", 16)])
def test_the_literature_s_settings_are_what_the_recipes_ship(name, classes):
    config = configure(name, {})
    assert (config.model.input_hw, config.crop_hw) == ((512, 1024), (512, 512))
    assert config.model.network == "deeplabv2_resnet101"
    assert len(load_class_list(config.model.classes)) == classes
    assert config.data.source_split == "all"
    assert (config.source.batch, config.adaptation.batch) == (2, 2)
    assert 40_000 <= config.source.iterations + config.adaptation.iterations <= 90_000
    assert config.augmentation.scale == (1.0, 1.0)


def test_a_new_camera_is_learnt_with_the_real_time_network():
    config = configure("new_camera", {})
    assert (config.model.network, config.model.pretrained) == ("efficientnet_lite0", "auto")
    assert not config.model.classes, "the classes are those of the user's own labels"
    assert all(edge % 64 == 0 for edge in (*config.model.input_hw, *config.crop_hw)), "also DDRNet's deepest stride"
    assert all(crop < whole for crop, whole in zip(config.crop_hw, config.model.input_hw, strict=True))
    assert config.source.iterations >= 2 * config.adaptation.iterations


# The second run takes the small network: the large one writes a gigabyte and is the same after the class list.
@pytest.mark.parametrize(
    ("source", "classes", "network"), [("gta5", 19, "deeplabv2_resnet101"), ("synthia", 16, "ddrnet23_slim")]
)
def test_a_recipe_goes_from_the_original_folders_to_a_table(places, tmp_path, source, classes, network):
    city = places["cityscapes"]
    recipe, out = f"{source}_to_cityscapes", tmp_path / "run"
    arguments = ("--source", places[source], "--target", city, "--val", city, "--out", out)
    done = call(clst_train, "--recipe", recipe, *arguments, *TINY, "--set", f"model.network={network}")
    assert done.exit_code == 0, done.stderr
    assert "a data set in the cityscapes layout; its 3 images of split train are taken" in done.stderr
    assert ("pixels of terrain, truck, train are ignored" in done.stderr) == (classes == 16)
    adapted = load_checkpoint(out / "checkpoints" / "adapted.pt")
    assert (adapted.network, len(adapted.classes), adapted.input_hw) == (network, classes, (32, 64))
    assert all(torch.isfinite(value).all() for value in adapted.segmenter_state.values())
    done = call(clst_eval, out / "checkpoints" / "adapted.pt", "--data", city, "--json")
    assert done.exit_code == 0, done.stderr
    values = json.loads(done.stdout)
    assert (values["frames"], len(values["iou"])) == (2, classes)
    assert {"miou", "miou16", "miou13"} <= set(values)
    shutil.rmtree(out)  # 0.9 GB of weights and optimiser


def test_labels_of_the_miniatures_mean_the_drawn_classes(places):
    """Each original encoding comes back as the classes that were drawn; only what the miniature spoils is ignored."""
    drawn = load_class_list("scenes10").names
    for place, ignored_rows in (("gta5", 2), ("synthia", 0), ("cityscapes", 4)):
        data = open_dataset(places[place], split="train")
        first = data[0]
        assert (first.labels == 255).sum() == ignored_rows * 128, place
        found = {data.classes.names[i] for i in np.unique(first.labels) if i < 255}
        assert found <= set(drawn), place
        assert {"road", "sky"} <= found, place


def test_means_over_19_16_and_13_classes_counted_by_hand():
    """IoU of class k of 19 is k/100: 171 in all; terrain 9, truck 14, train 16; wall 3, fence 4, pole 5."""
    road19 = load_class_list("road19")
    iou = np.arange(19) / 100
    result = EvaluationResult(classes=road19, iou=iou, miou=float(iou.mean()), pixel_accuracy=1.0, frames=1)
    values = result.to_json()
    assert values["miou"] == pytest.approx(1.71 / 19)
    assert values["miou16"] == pytest.approx((1.71 - 0.09 - 0.14 - 0.16) / 16)
    assert values["miou13"] == pytest.approx((1.71 - 0.09 - 0.14 - 0.16 - 0.03 - 0.04 - 0.05) / 13)


def test_a_model_of_16_classes_is_reported_over_16_and_13_too():
    """road16: wall 3, fence 4, pole 5 of IoU k/100, k = 0 … 15 (120 in all)."""
    iou = np.arange(16) / 100
    result = EvaluationResult(
        classes=load_class_list("road16"), iou=iou, miou=float(iou.mean()), pixel_accuracy=1.0, frames=1
    )
    values = result.to_json()
    assert values["miou16"] == pytest.approx(1.20 / 16)
    assert values["miou13"] == pytest.approx((1.20 - 0.03 - 0.04 - 0.05) / 13)


def test_other_class_lists_have_no_16_class_mean():
    for name in ("scenes10", "camvid11"):
        classes = load_class_list(name)
        iou = np.ones(len(classes))
        values = EvaluationResult(classes=classes, iou=iou, miou=1.0, pixel_accuracy=1.0, frames=1).to_json()
        assert "miou16" not in values


class AllRoad:
    """A backend of 16 classes that calls everything road."""

    class manifest:  # noqa: N801
        classes = load_class_list("road16")
        fit = Fit.STRETCH
        precision = "fp32"
        input_hw = (32, 64)

    def predict(self, frame):
        return Prediction(classes=np.zeros(frame.shape[:2], np.uint8))


def test_cityscapes_classes_that_synthia_lacks_are_not_counted(places):
    """All-road on val: IoU of road = road pixels / labelled pixels, by a plain count over the label files."""
    city = places["cityscapes"]
    data = open_dataset(city, split="val", classes=load_class_list("road16"))
    raw = [read_label(path) for path in sorted(city.glob("gtFine/val/*/*_labelIds.png"))]
    labelled = sum(int(np.isin(ids, [7, 8, 11, 17, 20, 21, 23, 24, 26, 33]).sum()) for ids in raw)
    roads = sum(int((ids == 7).sum()) for ids in raw)
    result = evaluate(AllRoad(), data)
    assert result.iou[0] == pytest.approx(roads / labelled)


def test_a_table_at_zero_still_has_its_lines(tmp_path):
    """A mean of exactly 0 is printed, not left out."""
    from click.testing import CliRunner

    from clst_runtime import backends
    from clst_runtime.cli.evaluate import main

    class Wrong(AllRoad):
        description = "wrong"

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

    data = write_labelled(tmp_path / "d", size_hw=(8, 16))
    (data / "classes.json").write_text(json.dumps({"names": list(load_class_list("road16").names)}))
    for path in data.glob("labels/val/*.png"):
        from clst_runtime.imaging.image_files import write_png

        write_png(path, np.full((8, 16), 9, np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backends, "open_model", lambda *_, **__: Wrong())
        done = CliRunner().invoke(main, [str(data / "classes.json"), "--data", str(data)])  # any file: it is not opened
    assert "mIoU, 13 classes   0.00" in done.output, done.output


def test_the_literature_s_network_has_a_classifier_for_every_class():
    network = DeepLabV2(16)
    assert network.eval()(torch.zeros(1, 3, 16, 16)).shape == (1, 16, 2, 2)
