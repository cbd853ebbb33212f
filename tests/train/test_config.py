import pytest

from clst_runtime.errors import ConfigError
from clst_train.config import config_from_mapping, load_recipe, read_recipe, recipe_names, with_settings


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_loads(name):
    assert load_recipe(name).source.iterations >= 1


def test_a_recipe_with_an_unknown_key_offers_the_nearest_and_names_the_place(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text("[adaptation]\ntemprature = 0.1\n")
    with pytest.raises(ConfigError, match=r"adaptation\.temprature is unknown; did you mean 'temperature'"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"adaption": {}}, "did you mean 'adaptation'"),
        ({"source": {"iterations": "many"}}, "expected int"),
        ({"source": {"iterations": True}}, "expected int"),
        ({"source": {"iterations": 0}}, "give 1 or more"),
        ({"model": {"input_hw": [32]}}, "expected 2 values"),
        ({"model": {"input_hw": [8, 64]}}, "at least 32"),
        ({"adaptation": {"ensemble_momentum": 1.0}}, "below 1"),
        ({"run": {"precision": "fp8"}}, "give auto, fp32, bf16 or fp16"),
        ({"data": 3}, "expected a section"),
    ],
)
def test_what_cannot_be_used_is_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        config_from_mapping(values, where="x")


def test_settings_come_on_top_of_the_recipe():
    values = with_settings(read_recipe("demo"), ["adaptation.iterations=7", "model.network=deeplabv2_resnet101"])
    config = config_from_mapping(values, where="x")
    assert config.adaptation.iterations == 7
    assert config.model.network == "deeplabv2_resnet101"
    with pytest.raises(ConfigError, match="expected section.key=value"):
        with_settings({}, ["iterations=7"])


def test_no_such_recipe():
    with pytest.raises(ConfigError, match="did you mean 'demo'"):
        load_recipe("demmo")
