"""Supervised training on the old camera; a resumed run continues exactly where its checkpoint left it.

Legend: B images of a batch, K rows and L columns of a crop.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clst_train.compute.cores import on_first_core
from clst_train.compute.distributed import on_any_rank, together
from clst_train.compute.forward_pass import ForwardPass, forward_pass_of
from clst_train.data.loading import SourceBatch, source_batch
from clst_train.engine.optimizer import Descent, adamw, set_rate
from clst_train.engine.progress import with_progress
from clst_train.engine.run import SOURCE, Run, loaded, log_step, seed_step
from clst_train.engine.stopping import Stopped, asked, finishing_steps
from clst_train.method.losses.segmentation import segmentation_loss
from clst_train.models.checkpoint import Checkpoint, save_checkpoint
from clst_train.models.deployable import normalise_in_training

AUXILIARY_WEIGHT = 0.4
"""Of the auxiliary head's loss, as PSPNet and DDRNet weigh theirs."""


def train_source(run: Run, resume: Checkpoint | None) -> None:
    """Supervised training on the old camera; ends with `checkpoints/source.pt`."""
    settings, segmenter = run.config.source, run.segmenter
    descent = descent_of(run)
    optimiser, first = descent.optimiser, 0
    if resume is not None and resume.training_state is not None:
        first = resume.iteration
        segmenter.load_state_dict(resume.segmenter_state)
        optimiser.load_state_dict(resume.training_state["optimiser"])
        descent.load_state_dict(resume.training_state.get("descent", {}))
    with together():
        run.logbook.forget_after(SOURCE, first)
    segmenter.train()
    passes = forward_pass_of(segmenter, None)
    batches = loaded(run, labelled_crops, first, settings.iterations)
    with finishing_steps(), on_first_core(run.device.type):
        for iteration, batch in with_progress(run, SOURCE, batches, range(first, settings.iterations)):
            set_rate(optimiser, settings.learning_rate, iteration, settings.iterations)
            seed_step(run, SOURCE, iteration)
            descent.backward(supervised_loss(run, batch, passes))
            values = {"loss": descent.step(iteration)}
            done, stops = iteration + 1, on_any_rank(asked())
            log_step(
                run, SOURCE, done, values, iterations=settings.iterations, settle=None, descent=descent,
                make=labelled_crops, stops=stops,
            )  # fmt: skip
            if stops or done % run.config.run.checkpoint_every == 0 or done == settings.iterations:
                state = {"optimiser": optimiser.state_dict(), "descent": descent.state_dict()}
                with together():
                    if run.ranks.first:
                        save_checkpoint(run.folder.resume, run.checkpoint(SOURCE, done, state))
            if stops:
                raise Stopped
    with together():
        if run.ranks.first:
            save_checkpoint(run.folder.source, run.result(SOURCE))


def descent_of(run: Run) -> Descent:
    """The optimiser of the network."""
    settings, segmenter = run.config.source, run.segmenter
    optimiser = adamw(segmenter.parameters(), learning_rate=settings.learning_rate, device=run.device)
    return Descent(optimiser, [segmenter], run.device, scaled=run.scaled)


def labelled_crops(run: Run, iteration: int) -> SourceBatch:
    """The crops of one iteration; this rank's part of them."""
    batch = run.config.source.batch
    places = range(batch)[run.ranks.part(batch, where="source.batch")]
    return source_batch(run.source, run.config, batch, 0, iteration, places=places)


def supervised_loss(run: Run, batch: SourceBatch, passes: nn.Module | None = None) -> Tensor:
    """The loss of a batch; `passes` makes the forward pass, None = in this process."""
    passes = ForwardPass(run.segmenter) if passes is None else passes
    labels = torch.from_numpy(batch.labels).to(run.device, non_blocking=True).long()
    frames = torch.from_numpy(batch.images).to(run.device, non_blocking=True)
    with run.autocast:
        outputs, _ = passes(normalise_in_training(frames, run.segmenter.normalisation))
    loss = segmentation_loss(outputs.logits, labels)
    if outputs.auxiliary is not None:
        loss = loss + AUXILIARY_WEIGHT * segmentation_loss(outputs.auxiliary, labels)
    return loss
