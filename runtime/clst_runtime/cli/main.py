"""`clst`: all commands of this project under one name; each is also installed as `clst-<command>`."""

from __future__ import annotations

import click

from clst_runtime.cli.command import Group
from clst_runtime.system.optional import require

COMMANDS = {
    "train": ("clst_train.cli.train", "Train on an old camera's labels, adapt to a new camera's images."),
    "export": ("clst_export.cli.export", "Make a verified model file of a checkpoint; inspect, build."),
    "run": ("clst_runtime.cli.run", "Segment a camera, a video or a folder, live."),
    "bench": ("clst_runtime.cli.bench", "Measure latency of models, side by side."),
    "eval": ("clst_runtime.cli.evaluate", "Score a model on labelled images: IoU per class, mIoU."),
    "verdict": ("clst_train.cli.verdict", "Estimate without labels whether a new model is better."),
    "parity": ("clst_runtime.cli.parity", "Compare a deployed model with its PyTorch checkpoint."),
    "report": ("clst_export.cli.report", "Gather all evidence about a run or model file in one HTML file."),
    "data": ("clst_train.cli.data", "Check a data set, convert it, make scenes, draw feature spaces."),
    "doctor": ("clst_runtime.cli.doctor", "Say what this machine can run, and accept a model on it."),
    "demo": ("clst_export.cli.demo", "Go through the whole loop on synthetic scenes."),
}
"""Module of each command, named and not imported: a vehicle has packages for some of them only."""


class _Commands(Group):
    """Imports a command when it is asked for; the list of all of them needs none."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they are used."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """Raises: Unimportable: the command's package is not installed."""
        if name not in COMMANDS:
            return None
        found: click.Command = require(COMMANDS[name][0]).main
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names and what they are for."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, purpose) for name, (_, purpose) in COMMANDS.items()])


@click.group(cls=_Commands)
def main() -> None:
    """CLST: adapt a road segmenter to a new camera without labels, export it, run it live.

    Each command has its own help: clst run -h. The names clst-run, clst-train … do the same.
    """
