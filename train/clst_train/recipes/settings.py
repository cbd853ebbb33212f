"""All settings as TOML, each below its sentence: for `--settings`, a run's config.toml and docs/settings.md."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from clst_train import config as module
from clst_train.config import Config

WIDTH = 118
PAGE = """# Settings

Every setting of `clst-train` with its default. A [recipe](recipes.md) is a TOML file with some of them;
`--set section.key=value` and the command's own options come on top. `clst-train --settings` prints this as one TOML
file, `clst-train --recipe NAME --settings` with the values of a recipe. A run's `config.toml` has the same form.

This page is written by `make settings`.
"""


def settings_toml(config: Config) -> str:
    """A recipe with every setting of `config`, to be read by people too."""
    return "\n".join(text for _, text in _sections(config))


def settings_page() -> str:
    """The page of the documents: a heading and a block of TOML for each section, with the defaults."""
    blocks = (f"\n## {name}\n\n```toml\n{text}```\n" for name, text in _sections(Config()))
    return PAGE + "".join(blocks)


def sentences() -> dict[str, dict[str, str]]:
    """By the name of a class in config.py: what each of its fields means; "" = the class itself.

    Empty where config.py itself is not installed.
    """
    try:
        tree = ast.parse(inspect.getsource(module))
    except OSError:
        return {}
    return {node.name: dict(_sentences(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _sentences(section: ast.ClassDef) -> Iterator[tuple[str, str]]:
    yield "", ast.get_docstring(section) or ""
    for field, after in zip(section.body, section.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match after:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield field.target.id, " ".join(text.split())


def _sections(config: Config) -> Iterator[tuple[str, str]]:
    """Name and text of each."""
    known, values = sentences(), config.to_mapping()
    for field in dataclasses.fields(Config):
        own = known.get(type(getattr(config, field.name)).__name__, {})
        yield field.name, "".join(_lines(field.name, values[field.name], own))


def _lines(name: str, values: Mapping[str, Any], own: Mapping[str, str]) -> Iterator[str]:
    yield f"{_comment(own.get('', ''))}[{name}]\n"
    for key, value in values.items():
        yield f"{_comment(own.get(key, ''))}{key} = {_toml(value)}\n"


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False))


def _toml(value: Any) -> str:
    """A text, number, truth value or a list of them."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float):
        return repr(value)
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")  # all else that JSON writes, TOML reads


if __name__ == "__main__":
    print(settings_page(), end="")  # noqa: T201
