"""What the terminal shows: within 100 columns, pasteable, nothing left out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_results import queue_result, replace, scenario
from hypothesis import event, given, settings
from hypothesis import strategies as st

from sim.kinds.run import compare
from sim.report.blocks import Table
from sim.report.decision import decision_section
from sim.report.terminal import WIDTH, Grid, _factor, render_answer, render_comparison
from sim.results.comparison import Comparison
from sim.results.statistics import Interval
from sim.results.summary import Summary
from sim.scenario.fields import Threshold
from sim.serving.scenario import Slo
from sim.serving.summary import summarize


def runs(name: str, service_s: float) -> list[Summary]:
    """Three seeds of a queue without waiting, 200 requests, one a second."""
    run = scenario(slo=Slo(ttft_s=0.4))
    return [
        summarize(
            queue_result(
                [float(i) for i in range(200)], [0.0] * 200, [service_s * (1 + seed / 100)] * 200,
                seed=seed, variant=name, scenario=run,
            )
        )
        for seed in (1, 2, 3)
    ]  # fmt: skip


def comparison(num_variants: int = 2) -> Comparison:
    names = ["static", "continuous", "continuous-with-a-very-long-name", "third", "fourth"][:num_variants]
    found = {name: runs(name, 0.6 / (1 + i)) for i, name in enumerate(names)}
    return compare(found, "static")


def answer(
    thresholds: tuple[Threshold, ...] = (), notes: dict[str, tuple[str, ...]] | None = None
) -> SimpleNamespace:
    results = {name: [SimpleNamespace(notes=said)] for name, said in (notes or {}).items()}
    return SimpleNamespace(
        file=SimpleNamespace(base=scenario(thresholds=thresholds)), comparison=comparison(), results=results
    )


def test_notes_of_the_runs_are_told_once_with_whose_they_are() -> None:
    notes = {"static": ("read in s", "assumed"), "paged": ("read in s",), "vllm": ("read in s", "assumed")}
    shown = render_answer(answer(notes=notes))
    assert shown.endswith("Notes\n- read in s\n- static, vllm: assumed\n")
    assert "Notes" not in render_answer(answer())


@pytest.mark.parametrize("num_variants", [1, 2, 3, 5])
def test_nothing_is_wider_than_100_columns(num_variants: int) -> None:
    text = render_comparison(comparison(num_variants))
    assert max(len(line) for line in text.splitlines()) <= WIDTH
    assert "\x1b" not in text


def test_the_parts_in_their_order() -> None:
    missed = Threshold(metric="mean_ttft_s", variant="static", max=0.5)
    met = Threshold(metric="mean_ttft_s", variant="continuous", max=0.5)
    text = render_answer(answer((missed, met)))
    parts = [
        "Is it fast?",
        "continuous hardly differs",
        "  1.00 requests/s  requests per second",
        "| metric",
        "* the 95 %",
        "static keeps up with its load (STABLE): ",
        "Warnings",
    ]
    parts += ["Thresholds", "MISSED: static mean_ttft_s max 0.5: 0.612 s", "met: continuous mean_ttft_s"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_a_table_pastes_into_a_spreadsheet() -> None:
    lines = [line for line in render_comparison(comparison()).splitlines() if "|" in line]
    cells = [[cell.strip() for cell in line.split("|")] for line in lines]
    assert cells[0] == ["", "metric", "key", "static", "continuous", "x static [95 %]", ""]
    assert {len(row) for row in cells} == {7}
    assert ["", "mean TTFT", "mean_ttft_s", "612 ms", "306 ms", "0.5 *", ""] in cells
    assert ["", "goodput", "goodput_requests_per_s", "0.00", "1.00", "*", ""] in cells


def test_a_ratio_too_small_to_read_is_a_division_and_one_seed_announces_no_interval() -> None:
    assert _factor(Interval(estimate=0.000118, low=0.000108, high=0.000129)) == "1/8,475 [1/9,259, 1/7,752]"
    assert _factor(Interval(estimate=0.0241, low=0.0217, high=0.0268)) == "0.0241 [0.0217, 0.0268]"
    found = comparison()
    assert "x static [95 %]" in render_comparison(found)
    one = {name: runs[:1] for name, runs in found.summaries.items()}
    alone = render_comparison(compare(one, found.reference))
    assert "x static " in alone and "[95 %]" not in alone


def test_three_and_more_variants_are_the_rows_of_one_table_with_whole_names() -> None:
    text = render_comparison(comparison(5))
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    assert [row[0] for row in table][-5:] == [
        "static", "continuous", "continuous-with-a-very-long-name", "third", "fourth"
    ]  # fmt: skip
    assert len({len(row) for row in table}) == 1
    assert "goodput_requests_per_s, " in text  # the keys of the columns


def test_the_numbers_that_decide_stand_under_the_sentence() -> None:
    shown = render_comparison(comparison())
    assert "  1.00 requests/s  requests per second" in shown
    assert "requests/s  goodput" not in shown, "the sentence tells what is served: static has no goodput"


def test_thresholds_of_a_changed_question_say_that_they_may_not_fit() -> None:
    shown = answer((Threshold(metric="mean_ttft_s", variant="static", max=0.5),))
    assert "Thresholds (means over the seeds)\n" in render_answer(shown)
    shown.comparison = replace(shown.comparison, changes=("replicas=2",))
    assert "written for the file as it stands, not for what was changed" in render_answer(shown)


def test_warnings_have_observation_meaning_and_remedy() -> None:
    text = " ".join(render_comparison(comparison()).split())
    assert "not given: p99 of queue_s, ttft_s" in text
    assert "fewer than ten samples lie beyond these percentiles; raise workload.num_requests" in text


def test_colour_only_on_a_terminal_and_nothing_else_changes() -> None:
    shown = answer((Threshold(metric="mean_ttft_s", variant="static", max=0.5),))
    coloured = render_answer(shown, tty=True)
    assert coloured.count("\x1b[31m") == 1
    plain = coloured.replace("\x1b[1m", "").replace("\x1b[31m", "").replace("\x1b[0m", "")
    assert plain == render_answer(shown)


def test_mixed_verdicts_are_counted() -> None:
    mixed = comparison()
    first, *rest = mixed.summaries["continuous"]
    other = replace(first, verdict=replace(first.verdict, word="BACKLOGGED"))
    mixed = replace(mixed, summaries={**mixed.summaries, "continuous": (other, *rest)})
    said = "continuous falls behind its load in 1 of 3 seeds (1 BACKLOGGED, 2 STABLE): "
    assert said in render_comparison(mixed)


def test_the_slo_is_told_with_what_was_found_in_the_worst_seed() -> None:
    text = render_comparison(comparison())
    assert "0 % of the requests meet ttft_s, 99 % asked (worst seed)" in text
    assert "100 % of the requests meet ttft_s, 99 % asked (worst seed)" in text
    table = decision_section(answer()).blocks[-1]
    assert isinstance(table, Table)
    assert table.header == ("SLO", "asked", "found", "", "decides")
    found = [[cell.text for cell in row] for row in table.rows]
    assert found == [
        ["ttft_s of static", "at least 99 %", "0 %", "✗ 0 of 3 seeds", "yes"],
        ["ttft_s of continuous", "at least 99 %", "100 %", "✓ met", "yes"],
    ]


CELLS = st.text("ab -:×–é文\t[]", max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_table_is_what_rich_draws_with_or_without_it(data: st.DataObject) -> None:
    table, num_columns = Grid(), data.draw(st.integers(1, 5))
    for _ in range(num_columns):
        heads = data.draw(st.lists(st.text("abc ", min_size=1, max_size=9), min_size=1, max_size=2))
        options: dict[str, Any] = data.draw(
            st.sampled_from([{}, {"justify": "right"}, {"overflow": "fold", "min_width": 8}])
        )
        table.add_column("\n".join(heads), **options)
    for _ in range(data.draw(st.integers(0, 4))):
        table.add_row(*data.draw(st.lists(CELLS, max_size=num_columns)))
    own = table._as_it_is()
    event("by rich" if own is None else "by itself")
    assert table.drawn() == table._by_rich()


def test_a_run_s_table_needs_no_rich() -> None:
    code = (
        "import sys; from sim.report.terminal import Grid; t = Grid(); t.add_column('a – b'); "
        "t.add_row('3.1 [2.9, 3.2] *'); t.drawn(); assert 'rich' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
