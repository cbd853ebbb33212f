"""`clst-train`: source training if there is no checkpoint to start from, then adaptation to the new camera."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from clst_runtime.cli.command import INTERRUPTED, command, json_option, print_json
from clst_runtime.errors import ClstError
from clst_runtime.system.numbers import SEED
from clst_train import PACKAGES

if TYPE_CHECKING:
    from clst_train.engine.run_folder import RunFolder

_log = logging.getLogger(__name__)
RECIPE = "new_camera"


@command()
@click.option("--source", type=click.Path(), help="Folder of labelled images of the old camera.")
@click.option("--target", multiple=True, type=click.Path(), help="Images or video of the new camera; repeatable.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder to make  [default: runs/<date>-<time>]")
@click.option("--recipe", default=RECIPE, show_default=True, help="A shipped recipe or a TOML file.")
@click.option(
    "--init",
    type=click.Path(path_type=Path),
    help="The old network: a checkpoint, a run, or trained weights of --network; skips source training.",
)
@click.option(
    "--trust-pickle",
    is_flag=True,
    default=None,
    help="Let --init be a pickled module or TorchScript; unpickling runs any code in the file.",
)
@click.option("--resume", type=click.Path(path_type=Path), help="Go on with this run folder.")
@click.option("--split", help="Split of the source to train on  [default: train]")
@click.option(
    "--network",
    help="Built in, yours as package.module:factory, or a library's, e.g. hf:OWNER/NAME  [default: the recipe's or "
    "checkpoint's]",
)
@click.option("--classes", help="The model's classes: a shipped list or JSON file  [default: the source's]")
@click.option("--pretrained", help="ImageNet weights to start from: auto, none or a file  [default: auto]")
@click.option("--mapping", type=click.Path(), help="JSON file relating the source's classes to the model's.")
@click.option("--ignore-mask", type=click.Path(), help="PNG of the new camera; non-zero = bonnet, lens border.")
@click.option("--val", type=click.Path(), help="Labelled images of the new camera: mIoU, and whether it got better.")
@click.option("--val-split", help="Split of --val  [default: val]")
@click.option("--val-mapping", type=click.Path(), help="JSON file relating the classes of --val to the model's.")
@click.option("--gate", is_flag=True, default=None, help="Exit code 6 if the adapted network is worse on --val.")
@click.option("--size", help="Input size HxW, e.g. 360x480.")
@click.option("--seed", type=SEED, help="Seed of everything random.")
@click.option("--device", help="cpu, cuda, cuda:1 …  [default: CUDA when there is one]")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Any setting of the recipe.")
@json_option()
@click.option("--settings", "shows_settings", is_flag=True,
              help="Print every setting with its default and meaning as TOML, or its value with --recipe.")  # fmt: skip
def main(
    recipe: str,
    out: Path | None,
    init: Path | None,
    resume: Path | None,
    *,
    shows_settings: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train on the old camera's labels, then adapt to the new camera's unlabelled images.

    Without --target it stops after source training. The results are RUN/checkpoints/source.pt and adapted.pt. With
    --val both are compared as by `clst-eval OLD NEW`, also in RUN/verdict.json.
    Ctrl-C and SIGTERM finish and save the step at hand, and say how to go on; a second one ends at once.
    """
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if resume is not None and (given or out or init or shows_settings or recipe != RECIPE):
        raise click.UsageError("--resume goes on with the run as it was configured; give it alone")
    if shows_settings:
        show_settings(recipe, given)
        return
    from clst_train.compute.ranks import ranks
    from clst_train.engine.stopping import heeding_signals

    with heeding_signals():
        try:
            run(recipe, out, init, resume, given, as_json=as_json)
        except KeyboardInterrupt as stopped:
            if ranks().first:
                _log.error(str(stopped) or "interrupted before the first step; nothing was made or changed")
            raise click.exceptions.Exit(INTERRUPTED) from stopped


def show_settings(recipe: str, options: dict[str, Any]) -> None:
    """Print the defaults, or what a run with this recipe and these options would go by.

    Raises:
        ConfigError: they cannot be used.
    """
    from clst_train.config import Config
    from clst_train.engine.options import configure
    from clst_train.recipes.settings import settings_toml

    source = click.get_current_context().get_parameter_source("recipe")
    asked = options or source is not click.core.ParameterSource.DEFAULT
    click.echo(settings_toml(configure(recipe, options) if asked else Config()), nl=False)


def run(
    recipe: str,
    out: Path | None,
    init: Path | None,
    resume: Path | None,
    options: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    """Look at everything that was given, train, and print the result.

    Raises:
        What `start_run` and `check_gate` raise.
    """
    from clst_runtime.system.optional import check_installed, require
    from clst_train.compute.cores import bind_threads, use_all_cores
    from clst_train.compute.ranks import ranks
    from clst_train.engine.options import check_run

    check_installed(*PACKAGES)
    # What can be found wrong before PyTorch is imported, which takes seconds; several processes find it together
    if ranks().count == 1 and check_run(recipe, out, init, resume, options).run.threads == 0:
        bind_threads()
    for module in PACKAGES:
        require(module)
    use_all_cores()
    from clst_train.compute.distributed import is_agreed, process_group, together, wait_for_all
    from clst_train.inspection.verdict import check_gate
    from clst_train.training import start_run

    with process_group():
        try:
            folder = start_run(recipe=recipe, out=out, init=init, resume=resume, options=options)
            with together():
                if ranks().first:
                    print_result(folder, as_json=as_json)
                    check_gate(folder)
        except ClstError as error:
            if not is_agreed(error):
                raise
            if ranks().first:
                _log.error(error.line())
            wait_for_all()  # torchrun ends all others as soon as one has ended
            raise click.exceptions.Exit(error.exit_code) from error


def print_result(folder: RunFolder, *, as_json: bool) -> None:
    """The best checkpoint that came of it, and what to do next.

    As JSON also the folder, the last mIoU of each stage, 0 to 1, and the comparison of old and adapted network.
    """
    from clst_train.inspection.verdict import next_steps, verdict_of

    for line in next_steps(folder):
        _log.info(line)
    checkpoints = {stage: file for stage in ("source", "adapted") if (file := getattr(folder, stage)).is_file()}
    if not as_json:
        click.echo(str(list(checkpoints.values())[-1]))
        return
    from clst_train.engine.logger import Logbook

    logged = {entry["stage"]: entry["miou"] for entry in Logbook(folder.path).entries if "miou" in entry}
    scores = {stage: None if miou is None else miou / 100 for stage, miou in logged.items()}  # None: no known class
    print_json({"run": str(folder.path), **{stage: str(checkpoints[stage]) if stage in checkpoints else None
                for stage in ("source", "adapted")}, "miou": scores, "comparison": verdict_of(folder)})  # fmt: skip
