"""Files of weights as other projects save them: state dicts, safetensors, and on demand modules and TorchScript."""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clst_runtime.errors import ModelFileError
from clst_runtime.system.files.json_values import read_json_object
from clst_runtime.system.files.paths import check_weights, is_safetensors, is_torchscript
from clst_runtime.system.optional import require
from clst_train.models.specification import working_folder

CLASS_KEYS = ("classes", "class_names", "id2label")
"""Under which names, in any case of letters, projects keep the names of the classes."""
COMPILED = "_orig_mod."
"""What `torch.compile` puts into the names of a module's parts."""
DEEPEST = 8
"""Nested dictionaries are looked into so far."""
_DAMAGED = (OSError, EOFError, RuntimeError, ValueError, LookupError, pickle.UnpicklingError, zipfile.BadZipFile)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What a file of weights holds."""

    path: Path
    """The file."""
    tensors: dict[str, Tensor]
    """By name; the names of nested dictionaries are joined by dots, e.g. `state_dict.module.conv1.weight`, and what
    `torch.compile` puts into names is taken out."""
    classes: tuple[str, ...] | None
    """The classes in the order of their ids, where the file or a `config.json` beside it names them."""


def read_weights(path: Path, *, trust_pickle: bool = False) -> Weights:
    """Read a file of weights onto the CPU. Nothing in it is executed, unless `trust_pickle` allows it.

    Args:
        path: a state dict (`.pth`, `.pt`, also nested in a dictionary) or a `.safetensors` file.
        trust_pickle: also take a pickled module or a TorchScript file; unpickling runs whatever code is in it.

    Raises:
        ModelFileError: missing, damaged, without a tensor, quantised, or with Python objects that are not trusted.
        MissingDependency: the package safetensors is not installed.
    """
    check_weights(path)
    content, metadata = _safetensors(path) if is_safetensors(path) else (_pickled(path, trust_pickle), {})
    tensors = dict(_tensors(content))
    if not tensors:
        held = f"a {type(content).__name__}" if not isinstance(content, Mapping) else f"only {_listed(content)}"
        raise ModelFileError(f"{path} holds {held}, expected a state dict of named tensors")
    quantised = next((name for name, value in tensors.items() if value.is_quantized), None)
    if quantised is not None:
        raise ModelFileError(
            f"{path}: {quantised!r} is quantised ({str(tensors[quantised].dtype).removeprefix('torch.')}); "
            "give the float weights that it was made of"
        )
    beside = path.with_name("config.json")
    named = _class_names(content) or _class_names(metadata)
    if named is None and beside.is_file():
        named = _class_names(read_json_object(beside))
    return Weights(path=path, tensors=tensors, classes=named)


def _safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    package = require("safetensors")
    try:
        with package.safe_open(str(path), framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (package.SafetensorError, OSError, ValueError, KeyError) as error:
        raise ModelFileError(f"{path} is damaged or no safetensors file ({_line(error)})") from error


def _pickled(path: Path, trusted: bool) -> Any:  # noqa: FBT001
    if is_torchscript(path):
        if not trusted:
            raise ModelFileError(
                f"{path} is a TorchScript program; save its state_dict() alone, or add --trust-pickle if you trust "
                "where it comes from: its parameters are read then"
            )
        return _read_torchscript(path)
    try:
        with _numpy_scalars(), _quiet():
            return torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        objects = _objects_in(path, error)
        if objects is None:
            raise ModelFileError(f"{path} is damaged or no readable state dict ({_line(error)})") from error
        if not trusted:
            raise ModelFileError(
                f"{path} holds Python objects ({objects}), which could run any program when they are read; save the "
                "state_dict() alone, or add --trust-pickle if you trust where it comes from"
            ) from error
    try:
        with working_folder(), _quiet():
            return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # the file's own code runs here
        raise ModelFileError(
            f"{path} cannot be unpickled ({_line(error)}); run where its Python packages can be imported, or save its "
            "state_dict() alone"
        ) from error


def _objects_in(path: Path, error: Exception) -> str | None:
    """What PyTorch would not read because it is no plain value; None where the file is damaged."""
    if not isinstance(error, pickle.UnpicklingError):
        return None
    found = re.search(r"GLOBAL (\S+)", str(error))
    if found is not None:
        return found[1]
    with path.open("rb") as stream:
        beginning = stream.read(2)
    return f"pickle protocol {beginning[1]}" if beginning in (b"\x80\x03", b"\x80\x04", b"\x80\x05") else None


@contextmanager
def _quiet() -> Iterator[None]:
    """PyTorch warns of protocols and of TorchScript's end; the files are there all the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read_torchscript(path: Path) -> Mapping[str, Tensor]:
    try:
        with _quiet():
            return torch.jit.load(str(path), map_location="cpu").state_dict()  # type: ignore[no-any-return, no-untyped-call]
    except _DAMAGED as error:
        raise ModelFileError(f"{path} cannot be read as TorchScript ({_line(error)})") from error


def _numpy_scalars() -> AbstractContextManager[Any]:
    """Lets checkpoints be read that keep a score as a number of NumPy, as many trainers do."""
    allowing = getattr(torch.serialization, "safe_globals", None)  # PyTorch 2.5
    if allowing is None:
        return nullcontext()
    scalar = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"}
    names = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return allowing([np.dtype, *kinds, *((scalar, name) for name in names)])  # type: ignore[no-any-return]


def _tensors(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """All tensors of nested dictionaries and modules; lists, as optimisers have them, are no weights."""
    if isinstance(value, nn.Module):
        value = value.state_dict()
    if isinstance(value, Tensor):
        yield name.replace(COMPILED, ""), value.detach()
    elif isinstance(value, Mapping) and depth < DEEPEST:
        for key, each in value.items():
            yield from _tensors(each, f"{name}.{key}" if name else str(key), depth + 1)


def _class_names(content: Any, depth: int = 0) -> tuple[str, ...] | None:
    """Names of classes in nested dictionaries, e.g. `meta.CLASSES` or `id2label`; placeholders are none."""
    if not isinstance(content, Mapping) or depth > 2:
        return None
    for key, value in content.items():
        if str(key).casefold() in CLASS_KEYS and (names := _as_names(value)) is not None:
            return names
    found = (_class_names(value, depth + 1) for value in content.values())
    return next((names for names in found if names is not None), None)


def _as_names(value: Any) -> tuple[str, ...] | None:
    """A list of names, or names by id; as a text, JSON of either or names between commas."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = [each.strip() for each in value.split(",")] if "," in value else None
    if isinstance(value, Mapping):
        by_id = {str(key): each for key, each in value.items()}
        value = [by_id.get(str(index)) for index in range(len(by_id))]
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(each, str) for each in value):
        return None
    return None if all(re.fullmatch(r"LABEL_\d+", each) for each in value) else tuple(value)


def _listed(content: Mapping[Any, Any]) -> str:
    shown = [str(key) for key in list(content)[:4]]
    return ", ".join(shown) + (" …" if len(content) > 4 else "") if shown else "an empty dictionary"


def _line(error: BaseException) -> str:
    """The first line of an error's text, without PyTorch's advice to unpickle whatever it is."""
    text = str(error).strip()
    text = text.rpartition("WeightsUnpickler error: ")[2] if "WeightsUnpickler error: " in text else text
    return (text.splitlines() or [type(error).__name__])[0][:160]
