"""CLST adaptation to the new camera; a resumed run continues exactly where its checkpoint left it.

Legend: N images, H rows and W columns of the model's input size.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from clst_runtime.data.subsets import evenly_spread
from clst_train.compute.cores import on_first_core
from clst_train.compute.distributed import each_alone, on_any_rank, report, together
from clst_train.config import AdaptationConfig
from clst_train.data.colours import pixels_of
from clst_train.data.fitting import fitted
from clst_train.data.loading import SourceBatch, TargetBatch, source_batch, steps_of_pass, target_batch
from clst_train.data.look import COMPARED, Look, look_of
from clst_train.engine.optimizer import Descent, adamw, set_rate
from clst_train.engine.progress import with_progress
from clst_train.engine.run import ADAPTED, Run, loaded, log_interval, log_step, needed, seed_step
from clst_train.engine.schedule import WARM_UP, predicts, ramp, steps_before_labels
from clst_train.engine.stopping import Stopped, asked, finishing_steps
from clst_train.inspection.diagnostics import CollapseWatch, Diagnostics
from clst_train.method.batchnorm import FollowedStatistics, estimate_statistics, keep_statistics, statistics_layers
from clst_train.method.entropy_first import entropy_step
from clst_train.method.learner import Learner
from clst_train.method.step import StepResult, adaptation_step
from clst_train.models.checkpoint import Checkpoint, save_checkpoint
from clst_train.models.segmenter import Segmenter
from clst_train.stages.adaptation_state import AdaptationState, learner_of, restore_state, save_state
from clst_train.stages.label_statistics import backend_of, old_ones_stay
from clst_train.stages.whole_images import start_batches, target_batches

_log = logging.getLogger(__name__)


def adapt(run: Run, resume: Checkpoint | None) -> None:
    """CLST adaptation to the new camera; ends with `checkpoints/adapted.pt`, the averaged weights."""
    settings, first = run.config.adaptation, resume.iteration if resume is not None else 0
    run = dataclasses.replace(run, look=measured_look(run))
    state = _begun(run, resume)
    learner, descent = state.learner, state.descent
    averaged = dataclasses.replace(run, segmenter=learner.mean_teacher.network)
    settle = partial(_settle, run, learner)
    watch = CollapseWatch(run.classes.names, state.diagnostics.start.tolist())
    run.segmenter.train()
    if learner.statistics is None:
        keep_statistics(run.segmenter)
    begin = steps_before_labels(settings.iterations, settings.entropy_first)
    if first < begin:
        _report_entropy_first(settings, begin)
    batches = loaded(run, both_batches, first, settings.iterations)
    with finishing_steps(), on_first_core(run.device.type):
        for iteration, (source, unlabelled) in with_progress(run, ADAPTED, batches, range(first, settings.iterations)):
            set_rate(descent.optimiser, settings.learning_rate, iteration, settings.iterations)
            seed_step(run, ADAPTED, iteration)
            if iteration == begin:
                _begin_labels(averaged, learner, anew=begin > 0)
            result = _step(run, state, source, unlabelled, iteration, begin)
            state.diagnostics.see(result.soft_labels, result.target_means, learner.prototypes)
            values = {"loss": descent.descend(result.loss, iteration), **result.parts}
            learner.mean_teacher.follow(learner.segmenter)
            done, stops = iteration + 1, on_any_rank(asked())
            values |= _log_diagnostics(run, state.diagnostics, watch, done)
            log_step(
                averaged, ADAPTED, done, values, iterations=settings.iterations, settle=settle,
                descent=descent, make=both_batches, stops=stops,
            )  # fmt: skip
            if stops or done % run.config.run.checkpoint_every == 0 or done == settings.iterations:
                save_state(run, state, done)
            if stops:
                raise Stopped
    _finish(averaged, settle)


def _report_entropy_first(settings: AdaptationConfig, begin: int) -> None:
    report(
        f"entropy: for {begin} of {settings.iterations} steps, before self-training begins, the network grows surer of "
        f"the new camera (adaptation.entropy_first = {settings.entropy_first:g})"
    )


def _step(
    run: Run, state: AdaptationState, source: SourceBatch, target: TargetBatch, iteration: int, begin: int
) -> StepResult:
    """One step, by entropy before the step `begin`, by labels from then on; the warm-up is that of either."""
    learner, settings, since = state.learner, state.learner.settings, iteration - begin
    weight = ramp(since if since >= 0 else iteration, settings.iterations, WARM_UP)
    if since < 0:
        return entropy_step(learner, source, target, target_weight=weight)
    pass_steps = steps_of_pass(len(needed(run.target)), settings.batch)
    predicted = predicts(
        iteration, since=max(begin, state.anew_since), iterations=settings.iterations, pass_steps=pass_steps
    )
    return adaptation_step(learner, source, target, target_weight=weight, predicts=predicted)


def _begun(run: Run, resume: Checkpoint | None) -> AdaptationState:
    """What the steps change, as it is before the first one, or as a checkpoint has it."""
    settings, target = run.config.adaptation, needed(run.target)
    learner = learner_of(run, target)
    if resume is None:
        learner = _with_statistics(run, learner)
    diagnostics = Diagnostics(len(run.classes), run.device)
    state = AdaptationState(learner=learner, descent=descent_of(run, learner), diagnostics=diagnostics)
    if resume is not None:
        restore_state(run, state, resume)
    elif settings.teacher != "none":
        with together(), each_alone():
            state.diagnostics.begin(run.segmenter, start_batches(run), run.autocast)
    with together():
        run.logbook.forget_after(ADAPTED, resume.iteration if resume is not None else 0)
    return state


def _with_statistics(run: Run, learner: Learner) -> Learner:
    """The learner that follows the target's BatchNorm statistics, or the one whose old camera's stay."""
    kept = FollowedStatistics(run.segmenter)
    with together(), each_alone():
        old = backend_of(run)
    _follow_target(run, learner)
    if not statistics_layers(run.segmenter) or not old_ones_stay(run, old):
        return learner
    kept.give(run.segmenter)
    return dataclasses.replace(learner, statistics=None)


def descent_of(run: Run, learner: Learner) -> Descent:
    """The optimiser of network and projection head."""
    settings, modules = run.config.adaptation, [run.segmenter, learner.projection]
    parameters = [parameter for module in modules for parameter in module.parameters()]
    optimiser = adamw(parameters, learning_rate=settings.learning_rate, device=run.device)
    return Descent(optimiser, modules, run.device, scaled=run.scaled)


def measured_look(run: Run) -> Look | None:
    """How the new camera's images look beside the old one's, reported; None where source images keep their own look."""
    if not run.config.augmentation.target_look:
        return None
    source, target, size = run.source, needed(run.target), run.config.model.input_hw
    with together(), each_alone():
        read = (fitted(source[place], size, run.config.fit) for place in evenly_spread(len(source), COMPARED))
        old = ((sample.image, sample.content.padding(size)) for sample in read)
        new = ((target[place], target.ignored(place)) for place in evenly_spread(len(target), COMPARED))
        look = look_of(old, new, size)
    report(f"look: {look}")
    return look


def _begin_labels(run: Run, learner: Learner, *, anew: bool) -> None:
    """Start self-training with BatchNorm statistics of the target and prototypes `anew` if the weights have changed."""
    if anew:
        _follow_target(run, learner)
        learner.prototypes.begin_anew()


def _follow_target(run: Run, learner: Learner) -> None:
    """Begin to follow the target's BatchNorm statistics, unless the old camera's stay."""
    if learner.statistics is not None:
        _estimate_target_statistics(run)
        learner.statistics.begin_anew(run.segmenter)


def _settle(run: Run, learner: Learner, network: Segmenter) -> None:
    """Give a network the BatchNorm statistics that are exported."""
    if learner.statistics is not None:
        estimate_statistics(network, target_batches(run))


def _finish(run: Run, settle: Callable[[Segmenter], None]) -> None:
    """Leave the result: the network with the statistics that are exported; every rank sees the same images."""
    with together(), each_alone():
        settle(run.segmenter)
    with together():
        if run.ranks.first:
            save_checkpoint(run.folder.adapted, run.result(ADAPTED))
        run.folder.store(run.ranks).unlink(missing_ok=True)  # the last checkpoint has a copy


def _estimate_target_statistics(run: Run) -> None:
    """Estimate the network's BatchNorm statistics on the target; every rank sees the same images."""
    with together(), each_alone():
        estimate_statistics(run.segmenter, target_batches(run))


def _log_diagnostics(run: Run, diagnostics: Diagnostics, watch: CollapseWatch, done: int) -> dict[str, Any]:
    """Every n steps: a log line of its own with class shares and prototypes, warnings, and means for the main line."""
    iterations = run.config.adaptation.iterations
    if done % log_interval(iterations) and done != iterations:
        return {}
    means, shares, images = diagnostics.read()
    for line in watch.warnings(means["flip_rate"], shares, images) if run.ranks.first else ():
        _log.warning(line)
    apart = {name: means.pop(name) for name in ("own_cosine", "other_cosine", "separation")}
    if images:
        apart |= {f"share.{name}": share for name, share in zip(run.classes.names, shares, strict=True)}
    with together():
        run.logbook.add(ADAPTED, done, **apart)
    return means


def both_batches(run: Run, iteration: int) -> tuple[SourceBatch, TargetBatch]:
    """The source crops and target images of one iteration of the adaptation; this rank's part of them."""
    target, size = needed(run.target), run.config.adaptation.batch
    paired = min(size, len(target))  # where there are fewer target images, source crops are left over
    part, rest = (run.ranks.part(count, where="adaptation.batch") for count in (paired, size - paired))
    # ClassMix pastes the k-th source crop into the k-th target crop, so these stay together
    places = [*range(paired)[part], *range(paired, size)[rest]]
    unlabelled = target_batch(target, run.config, iteration, run.ranks)
    look = None
    if run.look is not None:
        each = zip(unlabelled.indices.tolist(), unlabelled.whole, strict=True)
        shown = [pixels_of(image, target.ignored(index)) for index, image in each]
        look = run.look, [shown[made % len(shown)] for made in range(len(places))]
    crops = source_batch(run.source, run.config, size, 1, iteration, places=places, look=look)
    return crops, unlabelled
