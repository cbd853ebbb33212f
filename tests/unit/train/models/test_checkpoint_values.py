"""What a checkpoint says of itself is checked when it is read, by the code that checks manifests."""

import zipfile

import pytest
import torch

from clst_runtime.errors import ModelFileError
from clst_runtime.system.files.paths import check_checkpoint
from clst_train.models.checkpoint import FORMAT, load_checkpoint

GOOD = {
    "format": FORMAT,
    "network": "ddrnet23_slim",
    "classes": {"name": "ab", "names": ["a", "b"], "colors": [[0, 0, 0], [1, 1, 1]]},
    "input_hw": [64, 96],
    "mean": [1.0, 2.0, 3.0],
    "std": [1.0, 1.0, 1.0],
    "stage": "source",
    "iteration": 3,
    "segmenter_state": {"w": torch.zeros(1)},
    "training_state": None,
    "config": {"data": {"target": ["new"]}},
}


def saved(path, **changes):
    torch.save({**GOOD, **changes}, path)
    return path


def test_a_good_one_is_read(tmp_path):
    checkpoint = load_checkpoint(saved(tmp_path / "c.pt"))
    assert (checkpoint.input_hw, checkpoint.iteration, checkpoint.classes.names) == ((64, 96), 3, ("a", "b"))


@pytest.mark.parametrize(
    "change",
    [
        {"network": 1}, {"classes": []}, {"classes": {"names": "ab"}}, {"input_hw": [64]}, {"input_hw": [10**9, 1]},
        {"input_hw": [64, 96.5]}, {"mean": [1.0, float("nan"), 1.0]}, {"std": [1.0, 0.0, 1.0]}, {"stage": "trained"},
        {"iteration": -1}, {"iteration": True}, {"segmenter_state": {"w": 1}}, {"segmenter_state": None},
        {"training_state": 5}, {"config": None}, {"config": {"data": 3}}, {"config": {"data": {"target": "new"}}},
        {"config": {"data": {"target": [1]}}}, {"weights_file": "w.pth"}, {"weights_file": {"name": "w.pth"}},
        {"weights_file": {"name": "w.pth", "sha256": "0"}}, {"architecture": 3},
    ],
)  # fmt: skip
def test_a_value_of_another_form_is_one_line_that_names_it(change, tmp_path):
    with pytest.raises(ModelFileError, match=f"c.pt: the checkpoint is damaged .({next(iter(change))} is|class list)"):
        load_checkpoint(saved(tmp_path / "c.pt", **change))


@pytest.mark.parametrize("model", [{"head": 3}, {"head": "a\n"}, {"pretrained_sha256": "0"}])
def test_what_goes_into_manifests_is_checked(model, tmp_path):
    with pytest.raises(ModelFileError, match=f"damaged .config is {next(iter(model))} is"):
        load_checkpoint(saved(tmp_path / "c.pt", config={"model": model}))
    load_checkpoint(saved(tmp_path / "c.pt", config={"model": dict.fromkeys(model, "")}))


def test_a_missing_value_is_named(tmp_path):
    torch.save({name: value for name, value in GOOD.items() if name != "std"}, tmp_path / "c.pt")
    with pytest.raises(ModelFileError, match="std is missing"):
        load_checkpoint(tmp_path / "c.pt")


def test_a_checkpoint_of_which_one_byte_has_changed_is_refused_before_pytorch_takes_it(tmp_path):
    path = saved(tmp_path / "c.pt", segmenter_state={"w": torch.full((4096,), 7, dtype=torch.uint8)})
    check_checkpoint(path)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\7" * 64, b"\7" * 63 + b"\6", 1))
    assert load_checkpoint(path).segmenter_state["w"].sum() == 4096 * 7 - 1
    with pytest.raises(ModelFileError, match="c.pt is damaged"):
        check_checkpoint(path)


def test_a_compressed_archive_is_no_checkpoint_and_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "c.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 20))
    with pytest.raises(ModelFileError, match="its archive is compressed"):
        check_checkpoint(tmp_path / "c.pt")


def test_a_pickled_network_is_refused_in_words_of_ours(tmp_path):
    torch.save(torch.nn.Conv2d(1, 1, 1), tmp_path / "c.pt")
    with pytest.raises(ModelFileError, match=r"c\.pt holds Python objects, as torch\.save\(network\) writes"):
        load_checkpoint(tmp_path / "c.pt")
