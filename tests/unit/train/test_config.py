import dataclasses
import os
from pathlib import Path

import pytest

from clst_runtime.errors import ConfigError
from clst_train.cli.train import main as clst_train
from clst_train.config import Config
from clst_train.engine.options import configure
from clst_train.recipes.recipe import _note_renamed, config_from_mapping, read_recipe, recipe_names, with_settings
from clst_train.recipes.settings import sentences, settings_page, settings_toml
from tests import ROOT
from tests.contracts.test_layers import child
from tests.support.command_line import call


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_loads(name):
    assert configure(name, {}).source.iterations >= 1


def test_recipes_class_lists_and_old_names_are_read_in_utf_8_whatever_the_locale_is(monkeypatch):
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    code = "from clst_train.recipes.recipe import read_recipe, recipe_names\n"
    code += "from clst_runtime.classes.labels import load_class_list\n"
    code += "print(*[name for name in recipe_names() if read_recipe(name)], load_class_list('road16').names[0])\n"
    code += "import clst_runtime.contest\n"
    done = child(code)
    assert done.stdout.split() == [*recipe_names(), "road"]
    assert done.stderr.endswith("clst_runtime.contest is now clst_runtime.evaluation.latency.comparison\n")


def test_an_older_recipes_name_of_the_weights_is_read_and_the_new_one_is_named_once(tmp_path, caplog):
    path = tmp_path / "r.toml"
    path.write_text('[model]\nbackbone_weights = "r101.pth"\n')
    _note_renamed.cache_clear()
    with caplog.at_level("INFO"):
        assert configure(str(path), {}).model.pretrained == configure(str(path), {}).model.pretrained == "r101.pth"
    assert caplog.messages == ["note: model.backbone_weights is called model.pretrained now"]
    assert configure(str(path), {"settings": ["model.backbone_weights=b.pth"]}).model.pretrained == "b.pth"
    assert configure(str(path), {"pretrained": "auto"}).model.pretrained == "auto"
    path.write_text('[model]\nbackbone_weights = ""\n')  # as every older run has it: random weights
    assert configure(str(path), {}).model.pretrained == "none"


def test_a_recipe_with_an_unknown_key_offers_the_nearest_and_names_the_place(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text("[adaptation]\nclass_mixx = true\n")
    with pytest.raises(ConfigError, match=r"adaptation\.class_mixx is unknown; did you mean 'class_mix'"):
        configure(str(path), {})


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
        ({"run": {"threads": 100000}}, "1024 at most"),
        ({"run": {"seed": -1}}, "give 0 or more"),
        ({"model": {"input_hw": [32, 1 << 40]}}, "up to 16384"),
        ({"source": {"learning_rate": 0.0}}, "give a positive number"),
        ({"augmentation": {"scale": [0.5, 1e9]}}, "from 0.05 to 20"),
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


NUMERIC = [
    (section.name, field.name, getattr(section.default_factory(), field.name))
    for section in dataclasses.fields(Config)
    for field in dataclasses.fields(section.default_factory)
    if field.type in ("int", "float", "tuple[int, int]", "tuple[float, float]")
]


@pytest.mark.parametrize(("section", "key", "usual"), NUMERIC, ids=lambda value: str(value))
def test_no_numeric_setting_takes_a_number_that_is_none(section, key, usual, tmp_path):
    """By --set and in a recipe's file, alone and in a list."""
    for text in ("nan", "inf", "-inf", "1e999", "9" * 400, str(1 << 63), "9" * 5000):
        value = f"[{usual[0]}, {text}]" if isinstance(usual, tuple) else text
        with pytest.raises(ConfigError, match=f"{section}.{key}"):
            config_from_mapping(with_settings({}, [f"{section}.{key}={value}"]), where="x")
        (tmp_path / "r.toml").write_text(f"[{section}]\n{key} = {value}\n")
        with pytest.raises(ConfigError, match="r.toml"):
            configure(str(tmp_path / "r.toml"), {})


def test_there_are_numeric_settings_in_every_section_but_that_of_data():
    assert {section for section, _, _ in NUMERIC} == {field.name for field in dataclasses.fields(Config)} - {"data"}


def test_a_recipe_that_is_no_text_and_a_section_that_is_none_are_one_line(tmp_path):
    (tmp_path / "r.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="r.toml"):
        configure(str(tmp_path / "r.toml"), {})
    with pytest.raises(ConfigError, match="no section"):
        with_settings({"data": 3}, ["data.val=x"])


@pytest.mark.parametrize("options", [{"source": "here"}, {"size": "64x96"}, {"settings": ("run.seed=1",)}])
def test_an_option_on_top_of_a_section_that_is_none_is_one_line(tmp_path, options):
    path = tmp_path / "r.toml"
    path.write_text("data = 5\nmodel = [1]\n")
    with pytest.raises(ConfigError, match=r"data is 5; expected a section"):
        configure(str(path), options)


def test_a_path_that_is_not_in_utf_8_is_refused_before_a_run_folder_is_made(tmp_path):
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/k\xfcche"))
    done = call(clst_train, "--source", folder, "--out", tmp_path / "run")
    assert done.exit_code == 3
    assert "k\\udcfcche'; give text that can be written in UTF-8" in done.stderr


def test_no_such_recipe():
    with pytest.raises(ConfigError, match="did you mean 'demo'"):
        configure("demmo", {})


@pytest.mark.parametrize(
    ("input_hw", "crop"),
    [([384, 640], (320, 512)), ([240, 320], (192, 256)), ([40, 50], (32, 32)), ([63, 64], (63, 64))],
)
def test_a_crop_is_0_8_of_the_input_in_multiples_of_32(input_hw, crop):
    """Of 384 that is 307.2, nearest 320; of 240 it is 192; of 40 and 50, 32 and 40, both nearest 32.

    50.4 of 63 is nearest 64, more than there is.
    """
    assert config_from_mapping({"model": {"input_hw": input_hw}}, where="test").crop_hw == crop


def test_a_crop_larger_than_the_image_is_refused():
    values = {"model": {"input_hw": [50, 50]}, "augmentation": {"crop_hw": [32, 64]}}
    with pytest.raises(ConfigError, match=r"crop_hw = \[32, 64\] is larger than model.input_hw = \[50, 50\]"):
        config_from_mapping(values, where="test")


def test_a_recipe_may_begin_with_a_mark_and_one_in_utf_16_is_refused_in_words(tmp_path):
    path = tmp_path / "r.toml"
    path.write_bytes(b"\xef\xbb\xbf[model]\r\nclasses = 'road19'\r\n")
    assert read_recipe(path) == {"model": {"classes": "road19"}}
    path.write_text("[model]", encoding="utf-16")
    with pytest.raises(ConfigError, match=r"r\.toml is in UTF-16; save it in UTF-8"):
        read_recipe(path)
    path.write_text("a = " + "[" * 10_000)
    with pytest.raises(ConfigError, match=r"recipe .*r\.toml"):
        read_recipe(path)


def test_every_setting_has_a_sentence_of_its_own_in_one_place():
    for field in dataclasses.fields(Config):
        kind = type(getattr(Config(), field.name))
        known = sentences(kind)
        assert set(known) == {"", *(each.name for each in dataclasses.fields(kind))}
        assert all(text.endswith(".") for text in known.values())


@pytest.mark.parametrize("name", [None, *recipe_names()])
def test_settings_as_toml_are_a_recipe_of_the_same_configuration(tmp_path, name):
    config = Config() if name is None else configure(name, {})
    path = tmp_path / "r.toml"
    path.write_text(settings_toml(config))
    assert configure(str(path), {}) == config


@pytest.mark.parametrize("text", ['a "quoted" \\ path', "new\nline\t", "\x7f\x00", "Straße 🚗", "# no comment"])
def test_any_text_comes_back_from_toml(tmp_path, text):
    config = dataclasses.replace(Config(), data=dataclasses.replace(Config().data, source=text, target=(text, text)))
    path = tmp_path / "r.toml"
    path.write_text(settings_toml(config))
    assert configure(str(path), {}) == config


def test_the_page_of_settings_is_current():
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page(), "run: make settings"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), Config()),
        (("--recipe", "demo"), configure("demo", {})),
        (("--recipe", "new_camera"), configure("new_camera", {})),
        (
            ("--set", "run.threads=1"),
            config_from_mapping(with_settings(read_recipe("new_camera"), ["run.threads=1"]), where="here"),
        ),
    ],
)
def test_the_command_prints_settings_and_looks_at_nothing_else(tmp_path, options, expected):
    done = call(clst_train, *options, "--settings")
    assert done.exit_code == 0, done.stderr
    path = tmp_path / "r.toml"
    path.write_text(done.stdout)
    assert configure(str(path), {}) == expected


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--recipe", "demoo"), 3, "did you mean 'demo'"),
        (("--set", "run.thread=1"), 3, "did you mean 'threads'"),
        (("--resume", "x"), 2, "give it alone"),
    ],
)
def test_settings_that_cannot_be_shown_are_one_line(options, code, words):
    done = call(clst_train, *options, "--settings")
    assert done.exit_code == code
    assert words in done.stderr
    assert done.stdout == ""


def test_without_its_source_the_configuration_is_written_without_sentences(monkeypatch):
    monkeypatch.setattr("inspect.getsource", lambda _: (_ for _ in ()).throw(OSError("no source")))
    assert "#" not in settings_toml(Config())
    assert "[adaptation]\niterations = 2000\n" in settings_toml(Config())
