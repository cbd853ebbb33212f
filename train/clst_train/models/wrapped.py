"""Any `torch.nn.Module` that segments, as training needs it: its features are what goes into its classifier layer.

Nothing is asked of the module but its logits. Legend: N images, H rows, W columns of the input; C classes, D channels
of the features, h,w their rows and columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clst_runtime.errors import ConfigError
from clst_train.models.failures import FAILURES, failing_layer, reason
from clst_train.models.segmenter import Segmenter, TrainingOutputs

FINEST_STRIDE = 4
"""Features of a finer stride are averaged to this one: pseudo-labels and prototypes need no more, and take 16 times
the memory at full size."""
MULTIPLES = (1, 2, 4, 8, 16, 32, 64)
"""What the rows and columns of an input may have to be multiples of."""


class WrappedNetwork(Segmenter):
    """A network with logits N,C,… that knows nothing of this project. Its weights keep their own names."""

    def __init__(
        self, network: nn.Module, class_count: int, *, name: str, head: str = "", architecture: Any = None
    ) -> None:
        """
        Args:
            network: takes normalised images N,3,H,W and returns logits N,C,…, or a mapping with `out` or `logits`.
            class_count: C.
            name: of the network, for messages.
            head: path of its classifier layer, e.g. `decoder.classifier`; empty = it is found by itself.
            architecture: what its library needs to build it again, in plain values; goes into checkpoints.

        Raises:
            ConfigError: there is no layer of that name, or as `check_module` says.
        """
        super().__init__()
        check_module(network, name)
        self.network, self.class_count, self.name, self.head = network, class_count, name, head
        self.architecture = architecture
        self.multiple = 1
        if head and head not in dict(network.named_modules()):
            last = [path for path, module in network.named_modules() if path and not list(module.children())][-3:]
            raise ConfigError(f"model.head = {head!r}: {name} has no such layer; its last ones are {', '.join(last)}")

    @property
    def size_multiple(self) -> int:
        """What H and W have to be multiples of, as `measure` found it."""
        return max(self.multiple, self.output_stride)

    def forward(self, images: Tensor) -> Tensor:
        """Images N,3,H,W to logits N,C,…."""
        return self._read(self.network(images))[0]

    def training_outputs(self, images: Tensor) -> TrainingOutputs:
        """Features, logits and, where the network gives some, auxiliary logits of one pass."""
        if not self.head:
            self.head = find_head(self, images[:1])
        seen: list[Tensor] = []
        layer = self.network.get_submodule(self.head)
        # The hook is there for this pass only: copies of the network would keep one that points here
        hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits, auxiliary = self._read(self.network(images))
        finally:
            hook.remove()
        if len(seen) != 1 or seen[0].dim() != 4:
            shapes = ", ".join("x".join(map(str, each.shape)) for each in seen) or "nothing"
            raise ConfigError(
                f"model.head: {shapes} goes into {self.head!r} of {self.name} in one pass, expected one map NxDxhxw, "
                "or NxhxwxD into a Linear layer; name the layer that the last features go into"
            )
        features = seen[0].permute(0, 3, 1, 2) if isinstance(layer, nn.Linear) else seen[0]
        finer = FINEST_STRIDE * features.shape[2] // images.shape[2]
        features = F.avg_pool2d(features, finer) if finer > 1 else features
        return TrainingOutputs(features=features, logits=logits, auxiliary=auxiliary)

    def _read(self, output: Any) -> tuple[Tensor, Tensor | None]:
        """Logits and auxiliary logits of what the network returned.

        Raises:
            ConfigError: it is neither logits of C classes nor a mapping that holds them.
        """
        auxiliary = None
        found = output
        if isinstance(output, Mapping):
            found = output["out"] if "out" in output else output.get("logits")
            auxiliary = output.get("aux")
        if not isinstance(found, Tensor):
            held = f" of {', '.join(map(str, output))}" if isinstance(output, Mapping) else ""
            kind = f"{type(output).__name__}{held}" + " in training" * self.training
            raise ConfigError(
                f"{self.name} returns {kind}; return logits NxCxhxw, or a dict that holds them as 'out' or 'logits'"
            )
        if found.dim() != 4 or found.shape[1] != self.class_count:
            raise ConfigError(
                f"{self.name} returns {'x'.join(map(str, found.shape))} for {self.class_count} classes; return logits "
                f"Nx{self.class_count}xhxw: the factory is called with the number of classes"
            )
        fits = isinstance(auxiliary, Tensor) and auxiliary.dim() == 4 and auxiliary.shape[1] == self.class_count
        return found, auxiliary if fits else None

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own, by its own names."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: FBT001
        """Into the network, by its own names."""
        return self.network.load_state_dict(state_dict, strict=strict, assign=assign)

    def measure(self, input_hw: tuple[int, int]) -> None:
        """Find its classifier layer, its features' channels and stride, and what sizes have to be multiples of.

        Args:
            input_hw: H,W that it shall be used at.

        Raises:
            ConfigError: it cannot be used; the message names the layer that failed.
        """
        was_training = self.training
        self.eval()
        try:
            outputs = self._outputs_at(input_hw)
            logits, features = outputs.logits, outputs.features
            if (logits >= 0).all() and (logits.sum(dim=1) - 1).abs().max() < 1e-3:
                raise ConfigError(f"{self.name} returns probabilities; return logits, without the softmax at the end")
            self.feature_channels = features.shape[1]
            self.output_stride = round(
                max(size / cells for size, cells in zip(input_hw, features.shape[2:], strict=True))
            )
            self.multiple = self._multiple(input_hw, (logits.shape[2], logits.shape[3]))
        finally:
            self.train(was_training)

    def _outputs_at(self, size_hw: tuple[int, int]) -> TrainingOutputs:
        with torch.no_grad(), failing_layer(self.network) as work:
            try:
                return self.training_outputs(self._empty(size_hw))
            except FAILURES as error:
                failure, where = error, work.place(error)
        hint = ""
        is_taken = self._logits_hw(size_hw) is not None  # then it is not the size that it fails by
        larger = [multiple for multiple in MULTIPLES if not is_taken and any(size % multiple for size in size_hw)]
        if multiple := next((each for each in larger if self._logits_hw(_odd_multiples(size_hw, each))), None):
            rows, columns = (multiple * max(1, round(size / multiple)) for size in size_hw)
            hint = f"; it needs rows and columns in multiples of {multiple}: give --size {_by((rows, columns))}"
        why = reason(failure)
        raise ConfigError(f"{self.name} cannot take an image of {_by(size_hw)}{where}: {why}{hint}") from failure

    def _empty(self, size_hw: tuple[int, int]) -> Tensor:
        device = next((each.device for each in self.parameters()), torch.device("cpu"))
        return torch.zeros(1, 3, *size_hw, device=device)

    def _logits_hw(self, size_hw: tuple[int, int]) -> tuple[int, int] | None:
        """Rows and columns of the logits of an image of that size; None = it cannot be taken."""
        try:
            with torch.no_grad():
                logits = self(self._empty(size_hw))
        except FAILURES:
            return None
        return logits.shape[2], logits.shape[3]

    def _multiple(self, input_hw: tuple[int, int], logits_hw: tuple[int, int]) -> int:
        """The smallest number whose multiples can be taken as sizes.

        Raises:
            ConfigError: no other size than the input's can be, or the logits' size does not follow the image's.
        """
        unlike = None
        for multiple in MULTIPLES:
            size_hw = _odd_multiples(input_hw, multiple)
            found = self._logits_hw(size_hw)
            if found is None:
                continue
            expected = [cells * size / whole for cells, size, whole in zip(logits_hw, size_hw, input_hw, strict=True)]
            if any(abs(cells - wanted) > 2 for cells, wanted in zip(found, expected, strict=True)):
                unlike = unlike or (
                    f"{self.name} returns logits of {_by(found)} for an image of {_by(size_hw)}, and of "
                    f"{_by(logits_hw)} for {_by(input_hw)}: their size has to follow the image's"
                )
                continue
            return multiple
        if unlike is not None:
            raise ConfigError(unlike)
        raise ConfigError(
            f"{self.name} takes images of {_by(input_hw)} alone; training shows it crops and enlarged images, so let "
            "its sizes follow from the image's"
        )


def _odd_multiples(size_hw: tuple[int, int], multiple: int) -> tuple[int, int]:
    """Rows and columns near half of these that are multiples of `multiple`, but not of twice that."""
    rows, columns = (multiple * (2 * max(1, size // (4 * multiple)) + 1) for size in size_hw)
    return rows, columns


def _by(size_hw: tuple[int, int]) -> str:
    return f"{size_hw[0]}x{size_hw[1]}"


def find_head(network: WrappedNetwork, images: Tensor) -> str:
    """Path of the classifier: the last layer from a map to C channels that the logits depend on.

    Convolutions take maps N,D,h,w, linear layers N,h,w,D.

    Raises:
        ConfigError: there is none; name it by model.head.
    """
    calls: list[tuple[str, Tensor]] = []

    def noted(path: str, layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        maps = [each for each in (*inputs[:1], output) if isinstance(each, Tensor) and each.dim() == 4]
        channels = 3 if isinstance(layer, nn.Linear) else 1
        if len(maps) == 2 and output.shape[channels] == network.class_count:
            calls.append((path, output))

    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    layers = [(path, layer) for path, layer in network.network.named_modules() if isinstance(layer, kinds)]
    hooks = [layer.register_forward_hook(partial(noted, path)) for path, layer in layers]
    was_training = network.training
    try:
        with torch.inference_mode(False), torch.enable_grad():
            logits = network.eval()(images.detach().clone().requires_grad_())
            if not logits.requires_grad:
                raise ConfigError(
                    f"{network.name}: no gradient leads from its logits to its weights; leave torch.no_grad() and "
                    "detach() out of its forward pass"
                )
            needed = [
                torch.autograd.grad(logits.sum(), output, retain_graph=True, allow_unused=True)[0] is not None
                for _, output in calls
            ]
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    found = [path for (path, _), used in zip(calls, needed, strict=True) if used]
    if not found:
        last = ", ".join(path for path, _ in layers[-3:]) or "none"
        raise ConfigError(
            f"{network.name}: no layer gives {network.class_count} channels, so its classifier is not known; name the "
            f"layer by --set model.head=PATH (its last ones: {last})"
        )
    return found[-1]


def check_module(network: nn.Module, name: str) -> None:
    """Refuse a module that cannot be trained here or kept in a checkpoint.

    Raises:
        ConfigError: it is one of TorchScript or compiled, has no weights, only frozen ones or some that are not
            float32, or state that is no tensor.
    """
    if isinstance(network, torch.jit.ScriptModule):
        raise ConfigError(f"{name} is a TorchScript module, whose layers cannot be looked into; return the nn.Module")
    if hasattr(network, "_orig_mod"):
        raise ConfigError(f"{name} is compiled; return the module as it was before, and set run.compile=true")
    weights = dict(network.named_parameters())
    for path, each in weights.items():
        if each.is_meta:
            raise ConfigError(f"{name}: {path!r} is on the device meta and so without values; make it on the CPU")
        if each.dtype != torch.float32:
            kind = str(each.dtype).removeprefix("torch.")
            raise ConfigError(
                f"{name}: {path!r} is {kind}; return the network in float32 (network.float()), run.precision says "
                "what it computes in"
            )
    if not any(each.requires_grad for each in weights.values()):
        why = (
            f"all of its {len(weights)} weights are frozen (requires_grad is False)" if weights else "it has no weights"
        )
        raise ConfigError(f"{name} cannot be trained: {why}")
    other = next((path for path, each in network.state_dict().items() if not isinstance(each, Tensor)), None)
    if other is not None:
        raise ConfigError(
            f"{name}: {other!r} in its state_dict() is no tensor, and a checkpoint holds nothing else; leave "
            "get_extra_state() out, or return a tensor from it"
        )
