"""What a report is written as: escaped, self-contained HTML, and the same as Markdown."""

import re
from html.parser import HTMLParser

from clst_export.report.document import (
    Cell,
    Chart,
    Facts,
    Legend,
    Line,
    Missing,
    Picture,
    Pictures,
    Points,
    Report,
    Section,
    Table,
    Text,
    Tone,
)
from clst_export.report.html import to_html
from clst_export.report.markdown import to_markdown

HOSTILE = "<script>alert(1)</script>\"'&amp;|`*x*"
VOID = {"meta", "img"}


class Page(HTMLParser):
    """Elements, attributes and texts of a page whose elements are all closed."""

    def __init__(self, page):
        super().__init__()
        self.open, self.elements, self.text = [], [], ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data

    def values(self, name):
        return [found[name] for _, found in self.elements if name in found]


def check_alone(page):
    """It needs no other file and runs nothing, and its links lead to places in it."""
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "object", "form", "base"}
    assert all(each.startswith("data:image/") for each in page.values("src"))
    assert {each[1:] for each in page.values("href")} <= set(page.values("id"))
    assert not [name for _, found in page.elements for name in found if name.startswith("on")]


def report_of_every_block():
    picture = Picture(HOSTILE, b"\x89PNG")
    line = Line(name=HOSTILE, points=((1, 50), (2, None), (3, 100)))
    blocks = (
        Text(text=HOSTILE, tone=Tone.BAD),
        Points(items=(HOSTILE,)),
        Facts(rows=((HOSTILE, HOSTILE),), title=HOSTILE, origin=HOSTILE),
        Legend(classes=(Cell(HOSTILE, (1, 2, 3)),)),
        Table(title=HOSTILE, head=(HOSTILE, "b"), rows=((Cell(HOSTILE, (255, 0, 0)), Cell(HOSTILE, share=0.5)),)),
        Pictures(title=HOSTILE, pictures=(picture,)),
        Chart(title=HOSTILE, x=HOSTILE, y=HOSTILE, lines=(line,), x_range=(1, 3)),
        Missing(what=HOSTILE, commands=("clst-report '``'", HOSTILE)),
    )
    section = Section(key="all", title=HOSTILE, question=HOSTILE, topic=HOSTILE, blocks=blocks, origin=HOSTILE)
    return Report(title=HOSTILE, subtitle=HOSTILE, made=HOSTILE, summary=blocks, sections=(section,))


def test_no_text_becomes_an_element_and_each_is_there_as_it_was_given():
    page = Page(to_html(report_of_every_block()))
    check_alone(page)
    assert page.text.count(HOSTILE) > 30
    assert page.values("alt") == [HOSTILE] * 2
    assert "default-src 'none'" in page.values("content")[-1]


def test_markdown_has_the_same_texts_without_markup_of_theirs():
    text = to_markdown(report_of_every_block())
    assert not re.search(r"(?<![\\`])<script>", text)
    escaped = "\\<script>alert(1)\\</script>\"'\\&amp;\\|\\`\\*x\\*"
    assert f"# {escaped}\n" in text
    assert f"| {escaped} | {escaped} |\n" in text, "a row of the table"
    assert "```clst-report '``'```, then ``<script>" in text, "more backticks than are in it"
    assert f"\n- {escaped}: ```clst-report" in text, "among what is not known"


def test_what_is_missing_is_counted_and_listed_once_for_the_commands_that_make_it():
    sections = tuple(
        Section(key=key, title=key, question="?", topic="t", blocks=(Missing(what=f"no {key}", commands=("make it",)),))
        for key in ("one", "two")
    )
    report = Report(title="t", subtitle="s", made="m", summary=(), sections=sections)
    text = to_markdown(report)
    assert "| 2 one | 1 | ? | t |\n| 3 two | 1 | ? | t |" in text
    assert "- no one; no two: `make it`\n" in text
    assert Page(to_html(report)).text.count("no one; no two: make it") == 1


def test_a_line_breaks_where_a_point_has_no_value_and_a_single_one_is_a_dot():
    line = Line(name="a", points=((0, 0), (50, 100), (75, None), (100, 50)))
    chart = Chart(title="t", x="x", y="y", lines=(line,), x_range=(0, 100))
    drawn = to_html(Report(title="t", subtitle="s", made="m", summary=(chart,), sections=()))
    assert drawn.count("<polyline") == 1
    assert 'points="46.0,210.0 366.0,10.0"' in drawn
    assert '<circle cx="686.0" cy="110.0"' in drawn
