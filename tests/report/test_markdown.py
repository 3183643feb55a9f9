"""The Markdown of a run and of a sweep: it pastes into a design document as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from toy_answers import EVIL, toy_answer

from sim.cli.command import main
from sim.kinds.load import load_scenario
from sim.kinds.registry import report_of
from sim.kinds.run import run_scenario
from sim.report.blocks import Cell, Code, Report, Section, Table
from sim.report.figures import Picture
from sim.report.markdown import render_markdown

GITHUB = MarkdownIt("commonmark", {"html": True}).enable("table")
MOST_BYTES = 12_000
HTML = ("html_block", "html_inline")


def checked(markdown: str) -> str:
    """The text itself, once it is known to paste: no HTML, whole tables, no heading over nothing, short."""
    tokens = GITHUB.parse(markdown)
    every = [token for one in tokens for token in (one, *(one.children or ()))]
    assert not [token.content for token in every if token.type in HTML]
    outside = re.sub(r"^(`{3,})text\n.*?^\1$", "", markdown, flags=re.S | re.M)
    in_tables = sum(token.type == "tr_open" for token in tokens)
    lines = [line for line in outside.splitlines() if line.startswith("|")]
    rules = [line for line in lines if set(line) <= set("|-: ")]
    assert in_tables == len(lines) - len(rules), "a line with bars that is no row of a table"
    for block in re.findall(r"(?:^\|.*\n)+", outside, flags=re.M):
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block
    kinds = [token.type for token in tokens]
    headings = [i for i, kind in enumerate(kinds) if kind == "heading_close"]
    for i in headings:
        level, after = tokens[i].tag, tokens[i + 1]
        assert after.type != "heading_open" or after.tag > level, tokens[i - 1].content
    assert len(markdown.encode()) <= MOST_BYTES
    return markdown


@pytest.mark.parametrize(
    "name",
    [
        "serving/static_vs_continuous",
        "kernel/standard_vs_flash",
        "kernel/gpt2_end_to_end",
        "training/zero_stages",
        "training/staleness_and_loss",
    ],
)
def test_a_shipped_report_pastes_as_it_stands(name: str) -> None:
    text = checked(render_markdown(report_of(run_scenario(load_scenario(name)))))
    for title in ("Decision table", "Warnings", "What is not modelled", "Reproduce"):
        assert f"\n## {title}\n" in text
    assert f"gpuyard run {name}\n" in text
    assert ("Goodput counts who arrived" in text) == (name == "serving/static_vs_continuous")
    assert "report.html has the pictures" in text and "summary.json has every number" in text


def test_names_full_of_markup_stay_text() -> None:
    text = checked(render_markdown(report_of(toy_answer(question=EVIL))))
    assert len(re.findall(r"^# ", text, flags=re.M)) == 1


def test_what_a_page_folds_away_is_not_in_the_markdown() -> None:
    picture = Picture(key="a", title="Seen", reading="R.", traces=(), layout={}, header=(), rows=())
    folded = Table(header=("long",), rows=((Cell(text="constant"),),), summary="All")
    report = Report(
        question="Q?",
        answer="A.",
        badges=(),
        sections=(
            Section(title="Only folded", blocks=(folded, Code(text="scenario", summary="Whole"))),
            Section(title="Only a picture", pictures=(picture,)),
            Section(title="A table", blocks=(Table(header=("a|b\nsmall",), rows=((CELL,),)),)),
        ),
    )
    text = checked(render_markdown(report))
    assert re.findall(r"^#+ .*", text, flags=re.M) == ["# Q?", "## A table"]
    assert "constant" not in text and "scenario" not in text
    assert "| a\\|b (small) |" in text
    assert "| 2 s x (1.5 ×, 1.4 to 1.6, better) |" in text


CELL = Cell(text="2 s\nx", small="1.5 × (1.4 to 1.6), better")


def test_the_markdown_of_a_sweep_pastes_as_it_stands(empty_folder: Path) -> None:
    smaller = ["--set", "workload.num_requests=300", "--set", "seeds=[1]", "--set", "thresholds=[]"]
    axes = ["--over", "replicas=1,2", "--over", "hardware=l4,h100-sxm-80gb"]
    assert (
        main(["sweep", "serving/static_vs_continuous", *axes, *smaller, "--jobs", "1", "--out", "out"]) == 0
    )
    text = checked(Path("out/sweep.md").read_text(encoding="utf-8"))
    assert "## Every point, the cheapest first" in text and "sweep.json has every number" in text
    assert "tile_s" not in text, "constants of fits stay in the page"
