"""The folder of one run, made for people to look into.

config.toml       the configuration as run         log.jsonl     a line per logged step
curves.png        losses and mIoU                  examples/     images of the new camera by both networks
checkpoints/      source.pt, adapted.pt (results), resume.pt (to resume from), ensemble-N-*.npy (resume.pt's ensemble)
verdict.json      old and adapted network on labelled images of the new camera, as `clst-eval --json` prints it
estimate.json     the same by images of the new camera without labels, as `clst-verdict --json` prints it
report.html, report.md  all evidence, by clst-report
pretrained.sha256 of the file of weights that it started from, where there was one
ensemble-*.npy    the temporal ensemble at work, only while adapting; one file for each process, on its own disk
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clst_runtime.errors import ConfigError
from clst_runtime.system.files.atomic import write_text
from clst_runtime.system.files.paths import check_new_folder
from clst_train.compute.ranks import Ranks
from clst_train.config import Config
from clst_train.recipes.recipe import config_from_mapping, read_recipe, removed_settings
from clst_train.recipes.settings import settings_toml


@dataclass(frozen=True)
class RunFolder:
    """Names of what lies in a run folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The configuration as run."""
        return self.path / "config.toml"

    @property
    def source(self) -> Path:
        """The old network: trained on the old camera, or given by `--init`; it stays as it is."""
        return self.path / "checkpoints" / "source.pt"

    @property
    def adapted(self) -> Path:
        """The network adapted to the new camera."""
        return self.path / "checkpoints" / "adapted.pt"

    @property
    def verdict(self) -> Path:
        """The old network and the adapted one compared; missing where no labels were given."""
        return self.path / "verdict.json"

    @property
    def estimate(self) -> Path:
        """The old network and the adapted one compared without labels; missing where the images show too little."""
        return self.path / "estimate.json"

    @property
    def resume(self) -> Path:
        """Everything that training needs to resume."""
        return self.path / "checkpoints" / "resume.pt"

    @property
    def pretrained(self) -> Path:
        """SHA-256 of the file of weights that source training started from; missing where there was none."""
        return self.path / "pretrained.sha256"

    def store(self, here: Ranks) -> Path:
        """The temporal ensemble of a process at work; what a broken-off run left in it is of no use."""
        return self.path / f"ensemble-{here.rank}-of-{here.count}.npy"

    @property
    def examples(self) -> Path:
        """Images of the new camera with the classes that both networks see."""
        return self.path / "examples"

    def remove_leftovers(self) -> None:
        """Remove files that a killed run was in the middle of writing, and its ensemble at work, before one is made."""
        stores = [self.path / "ensemble-*.npy", self.resume.with_name("ensemble-*.npy")]
        files = [
            self.config,
            self.pretrained,
            self.verdict,
            self.estimate,
            self.path / "log.jsonl",
            self.path / "curves.png",
        ]
        for path in [*files, self.source, self.adapted, self.resume, *stores]:
            for left in path.parent.glob(f".{path.stem}-????????{path.suffix}"):  # as `written_whole` names them
                left.unlink(missing_ok=True)  # another process may have been faster
        for left in self.path.glob("ensemble-*.npy"):
            left.unlink(missing_ok=True)


def check_new_run(path: Path) -> None:
    """Find out whether a run folder can be made.

    Raises:
        DataError: it exists and is not empty, or cannot be written.
    """
    check_new_folder(
        path,
        hint=f"give another --out, or go on with it by --resume {path}",
        leftovers=(".config-", "pretrained.sha256", ".pretrained-"),
    )


def create_run(path: Path, config: Config, pretrained_sha256: str = "") -> RunFolder:
    """Make a new run folder with the configuration in it; a run killed before it had one is no obstacle.

    Raises:
        DataError: it exists and is not empty, or cannot be written.
    """
    check_new_run(path)
    folder = RunFolder(path)
    folder.pretrained.unlink(missing_ok=True)  # of a run that was killed here
    if pretrained_sha256:
        write_text(folder.pretrained, f"{pretrained_sha256}\n")
    write_text(folder.config, settings_toml(config))
    return folder


def open_run(path: Path, *, resumes: bool = False) -> tuple[RunFolder, Config]:
    """An earlier run and its configuration, without an older version's settings that are gone.

    Raises:
        ConfigError: it is not a run folder, its configuration is damaged, or it has such settings and `resumes`.
    """
    folder = RunFolder(path)
    if not folder.config.is_file():
        raise ConfigError(f"{path} is no run of clst-train: it has no config.toml; give the --out folder of one")
    values = read_recipe(folder.config)
    for name in (gone := removed_settings(values)):
        section, _, key = name.partition(".")
        del values[section][key]
    if gone and resumes:
        raise ConfigError(
            f"{path} was begun by an older version of clst, with {gone[0]}, which is gone; go on with that version, or "
            f"adapt its network anew: --init {path}"
        )
    return folder, config_from_mapping(values, where=str(folder.config))
