"""CLST against baselines on changes of camera: several seeds, the same network, initialisation and budget for all.

    python -m benchmarks.adaptation.compare PAIR --work FOLDER --data DIR [--seeds N] [--methods A,B,…]
                                         [--source-steps N] [--steps N] [--oracle-times N] [--size HxW] [--jobs N]
                                         [--name NAME] [--set SECTION.KEY=VALUE …]

PAIR is one of benchmarks/adaptation/pairs.py, a method one of benchmarks/adaptation/methods.py; --data is the folder
that holds `camvid/` and `idd_lite/`. Each seed trains one source network; every method adapts that very network with
clst-train, and its last checkpoint counts. With --jobs N so many trainings run side by side, of all seeds (give them
--set run.threads=1), on a GPU a dozen.

WORK/networks/<pair>/seed<n>/<method>.pt keeps every network, beside it how it was made and its counts: the result file
follows from that folder. A network that is there is not made again, but refused where it was made with other settings;
a broken-off run is resumed, also after Ctrl-C or SIGTERM, which let each training save its step. WORK/runs may be
removed.

The result goes to benchmarks/results/<pair>.json, or with --name to another. A later run adds rows and replaces its
own. Each network in it has its commit, machine, seconds and all its settings.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks.adaptation.methods import ALWAYS, METHODS, RECIPE, USUAL
from benchmarks.adaptation.pairs import PAIRS, Pair, stretch_of
from benchmarks.adaptation.scoring import Counts, by_stretch, compared, confusions, merged, per_class, recovered, score
from benchmarks.record import RESULTS, machine_text, provenance, write_result
from clst_runtime.system.files.atomic import write_text, written_whole
from clst_runtime.system.signals import heard_as_interrupts

CHOICE_IMAGES = 200
"""Images of the choice split, at most, that a network is scored on."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One network to make and to score."""

    pair: Pair
    work: Path
    seed: int
    method: str
    source_steps: int
    steps: int
    oracle_times: int
    """How many times the source network's steps `oracle_long` trains."""
    settings: tuple[str, ...]
    """`--set` of all rows."""

    @property
    def network(self) -> Path:
        """Where the network is kept."""
        return self.work / "networks" / self.pair.name / f"seed{self.seed}" / f"{self.method}.pt"

    @property
    def run(self) -> Path:
        """The folder of its training."""
        return self.work / "runs" / self.pair.name / f"seed{self.seed}" / self.method

    @property
    def source(self) -> Path:
        """The old network."""
        return self.network.with_name("source.pt")

    @property
    def is_first_stage(self) -> bool:
        """Whether it is trained by source training, not adapted."""
        return self.method in ("source", "oracle_long")

    def all_settings(self) -> list[str]:
        """Every `--set` of clst-train."""
        rows, columns = self.pair.size.split("x")
        source = self.source_steps * (self.oracle_times if self.method == "oracle_long" else 1)
        steps = [f"source.iterations={source}" if self.is_first_stage else f"adaptation.iterations={self.steps}"]
        if self.method == "statistics":
            steps = []
        size = f"model.input_hw=[{rows},{columns}]"
        common = [each for each in self.settings if self.is_first_stage or not each.startswith("model.pretrained")]
        return [size, *common, *steps, f"run.seed={self.seed}", *METHODS[self.method].settings]

    def arguments(self) -> list[str]:
        """Of clst-train."""
        labelled = self.pair.oracle if METHODS[self.method].oracle else self.pair.source
        given = ["--recipe", RECIPE, *labelled.as_source()]
        given += [] if self.is_first_stage else ["--target", str(self.pair.target), "--init", str(self.source)]
        return [*given, *(part for each in self.all_settings() for part in ("--set", each))]


@dataclass(kw_only=True)
class Trainings:
    """The runs of clst-train at work, which end together."""

    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    ended: bool = False

    def run(self, call: list[str]) -> int:
        """Run one to its end; its exit code."""
        with subprocess.Popen(call, start_new_session=True) as training:  # Ctrl-C must not reach it twice
            self.running.append(training)
            if self.ended:
                training.terminate()
            return training.wait()

    def end(self) -> None:
        """Have each save its step and end; one that begins after this ends at once."""
        self.ended = True
        for training in self.running:
            training.terminate()


def settings_kept(job: Job) -> list[str] | None:
    """The settings of the network that is there; None where there is none."""
    facts = job.network.with_suffix(".json")
    return json.loads(facts.read_text())["settings"] if facts.is_file() else None


def check_kept(job: Job) -> None:
    """Refuse a network that is kept from other settings."""
    made = settings_kept(job)
    if made not in (None, job.all_settings()):
        other = sorted(set(made or ()) ^ set(job.all_settings()))
        raise click.UsageError(
            f"{job.network} was made with other settings ({', '.join(other)}); give another --work, or remove "
            f"{job.network.parent}"
        )


def make(job: Job, trainings: Trainings) -> None:
    """Train one row of one seed, unless it is there, and score it."""
    facts = job.network.with_suffix(".json")
    if not job.network.is_file():
        job.network.parent.mkdir(parents=True, exist_ok=True)
        now = provenance()
        before = json.loads(facts.read_text()) if facts.is_file() else None
        if before is None:  # what a removed network has left is another's
            shutil.rmtree(job.run, ignore_errors=True)
        for left in job.network.parent.glob(f"{job.method}.*.npy"):
            left.unlink()
        commits = dict.fromkeys(((before or now)["commit"], now["commit"]))  # a run is resumed by another commit's code
        made = {"seed": job.seed, "commit": " + ".join(commits), "date": now["date"], "machine": machine_text(now),
                "settings": job.all_settings(), "seconds": None}  # fmt: skip
        write_text(facts, json.dumps(made))
        started = time.perf_counter()
        result = statistics(job) if job.method == "statistics" else trained(job, trainings)
        if before is None:
            made["seconds"] = round(time.perf_counter() - started, 1)
            write_text(facts, json.dumps(made))
        with written_whole(job.network) as part:
            shutil.copyfile(result, part)
    for name, images, most in (("test", job.pair.test, None), ("choice", job.pair.choice, CHOICE_IMAGES)):
        kept = job.network.with_suffix(f".{name}.npy")
        learnt = METHODS[job.method].oracle and images == job.pair.oracle
        if not kept.is_file() and not learnt:
            counts = confusions(job.network, images, most=most)
            with written_whole(kept) as part, part.open("wb") as stream:
                np.save(stream, counts)


def trained(job: Job, trainings: Trainings) -> Path:
    """The last checkpoint of clst-train."""
    out = job.run
    given = ["--resume", str(out)] if (out / "config.toml").is_file() else [*job.arguments(), "--out", str(out)]
    patch = METHODS[job.method].patch.replace("CLASSES", str(len(job.pair.classes())))
    program = f"{patch}\nimport sys\nfrom clst_train.cli.train import main\nmain(sys.argv[1:])"
    if code := trainings.run([sys.executable, "-c", program, *given]):
        raise RuntimeError(f"clst-train ended with exit code {code}; its lines stand above")
    return out / "checkpoints" / ("source.pt" if job.is_first_stage else "adapted.pt")


def statistics(job: Job) -> Path:
    """The old network with nothing but BatchNorm statistics of the new camera."""
    from clst_train.config import AdaptationConfig
    from clst_train.data.target import open_target
    from clst_train.method.batchnorm import STATISTICS_IMAGES, estimate_statistics
    from clst_train.models.checkpoint import build_from_checkpoint, load_checkpoint, save_checkpoint
    from clst_train.stages.whole_images import statistics_batches

    content = load_checkpoint(job.source)
    segmenter, config = build_from_checkpoint(content), AdaptationConfig()
    images = open_target((str(job.pair.target),), input_hw=content.input_hw, fit=content.fit)
    count, size = STATISTICS_IMAGES, config.batch
    estimate_statistics(segmenter, statistics_batches(segmenter.normalisation, images, count=count, size=size))
    out = job.run / "statistics.pt"
    out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(out, dataclasses.replace(content, segmenter_state=segmenter.state_dict()))
    return out


def one_thread() -> None:
    """For scoring side by side."""
    import torch

    torch.set_num_threads(1)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What lies in the folder of networks: by row and seed."""

    runs: dict[str, list[dict[str, Any]]]
    """How each was made."""
    test: dict[str, dict[int, Counts]]
    """S,C,C of the test's stretches."""
    choice: dict[str, dict[int, Counts]]
    """N,C,C of the choice's images; an oracle that has learnt them has none."""


def found_rows(jobs: Sequence[Job]) -> Rows:
    """Every row of which networks are scored; what was made with other settings is left where it is."""
    found, pair = Rows(runs={}, test={}, choice={}), jobs[0].pair
    stretches = [stretch_of(Path(each.image).stem, pair.stretch) for each in pair.test.open().files]
    for job in jobs:
        test, choice = (job.network.with_suffix(f".{name}.npy") for name in ("test", "choice"))
        if not test.is_file() or settings_kept(job) != job.all_settings():
            continue
        found.runs.setdefault(job.method, []).append(json.loads(job.network.with_suffix(".json").read_text()))
        found.test.setdefault(job.method, {})[job.seed] = by_stretch(np.load(test), stretches)
        if choice.is_file():
            found.choice.setdefault(job.method, {})[job.seed] = np.load(choice)
    return found


def best_oracle(choice: Mapping[str, float | None], steps: Mapping[str, int]) -> str:
    """The oracle that recovery is measured by: the best on the choice split where no oracle has learnt that, else the
    one with the most steps on the labels. Empty where there is none.

    `choice` is each row's score on the choice split; None = it has learnt that.
    """
    there = {name: value for name, value in choice.items() if name in METHODS and METHODS[name].oracle}
    if None in there.values():
        return max(there, key=lambda name: steps[name])
    return max(there, key=lambda name: float(there[name] or 0.0), default="")


def summary(pair: Pair, rows: Rows, steps: dict[str, int], names: tuple[str, ...]) -> dict[str, Any]:
    """Every row over the pair's headline classes, and over its merged groups where it has them."""
    headline = [names.index(name) for name in pair.headline] or list(range(len(names)))
    choice = {name: row["miou_mean"] for name, row in score(rows.choice, headline).items()}
    oracle = best_oracle({name: choice.get(name) for name in rows.test}, steps)
    methods = scored(rows, headline, oracle)
    for name, each in methods.items():
        each |= {"title": METHODS[name].title, "runs": rows.runs[name]}
        each["iou"] = [per_class(counts.sum(0), names) for counts in rows.test[name].values()]
    found = {"oracle": oracle, "methods": methods}
    if pair.merged:
        groups = [[names.index(name) for name in members] for members in pair.merged]
        test, choice = (
            {name: {seed: merged(each, groups) for seed, each in seeds.items()} for name, seeds in kind.items()}
            for kind in (rows.test, rows.choice)
        )
        found["merged"] = scored(Rows(runs={}, test=test, choice=choice), list(range(len(groups))), oracle)
    return found


def scored(rows: Rows, classes: Sequence[int], oracle: str) -> dict[str, dict[str, Any]]:
    """Each row on the test, and beside it on the choice split."""
    found, choice = compared(rows.test, classes, oracle), score(rows.choice, classes)
    return {name: {**each, **({"choice": choice[name]} if name in choice else {})} for name, each in found.items()}


def facts_of(pair: Pair, first: Job) -> dict[str, Any]:
    """What all rows of a result file have in common."""
    return {"name": pair.name, "title": pair.title, "headline": list(pair.headline), "size": pair.size,
            "source_steps": first.source_steps, "steps": first.steps, "oracle_times": first.oracle_times,
            "settings": list(first.settings)}  # fmt: skip


def earlier_result(path: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """The result file that this run adds rows to, if there is one; another measurement's is refused."""
    before: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    other = [key for key, value in facts.items() if before and before.get(key) != value]
    if other:
        raise click.UsageError(f"{path} has rows with another {', '.join(other)}; give --name for a file of their own")
    return before


def write(path: Path, facts: dict[str, Any], found: dict[str, Any], steps: dict[str, int]) -> None:
    """Write the result file and print its table; rows of which no network is here are those of the file."""
    before = earlier_result(path, facts)
    every = {**before.get("methods", {}), **found["methods"]}
    found["oracle"] = best_oracle({name: row.get("choice", {}).get("miou_mean") for name, row in every.items()}, steps)
    for part in ("methods", "merged"):
        if part in found:
            found[part] = with_kept(found[part], before.get(part, {}), found["oracle"])
    result = {**facts, **provenance(), **found}
    write_result(path, result)
    click.echo("\n".join(table(result)))


def with_kept(rows: dict[str, Any], before: dict[str, Any], oracle: str) -> dict[str, Any]:
    """New rows and those that only the file has.

    Shares of the way to an oracle that is one of these follow from the rows' means. CLST's lead over one of these is
    left out where CLST is another network now.
    """
    every = {**before, **rows}
    found = {name: {**every[name]} for name in METHODS if name in every}
    renewed = "clst" in rows and rows["clst"]["miou"] != before.get("clst", {}).get("miou")
    values = {name: dict(enumerate(row["miou"])) for name, row in found.items()}
    for name, row in found.items():
        if oracle not in rows and len(row["miou"]) == len(found.get(oracle, row)["miou"]):
            row["recovery"] = recovered(values, name, oracle)
        if name not in rows and renewed:
            row.pop("clst_ahead", None)
    return found


def table(result: dict[str, Any]) -> list[str]:
    """A line for each row; a commit that is not the file's stands behind it."""
    lines = [result["title"] + (f"; recovered of the way to {oracle}" if (oracle := result["oracle"]) else "")]
    for name, row in result["methods"].items():
        spread = "" if row["miou_std"] is None else f" ± {row['miou_std']:.2f}"
        share = "" if row["recovery"] is None else f"recovered {100 * row['recovery']:4.0f} %"
        choice = f"choice {row['choice']['miou_mean']:6.2f}" if "choice" in row else ""
        ahead = row.get("clst_ahead")
        against = f"CLST ahead by {ahead['mean']:+.2f} [{ahead['low']:+.2f}, {ahead['high']:+.2f}]" if ahead else ""
        others = sorted({run["commit"] for run in row["runs"]} - {result["commit"]})
        at = f"at commit {', '.join(others)}" if others else ""
        lines.append(f"{name:28} {row['miou_mean']:6.2f}{spread:8} {choice:14} {share:15} {against} {at}".rstrip())
    return lines


def run_all(jobs: list[Job], workers: int, finished: Any) -> list[str]:
    """Make all networks, of each seed the source network first; returns what failed.

    After an interrupt the trainings at hand save their step, and no other begins.
    """
    setup, trainings, failures = one_thread if workers > 1 else None, Trainings(), []
    with ThreadPoolExecutor(workers, initializer=setup) as pool:
        try:
            waiting: dict[Future[None], Job] = {}
            waiting |= {pool.submit(make, job, trainings): job for job in jobs if job.is_first_stage}
            while waiting:
                future = next(as_completed(waiting))
                job = waiting.pop(future)
                if error := future.exception():
                    failures.append(f"{job.method} of seed {job.seed}: {error}")
                elif job.method == "source":
                    waiting |= {pool.submit(make, each, trainings): each for each in jobs
                                if each.seed == job.seed and not each.is_first_stage}  # fmt: skip
                if not waiting or job.method != "source":
                    finished()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            trainings.end()
            raise
    return failures


@click.command()
@click.argument("pair_name", metavar="PAIR", type=click.Choice(sorted(PAIRS)))
@click.option("--work", required=True, type=click.Path(path_type=Path), help="Folder for networks and runs.")
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path),
              help="Folder that holds camvid/ and idd_lite/.")  # fmt: skip
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--methods", default=",".join(USUAL), show_default=True, help=f"Of: {', '.join(METHODS)}.")
@click.option("--source-steps", default=3000, show_default=True, type=click.IntRange(1))
@click.option("--steps", default=600, show_default=True, type=click.IntRange(1))
@click.option("--oracle-times", default=1, show_default=True, type=click.IntRange(1),
              help="How many times the source network's steps oracle_long trains.")  # fmt: skip
@click.option("--size", default="", metavar="HxW", help="Of the network's input; else the pair's.")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(1), help="Trainings side by side.")
@click.option("--name", default="", help="Of the result file; else the pair's.")
@click.option("--set", "settings", multiple=True, help="Any setting of clst-train, for all rows.")
def main(pair_name: str, work: Path, data: Path, seeds: int, methods: str, **options: Any) -> None:
    """Measure PAIR; the result file is written anew after each row."""
    size = options["size"]
    if size and re.fullmatch(r"\d+x\d+", size) is None:
        raise click.UsageError(f"--size {size} is not rows x columns, as in 240x320")
    names = [name for name in methods.split(",") if name]
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise click.UsageError(f"unknown methods {', '.join(unknown)}; there are {', '.join(METHODS)}")
    missing = [str(data / name) for name in ("camvid", "idd_lite") if not (data / name / "classes.json").is_file()]
    if missing:
        raise click.UsageError(f"--data {data} lacks {' and '.join(missing)} with classes.json")
    pair = PAIRS[pair_name](work, data)
    pair = dataclasses.replace(pair, size=size or pair.size)
    every = [
        Job(pair=pair, work=work, seed=seed, method=name, source_steps=options["source_steps"], steps=options["steps"],
            oracle_times=options["oracle_times"], settings=options["settings"])
        for seed in range(1, seeds + 1) for name in METHODS
    ]  # fmt: skip
    jobs = [job for job in every if job.method in (*ALWAYS, *names)]
    facts, path = facts_of(pair, jobs[0]), RESULTS / f"{options['name'] or pair.name}.json"
    earlier_result(path, facts)
    for job in jobs:
        check_kept(job)
    steps = {"oracle": options["steps"], "oracle_long": options["source_steps"] * options["oracle_times"]}

    def finished() -> None:
        if (rows := found_rows(every)).test:
            write(path, facts, summary(pair, rows, steps, pair.classes()), steps)

    try:
        with heard_as_interrupts():
            failures = run_all(jobs, options["jobs"], finished)
    except KeyboardInterrupt as interrupt:
        raise click.ClickException("interrupted; the same command goes on where it was") from interrupt
    if failures:
        raise click.ClickException("; ".join(failures))


if __name__ == "__main__":
    main()
