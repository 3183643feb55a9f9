"""Pages of every kind and a sweep's: folded, printed, nothing cut, and what axe-core finds."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser.chromium import Page, shown
from browser.test_training_in_chromium import TEXT as TRAINING
from toy_answers import named_file
from toy_runs import toy_results

from sim.cli.command import main
from sim.kinds.load import load_scenario
from sim.kinds.registry import report_of
from sim.kinds.run import run_scenario
from sim.report.html import render_html

KINDS = ("serving", "training", "kernel", "sweep")
IS_DRAWN = "document.documentElement.dataset.drawn === '{}'"
# What stands out of the page, and no box between scrolls or hides it.
CUT = """[...document.querySelectorAll('main *')].filter(one => {
  const box = one.getBoundingClientRect();
  const scrolls = one.closest('.box, pre, .plot');
  return !scrolls && box.width > 0 && (box.right > window.innerWidth + 1 || box.left < -1);
}).map(one => one.outerHTML.slice(0, 120))"""
# Text of a plot that its own picture cuts: a label beyond the edge of the drawing.
CUT_LABELS = """[...document.querySelectorAll('.plot')].flatMap(plot => {
  const edge = plot.getBoundingClientRect();
  return [...plot.querySelectorAll('text')].filter(text => {
    const box = text.getBoundingClientRect();
    return box.width > 0 && getComputedStyle(text).opacity !== '0' && !text.closest('.hoverlayer')
      && (box.left < edge.left - 2 || box.right > edge.right + 2 || box.bottom > edge.bottom + 2);
  }).map(text => plot.id + ': ' + text.textContent);
})"""
SECTIONS = "[...document.querySelectorAll('section > details')]"


def write_page(kind: str, folder: Path) -> Path:
    """The page of a small answer."""
    path = folder / "report.html"
    if kind == "sweep":
        given = ["serving/static_vs_continuous", "--over", "engine.max_num_seqs=16,64"]
        less = ["workload.num_requests=300", "workload.warmup_requests=0", "thresholds=[]", "seeds=[1]"]
        sets = [word for one in less for word in ("--set", one)]
        assert main(["sweep", *given, *sets, "--quiet", "--jobs", "1", "--out", str(folder)]) in (0, 1)
        (found,) = folder.rglob("*.html")
        return found
    if kind == "serving":
        from toy_answers import answer_of

        file = named_file()
        answer: Any = answer_of(file, toy_results(file))
    else:
        scenario = folder / "training.yaml"
        scenario.write_text(TRAINING, encoding="utf-8")
        answer = run_scenario(load_scenario(scenario if kind == "training" else "kernel/standard_vs_flash"))
    path.write_text(render_html(report_of(answer)), encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=KINDS)
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page of each kind in a browser, every section open."""
    folder = tmp_path_factory.mktemp(request.param)
    with shown(write_page(request.param, folder)) as page:
        yield page


def look(page: Page, width: int, *, dark: bool) -> None:
    page.look(width, dark=dark)
    page.wait_for(IS_DRAWN.format("dark" if dark else "light"))
    page.wait_for(
        "[...document.querySelectorAll('.plot')].every(plot => "
        "plot.querySelector('.main-svg').clientWidth === plot.clientWidth)"
    )


@pytest.mark.parametrize("width", [400, 1080, 1400])
def test_nothing_is_cut(page: Page, width: int) -> None:
    look(page, width, dark=width == 400)
    assert page.value("document.body.scrollWidth <= document.body.clientWidth")
    assert page.value(CUT) == []
    assert page.value(CUT_LABELS) == []


def test_every_trace_is_drawn_as_what_it_is(page: Page) -> None:
    """A kind of trace that the bundle lacks would be drawn as a scatter."""
    other = """[...document.querySelectorAll('.plot')].flatMap(plot => plot._fullData
        .filter((full, at) => full.type !== plot.data[at].type).map(full => plot.id + ': ' + full.type))"""
    assert page.value(other) == []


def test_printing_opens_and_draws_everything(page: Page) -> None:
    page.value(f"{SECTIONS}.forEach(one => {{ one.open = false; }})")
    page.value("window.dispatchEvent(new Event('beforeprint'))")
    assert page.value(f"{SECTIONS}.every(one => one.open)")
    page.wait_for("[...document.querySelectorAll('.plot')].every(plot => plot.clientWidth <= 680)")
    page.value("window.dispatchEvent(new Event('afterprint'))")
    assert page.value(f"{SECTIONS}.every(one => !one.open)")
    page.unfold()
    assert page.complaints == []


def axe_core() -> str:
    """The source of axe-core: ``GPUYARD_AXE``, or the copy that axe-core-python carries."""
    given = os.environ.get("GPUYARD_AXE")
    if given:
        return Path(given).read_text(encoding="utf-8")
    found = importlib.util.find_spec("axe_core_python")
    if found is None or found.origin is None:
        if os.environ.get("GPUYARD_NO_SKIPS", "0") != "0":
            pytest.fail("GPUYARD_NO_SKIPS is set, and there is no axe-core")
        pytest.skip("no axe-core (pip install -e '.[dev]', or GPUYARD_AXE=axe.min.js): no page was checked")
    return (Path(found.origin).parent / "axe.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("width", "dark", "has_contrast"),
    [(1400, False, True), (1400, True, False), (400, False, False), (400, True, True)],
)
def test_axe_core_finds_no_serious_fault(page: Page, width: int, dark: bool, has_contrast: bool) -> None:
    """Every rule in every mode; contrast, three quarters of the time, once in each colour scheme."""
    look(page, width, dark=dark)
    page.value(f"{axe_core()}; 0")
    contrast = f"{{rules: {{'color-contrast': {{enabled: {str(has_contrast).lower()}}}}}"
    found = page.value(
        f"axe.run(document, {contrast}, resultTypes: ['violations']}}).then(found => found.violations"
        ".filter(one => ['serious', 'critical'].includes(one.impact))"
        ".map(one => one.id + ': ' + one.nodes.map(node => node.html.slice(0, 120)).join(' / ')))"
    )
    assert found == []


def test_the_page_is_short_until_it_is_opened(page: Page) -> None:
    look(page, 1400, dark=False)
    opened = page.value("document.documentElement.scrollHeight")
    page.value(f"{SECTIONS}.forEach(one => {{ one.open = false; }})")
    if page.value(f"{SECTIONS}.length"):
        assert page.value("document.documentElement.scrollHeight") < 0.6 * opened
    page.unfold()
