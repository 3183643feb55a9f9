"""The report as a person meets it: opened from disk in headless Chromium, without a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser.chromium import Page, shown
from toy_answers import EVIL, answer_of, named_file
from toy_runs import toy_results

from sim.kinds.registry import report_of
from sim.report.html import render_html
from sim.results.answer import Answer
from sim.serving.report.content import build_report, report_pictures

NO_OVERFLOW = "document.documentElement.scrollWidth <= window.innerWidth"
OVERLAPS = """[...document.querySelectorAll('.plot')].filter(plot => {
  const legend = plot.querySelector('.legend'), area = plot.querySelector('.nsewdrag');
  return legend && legend.getBoundingClientRect().bottom > area.getBoundingClientRect().top + 4;
}).map(plot => plot.id)"""
# A mark is a path, a bar, a line or an image inside a plot's drawing layer.
MARKS = """Object.fromEntries([...document.querySelectorAll('.plot')].map(plot => [plot.id, [
  ...plot.querySelectorAll('.mlayer path, .mlayer image')
].filter(mark => mark.tagName === 'image' || (mark.getAttribute('d') || '').length > 5).length]))"""


def assert_fits(page: Page, width: int, *, dark: bool) -> None:
    """Drawn in its colours, nothing wider than the window, no legend over its picture."""
    page.look(width, dark=dark)
    page.wait_for(f"document.documentElement.dataset.drawn === '{'dark' if dark else 'light'}'")
    page.wait_for(
        "[...document.querySelectorAll('.plot .main-svg')].every(svg => svg.clientWidth <= window.innerWidth)"
    )
    assert page.value(NO_OVERFLOW)
    page.wait_for(f"({OVERLAPS}).length === 0")  # a legend finds its place once it is drawn


@pytest.fixture(scope="module")
def answer() -> Answer:
    file = named_file(question=f"What does continuous gain? {EVIL}")
    return answer_of(file, toy_results(file))


@pytest.fixture(scope="module")
def page(answer: Answer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The report in a browser, drawn."""
    folder = tmp_path_factory.mktemp("chromium")
    path = folder / "report.html"
    path.write_text(render_html(report_of(answer)), encoding="utf-8")
    with shown(path) as page:
        yield page


def test_nothing_complains_and_nothing_leaves(page: Page) -> None:
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.value("performance.getEntriesByType('resource').length") == 0


def test_the_answer_can_be_read(page: Page, answer: Answer) -> None:
    shown = page.value("document.querySelector('.answer p').innerText")
    assert shown == build_report(answer).answer
    basis = page.value("document.querySelector('.answer .basis').innerText")
    assert basis == build_report(answer).basis
    assert basis.startswith("Assumed: ")
    assert shown.startswith("continuous ")
    top = page.value("document.querySelector('.answer').getBoundingClientRect().top + window.scrollY")
    assert top < 300
    badges = page.value("[...document.querySelectorAll('.answer li')].map(badge => badge.innerText)")
    comparison = answer.comparison
    assert badges == [
        f"{name}: {comparison.short(name)} ({comparison.verdicts(name)})" for name in comparison.variants
    ]


def test_the_question_is_text_and_no_script(page: Page, answer: Answer) -> None:
    assert page.value("window.owned === undefined")
    assert page.value("document.querySelector('h1').textContent") == answer.file.base.question
    # The policy refuses a script that is not ours even where one is slipped in.
    page.value(
        "(() => { const s = document.createElement('script'); s.textContent = 'window.owned = 2';"
        " document.body.append(s); })()"
    )
    assert page.value("window.owned === undefined")
    refused = [text for text in page.complaints if "Content Security Policy" in text]
    assert refused
    page.complaints[:] = [text for text in page.complaints if text not in refused]


def test_every_picture_has_marks(page: Page, answer: Answer) -> None:
    marks = page.value(MARKS)
    assert set(marks) == {f"plot-{picture.key}" for picture in report_pictures(answer)}
    assert all(marks.values()), marks
    # Two variants with a line each; two bars of each kind that is not empty.
    assert marks["plot-cdf_ttft_s"] >= 2
    assert marks["plot-operators"] == 6


def test_block_map_names_the_request_under_the_pointer(page: Page) -> None:
    shown = page.value(
        "(() => { const plot = document.getElementById('plot-block_map_1').calcdata[0][0].trace;"
        " return [plot._length ?? plot.z.length, plot.customdata.length, plot.customdata[0].length]; })()"
    )
    assert shown == [200, 200, 300]


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_phone_and_dark(page: Page, width: int, dark: bool) -> None:
    assert_fits(page, width, dark=dark)
    paper = page.value("getComputedStyle(document.body).backgroundColor")
    drawn = page.value("getComputedStyle(document.querySelector('.plot .main-svg')).backgroundColor")
    assert paper == drawn == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)")
    assert page.value(
        "[...document.querySelectorAll('.box')].every(box => box.clientWidth <= window.innerWidth)"
    )
    assert page.complaints == []


def test_a_picture_can_be_saved_as_png(page: Page) -> None:
    start = page.value("Plotly.toImage('plot-kv_budget', {format: 'png', width: 400, height: 300})")
    assert start.startswith("data:image/png;base64,")
    assert page.complaints == []


def test_names_that_look_like_colours_stay_names(page: Page, tmp_path: Path, answer: Answer) -> None:
    from toy_answers import toy_answer

    plain = toy_answer()
    variants = tuple(dataclasses.replace(v, name=f"@v{i}") for i, v in enumerate(plain.file.variants))
    base = dataclasses.replace(plain.file.base, thresholds=())
    file = dataclasses.replace(plain.file, variants=variants, reference="@v0", base=base)
    renamed = dict(zip(("@v0", "@v1"), plain.results.values(), strict=True))
    results = {
        name: [dataclasses.replace(run, variant=name) for run in runs] for name, runs in renamed.items()
    }
    path = tmp_path / "names.html"
    path.write_text(render_html(report_of(answer_of(file, results))), encoding="utf-8")
    page.open(path)
    page.wait_for("document.documentElement.dataset.drawn !== undefined")
    page.unfold()
    legend = page.value(
        "[...document.querySelectorAll('#plot-cdf_ttft_s .legendtext')].map(t => t.textContent)"
    )
    assert legend == ["@v0", "@v1"]
    assert page.complaints == []
