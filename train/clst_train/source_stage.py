"""Supervised training on the old camera; goes on exactly where a checkpoint left it."""

from __future__ import annotations

import torch

from clst_train.checkpoint import Checkpoint, save_checkpoint
from clst_train.data.loading import SourceBatch, prefetched, source_batch
from clst_train.losses.segmentation import segmentation_loss
from clst_train.models.deployable import normalise
from clst_train.optimisation import descend, set_rate
from clst_train.progress import with_progress
from clst_train.run import SOURCE, Run, log_step, needed


def train_source(run: Run, resume: Checkpoint | None) -> None:
    """Supervised training on the old camera; ends with `checkpoints/source.pt`."""
    settings, segmenter = run.config.source, run.segmenter
    optimiser = torch.optim.AdamW(segmenter.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    first = 0
    if resume is not None and resume.training_state is not None:
        first = resume.iteration
        segmenter.load_state_dict(resume.segmenter_state)
        optimiser.load_state_dict(resume.training_state["optimiser"])
    run.logbook.forget_after(SOURCE, first)
    source = needed(run.source)
    segmenter.train()

    def make(iteration: int) -> SourceBatch:
        return source_batch(source, run.config, settings.batch, 0, iteration, run.rare)

    for iteration, batch in with_progress(
        run, SOURCE, prefetched(make, first, settings.iterations), settings.iterations
    ):
        set_rate(optimiser, settings.learning_rate, iteration, settings.iterations)
        labels = torch.from_numpy(batch.labels).to(run.device).long()
        with run.autocast:
            outputs = segmenter.training_outputs(normalise(torch.from_numpy(batch.images).to(run.device)))
        loss = segmentation_loss(outputs.logits, labels)
        if outputs.auxiliary is not None:
            loss = loss + settings.auxiliary_weight * segmentation_loss(outputs.auxiliary, labels)
        descend(optimiser, loss, [segmenter])
        done = iteration + 1
        log_step(run, SOURCE, done, {"loss": loss.detach()}, iterations=settings.iterations, batches=None)
        if done % run.config.run.checkpoint_every == 0 or done == settings.iterations:
            state = {"optimiser": optimiser.state_dict()}
            save_checkpoint(run.folder.resume, run.checkpoint(SOURCE, done, state))
    save_checkpoint(run.folder.source, run.checkpoint(SOURCE, settings.iterations))
