"""What the documents tell a reader to type, read from their text."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from tests import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FENCED = re.compile(r"^```([a-z]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^ {4}.*\n)+", re.MULTILINE)
INLINE = re.compile(r"`(clst[ -][^`\n]+)`")


def documents() -> list[Path]:
    """The pages that a user reads."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(text: str) -> list[str]:
    """The fenced code blocks, without those of plain text."""
    return [code for language, code in FENCED.findall(text) if language != "text"]


def command_lines(block: str) -> Iterator[list[str]]:
    """The words of each command of a block, without comments; `&&` and `;` part two commands."""
    for line in block.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*_words(line), ";"]:
            if word in ("&&", ";", "|", "||"):
                if words:
                    yield words
                words = []
            elif word not in ("…", "..."):
                words.append(word)


def commands_of(path: Path) -> list[list[str]]:
    """Every command of this project that a page names: in code blocks, and in backticks within its text."""
    text = path.read_text()
    prose = FENCED.sub("", text)
    code = [*blocks(text), *INDENTED.findall(prose), *(each for each in INLINE.findall(prose))]
    found = [words for block in code for words in command_lines(block)]
    return [words for words in found if re.fullmatch(r"clst(-\w+)?", words[0])]


def entry_point(name: str) -> click.Command | None:
    """The command that a script of pyproject.toml starts; None: there is no such script."""
    where = PROJECT["scripts"].get(name)
    if where is None:
        return None
    module, _, attribute = where.partition(":")
    return getattr(importlib.import_module(module), attribute)


def asking_for_help(command: click.Command, arguments: list[str]) -> list[str]:
    """The arguments with `--help` behind the subcommand: every option is read, and nothing is run."""
    if not isinstance(command, click.Group):
        return ["--help", *arguments]
    name, *rest = arguments or [""]
    chosen = command.get_command(click.Context(command), name)
    if chosen is None:
        name, rest = getattr(command, "default", name), arguments
        chosen = command.get_command(click.Context(command), name)
    if chosen is None:
        return [each for each in (name, "--help") if each]
    return [name, *asking_for_help(chosen, rest)]


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:  # prose with an apostrophe in an indented paragraph
        return []
