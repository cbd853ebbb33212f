"""The network of the old camera that a run starts from: a checkpoint of training, or weights that others trained."""

from __future__ import annotations

from pathlib import Path

import torch

from clst_runtime.classes.labels import load_class_list
from clst_runtime.errors import ConfigError
from clst_runtime.system.files.hashing import file_sha256
from clst_runtime.system.files.json_values import printable
from clst_runtime.system.files.paths import is_checkpoint
from clst_train.compute.distributed import report
from clst_train.config import Config
from clst_train.engine.run import SOURCE
from clst_train.models.adapters import huggingface
from clst_train.models.checkpoint import Checkpoint, WeightsFile, load_checkpoint
from clst_train.models.deployable import MEAN, STD
from clst_train.models.networks import network_of
from clst_train.models.specification import parse_network
from clst_train.models.weight_files import Weights, read_weights
from clst_train.models.weights import check_complete, fit_weights


def open_old_network(path: Path, config: Config, *, trust_pickle: bool = False) -> Checkpoint:
    """Read the old network; of weights that others trained a line reports what was loaded, another one the classes.

    Args:
        path: a checkpoint of training, or a file of weights for `config.model.network`.
        config: the run's; of foreign weights it says network, classes and input size.
        trust_pickle: see `read_weights`.

    Raises:
        ConfigError: no classes are given for foreign weights, or they are not the file's.
        ModelFileError: the file is damaged, or holds no whole network of that kind.
        MissingDependency: the package safetensors is not installed.
    """
    if is_checkpoint(path):
        return load_checkpoint(path)
    model, weights = config.model, _weights(path, config.model.network, trust_pickle=trust_pickle)
    if not model.classes:
        named = f"; the file names {', '.join(weights.classes)}" if weights.classes else ""
        raise ConfigError(
            f"what the class ids of {path} mean has to be said: give --classes, a shipped list or a JSON file, in the "
            f"order of its ids{named}"
        )
    classes = load_class_list(model.classes)
    torch.manual_seed(config.run.seed)  # for an auxiliary head that the file lacks
    network = network_of(model, len(classes))
    loaded = fit_weights(network, weights)
    hint = f"start source training from these weights: --pretrained {path} in the place of --init"
    check_complete(loaded, model.network, classes, hint=hint)
    report(loaded.line())
    named = "as the file names them" if loaded.classes else "the file does not name them, so this is not checked"
    report(f"class ids 0 to {len(classes) - 1} of {path.name} are taken as {', '.join(classes.names)} ({named})")
    return Checkpoint(
        network=model.network,
        architecture=getattr(network, "architecture", None),
        classes=classes,
        input_hw=model.input_hw,
        mean=MEAN,
        std=STD,
        stage=SOURCE,
        iteration=0,
        segmenter_state=network.state_dict(),
        config=config.to_mapping(),
        weights_file=WeightsFile(name=printable(path.name), sha256=file_sha256(path)),
    )


def _weights(path: Path, network: str, *, trust_pickle: bool) -> Weights:
    name = parse_network(network)
    if name.library == "hf" and path.name in huggingface.WEIGHTS and path.with_name(huggingface.CONFIG).is_file():
        return huggingface.read(name, path.parent).weights
    return read_weights(path, trust_pickle=trust_pickle)
