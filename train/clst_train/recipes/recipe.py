"""Recipes: TOML files with the values of a configuration, read and checked; single settings on top of them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from clst_runtime.errors import ConfigError, DataError, did_you_mean
from clst_runtime.system.files.json_values import read_text
from clst_runtime.system.files.paths import in_utf_8
from clst_runtime.system.numbers import is_usable
from clst_train.config import Config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_log = logging.getLogger(__name__)
Section = TypeVar("Section")
RENAMED = {("model", "backbone_weights"): "pretrained"}
"""Settings of older recipes and runs: section and key then, key now."""
REMOVED = {
    "run.validate_every": "each checkpoint is validated, run.checkpoint_every",
    "data.target_every": "videos give at most 3000 frames, evenly spread",
    "model.pretrained_sha256": "a run keeps the hash in its folder",
    "run.channels_last": "weights are always kept channels last",
    "run.check_export": "an export is tried wherever clst-export is installed",
    "run.loaders": "beside a GPU there is a loader for each core, at most 8",
    "run.cache_mib": "images are read anew each time; the system keeps their files in memory",
    "run.tensorboard": "log.jsonl and curves.png have the values",
    "run.log_every": "a stage logs about fifty lines at least, and every 20th step",
    "source.accumulate": "lower source.batch where memory is short",
    "source.weight_decay": "it is 0.01",
    "source.auxiliary_weight": "it is 0.4",
    "source.colour": "it is twice augmentation.colour",
    "augmentation.crop_share": "crops are 0.8 of the input size, or augmentation.crop_hw",
    "augmentation.flip": "half of the crops are mirrored",
    "augmentation.blur": "three images of ten are blurred, none with augmentation.colour = 0",
    "augmentation.aspect": "it was never used",
    "adaptation.ensemble_mirror": "whole images are predicted as they are",
    "adaptation.ensemble_zoom": "whole images are predicted as they are",
    "adaptation.weight_decay": "it is 0.01",
    "adaptation.target_warm_up": "it is 0.1",
    "adaptation.prototype_momentum": "it is 0.99",
    "adaptation.minimum_pixels": "it is 4",
    "adaptation.temperature": "it is 0.1",
    "adaptation.projection_width": "it is 128",
    "adaptation.statistics_first": "statistics are always estimated on the new camera",
    "adaptation.statistics_last": "statistics are always estimated on the new camera",
    "adaptation.statistics_images": "it is 256",
    "adaptation.statistics_momentum": "it is 0.1",
    "adaptation.teacher_momentum": "it is 0.99",
    "adaptation.pseudo_label_weighting": "doubtful labels count as much as sure ones, which is as good or better",
    "adaptation.probability_exponent": "labels have no weights by their probability",
    "adaptation.confidence_threshold": "every pixel has a label",
    "adaptation.entropy_first_weight": "it is 0.1",
    "adaptation.entropy_weight": "adaptation.entropy_first = 1 minimises entropy in every step, with the weight 0.1",
    "adaptation.distil_from": "learning from a larger network as well gained nothing",
    "adaptation.distil_weight": "learning from a larger network as well gained nothing",
    "adaptation.start_share": "the last step's weights are the result: going back a part of the way gained nothing",
    "adaptation.distribution_alignment": "holding the labels' class shares cost more than it brought",
    "adaptation.auxiliary_weight": "the auxiliary head learns in source training alone",
    "adaptation.distil_temperature": "learning from a larger network as well gained nothing",
    "augmentation.masked_crops": "hiding squares of target crops gained nothing",
    "augmentation.masked_share": "nothing of a crop is hidden",
    "augmentation.masked_square": "nothing of a crop is hidden",
    "augmentation.least_colour_shift": "it is 2",
    "augmentation.target_colours": "augmentation.target_look = true takes over colours, blur and noise",
    "data.source_format": "the layout of a data set is recognised",
    "data.val_format": "the layout of a data set is recognised",
    "data.source_hw": "source images are brought to model.input_hw",
    "data.rare_class_sampling": "drawing rare classes more often gained nothing",
    "adaptation.ensemble_view": "the ensemble averages predictions of whole images",
    "adaptation.ensemble_every": "how often an image is predicted follows from how often it is shown",
    "adaptation.ensemble_store": "every class is kept",
    "adaptation.ensemble_top_k": "every class is kept",
}
"""Settings of older recipes and runs that are gone: why, or what holds in their place."""


def config_from_mapping(values: Mapping[str, Any], *, where: str) -> Config:
    """Check a recipe's values and fill in the defaults; `where` names it in messages.

    Raises:
        ConfigError: an unknown section or key (the nearest name is offered), one that is gone, or a value that cannot
            be used.
    """
    sections = get_type_hints(Config)
    for name in values:
        if name not in sections:
            raise ConfigError(f"{where}: unknown section {name!r}; {did_you_mean(name, sections)}")
    if gone := removed_settings(values):
        others = f", {', '.join(gone[1:])} too" if gone[1:] else ""
        raise ConfigError(f"{where}: {gone[0]} is gone: {REMOVED[gone[0]]}; leave it out{others}")
    return Config(
        **{
            name: section_from_mapping(kind, values.get(name, {}), f"{where}: {name}")
            for name, kind in sections.items()
        }
    )


def removed_settings(values: Mapping[str, Any]) -> list[str]:
    """Those of a recipe's or an older run's settings that are gone, as `section.key`."""
    sections = {name: given for name, given in values.items() if isinstance(given, Mapping)}
    return [name for section, given in sections.items() for key in given if (name := f"{section}.{key}") in REMOVED]


def section_from_mapping(kind: type[Section], values: Any, where: str) -> Section:
    """A dataclass of settings from the values of a TOML file; `where` begins messages.

    Raises:
        ConfigError: an unknown key (the nearest is offered), or a value of another type.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} is {values!r}; expected a section of key = value lines")
    known = get_type_hints(kind)
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}.{key} is unknown; {did_you_mean(key, known)}")
    return kind(**{key: _value(value, known[key], f"{where}.{key}") for key, value in values.items()})


def _value(value: Any, kind: Any, where: str) -> Any:
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise ConfigError(f"{where} = {value!r}; expected a list")
        if inner[-1] is Ellipsis:
            return tuple(_value(entry, inner[0], where) for entry in value)
        if len(value) != len(inner):
            raise ConfigError(f"{where} = {list(value)}; expected {len(inner)} values")
        return tuple(_value(entry, part, where) for entry, part in zip(value, inner, strict=True))
    if isinstance(value, (int, float)) and not is_usable(value):
        raise ConfigError(f"{where} = {str(value)[:40]}; give a finite number that fits into 64 bits")
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(f"{where} = {value!r}; expected {kind.__name__}")
    if isinstance(value, str) and not in_utf_8(value):
        raise ConfigError(f"{where} = {value!r}; give text that can be written in UTF-8: rename the file or folder")
    return value


def recipe_names() -> list[str]:
    """The recipes that ship with the package."""
    folder = resources.files("clst_train") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read_recipe(name_or_path: str | Path) -> dict[str, Any]:
    """The values of a shipped recipe by its name, or of any TOML file, not yet checked.

    Raises:
        ConfigError: no such recipe, or it is not TOML in UTF-8.
    """
    name, path = str(name_or_path), Path(name_or_path)
    if name not in recipe_names() and not path.is_file():
        raise ConfigError(f"no recipe {name!r}: neither a file nor shipped; {did_you_mean(name, recipe_names())}")
    shipped = resources.files("clst_train") / "recipes" / f"{name}.toml"
    try:
        values = tomllib.loads(shipped.read_text("utf-8") if name in recipe_names() else read_text(path))
    except (DataError, ValueError, RecursionError) as error:  # no text, no TOML, a huge integer, nested too deep
        raise ConfigError(f"recipe {name}: {error}") from error
    return {
        section: dict(_today(section, *entry) for entry in given.items()) if isinstance(given, dict) else given
        for section, given in values.items()
    }


def _today(section: str, key: str, value: Any) -> tuple[str, Any]:
    """A setting by its name of today; empty weights, as older runs have them, were random ones."""
    now = RENAMED.get((section, key))
    if now is None:
        return key, value
    if value != "":
        _note_renamed(f"{section}.{key}", f"{section}.{now}")
    return now, value if value != "" else "none"


@lru_cache  # settings are read more than once
def _note_renamed(before: str, now: str) -> None:
    _log.info(f"note: {before} is called {now} now")


def with_settings(values: Mapping[str, Any], settings: Sequence[str]) -> dict[str, Any]:
    """A copy of a recipe's values with `section.key=value` settings on top; the value is written as in TOML.

    Raises:
        ConfigError: a setting is not of that form.
    """
    merged = {name: dict(section) if isinstance(section, Mapping) else section for name, section in values.items()}
    for setting in settings:
        name, found, text = setting.partition("=")
        section, dot, key = name.strip().partition(".")
        if not found or not dot:
            raise ConfigError(f"--set {setting!r}; expected section.key=value, e.g. adaptation.iterations=500")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except ValueError:  # also an integer of thousands of digits, which is refused as the text that it is then
            value = text.strip()
        if not isinstance(merged.setdefault(section, {}), dict):
            raise ConfigError(f"--set {setting!r}: the recipe has {section} = {merged[section]!r}, which is no section")
        key, value = _today(section, key, value)
        merged[section][key] = value
    return merged
