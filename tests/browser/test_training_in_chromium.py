"""A training report opened from disk: the ring is stepped, curves and memory are drawn, light and dark."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser.chromium import Page, shown
from browser.test_report_in_chromium import MARKS, assert_fits

from sim.kinds.load import load_scenario
from sim.kinds.registry import report_of
from sim.kinds.run import run_scenario
from sim.report.html import render_html

TEXT = """
schema_version: 1
question: Which chunk is where, what does the memory hold, and what is learnt?
kind: training
hardware: a100-sxm-80gb
model: llama-3.2-1b
training: {num_workers: 4, num_steps: 60, max_seq_len: 512}
exchange: {algorithm: ring}
learning: {target_loss: 0.55}
compare:
  reference: ring
  variants:
    ring: {}
    full: {training: {activation_checkpointing: full}}
    ASP: {sync: {scheme: asp}, exchange: {algorithm: parameter_server}}
"""
DRAWN = "document.documentElement.dataset.drawn"
CELLS = "[...document.querySelectorAll('#plot-ring .scatterlayer .text text')].map(t => t.textContent)"
# A press in the middle of the last tick's label's column, on the rail.
TO_THE_END = """(() => {
  const touch = document.querySelector('#plot-ring .slider-rail-touch-rect').getBoundingClientRect();
  return [touch.right - 1, touch.top + touch.height / 2];
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The report in a browser, drawn."""
    folder = tmp_path_factory.mktemp("chromium")
    scenario, path = folder / "training.yaml", folder / "report.html"
    scenario.write_text(TEXT, encoding="utf-8")
    path.write_text(render_html(report_of(run_scenario(load_scenario(scenario)))), encoding="utf-8")
    with shown(path) as page:
        yield page


def press(page: Page, where: list[float]) -> None:
    """A click of the left button."""
    for kind in ("mousePressed", "mouseReleased"):
        page.send("Input.dispatchMouseEvent", type=kind, x=where[0], y=where[1], button="left", clickCount=1)


@pytest.mark.parametrize("dark", [False, True])
def test_the_slider_steps_the_ring(page: Page, dark: bool) -> None:
    page.look(1280, dark=dark)
    page.wait_for(f"{DRAWN} === '{'dark' if dark else 'light'}'")
    own = [str(rank) for rank in range(4) for _ in range(4)]
    page.wait_for(f"{CELLS}.join() === '{','.join(own)}'")
    page.value("document.getElementById('plot-ring').scrollIntoView({block: 'center'})")
    press(page, page.value(TO_THE_END))
    page.wait_for(f"{CELLS}.every(text => text === 'sum')")
    assert page.value(CELLS) == ["sum"] * 16
    assert "All-gather, step 6 of 6" in page.value("document.querySelector('#plot-ring .gtitle').textContent")
    assert page.complaints == []


def test_every_picture_has_marks_and_nothing_leaves(page: Page) -> None:
    marks = page.value(MARKS)
    for key in ("loss-seconds", "loss-updates", "efficiency", "memory-0", "memory-1", "ring"):
        assert marks[f"plot-{key}"] >= 1, key
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_phone_and_dark(page: Page, width: int, dark: bool) -> None:
    """Also for who turns a tablet: legends must not stay where the other width had them."""
    page.look(1280 + 390 - width, dark=not dark)
    page.wait_for(f"{DRAWN} === '{'light' if dark else 'dark'}'")
    assert_fits(page, width, dark=dark)
    assert page.complaints == []
