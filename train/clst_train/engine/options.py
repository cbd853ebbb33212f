"""From the command's options to a configuration, and what can be found wrong before PyTorch is imported."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clst_runtime.classes.labels import load_class_list
from clst_runtime.data.dataset import check_dataset, open_dataset
from clst_runtime.data.inputs import check_place
from clst_runtime.errors import ConfigError, DataError, ModelFileError
from clst_runtime.system.files.paths import (
    check_checkpoint,
    check_file,
    check_folder,
    check_weights,
    is_checkpoint,
    is_safetensors,
    newest_result,
)
from clst_runtime.system.numbers import cores_here, parse_size
from clst_runtime.system.optional import check_installed
from clst_train.config import Config
from clst_train.engine.run_folder import check_new_run, open_run
from clst_train.models.specification import check_library, parse_network
from clst_train.recipes.recipe import config_from_mapping, read_recipe, with_settings

_OPTION_KEYS = {
    "source": ("data", "source"),
    "target": ("data", "target"),
    "split": ("data", "source_split"),
    "mapping": ("data", "mapping"),
    "ignore_mask": ("data", "ignore_mask"),
    "val": ("data", "val"),
    "val_split": ("data", "val_split"),
    "val_mapping": ("data", "val_mapping"),
    "classes": ("model", "classes"),
    "pretrained": ("model", "pretrained"),
    "network": ("model", "network"),
    "size": ("model", "input_hw"),
    "seed": ("run", "seed"),
    "device": ("run", "device"),
    "gate": ("run", "gate"),
}


def configure(recipe: str, options: Mapping[str, Any]) -> Config:
    """The recipe with `--set` settings and the command's options on top, checked.

    Raises:
        ConfigError: something is unknown or cannot be used.
    """
    values = with_settings(read_recipe(recipe), options.get("settings", ()))
    for name, (section, key) in _OPTION_KEYS.items():
        if name in options and isinstance(values.setdefault(section, {}), dict):  # what is no section is refused below
            value = parse_size(options[name]) if name == "size" else options[name]
            values[section][key] = list(value) if isinstance(value, tuple) else value
    return config_from_mapping(values, where=f"recipe {recipe}")


def is_set(name: str, options: Mapping[str, Any]) -> bool:
    """Whether `--set` gives a setting, e.g. `model.fit`."""
    return any(setting.partition("=")[0].strip() == name for setting in options.get("settings", ()))


def check_run(
    recipe: str, out: Path | None, init: Path | None, resume: Path | None, options: Mapping[str, Any]
) -> Config:
    """Everything about a run, new or resumed, that takes no time to find out; returns its configuration.

    Raises:
        ClstError: a setting, a path or the folder to make cannot be used, or is not there any more.
    """
    if resume is None:
        if init is not None and ("pretrained" in options or is_set("model.pretrained", options)):
            raise ConfigError("--pretrained is for source training, which --init skips; give one of them")
        config = configure(recipe, options)
        check_threads(config)
        if out is not None:
            check_new_run(out)
        knows_classes, begins = check_init(init, options), init is None
    else:
        folder, config = open_run(resume, resumes=True)
        found = [checkpoint for checkpoint in (folder.source, folder.resume) if checkpoint.exists()]
        for checkpoint in found:
            check_checkpoint(checkpoint)
        knows_classes, begins = folder.source not in found, not found
    check_settings(config, begins=begins)
    check_places(config, knows_classes=knows_classes)
    return config


def check_init(init: Path | None, options: Mapping[str, Any]) -> bool:
    """Look at the old network's file; returns whether the configuration, not a checkpoint, says what the classes are.

    Raises:
        ConfigError: files are to be trusted where there is none. ModelFileError: the file is missing or damaged.
        MissingDependency: the package safetensors is not installed.
    """
    if init is None:
        if options.get("trust_pickle"):
            raise ConfigError("--trust-pickle is for the file of --init; give both or neither")
        return True
    path = newest_result(init)
    if path.is_dir():
        raise ModelFileError(
            f"{path}: a folder, where a file is needed, and no run's (config.toml, checkpoints/); give a checkpoint, a "
            "file of weights, or a run"
        )
    check_weights(path, "checkpoint or file of weights")
    if is_safetensors(path):
        check_installed("safetensors")
    return not is_checkpoint(path)


def check_settings(config: Config, *, begins: bool = True) -> None:
    """Settings that name something outside the configuration.

    Of a run that goes on with a checkpoint, the network's module is left to whoever opens that, and pretrained weights
    are not needed.

    Raises:
        ConfigError: no such network or kind of device. ModelFileError: weights are not there.
        MissingDependency: a network's module is not installed.
    """
    if re.fullmatch(r"[a-z]+(:\d{1,3})?", config.run.device) is None:
        raise ConfigError(f"run.device = {config.run.device!r}; give auto, cpu, cuda or cuda:N")
    network = parse_network(config.model.network)
    if begins or network.library != "python":
        check_library(network)
    if config.model.head and not network.library:
        raise ConfigError(f"model.head = {config.model.head!r} is for networks that are not built in; leave it out")
    if begins and config.model.pretrained not in ("auto", "none"):
        check_weights(Path(config.model.pretrained), "file of weights; --pretrained takes auto, none or a file")


def check_threads(config: Config) -> None:
    """Of a new run only: one from a larger machine goes on here with fewer.

    Raises:
        ConfigError: more threads than cores.
    """
    if config.run.threads > cores_here():
        raise ConfigError(
            f"run.threads = {config.run.threads}; this machine has {cores_here()} cores, give at most that"
        )


def check_places(config: Config, *, knows_classes: bool) -> None:
    """Data sets, images and files of the configuration; images themselves are not read.

    Args:
        config: the configuration.
        knows_classes: whether it says what the model's classes are; else a checkpoint does, and is not read here.

    Raises:
        DataError, ConfigError: a place is missing or empty, has no such split, or its classes do not fit.
    """
    data = config.data
    if not data.source:
        raise ConfigError("no source images: give --source the labelled images of the old camera")
    if data.ignore_mask and not data.target:
        raise ConfigError(f"data.ignore_mask = {data.ignore_mask!r} lies over the new camera's images; give --target")
    if data.val_mapping and not data.val:
        raise ConfigError(f"data.val_mapping = {data.val_mapping!r} is for images of the new camera; give --val")
    if config.run.gate and (lacking := [f"--{name}" for name in ("target", "val") if not getattr(data, name)]):
        raise ConfigError(
            "--gate (run.gate) compares the adapted network with the old one on labelled images of the new camera; "
            f"give {' and '.join(lacking)} as well"
        )
    wanted = load_class_list(config.model.classes) if config.model.classes else None
    for place, split, mapping in (
        (data.source, data.source_split, data.mapping),
        (data.val, data.val_split, data.val_mapping),
    ):
        file = Path(mapping) if mapping else None
        if place and knows_classes:
            found = open_dataset(Path(place), split=split, classes=wanted, mapping_file=file)
            wanted = found.classes
        elif place:
            check_dataset(Path(place), split=split, mapping_file=file)
    for name in data.target:
        check_place(Path(name))
    if data.ignore_mask:
        check_file(Path(data.ignore_mask))


def check_finished_run(
    path: Path, *, source: str | None, target: Sequence[str], labels: Path | None, labels_split: str
) -> None:
    """A run that has adapted, and places of images that are given instead of its own.

    Raises:
        ClstError: it is no such run, or a place cannot be used.
    """
    folder, config = open_run(path)
    for checkpoint in (folder.source, folder.adapted):
        if not checkpoint.is_file():
            raise DataError(f"{path}: {checkpoint.name} is missing; the run has to have adapted to its end")
        check_checkpoint(checkpoint)
    check_folder(Path(source or config.data.source))
    if labels is not None:
        check_dataset(labels, split=labels_split)
    for place in target:
        check_place(Path(place))
