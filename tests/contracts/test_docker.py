"""What the Dockerfiles and their page name exists: files, extras, commands, options."""

import re
from fnmatch import fnmatch

import pytest

from tests import ROOT
from tests.support.command_line import call
from tests.support.documents import INDENTED, PROJECT, asking_for_help, command_lines, entry_point

FILES = ("docker/Dockerfile", "docker/Dockerfile.cuda")
WHEEL = f"clst-{PROJECT['version']}-py3-none-any.whl"


def instructions(file):
    """(instruction, what follows it) of each line, comments left out."""
    text = re.sub(r"^#.*\n", "", (ROOT / file).read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines()]


def docker_run_lines():
    """The words behind the image's name of each `docker run` of the page, by image."""
    lines = [
        words for block in INDENTED.findall((ROOT / "docs/devices.md").read_text()) for words in command_lines(block)
    ]
    for words in (words for words in lines if words[:2] == ["docker", "run"]):
        (place,) = [index for index, word in enumerate(words) if word in ("clst", "clst:cuda")]
        yield words[place], words[place + 1 :]


@pytest.mark.parametrize("file", FILES)
def test_the_wheel_and_its_extras_exist_and_only_the_wheel_is_sent(file):
    steps = instructions(file)
    assert [what for step, what in steps if step == "COPY"] == [f"dist/{WHEEL} /tmp/"]
    extras = [
        extra
        for _, what in steps
        for found in re.findall(re.escape(f"/tmp/{WHEEL}[") + r"(.+?)\]", what)
        for extra in found.split(",")
    ]
    assert "headless" in extras
    assert "web" in extras
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    ignore, *kept = (ROOT / ".dockerignore").read_text().split()
    assert ignore == "*"
    assert any(fnmatch(f"dist/{WHEEL}", each.removeprefix("!")) for each in kept)


@pytest.mark.parametrize("file", FILES)
def test_the_image_starts_our_command_and_its_user_is_not_root(file):
    steps = dict(instructions(file))
    assert (steps["ENTRYPOINT"], steps["CMD"]) == ('["clst"]', '["doctor"]')
    assert int(steps["USER"]) > 0
    assert f"--uid {steps['USER']} " in steps["RUN"]


def test_the_lines_for_the_live_page_are_understood():
    lines = list(docker_run_lines())
    assert {image for image, _ in lines} == {"clst", "clst:cuda"}
    for _, words in lines:
        done = call(entry_point("clst"), *asking_for_help(entry_point("clst"), words))
        assert done.exit_code == 0, done.output
