"""What the Dockerfiles, compose.yaml and their page name exists: files, extras, commands, options, services, ports."""

import re
from fnmatch import fnmatch
from urllib.parse import urlsplit

import pytest
import yaml

from tests import ROOT
from tests.support.command_line import call
from tests.support.documents import INDENTED, PROJECT, asking_for_help, command_lines, entry_point

FILES = ("docker/Dockerfile", "docker/Dockerfile.cuda")
SERVICES = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
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


def camera():
    """The instructions of the camera's Dockerfile by name."""
    return dict(instructions("docker/camera/Dockerfile"))


def test_the_services_are_built_of_files_that_exist():
    assert list(SERVICES) == ["camera", "clst"]
    assert SERVICES["camera"]["build"] == "camera"
    assert (ROOT / "docker" / "camera" / camera()["COPY"].split()[0]).is_file()
    build = SERVICES["clst"]["build"]
    assert (ROOT / "docker" / build["context"]).resolve() == ROOT
    assert build["dockerfile"] in FILES
    assert SERVICES["clst"]["depends_on"] == ["camera"]


def test_the_command_of_the_live_page_is_understood():
    words = SERVICES["clst"]["command"]
    assert words[0] == "run"
    done = call(entry_point("clst"), *asking_for_help(entry_point("clst"), words))
    assert done.exit_code == 0, done.output


def test_the_source_is_the_camera_s_port_and_only_this_machine_reaches_the_page():
    words = SERVICES["clst"]["command"]
    source, page = (words[words.index(option) + 1] for option in ("--source", "--web"))
    assert (urlsplit(source).scheme, urlsplit(source).hostname) == ("rtsp", "camera")
    assert urlsplit(source).port == int(camera()["EXPOSE"])
    assert "ports" not in SERVICES["camera"]
    assert page == "0.0.0.0:8080"
    assert SERVICES["clst"]["ports"] == ["127.0.0.1:8080:8080"]
    assert SERVICES["clst"]["environment"] == {"CLST_WEB_TOKEN": "${CLST_WEB_TOKEN:-}"}
    options = {variable for each in entry_point("clst-run").params for variable in [each.envvar] if variable}
    assert "CLST_WEB_TOKEN" in options


@pytest.mark.parametrize(("service", "variable"), [("camera", "CLST_VIDEO"), ("clst", "CLST_MODEL")])
def test_a_file_of_the_host_is_asked_for_and_never_written_nor_made(service, variable):
    (mount,) = SERVICES[service]["volumes"]
    assert mount["type"] == "bind"
    assert re.fullmatch(r"\$\{" + variable + r":\?give .+ with its whole path\}", mount["source"])
    assert mount["target"] in SERVICES[service]["command"]
    assert mount["read_only"] is True
    assert mount["bind"] == {"create_host_path": False}
    assert f'{variable}="$PWD/' in (ROOT / "docs/devices.md").read_text()


def test_the_camera_s_user_is_not_root():
    steps = camera()
    assert int(steps["USER"]) > 0
    assert f"--uid {steps['USER']} " in steps["RUN"]
