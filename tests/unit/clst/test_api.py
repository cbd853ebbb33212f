"""The names that users import: a change here is a change of the API, and belongs into the changelog."""

import inspect
import re
from importlib.metadata import version

import click

import clst
from tests import ROOT


def test_these_names_are_public():
    assert clst.__all__ == [
        "Exported",
        "Model",
        "Segmentation",
        "__version__",
        "errors",
        "export",
        "load_model",
        "train",
    ]
    assert [name for name in vars(clst.Model) if not name.startswith("_")] == [
        *("manifest", "description", "segment", "close")
    ]
    assert clst.__version__ == version("clst")


def test_every_error_that_a_user_may_catch_is_public():
    from clst_runtime import errors

    ours = [
        name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.ClstError)
    ]
    assert sorted(ours) == clst.errors.__all__
    assert all(issubclass(getattr(clst.errors, name), click.ClickException) for name in ours)


def test_options_are_named_in_a_call_and_every_function_says_what_it_raises():
    named = {
        clst.load_model: ["path"],
        clst.train: [],
        clst.export: ["checkpoint", "out"],
        clst.Model.segment: ["image"],
    }
    for function, places in named.items():
        by_place = [
            name
            for name, each in inspect.signature(function).parameters.items()
            if each.kind is each.POSITIONAL_OR_KEYWORD and name != "self"
        ]
        assert by_place == places
        assert "Args:" in function.__doc__
        assert "Raises:" in function.__doc__


def test_the_page_in_docs_has_every_name_and_argument():
    page = (ROOT / "docs" / "api.md").read_text()
    for name in (*clst.__all__, *clst.errors.__all__):
        assert re.search(rf"`[^`]*\b{name}\b", page), name
    for function in (clst.load_model, clst.train, clst.export, clst.Model.segment):
        for name in inspect.signature(function).parameters:
            assert name == "self" or re.search(rf"\b{name}\b", page), name
