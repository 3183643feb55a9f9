"""Kernel reports opened from disk: every picture is drawn, fits a desk and a phone, light and dark."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser.chromium import Page, shown
from browser.test_report_in_chromium import MARKS, assert_fits

from sim.kinds.load import load_scenario
from sim.kinds.registry import report_of
from sim.kinds.run import run_scenario
from sim.report.html import render_html

DRAWN = "document.documentElement.dataset.drawn"
PICTURES = {
    "standard_vs_flash": ("launches", "hbm_traffic", "speedup_by_length", "time_by_sram", "sram_fill"),
    "tiles_over_time": ("launches", "hbm_traffic", "sram_fill", "tiles_0", "tiles_1"),
}


@pytest.fixture(scope="module", params=list(PICTURES))
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A report in a browser, drawn; the pictures that it must have as ``wanted``."""
    folder = tmp_path_factory.mktemp("chromium")
    path = folder / "report.html"
    path.write_text(
        render_html(report_of(run_scenario(load_scenario(f"kernel/{request.param}")))), encoding="utf-8"
    )
    with shown(path) as page:
        yield page


def test_every_picture_has_marks_and_nothing_leaves(page: Page, request: pytest.FixtureRequest) -> None:
    marks = page.value(MARKS)
    for key in PICTURES[request.node.callspec.params["page"]]:
        assert marks[f"plot-{key}"] >= 1, key
    assert page.value("document.querySelectorAll('#plot-roofline .trace').length") >= 2
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_phone_and_dark(page: Page, width: int, dark: bool) -> None:
    assert_fits(page, width, dark=dark)
    assert page.complaints == []
