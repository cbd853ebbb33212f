"""Weights that another project trained, loaded into a network by their names and shapes; what does not fit is told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from clst_runtime.classes.labels import ClassList
from clst_runtime.errors import ConfigError, ModelFileError
from clst_train.models.weights.files import Weights, read_weights

MOST_PREFIXES = 5
"""Parts of a name that can be a prefix, e.g. `state_dict.module.model.`."""
COUNTER = "num_batches_tracked"
"""BatchNorm's counter of batches, which changes nothing here; old files lack it."""
SHOWN_GROUPS = 6
Prefixes = tuple[str, str]
"""What names of the file begin with, and what stands in its place in the network."""


@dataclass(frozen=True, kw_only=True)
class Misfit:
    """A tensor that has another shape in the file."""

    name: str
    """In the network."""
    own: tuple[int, ...]
    """Its shape in the network."""
    given: tuple[int, ...]
    """Its shape in the file."""


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What became of the tensors of a network and of a file; BatchNorm's counters are left out."""

    path: Path
    """The file."""
    loaded: tuple[str, ...]
    """Names in the network of the tensors that were loaded."""
    random: tuple[str, ...]
    """Names in the network of those that stayed as they were."""
    misfits: tuple[Misfit, ...]
    """Of these, those that the file has in another shape."""
    unused: tuple[str, ...]
    """Names in the file of the tensors that the network does not have."""
    prefix: str
    """What the file's names began with."""
    converted: tuple[str, ...]
    """Kinds of numbers that became the network's, e.g. `float16`."""
    classes: tuple[str, ...] | None
    """What the file calls its classes, in the order of their ids."""

    def line(self) -> str:
        """What was loaded, what stayed random and what was not used, for people."""
        own = (*self.loaded, *self.random)
        under = f", under {self.prefix.rstrip('.')!r}" if self.prefix else ""
        kinds = f", from {' and '.join(self.converted)}" if self.converted else ""
        parts = [f"{self.path}: {len(self.loaded)} of {len(own)} tensors loaded{under}{kinds}"]
        parts += [f"random: {_grouped(self.random, depth=_telling_depth(own))}"] if self.random else []
        rest = [_below(self.prefix, name) for name in self.unused]
        parts += [f"not used: {_grouped(rest)}"] if rest else []
        return "; ".join(parts)

    def first_lacking(self) -> str:
        """The first tensor that was not loaded and is needed to segment, and why."""
        name = next((name for name in self.random if not is_auxiliary(name)), self.random[0])
        misfit = next((each for each in self.misfits if each.name == name), None)
        if misfit is None:
            return f"{name!r} is not in it"
        return f"{name!r} has the shape {_by(misfit.given)} in it, {_by(misfit.own)} in the network"


def load_weights(network: nn.Module, path: Path, *, least_share: float = 0.5) -> LoadReport:
    """Read a file of weights and load from it what fits.

    Args:
        network: changed in place.
        path: what `read_weights` reads.
        least_share: see `fit_weights`.

    Raises:
        What `read_weights` and `fit_weights` raise.
    """
    return fit_weights(network, read_weights(path), least_share=least_share)


def fit_weights(network: nn.Module, weights: Weights, *, least_share: float = 0.5) -> LoadReport:
    """Load every tensor whose name and shape fit; prefixes of names are taken off or added as most tensors fit.

    A network may have `published_names`, parts of names in published files and what they are called in it.

    Args:
        network: changed in place.
        weights: of a file.
        least_share: so much of the network's tensors has to fit, 0 to 1.

    Raises:
        ModelFileError: fewer of the network's tensors fit, the file has them several times, or one that
            fits is no float or not finite.
    """
    own = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    spelled = _spellings(network, own)
    prefixes = _prefixes(spelled, own, weights)
    given = _keys(spelled, weights, prefixes)
    fitting = {name: key for name, key in given.items() if weights.tensors[key].shape == own[name].shape}
    report = _report(own, weights, given, fitting, prefixes[0])
    total = len(report.loaded) + len(report.random)
    if len(report.loaded) < least_share * total:
        raise ModelFileError(
            f"{weights.path}: {len(report.loaded)} of {total} tensors fit this network, {report.first_lacking()}; give "
            "its own weights, or name theirs by --network"
        )
    network.load_state_dict(
        {name: _converted(weights, key, own[name]) for name, key in fitting.items()},
        strict=False,
    )
    return report


def check_complete(report: LoadReport, network: str, classes: ClassList, *, hint: str) -> None:
    """Refuse weights that are no whole network of these classes; auxiliary heads may be missing.

    Args:
        report: of `load_weights` into a network of that many classes.
        network: its name.
        classes: the model's classes, in the order of their ids.
        hint: what else can be done with such weights.

    Raises:
        ConfigError: the file has another number of classes, or names others or in another order.
        ModelFileError: a tensor is missing or of another shape.
    """
    path, count = report.path, len(classes)
    lacking = [name for name in report.random if not is_auxiliary(name)]
    found = _other_class_count(report, lacking, count)
    if found is not None:
        raise ConfigError(
            f"{path} has {found} classes, {classes.name} has {count} ({', '.join(classes.names)}); give --classes a "
            f"list of its {found} classes in the order of their ids, or {hint}"
        )
    if lacking:
        total = len(report.loaded) + len(report.random)
        raise ModelFileError(
            f"{path}: {len(lacking)} of {total} tensors of {network} would stay random, {report.first_lacking()}; give "
            f"its own weights, or {hint}"
        )
    if report.classes is None:
        return
    if len(report.classes) != count:
        raise ConfigError(
            f"{path} names {len(report.classes)} classes ({', '.join(report.classes)}), {classes.name} has {count} "
            f"({', '.join(classes.names)}); give --classes a list with the names of the file"
        )
    for index, (theirs, ours) in enumerate(zip(report.classes, classes.names, strict=True)):
        if plain_name(theirs) != plain_name(ours):
            raise ConfigError(
                f"{path} names class {index} {theirs!r}, {classes.name} names it {ours!r}; give --classes a list with "
                f"the names of the file in their order ({', '.join(report.classes)})"
            )


def is_auxiliary(name: str) -> bool:
    """Whether a tensor is of an auxiliary head, which training has and driving has not."""
    return any(part.startswith("aux") for part in name.split("."))


def _spellings(network: nn.Module, own: Iterable[str]) -> dict[str, list[str]]:
    """Each tensor's name in the network, and what published files call it."""
    spelled = {name: [name] for name in own}
    for module in network.modules():
        for theirs, ours in getattr(module, "published_names", {}).items():
            for name, found in spelled.items():
                parts = [theirs if part == ours else part for part in name.split(".")]
                if ours in name.split("."):
                    found.append(".".join(parts))
    return spelled


def _heads(name: str) -> Iterator[tuple[str, str]]:
    """Ways to cut a name: `a.b.c` as ('', 'a.b.c'), ('a.', 'b.c'), ('a.b.', 'c')."""
    parts = name.split(".")
    for cut in range(min(len(parts), MOST_PREFIXES + 1)):
        yield "".join(f"{part}." for part in parts[:cut]), ".".join(parts[cut:])


def _prefixes(spelled: Mapping[str, list[str]], own: Mapping[str, Tensor], weights: Weights) -> Prefixes:
    """The prefixes by which most tensors fit by name and shape, then by name; of equal ones the shortest.

    Raises:
        ModelFileError: half of the network fits under several prefixes of the file.
    """
    by_rest: dict[str, list[tuple[str, Tensor]]] = {}
    for key, value in weights.tensors.items():
        for head, rest in _heads(key):
            by_rest.setdefault(rest, []).append((head, value))
    fits: Counter[Prefixes] = Counter()
    named: Counter[Prefixes] = Counter()
    for name, spellings in spelled.items():
        for spelling in spellings:
            for own_head, rest in _heads(spelling):
                for head, value in by_rest.get(rest, ()):
                    named[head, own_head] += 1
                    fits[head, own_head] += value.shape == own[name].shape
    if not named:
        return "", ""
    best = max(named, key=lambda pair: (fits[pair], named[pair], -len(pair[0]) - len(pair[1]), pair))
    several = {_shortest(pair)[0] for pair in named if 2 * fits[pair] >= len(own) and _shortest(pair)[1] == best[1]}
    if len(several) > 1:
        places = " and ".join(repr(head.rstrip(".")) if head else "no prefix" for head in sorted(several))
        raise ModelFileError(
            f"{weights.path} has this network {len(several)} times, under {places}; save the one to take by itself"
        )
    return best


def _shortest(prefixes: Prefixes) -> Prefixes:
    """The pair without the parts that both end in, by which the same names meet."""
    first, second = (head.split(".")[:-1] for head in prefixes)
    while first and second and first[-1] == second[-1]:
        first, second = first[:-1], second[:-1]
    return "".join(f"{part}." for part in first), "".join(f"{part}." for part in second)


def _keys(spelled: Mapping[str, list[str]], weights: Weights, prefixes: Prefixes) -> dict[str, str]:
    """Names in the network of the tensors that the file has too, with the names there."""
    head, own_head = prefixes
    found = {}
    for name, spellings in spelled.items():
        keys = (head + each.removeprefix(own_head) for each in spellings if each.startswith(own_head))
        key = next((key for key in keys if key in weights.tensors), None)
        if key is not None:
            found[name] = key
    return found


def _report(
    own: Mapping[str, Tensor], weights: Weights, given: Mapping[str, str], fitting: Mapping[str, str], prefix: str
) -> LoadReport:
    counted = [name for name in own if not name.endswith(COUNTER)]
    misfits = [
        Misfit(name=name, own=tuple(own[name].shape), given=tuple(weights.tensors[key].shape))
        for name, key in given.items()
        if name not in fitting
    ]
    used = set(given.values())
    kinds = {
        weights.tensors[key].dtype for name, key in fitting.items() if weights.tensors[key].dtype != own[name].dtype
    }
    return LoadReport(
        path=weights.path,
        loaded=tuple(name for name in counted if name in fitting),
        random=tuple(name for name in counted if name not in fitting),
        misfits=tuple(misfits),
        unused=tuple(key for key in weights.tensors if key not in used and not key.endswith(COUNTER)),
        prefix=prefix,
        converted=tuple(sorted(_kind(kind) for kind in kinds)),
        classes=weights.classes,
    )


def _converted(weights: Weights, key: str, own: Tensor) -> Tensor:
    """A tensor of the file as numbers of the network's kind.

    Raises:
        ModelFileError: it is of whole or complex numbers where floats belong, or not finite.
    """
    value = weights.tensors[key]
    if own.is_floating_point() != value.is_floating_point() or value.is_complex():
        raise ModelFileError(
            f"{weights.path}: {key!r} is {_kind(value.dtype)}, in the network {_kind(own.dtype)}; give float weights"
        )
    value = value.to(own.dtype)
    if not bool(torch.isfinite(value).all()):
        raise ModelFileError(
            f"{weights.path}: {key!r} has values that are no finite numbers; give an earlier checkpoint"
        )
    return value


def _other_class_count(report: LoadReport, lacking: list[str], count: int) -> int | None:
    """The number of classes of the file, where what is lacking differs from the network in that alone."""
    misfits = {each.name: each for each in report.misfits}
    if not lacking or not all(name in misfits for name in lacking):
        return None
    found = [misfits[name] for name in lacking]
    counts = {each.given[0] for each in found if each.given}
    if any(each.own[:1] != (count,) or each.own[1:] != each.given[1:] for each in found) or len(counts) != 1:
        return None
    return counts.pop()


def _grouped(names: Iterable[str], *, depth: int = 1) -> str:
    """`spp (24), final_layer (6)`: by so many first parts of the names."""
    groups = Counter(".".join(name.split(".")[:depth]) for name in names)
    shown = [f"{group} ({number})" for group, number in list(groups.items())[:SHOWN_GROUPS]]
    more = len(groups) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _below(prefix: str, name: str) -> str:
    """`state_dict.loss.weight` as `loss.weight`, where the prefix is `state_dict.model.`."""
    parts = name.split(".")
    for part in prefix.split("."):
        if len(parts) == 1 or parts[0] != part:
            break
        parts = parts[1:]
    return ".".join(parts)


def _telling_depth(names: Iterable[str]) -> int:
    """So many first parts of names are not the same in all of them."""
    parts = [name.split(".") for name in names]
    return next((depth for depth in range(1, 4) if len({tuple(each[:depth]) for each in parts}) > 1), 1)


def plain_name(name: str) -> str:
    """A class's name without case, and with spaces between its words."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _kind(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "of one number"
