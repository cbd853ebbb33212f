"""The step of the optimiser, and the watch for what is no number; values counted by hand."""

import copy
import functools
import os
import platform
import subprocess
import sys

import pytest
import torch
from torch import nn

from clst_runtime.errors import MissingDependency
from clst_train.compute.acceleration import accelerate, check_compiler, compile_passes, keep_memory, repeat_exactly
from clst_train.config import RunConfig
from clst_train.engine.optimizer import Descent, adamw
from clst_train.models.segmenter import Segmenter, TrainingOutputs
from clst_train.training import _autocast

CPU = torch.device("cpu")


class OneConvolution(Segmenter):
    """F is one convolution, C another."""

    feature_channels, output_stride, class_count = 4, 1, 3

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 1)

    def training_outputs(self, images):
        features = torch.relu(self.body(images))
        return TrainingOutputs(features=features, logits=self.head(features), auxiliary=None)


def one_weight(value=1.0, rate=0.1):
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, value)
    return module, torch.optim.SGD(module.parameters(), lr=rate)


@pytest.mark.parametrize(
    ("device", "asked", "taken"), [("cpu", True, False), ("cuda", False, False), ("cuda", True, True)]
)
def test_the_same_bits_are_asked_of_cuda_alone_and_only_where_the_settings_say_so(monkeypatch, device, asked, taken):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        repeat_exactly(RunConfig(deterministic=asked), torch.device(device))
        assert torch.are_deterministic_algorithms_enabled() == taken
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == taken
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = True


FAULTS = """
import resource, torch
from clst_train.compute.acceleration import keep_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
given_back, able, first, kept = faults(), keep_memory(), faults(), faults()
print(given_back, int(able), kept)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_kept_memory_is_not_asked_of_the_system_again():
    """Pages that ten tensors of 64 MiB, one after another, get from the system: by itself, and kept."""
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    given_back, able, kept = map(int, done.stdout.split())
    assert able
    assert kept < given_back / 10


def test_another_c_library_keeps_its_ways(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_memory()


def test_a_step_goes_down_the_gradient_and_forgets_it():
    module, optimiser = one_weight()
    descent = Descent(optimiser, [module], CPU)
    loss = descent.descend(3.0 * module.weight.sum(), 0)
    assert loss.item() == 3.0
    assert module.weight.item() == pytest.approx(1.0 - 0.1 * 3.0)
    assert module.weight.grad is None
    assert descent.first_bad_iteration() is None
    assert descent.skipped is None


def test_a_large_gradient_is_clipped_to_norm_five():
    module, optimiser = one_weight()
    Descent(optimiser, [module], CPU).descend(50.0 * module.weight.sum(), 0)
    assert module.weight.item() == pytest.approx(1.0 - 0.1 * 5.0, abs=1e-6)


def test_parts_add_up_to_one_step():
    module, optimiser = one_weight()
    descent = Descent(optimiser, [module], CPU)
    for factor in (1.0, 2.0):
        descent.backward(factor * module.weight.sum())
    assert descent.step(0).item() == 3.0
    assert module.weight.item() == pytest.approx(0.7)


def test_a_step_without_a_loss_is_a_fault():
    module, optimiser = one_weight()
    with pytest.raises(RuntimeError, match="without a backward pass"):
        Descent(optimiser, [module], CPU).step(0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_the_first_bad_loss_is_the_one_that_is_noted(bad):
    module, optimiser = one_weight()
    descent = Descent(optimiser, [module], CPU)
    for iteration, factor in enumerate((1.0, 1.0, bad, 1.0, bad)):
        descent.descend(factor * module.weight.sum(), iteration)
    assert descent.first_bad_iteration() == 2


def test_a_finite_loss_with_a_gradient_that_is_not_is_noted_too():
    """√w at 0 is 0, its slope is infinite."""
    module, optimiser = one_weight(0.0)
    descent = Descent(optimiser, [module], CPU)
    loss = descent.descend(module.weight.sqrt().sum(), 7)
    assert loss.item() == 0.0
    assert descent.first_bad_iteration() == 7


def test_loss_scaling_leaves_out_steps_until_the_gradient_is_finite():
    """The gradient is 1e36, float32 ends at 3.4e38: 65536 has to be halved 8 times, to 256, before a step is made."""
    module, optimiser = one_weight(1.0)
    descent = Descent(optimiser, [module], CPU, scaled=True)
    for iteration in range(10):
        before = module.weight.item()
        descent.descend(1e36 * module.weight.sum(), iteration)
        assert (module.weight.item() == before) == (iteration < 8), iteration
    assert descent.skipped.item() == 8
    assert descent.scaler.get_scale() == 256.0
    assert descent.first_bad_iteration() is None


def test_with_loss_scaling_a_loss_that_is_no_number_is_still_noted_and_the_weights_are_kept():
    module, optimiser = one_weight()
    descent = Descent(optimiser, [module], CPU, scaled=True)
    descent.descend(float("nan") * module.weight.sum(), 3)
    assert descent.first_bad_iteration() == 3
    assert module.weight.item() == 1.0


def fp16_steps(module, optimiser, descent, steps):
    images = torch.linspace(-1, 1, 2 * 3 * 6 * 6).reshape(2, 3, 6, 6)
    for iteration in steps:
        with _autocast("fp16", CPU):
            logits = module.training_outputs(images).logits
        assert logits.dtype == torch.float16
        descent.descend(1000.0 * logits.float().square().mean(), iteration)


def test_fp16_goes_on_to_the_bit_with_its_loss_scale(tmp_path):
    """Scale 2²⁴ overflows fp16 (a step is left out), and it doubles after 3 good ones: both in the state."""

    def fresh():
        torch.manual_seed(0)
        module = OneConvolution()
        optimiser = adamw(module.parameters(), learning_rate=0.01, weight_decay=0.0, device=CPU)
        descent = Descent(optimiser, [module], CPU, scaled=True)
        descent.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24, growth_interval=3)
        return module, optimiser, descent

    whole = fresh()
    fp16_steps(*whole, range(16))
    half = fresh()
    fp16_steps(*half, range(8))
    content = {"module": half[0].state_dict(), "optimiser": half[1].state_dict(), "descent": half[2].state_dict()}
    torch.save(content, tmp_path / "c.pt")
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    rest = fresh()
    for part, name in zip(rest, content, strict=True):
        part.load_state_dict(content[name])
    fp16_steps(*rest, range(8, 16))
    assert whole[2].skipped.item() > 0
    assert whole[2].state_dict() == rest[2].state_dict()
    for name, value in whole[0].state_dict().items():
        assert torch.equal(value, rest[0].state_dict()[name]), name


def test_the_state_of_a_run_without_scaling_can_be_gone_on_with_in_fp16():
    module, optimiser = one_weight()
    descent = Descent(optimiser, [module], CPU, scaled=True)
    for state in ({}, Descent(optimiser, [module], CPU).state_dict()):
        descent.load_state_dict(state)
        assert descent.scaler.get_scale() == 65536.0
        assert descent.skipped.item() == 0


@pytest.mark.parametrize(
    ("precision", "kind"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("auto", torch.float32)]
)
def test_the_passes_run_in_the_precision_that_is_asked_for(precision, kind):
    with _autocast(precision, CPU):
        assert OneConvolution()(torch.zeros(1, 3, 4, 4)).dtype == kind


def test_weights_are_kept_channels_last_and_no_value_changes():
    network = OneConvolution()
    before = copy.deepcopy(network.state_dict())
    accelerate(network, RunConfig(), CPU)
    assert network.body.weight.is_contiguous(memory_format=torch.channels_last)
    assert list(before) == list(network.state_dict())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])


def test_without_a_compiler_compiling_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(MissingDependency, match="needs the C\\+\\+ compiler 'no-such-compiler'") as caught:
        check_compiler()
    assert "\n" not in caught.value.message


def test_compiled_passes_say_the_same_keep_their_names_and_are_copied_with_the_network(monkeypatch):
    """PyTorch captures and differentiates them; the C++ that it writes next, and 20 s of compiling, are its own."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    try:
        check_compiler()
    except MissingDependency as error:
        pytest.skip(error.message)
    torch.manual_seed(0)
    network, images = OneConvolution(), torch.randn(1, 3, 4, 4)
    names, expected = list(network.state_dict()), network.training_outputs(images).logits
    compile_passes(network)
    outputs = network.training_outputs(images)
    assert torch.allclose(outputs.logits, expected, atol=1e-5)
    outputs.logits.sum().backward()
    assert network.body.weight.grad.abs().sum() > 0
    assert list(network.state_dict()) == names
    copied = copy.deepcopy(network)
    with torch.no_grad():
        copied.head.weight.zero_()
        copied.head.bias.zero_()
    assert copied.training_outputs(images).logits.abs().sum() == 0
    assert torch.allclose(network.training_outputs(images).logits, expected, atol=1e-5)
