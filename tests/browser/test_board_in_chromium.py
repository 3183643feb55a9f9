"""The board of measured cases as a person meets it: in headless Chromium, wide and light, narrow and dark."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser.chromium import Page, shown

from sim.scenario.file import Measured
from sim.trust.board import BoardFile, GroupBounds, make_board
from sim.trust.board_report import render_board_page
from sim.trust.cases import Scored

EVIL = "<img src=x onerror=alert(1)>"


def rows() -> list[Scored]:
    return [
        Scored(
            case=f"case_{index % 3}",
            label=f"tp {index}, {EVIL}",
            measured=Measured(
                metric="mean_tpot_s", value=0.01 * (index + 1), source=EVIL, group=group, seen_by_fit=seen
            ),
            predicted=0.01 * (index + 1) * (1.5 if group == "far" else 1.02),
        )
        for group, seen in (("near, as long as a group's name may be", False), ("far", False), ("far", True))
        for index in range(12)
    ]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The board in a browser."""
    folder = tmp_path_factory.mktemp("chromium")
    file = BoardFile(groups={"far": GroupBounds(max_median_error=0.1, about=EVIL, rivals={"other": 0.2})})
    path = folder / "board.html"
    path.write_text(render_board_page(make_board(file, rows(), "gpuyard validate cases")), encoding="utf-8")
    with shown(path) as page:
        yield page


def test_misses_stand_first_and_nothing_complains(page: Page) -> None:
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    titles = page.value("[...document.querySelectorAll('h2')].map(title => title.innerText)")
    assert titles[:2] == ["Misses", "Groups"]
    assert titles[2:5] == [
        "far: not seen by a fit",
        "far: calibrated on",
        "near, as long as a group's name may be: not seen by a fit",
    ]
    assert page.value("[...document.querySelectorAll('.answer li')].map(badge => badge.innerText)") == [
        "2 missed",
        "1 hold",
    ]


@pytest.mark.parametrize(("nth", "first"), [(1, "far"), (2, "case_0 mean_tpot_s")])
def test_columns_stand_under_their_headings(page: Page, nth: int, first: str) -> None:
    tables = "[...document.querySelectorAll('table')].filter(t => t.innerText.includes('median error'))"
    head, row = page.value(
        f"(t => [t.tHead.rows[0], t.tBodies[0].rows[0]].map(r => [...r.cells].map(c => c.innerText)))"
        f"({tables}[{nth - 1}])"
    )
    shown = dict(zip(head, row, strict=True))
    assert row[0] == first
    # A case has four values of each group that no fit has seen, half of them 2 % off and half 50 %.
    assert shown["median error"] == ("50.0 %\nmissed" if nth == 1 else "26.0 %")
    assert shown["values"] == ("12" if nth == 1 else "8")
    assert shown["a fit has"] == "not seen it"


def test_every_group_has_its_marks(page: Page) -> None:
    marks = page.value(
        "[...document.querySelectorAll('.plot')].map(p => p.querySelectorAll('.point').length)"
    )
    assert marks == [12, 12, 12]


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (360, True)])
def test_it_fits_the_screen_in_both_colours(page: Page, width: int, dark: bool) -> None:
    page.look(width, dark=dark)
    page.wait_for(f"document.documentElement.dataset.drawn === '{'dark' if dark else 'light'}'")
    assert page.value("document.documentElement.scrollWidth <= window.innerWidth")
    paper = page.value("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)")
