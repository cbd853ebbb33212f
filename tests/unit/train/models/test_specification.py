"""How networks are named."""

import pytest

from clst_runtime.errors import ConfigError
from clst_train.models.specification import parse_network


def test_a_built_in_network_and_a_factory_with_arguments():
    assert (parse_network("ddrnet23_slim").library, parse_network("ddrnet23_slim").name) == ("", "ddrnet23_slim")
    found = parse_network("vehicle.networks:Unet.small?width=32&rate=0.5&norm=group&bias=false&sizes=(2,3)&head=None")
    assert (found.library, found.name) == ("python", "vehicle.networks:Unet.small")
    assert found.options == {
        "width": 32, "rate": 0.5, "norm": "group", "bias": False, "sizes": (2, 3), "head": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ddrnet23", "did you mean 'ddrnet23_slim'"),
        ("ddrnet23_slim?width=3", "no network"),
        ("", "no network"),
        ("my-package:net", "package.module:factory"),
        ("module:", "package.module:factory"),
        (":build", "package.module:factory"),
        ("module:build?width", "'width' after the question mark; give key=value"),
        ("module:build?2=3", "give key=value"),
    ],
)
def test_what_is_no_name(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_network(text)
