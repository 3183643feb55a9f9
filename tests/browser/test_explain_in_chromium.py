"""A step taken apart, as a person meets it: in headless Chromium, wide and on a phone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser.chromium import Page, shown

from sim.cli.command import main


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The page in a browser."""
    folder = tmp_path_factory.mktemp("chromium")
    given = ["explain", "--model", "mixtral-8x7b", "--hardware", "h100-sxm-80gb", "--quantization", "fp8"]
    assert (
        main([*given, "--decode", "32", "--context", "2000", "--prefill", "500", "--out", str(folder)]) == 0
    )
    with shown(folder / "explain.html") as page:
        yield page


def test_the_roofline_has_a_point_for_every_operator_with_flops(page: Page) -> None:
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    shown = "document.getElementById('plot-roofline').data.filter(t => t.mode === 'markers').map(t => t.name)"
    names = [
        "qkv_proj",
        "o_proj",
        "router",
        "moe_experts",
        "attention_decode",
        "attention_prefill",
        "lm_head",
    ]
    assert page.value(shown) == names
    roofs = "document.getElementById('plot-roofline').data.filter(t => t.mode === 'lines').length"
    assert page.value(roofs) == 2  # fp8 projections, bfloat16 attention and lm_head
    under = """document.getElementById('plot-roofline').data.filter(t => t.mode === 'markers')
        .every(t => t.y[0] <= Math.min(1979e12, t.x[0] * 3.35e12) * 1.05)"""
    assert page.value(under)


def test_every_table_can_be_had_and_a_phone_scrolls_nothing_but_tables(page: Page) -> None:
    links = "[...document.querySelectorAll('a[download]')].map(a => a.download)"
    assert page.value(links) == ["roofline.csv", "time.csv", "bytes.csv"]
    page.look(390, dark=True)
    page.wait_for("document.documentElement.dataset.drawn === 'dark'")
    assert page.value("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.complaints == []
