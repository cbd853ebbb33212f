"""The README's index leads to one room each, and every command that a page names is understood by that command."""

import ast
import importlib
import importlib.util
import inspect
import json
import re

import pytest

from benchmarks.report import readme_table
from clst_runtime.backends.base import Backend
from clst_runtime.backends.selection import NAMES
from clst_runtime.classes.labels import ClassList, builtin_names
from clst_runtime.data.formats import FORMATS
from clst_runtime.sources.base import Source
from clst_train.config import NETWORKS
from clst_train.models.networks import build_segmenter
from clst_train.models.segmenter import Segmenter
from tests import ROOT
from tests.support.command_line import call
from tests.support.documents import PROJECT, asking_for_help, blocks, commands_of, documents, entry_point

README = (ROOT / "README.md").read_text()
PACKAGES = ("runtime", "export", "train")


def index():
    """The README's table of wishes: what a newcomer wants to add, and the rooms that its line names."""
    table = re.search(r"\| you want to add \| room \|\n\|[-|]+\|\n((?:\|.*\n)+)", README)[1]
    lines = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.splitlines()]
    return {wish: re.findall(r"`([^`]+)`", rooms) for wish, rooms in lines}


def modules_of(room):
    """The modules of a room and of its rooms, imported."""
    folder = ROOT / room
    for path in sorted(folder.rglob("*.py")):
        place = path.relative_to(ROOT / room.split("/")[0]).with_suffix("")
        yield importlib.import_module(".".join(place.parts).removesuffix(".__init__"))


def classes_of(room):
    """The classes that are defined in a room."""
    for module in modules_of(room):
        yield from (
            each for _, each in inspect.getmembers(module, inspect.isclass) if each.__module__ == module.__name__
        )


def holds_class_lists(room):
    lists = sorted((ROOT / room).rglob("*.json"))
    assert sorted(path.stem for path in lists) == sorted(builtin_names())
    return all(ClassList.from_json(json.loads(path.read_text()), name=path.stem).names for path in lists)


def holds_data_sets(room):
    return any(getattr(module, "FORMATS", None) is FORMATS for module in modules_of(room)) and "folder" in FORMATS


def holds_cameras(room):
    sources = [each for each in classes_of(room) if issubclass(each, Source)]
    return Source in sources and sum(not inspect.isabstract(each) for each in sources) >= 3


def holds_backends(room):
    members = {name for name, each in vars(Backend).items() if callable(each) and not name.startswith("_")}
    complete = [each for each in classes_of(room) if members <= set(dir(each)) and each is not Backend]
    return "predict" in members and len(complete) >= 2 and len(NAMES) >= 4


def holds_losses(room):
    for path in (ROOT / room).glob("[!_]*.py"):
        functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
        if not any(node.returns and ast.unparse(node.returns) == "Tensor" for node in functions):
            return False
    return True


def holds_networks(room):
    classes = {type(build_segmenter(name, 2)) for name in NETWORKS}
    return classes <= {each for each in classes_of(room) if issubclass(each, Segmenter)}


HOLDS = {
    "a class list": holds_class_lists,
    "a data set": holds_data_sets,
    "a camera": holds_cameras,
    "a backend": holds_backends,
    "a loss": holds_losses,
    "a network": holds_networks,
}


def test_the_index_names_the_six_wishes_of_a_newcomer():
    assert list(index()) == list(HOLDS)


@pytest.mark.parametrize("wish", HOLDS)
def test_each_wish_leads_to_exactly_one_room_that_holds_what_it_needs(wish):
    (room,) = index()[wish]
    assert (ROOT / room / "__init__.py").is_file()
    assert HOLDS[wish](room)


@pytest.mark.parametrize("wish", HOLDS)
def test_a_room_of_the_same_name_elsewhere_names_the_right_one(wish):
    (room,) = index()[wish]
    name = room.rsplit("/", 1)[1]
    others = [path for package in PACKAGES for path in (ROOT / package).rglob(f"{name}/__init__.py")]
    others.remove(ROOT / room / "__init__.py")
    dotted = ".".join(room.split("/")[1:])
    assert all(dotted in ast.get_docstring(ast.parse(path.read_text())) for path in others)


@pytest.mark.parametrize("wish", HOLDS)
def test_contributing_has_the_steps_of_each_wish_and_names_the_same_room(wish):
    text = (ROOT / "CONTRIBUTING.md").read_text()
    section = re.search(rf"^### {wish.capitalize()}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)[1]
    named = re.findall(r"`((?:runtime|train|export)/[^`]+)`", section)
    assert named[0].startswith(index()[wish][0] + "/")
    assert all((ROOT / each).exists() for each in named)


def test_a_network_of_one_s_own_needs_no_change_here_and_its_page_shows_the_example():
    assert "[your own network](docs/own_network.md)" in README
    assert "(docs/own_network.md)" in (ROOT / "CONTRIBUTING.md").read_text().partition("### A network\n")[2]
    page = (ROOT / "docs" / "own_network.md").read_text()
    assert f"```python\n{(ROOT / 'examples' / 'small_unet.py').read_text()}```" in page


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_every_command_of_a_page_is_understood(path):
    for words in commands_of(path):
        command = entry_point(words[0])
        assert command is not None, f"{path.name}: no command {words[0]}"
        done = call(command, *asking_for_help(command, words[1:]))
        known = done.exit_code == 0 or done.output.endswith(
            "requires an argument.\n"
        )  # `clst-train --init` in a sentence
        assert known, f"{path.name}: {' '.join(words)}: {done.output}"


def test_an_option_that_no_command_has_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("text\n\n    clst-eval model.onnx --data D && \\\n        clst-data chek D --sauce x   # no such\n")
    first, second = commands_of(page)
    assert (first, second) == (["clst-eval", "model.onnx", "--data", "D"], ["clst-data", "chek", "D", "--sauce", "x"])
    run, data = entry_point("clst-run"), entry_point("clst-data")
    assert call(run, *asking_for_help(run, ["m.onnx", "--sauce", "x"])).exit_code == 2
    assert call(data, *asking_for_help(data, ["chek", "D"])).exit_code == 2
    assert asking_for_help(data, ["check", "D"]) == ["check", "--help", "D"]
    assert entry_point("clst-walk") is None


def test_the_make_targets_of_the_readme_exist():
    targets = {name for block in blocks(README) for name in re.findall(r"^make (\w+)", block, re.MULTILINE)}
    makefile = (ROOT / "Makefile").read_text()
    assert targets >= {"demo", "test"}
    assert all(re.search(rf"^{name}:", makefile, re.MULTILINE) for name in targets)


@pytest.mark.parametrize("path", readme_table.blocks(), ids=lambda path: path.name)
def test_the_tables_are_those_of_the_result_files(path):
    text = path.read_text()
    assert readme_table.replaced(text, readme_table.blocks()[path]) == text


def test_the_times_of_the_readme_follow_from_the_measured_steps():
    def minutes(source, adapted):
        measured = [json.loads((ROOT / f"benchmarks/results/{name}.json").read_text()) for name in (source, adapted)]
        steps = zip(measured, ("plain", "clst"), (8000, 3000), strict=True)
        return (
            sum(
                count * each["step"]["seconds"][kind] * 384 * 640 / (each["input_hw"][0] * each["input_hw"][1])
                for each, kind, count in steps
            )
            / 60
        )

    assert (
        re.search(r"about (\d+) hours on a CPU", README)[1]
        == f"{minutes('training_speed', 'training_speed_turns') / 60:.0f}"
    )
    assert (
        re.search(r"about (\d+) minutes on an\sNVIDIA H100", README)[1]
        == f"{minutes(*['training_speed_cuda'] * 2):.0f}"
    )


def test_the_demo_s_numbers_in_the_readme_are_those_of_its_result_file():
    result = json.loads((ROOT / "benchmarks/results/demo.json").read_text())
    text = " ".join(README.split())
    found = re.search(r"old network has ([\d.]+) % mIoU .*? it has ([\d.]+) %, and after CLST ([\d.]+) %", text)
    assert found.groups() == tuple(f"{result['miou'][name]:.1f}" for name in ("source", "batchnorm", "clst"))
    assert re.search(r"takes (\d+) minutes on two cores", text)[1] == f"{result['seconds'] / 60:.0f}"


def test_no_entry_of_the_changelog_is_there_twice():
    """Merges that keep the lines of both sides bring old ones back."""
    entries = re.findall(r"^- (.{60})", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert sorted(set(entries)) == sorted(entries)


@pytest.mark.parametrize("path", [*documents(), ROOT / "CHANGELOG.md"], ids=lambda path: path.name)
def test_every_file_that_a_page_links_to_exists(path):
    links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_page_of_the_site_is_in_its_navigation():
    named = set(re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    assert named == {path.name for path in (ROOT / "docs").glob("*.md")} | {"decisions/index.md"}


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_no_page_of_the_site_links_out_of_it(path):
    """Such a link works in the repository and is broken on the site: name the file in backticks instead."""
    assert re.findall(r"\]\(\.\./[^)]*\)", path.read_text()) == []


def test_the_index_of_decisions_names_each_of_them_with_its_title():
    folder = ROOT / "docs" / "decisions"
    pages = {path.name: path.read_text().partition("\n")[0] for path in folder.glob("0*.md")}
    links = re.findall(r"^\| (\d+) \| \[(.+?)\]\((\S+)\) \|$", (folder / "index.md").read_text(), re.MULTILINE)
    assert {name: f"# {number}. {title}" for number, title, name in links} == pages


@pytest.mark.parametrize(
    "path", [*documents(), ROOT / "benchmarks" / "README.md"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_extras_and_modules_that_a_page_names_exist(path):
    text = path.read_text()
    extras = {name for names in re.findall(r"(?:clst|\.)\[([a-z,-]+)\]", text) for name in names.split(",")}
    assert extras <= set(PROJECT["optional-dependencies"])
    modules = set(re.findall(r"python3? -m (benchmarks[\w.]+|clst_\w+)", text))
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


def test_a_decision_that_the_source_names_by_its_number_is_there():
    numbers = {path.name[:4] for path in (ROOT / "docs" / "decisions").glob("0*.md")}
    named = {
        (path.name, number)
        for package in (*PACKAGES, "benchmarks")
        for path in (ROOT / package).rglob("*.py")
        for number in re.findall(r"docs/decisions/(\d{4})", path.read_text())
    }
    assert [each for each in named if each[1] not in numbers] == []
    assert named


@pytest.mark.parametrize(
    "path", [*documents(), *sorted((ROOT / "docs" / "decisions").glob("*.md"))], ids=lambda path: path.name
)
def test_source_files_that_a_page_names_exist(path):
    """By their path from the root, or within the package that the page is about."""
    text = re.sub(r"git show \w+:[\w/.]+", "", path.read_text())
    roots = [ROOT, *(ROOT / package / f"clst_{package}" for package in PACKAGES), ROOT / "docs"]
    named = set(re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|md|toml|json))\b", text))
    assert sorted(name for name in named if not any((root / name).is_file() for root in roots)) == []


def test_no_result_file_names_a_folder_of_the_machine_that_measured():
    """The graph's own names begin with /segmenter."""
    texts = {path.name: path.read_text() for path in (ROOT / "benchmarks/results").rglob("*.json")}
    assert texts
    found = {name: re.findall(r'"/(?!segmenter\b)[^"\s]+"', text) for name, text in texts.items()}
    assert {name: paths for name, paths in found.items() if paths} == {}
