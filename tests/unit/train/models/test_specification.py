"""How networks are named."""

import importlib
import sys

import pytest

from clst_runtime.errors import ConfigError, MissingDependency
from clst_runtime.system import optional
from clst_train.models.specification import ADAPTERS, check_library, parse_network


def test_a_built_in_network_and_a_factory_with_arguments():
    assert (parse_network("ddrnet23_slim").library, parse_network("ddrnet23_slim").name) == ("", "ddrnet23_slim")
    found = parse_network("vehicle.networks:Unet.small?width=32&rate=0.5&norm=group&bias=false&sizes=(2,3)&head=None")
    assert (found.library, found.name) == ("python", "vehicle.networks:Unet.small")
    assert found.options == {
        "width": 32, "rate": 0.5, "norm": "group", "bias": False, "sizes": (2, 3), "head": None,
    }  # fmt: skip


def test_networks_of_other_libraries_are_named_as_their_users_know_them():
    found = parse_network("hf:nvidia/segformer-b0-finetuned-cityscapes-1024-1024?revision=main")
    assert (found.library, found.name) == ("hf", "nvidia/segformer-b0-finetuned-cityscapes-1024-1024")
    assert parse_network("hf:./my-segformer").name == "./my-segformer"
    found = parse_network("smp:Unet?encoder=resnet34&weights=imagenet")
    assert (found.library, found.name, found.options) == (
        "smp", "Unet", {"encoder": "resnet34", "weights": "imagenet"},
    )  # fmt: skip


@pytest.mark.parametrize("library", ADAPTERS)
def test_a_library_that_is_not_installed_is_found_in_the_first_second(library, monkeypatch):
    monkeypatch.setattr(optional.importlib.util, "find_spec", lambda module: None)
    monkeypatch.setitem(sys.modules, ADAPTERS[library], None)
    with pytest.raises(MissingDependency, match=rf"{ADAPTERS[library]} cannot be imported.*\[{library}\]"):
        check_library(parse_network(f"{library}:anything"))
    check_library(parse_network("ddrnet23_slim"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ddrnet23", "did you mean 'ddrnet23_slim'"),
        ("ddrnet23_slim?width=3", "no network"),
        ("", "no network"),
        ("my-package:net", "package.module:factory"),
        ("module:", "package.module:factory"),
        (":build", "package.module:factory"),
        ("os:abort", "os is of Python's standard library"),
        ("builtins:eval", "builtins is of Python's standard library"),
        ("importlib.util:find_spec", "importlib is of Python's standard library"),
        ("__main__:main", "put the factory into a file of its own"),
        ("torch.hub:load", "torch is PyTorch's own"),
        ("a:b?" + "x=1&" * 60, "at most 200 printable characters"),
        ("a:b?x=\n", "at most 200 printable characters"),
        ("module:build?width", "'width' after the question mark; give key=value"),
        ("module:build?2=3", "give key=value"),
        ("module:build?width=3&width=4", "give each argument after the question mark once"),
        ("hf:", "package.module:factory, or hf:NAME"),
    ],
)
def test_what_is_no_name(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_network(text)


def test_a_module_is_looked_for_in_packages_and_in_the_working_folder_and_not_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingDependency, match="no module 'road_nets_here' here; .* start where road_nets_here lies"):
        check_library(parse_network("road_nets_here.small:unet"))
    (tmp_path / "road_nets_here.py").write_text("1/0")
    importlib.invalidate_caches()
    check_library(parse_network("road_nets_here.small:unet"))
    check_library(parse_network("numpy:zeros"))
    assert str(tmp_path) not in sys.path
