"""An account of memory as a person meets it: in headless Chromium, wide and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser.chromium import Page, shown

from sim.cli.command import main

LOG = """INFO [api_server.py:1] vLLM API server version 0.19.0
INFO Model loading took 50.71 GiB memory and 10.0 seconds
INFO Available KV cache memory: 20.58 GiB
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("chromium")
    (folder / "start.log").write_text(LOG)
    given = ["--model", "gemma-2-27b", "--hardware", "h100-sxm-80gb", "--gpu-memory-utilization", "0.95"]
    assert main(["memory", "--from-log", str(folder / "start.log"), *given, "--out", str(folder)]) == 0
    with shown(folder / "memory.html") as page:
        yield page


def test_both_bars_are_as_long_as_the_gpu_s_memory(page: Page) -> None:
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    sums = (
        "[0, 1].map(i => document.getElementById('plot-memory').data.reduce((s, t) => s + (t.x[i] || 0), 0))"
    )
    # Without what is narrower than a pixel: 0.25 GiB outside of PyTorch.
    assert page.value(sums) == pytest.approx([79.18 - 0.25, 79.18], abs=0.005)
    names = page.value("document.getElementById('plot-memory').data.map(t => t.name)")
    assert names == [
        "weights",
        "activation peak",
        "KV cache",
        "KV of windows",
        "not said",
        "outside of the share",
    ]


def test_a_phone_scrolls_nothing_but_tables(page: Page) -> None:
    for dark in (True, False):
        page.look(400, dark=dark)
        page.wait_for(f"document.documentElement.dataset.drawn === '{'dark' if dark else 'light'}'")
        assert page.value("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.complaints == []


def test_several_devices_have_a_bar_each_and_those_that_do_not_start_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model", "llama-3.1-70b", "--hardware", "h100-sxm-80gb", "--tensor-parallel-size", "1,4,8"]
    assert main(["memory", *given, "--max-model-len", "8192", "--out", str(tmp_path)]) == 0
    text = (tmp_path / "memory.html").read_text()
    assert "What does not start" in text and "leaves no room for KV cache" in text
    with shown(tmp_path / "memory.html") as page:
        labels = page.value("document.getElementById('plot-memory').data[0].y")
        assert labels == ["h100-sxm-80gb, TP 4", "h100-sxm-80gb, TP 8"]
        assert page.complaints == []
