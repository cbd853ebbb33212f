"""All settings as TOML, each below its sentence: for `--settings`, a run's config.toml and docs/settings.md."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
from collections.abc import Iterator
from typing import Any

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


def values_toml(section: Any) -> str:
    """The values of one dataclass of settings, each below its sentence."""
    known = sentences(type(section))
    return "".join(
        f"{_comment(known.get(key, ''))}{key} = {_toml(value)}\n" for key, value in dataclasses.asdict(section).items()
    )


def sentences(kind: type) -> dict[str, str]:
    """What each field of a dataclass of settings means; "" = the class itself. Empty where its source is not there."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(kind)))
    except OSError:
        return {}
    return dict(_sentences(tree.body[0])) if isinstance(tree.body[0], ast.ClassDef) else {}


def _sentences(section: ast.ClassDef) -> Iterator[tuple[str, str]]:
    yield "", ast.get_docstring(section) or ""
    for field, after in zip(section.body, section.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match after:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield field.target.id, " ".join(text.split())


def _sections(config: Config) -> Iterator[tuple[str, str]]:
    """Name and text of each."""
    for field in dataclasses.fields(Config):
        section = getattr(config, field.name)
        yield field.name, f"{_comment(sentences(type(section)).get('', ''))}[{field.name}]\n{values_toml(section)}"


def _comment(text: str) -> str:
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False))


def _toml(value: Any) -> str:
    """A text, number, truth value or a list of them."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, float):
        return repr(value)
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("\x7f", "\\u007f")  # all else that JSON writes, TOML reads


if __name__ == "__main__":
    print(settings_page(), end="")  # noqa: T201
