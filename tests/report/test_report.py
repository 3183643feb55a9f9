"""The report: its numbers against slow second computations, its page against what browsers demand."""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import html
import io
import json
import re
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from fake_results import fake_result, preemption_columns, scenario, three_requests
from hypothesis import given
from hypothesis import strategies as st
from plain_engine import plain_engine
from toy_answers import EVIL, answer_of, named_file, toy_answer
from toy_runs import toy_file, toy_results

import sim
from sim.kinds.registry import report_of
from sim.report.blocks import Code, Section, profile_hash, what_decides_first
from sim.report.figures import (
    INKS,
    SEEN_FROM,
    WRITTEN_FROM,
    Picture,
    digits,
    in_runs,
    lanes,
    log_ticks,
    percent,
    round_ticks,
    stacked_bars,
    thinned,
)
from sim.report.html import plotly_js, render_html, render_index
from sim.report.markdown import render_markdown
from sim.results.answer import Answer
from sim.serving.records import SHARED, BlockMap
from sim.serving.report import latency
from sim.serving.report.block_map import (
    FREE,
    View,
    block_map_picture,
    held_fraction,
    raster,
    view_of,
)
from sim.serving.report.content import NOT_MODELLED, build_report, kind_of, report_pictures
from sim.serving.report.latency import SHARES, cdf_picture, kv_fractions
from sim.serving.report.load import (
    LEVELS,
    load_over_time,
    load_pictures,
    operator_s_per_1000_tokens,
)

SIM = Path(sim.__file__).parent
PICTURE = Picture(key="a", title="", reading="", traces=(), layout={}, header=(), rows=())


@pytest.fixture(scope="module")
def answer() -> Answer:
    return toy_answer()


@pytest.fixture(scope="module")
def page(answer: Answer) -> str:
    return render_html(report_of(answer))


def shown_text(text: str) -> str:
    """What a reader sees of HTML: no scripts, no tags."""
    bare = re.sub(r"<(script|style)\b.*?</\1>", " ", text, flags=re.S)
    return html.unescape(re.sub(r"<[^>]+>", "", bare.replace("<wbr>", "")))


# The numbers behind the pictures


def test_load_is_the_time_weighted_mean_by_hand() -> None:
    # Two sequences for 4 steps of 1 s, then idle for 4 s. KV: 10 tokens at first, two more after each
    # step, taken from the 6 that are reserved: on average 13 and 3.
    run = fake_result(
        [{"finish": 4.0, "first": 1.0}],
        [
            {
                "start": 0.0, "steps": 4, "first": 1.0, "decode": 2, "running": 2, "waiting": 5,
                "kv": (10, 6, 1, 0),
            },
            {"start": 8.0, "steps": 1, "first": 0.0, "running": 1},
        ],
        kv_budget_tokens=50,
    )  # fmt: skip
    load = load_over_time(run, bins=2)
    assert load.capacity_tokens == 50
    assert load.time_s.tolist() == [2.0, 6.0]
    assert {name: load.levels[name].tolist() for name in LEVELS} == {
        "running": [2, 0], "waiting": [5, 0], "tokens": [13, 0], "reserved": [3, 0], "internal": [1, 0],
        "external": [0, 0],
    }  # fmt: skip
    assert load_over_time(run, bins=4).levels["tokens"].tolist() == [11, 15, 0, 0]


PIECES = st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(0, 40), st.integers(0, 1))


@given(st.lists(PIECES, min_size=1, max_size=12), st.integers(1, 9))
def test_binning_loses_no_time(pieces: list[tuple[int, int, int, int]], bins: int) -> None:
    """Mean times width, summed over bins, is the sum of level times duration, whatever the bins."""
    now, rows = [0, 0], []
    for idle, length, running, replica in pieces:
        now[replica] += idle
        rows.append({"start": now[replica], "first": length, "running": running, "replica": replica})
        now[replica] += length
    load = load_over_time(fake_result([{}], rows), bins=bins)
    expected = sum(row["first"] * row["running"] for row in rows)
    assert float(load.levels["running"].sum()) * load.width_s == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_load_agrees_with_the_engines_own_kv_integral(answer: Answer) -> None:
    for runs in answer.results.values():
        load = load_over_time(runs[0])
        for kind, total in runs[0].kv_time_tokens_ps.items():
            mine = float(load.levels[kind].sum()) * load.width_s * 1e12
            # The toy counts no token between two steps, so both integrals are the same sum.
            assert mine == pytest.approx(total, rel=1e-6)


def test_growing_steps_end_where_their_sum_says() -> None:
    run = fake_result([{}], [{"start": 1.0, "steps": 4, "first": 1.0, "growth": 0.5}])
    assert run.segments.end_ps.tolist() == [round((1 + 1 + 1.5 + 2 + 2.5) * 1e12)]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 19), st.integers(1, 12), st.integers(0, 19), st.integers(1, 15), st.integers(0, 99)
        ),
        max_size=8,
    ),
    st.sampled_from([0, 4]),
)
def test_raster_is_what_asking_every_cell_gives(rectangles: list[tuple[int, ...]], bottom: int) -> None:
    columns = np.array(rectangles, dtype=np.int64).reshape(-1, 5).T
    block_map = BlockMap(
        capacity_tokens=20, block_size=1, replica=0, address_tokens=columns[0], size_tokens=columns[1],
        start_ps=columns[2], end_ps=columns[2] + columns[3], request=columns[4], kind=0 * columns[4],
        is_truncated=False,
    )  # fmt: skip
    grid = raster(block_map, View(start_ps=2, end_ps=22, top_tokens=20, bottom_tokens=bottom), (40, 40))
    for row in range(40):
        for column in range(40):
            address, moment = bottom + (row + 0.5) * (20 - bottom) / 40, 2 + (column + 0.5) / 2
            owners = [
                request
                for at, size, start, lasts, request in rectangles
                if at <= address < at + size and start <= moment < start + lasts
            ]
            assert grid[row, column] == (owners[-1] if owners else FREE)


def test_block_map_leaves_out_what_is_never_used() -> None:
    one = np.array([0], dtype=np.int64)
    block_map = BlockMap(
        capacity_tokens=1000, block_size=10, replica=0, address_tokens=one, size_tokens=one + 100,
        start_ps=one, end_ps=one + 1000, request=one, kind=one, is_truncated=False,
    )  # fmt: skip
    view = view_of(block_map)
    assert (view.start_ps, view.end_ps, view.bottom_tokens, view.top_tokens) == (0, 1000, 0, 110)
    assert held_fraction(block_map, view) == pytest.approx(0.1)
    high = view_of(dataclasses.replace(block_map, address_tokens=one + 700))
    assert (high.bottom_tokens, high.top_tokens) == (690, 810)
    assert held_fraction(block_map, high) == pytest.approx(0.1)


def test_cdf_is_the_distribution(answer: Answer) -> None:
    picture = cdf_picture(answer.results, lanes(answer.comparison.variants), "ttft_s", 0.5)
    assert picture is not None
    for trace, name in zip(picture.traces, answer.comparison.variants, strict=True):
        assert len(trace["x"]) <= SHARES.size
        rows = [run.requests for run in answer.results[name]]
        ttft = np.concatenate([(r.first_token_ps - r.arrival_ps)[r.is_measured] / 1e12 for r in rows])
        for x, share in list(zip(trace["x"], trace["y"], strict=True))[1:-1]:
            below, within = (np.count_nonzero(ttft <= x + slack) / ttft.size for slack in (-1e-8, 1e-8))
            assert below - 1.01 / ttft.size <= share <= within + 1.01 / ttft.size
    assert "within the SLO" in picture.reading


@pytest.mark.parametrize(
    ("slowest_s", "is_logarithmic"), [(2.0, False), (3.9, False), (4.1, True), (70, True)]
)
def test_a_long_tail_does_not_press_the_curves_into_a_corner(
    slowest_s: float, is_logarithmic: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """99 % of the requests take 1 to 2 s: on a linear axis beyond 4 s they would share the left half."""
    sample = np.append(np.linspace(1, 2, 999), slowest_s)
    monkeypatch.setattr(latency, "pooled", lambda runs, metric: sample)
    picture = cdf_picture({"a": []}, lanes(["a"]), "tpot_s", None)
    assert picture is not None
    assert (picture.layout["xaxis"].get("type") == "log") == is_logarithmic


@pytest.mark.parametrize(("slo_s", "is_drawn"), [(0.5, True), (1e4, False)])
def test_an_slo_far_beyond_the_slowest_is_said_and_not_drawn(
    answer: Answer, slo_s: float, is_drawn: bool
) -> None:
    picture = cdf_picture(answer.results, lanes(answer.comparison.variants), "ttft_s", slo_s)
    assert picture is not None
    assert bool(picture.layout.get("shapes")) == is_drawn
    assert ("The dotted line is the SLO" in picture.reading) == is_drawn
    assert ("Beyond the picture is the SLO" in picture.reading) != is_drawn


def test_the_block_maps_key_names_only_what_is_drawn() -> None:
    two = np.array([0, 1], dtype=np.int64)
    block_map = BlockMap(
        capacity_tokens=20, block_size=1, replica=0, address_tokens=10 * two, size_tokens=0 * two + 8,
        start_ps=0 * two, end_ps=0 * two + 100, request=two, kind=SHARED * two, is_truncated=False,
    )  # fmt: skip
    picture = block_map_picture(dataclasses.replace(three_requests(), block_map=block_map), lanes(["a"])[0])
    assert picture is not None
    assert [trace["name"] for trace in picture.traces[1:]] == ["shared by several requests"]
    own = dataclasses.replace(block_map, kind=0 * two)
    picture = block_map_picture(dataclasses.replace(three_requests(), block_map=own), lanes(["a"])[0])
    assert picture is not None and len(picture.traces) == 1


def test_a_queue_of_nobody_has_no_line() -> None:
    rows = [{"start": 0.0, "steps": 1, "first": 4.0, "running": 2, "waiting": waiting} for waiting in (0, 3)]
    for row, names in zip(rows, (["running"], ["running", "waiting"]), strict=True):
        (picture,) = load_pictures({"a": [fake_result([{}], [row])]}, lanes(["a"]))
        assert [trace["name"] for trace in picture.traces if "yaxis" not in trace] == names


def test_kv_shares_of_three_requests() -> None:
    # 64 token-steps held and 32 lost, of 4 steps times a budget of 100.
    shares = kv_fractions(three_requests())
    assert shares == pytest.approx(
        {"tokens": 0.16, "reserved": 0, "internal": 0.08, "external": 0, "free": 0.76}
    )


def test_operator_time_is_per_thousand_tokens() -> None:
    runs = [
        three_requests(operator_s={"mlp": 0.3, "attention": 0.1}),
        three_requests(operator_s={"mlp": 0.3}),
    ]
    spent = operator_s_per_1000_tokens(runs)  # six tokens each
    assert spent == pytest.approx({"mlp": 50.0, "attention": 1000 * 0.1 / 12})


def test_no_kv_pictures_for_a_queue(answer: Answer) -> None:
    from sim.scenario.distribution import Distribution

    service = Distribution(distribution="exponential", mean=1.0)
    queue = scenario(engine=plain_engine(service_time=service))
    runs = {"base": [three_requests(scenario=queue, kv_budget_tokens=10**13)]}
    (picture,) = load_pictures(runs, lanes(["base"]))
    assert "yaxis2" not in picture.layout
    assert "KV" not in picture.reading
    runs = {name: list(found) for name, found in answer.results.items()}
    runs["static"] = [dataclasses.replace(run, scenario=queue) for run in runs["static"]]
    bar = next(one for one in report_pictures(answer_of(answer.file, runs)) if one.key == "kv_budget")
    assert [row[0] for row in bar.rows] == ["continuous"]


# What the report says


def test_sections_stand_in_order(answer: Answer) -> None:
    sections = build_report(answer).sections
    titles = [section.title for section in sections]
    assert titles == [
        "Decision table", "Warnings", "The picture that decides", "The question as understood", "Why",
        "How far to trust this", "What is not modelled", "Reproduce",
    ]  # fmt: skip


def test_what_decides_is_open_and_the_rest_folded(answer: Answer, page: str) -> None:
    sections = build_report(answer).sections
    assert [section.title for section in sections if not section.is_folded] == [
        "Decision table", "Warnings", "The picture that decides",
    ]  # fmt: skip
    folded = [section.title for section in sections if section.is_folded]
    assert re.findall(r"<details><summary><h2>(.*?)</h2>", page) == folded
    # No picture is lost or shown twice by moving one.
    keys = [picture.key for section in sections for picture in section.pictures]
    assert sorted(keys) == sorted(picture.key for picture in report_pictures(answer))


def test_the_deciding_picture_is_about_the_headline() -> None:
    pictures = [dataclasses.replace(PICTURE, key=key) for key in ("a", "b", "c")]
    folded = [Section(title="Why", pictures=pictures), Section(title="Empty"), None]
    shown = what_decides_first([Section(title="Table"), None], folded, ("z", "b", "a"))
    assert [(one.title, [p.key for p in one.pictures], one.is_folded) for one in shown] == [
        ("Table", [], False),
        ("The picture that decides", ["b"], False),
        ("Why", ["a", "c"], True),
    ]
    (alone,) = what_decides_first([], [Section(title="Why", pictures=pictures[:1])], ("a",))
    assert alone.title == "The picture that decides"


def test_page_says_what_was_asked_and_what_came_out(answer: Answer, page: str) -> None:
    text = shown_text(page)
    expected = (
        answer.file.base.question,
        "continuous",
        "engine.batching: static, engine.kv_allocator: contiguous (reference)",
        "toy-gpu",
        profile_hash(answer.file.base.hardware),
        "ttft_s within 500 ms, tpot_s within 50.0 ms",
        "120 requests",
        "✓ met",
        "✗ missed",
        "gpuyard run scenarios/toy.yaml",
        *NOT_MODELLED,
    )
    for words in expected:
        assert words in text, words
    for variant in answer.comparison.variants:
        found = answer.comparison
        assert f"{variant}: {found.short(variant)} ({found.verdicts(variant)})" in text


def test_refused_percentiles_say_why(page: str) -> None:
    # 115 measured requests carry no p99.
    text = shown_text(page)
    row = text[text.index("p99_ttft_s") :][:80]
    assert "refused" in row
    assert "115 samples; p99 needs 1000" in text


def test_ratios_are_those_of_the_comparison(answer: Answer, page: str) -> None:
    cell = answer.comparison.cells["continuous"]["requests_per_s"]
    assert cell.ratio is not None and cell.ratio.low is not None and cell.ratio.high is not None
    shown = f"{digits(cell.ratio.estimate)} × ({digits(cell.ratio.low)} to {digits(cell.ratio.high)})"
    assert shown in shown_text(page)


def test_preemptions_are_summed_up(answer: Answer) -> None:
    runs = dict(answer.results)
    ledger = preemption_columns([(1.0, 7, 0, 100), (2.0, 7, 0, 50), (3.0, 9, 0, 1)])
    runs["continuous"] = [dataclasses.replace(run, preemptions=ledger) for run in runs["continuous"]]
    report = build_report(answer_of(answer.file, {name: list(found) for name, found in runs.items()}))
    (section,) = [section for section in report.sections if section.title == "Preemptions"]
    row = [cell.text for cell in section.blocks[0].rows[1]]  # type: ignore[union-attr]
    assert row[:4] == ["continuous", "6", "4", "302"]
    assert row[5:] == ["1.00 s", "request 7: 2, request 9: 1"]


def test_reproduce_repeats_overrides_and_trace() -> None:
    file = dataclasses.replace(named_file(), overrides=("engine.max_num_seqs=8",))
    report = build_report(answer_of(file, toy_results(file)))
    code = report.sections[-1].blocks[0]
    assert isinstance(code, Code)
    assert code.text == "gpuyard run scenarios/toy.yaml --set engine.max_num_seqs=8"


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("NVIDIA H100 datasheet, dense", "datasheet"),
        ("measured, borrowed from h100-pcie-80gb", "borrowed"),
        ("fitted; median error 5%", "fitted"),
        ("somebody's price list", "cited"),
    ],
)
def test_kind_of_source(source: str, kind: str) -> None:
    assert kind_of(source) == kind


def test_profile_hash_sees_every_number(answer: Answer) -> None:
    device = answer.file.base.hardware
    assert profile_hash(device) == profile_hash(dataclasses.replace(device))
    assert profile_hash(device) != profile_hash(dataclasses.replace(device, hbm_bytes_per_s=1.01e12))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0 %"),
        (1.0, "100 %"),
        (0.0009, "< 0.1 %"),
        (0.96341, "96 %"),
        (0.0123, "1.23 %"),
        (0.9999, "100 %"),
    ],
)
def test_percent(value: float, shown: str) -> None:
    assert percent(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(1234567, "1,234,567"), (0.000123, "0.000123"), (2.306, "2.31"), (100.0, "100")]
)
def test_digits(value: float, shown: str) -> None:
    assert digits(value) == shown


# The page as a file


def test_page_is_one_file_and_reaches_for_nothing(page: str) -> None:
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert not re.search(r'(?:src|href)=(?!"data:)', outside)
    assert "url(" not in outside and "@import" not in outside
    assert page.count("plotly.js (cartesian - minified) v3.7.0") == 1
    assert "The above copyright notice and this permission notice shall be included" in page


def test_plotly_is_the_published_bundle_and_small() -> None:
    """As npm's plotly.js-cartesian-dist-min 3.7.0 has it: whoever replaces it says so here."""
    bundle = plotly_js().encode()
    assert len(bundle) <= 1_500_000
    digest = "7c593b9eda0e74a1d07335cf89cbf7a55ffc114909980c3729af835453bdb02a"
    assert hashlib.sha256(bundle).hexdigest() == digest


def test_every_trace_that_we_draw_is_in_the_bundle() -> None:
    bundled = set(re.findall(r'moduleType:"trace",name:"(\w+)"', plotly_js()))
    assert {"bar", "heatmap", "scatter"} <= bundled
    # Of axes and shapes: the other things of a figure that have a type.
    others = {"category", "line", "log", "rect"}
    drawn: set[str] = set()
    for path in SIM.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if "sim.report.figures" in text or path.name == "figures.py":
            drawn |= set(re.findall(r'"?type"?[:=] ?"(\w+)"', text))
    assert {"bar", "scatter"} <= drawn
    assert drawn - others <= bundled


def test_only_our_scripts_may_run(page: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None and policy[1].startswith("default-src 'none'")
    assert "script-src 'unsafe" not in policy[1] and "connect-src" not in policy[1]
    scripts = re.findall(r"<script>(.*?)</script>", page, flags=re.S)
    assert len(scripts) == 2
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy[1]


def test_every_colour_is_known_in_both_schemes(page: str) -> None:
    content = json.loads(re.search(r'id="pictures">(.*?)</script>', page, flags=re.S)[1])  # type: ignore[index]
    assert INKS["light"].keys() == INKS["dark"].keys()
    used = set(re.findall(r'"@([a-z0-9]+)"', json.dumps(content["pictures"])))
    assert used and used <= INKS["light"].keys()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_lines_and_text_stand_out(scheme: str) -> None:
    """WCAG 2.2: 3:1 for graphics, 4.5:1 for text."""

    def luminance(color: str) -> float:
        parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    inks = INKS[scheme]
    for name, least in [("text", 4.5), ("muted", 4.5), ("limit", 3.0), *((f"v{i}", 3.0) for i in range(8))]:
        low, high = sorted([luminance(inks["paper"]), luminance(inks[name])])
        assert (high + 0.05) / (low + 0.05) >= least, name


def test_every_picture_carries_its_numbers(answer: Answer, page: str) -> None:
    pictures = report_pictures(answer)
    links = dict(re.findall(r'download="(\w+)\.csv" href="data:text/csv;charset=utf-8,([^"]*)"', page))
    assert sorted(links) == sorted(picture.key for picture in pictures)
    for picture in pictures:
        header, *rows = csv.reader(io.StringIO(unquote(html.unescape(links[picture.key]))))
        assert tuple(header) == picture.header
        assert len(rows) == len(picture.rows) > 0
        for value, shown in zip(picture.rows[0], rows[0], strict=True):
            assert shown == str(value) or float(shown) == pytest.approx(value, rel=1e-5)


def test_no_text_of_the_user_becomes_markup() -> None:
    file = named_file(question=EVIL)
    variants = tuple(dataclasses.replace(v, name=f"{EVIL}{i}") for i, v in enumerate(file.variants))
    file = dataclasses.replace(
        file,
        variants=variants,
        reference=variants[0].name,
        base=dataclasses.replace(file.base, thresholds=()),
    )
    results = {
        variant.name: [
            dataclasses.replace(run, variant=variant.name, scenario=file.base)
            for run in toy_results(toy_file(file.base))[name]
        ]
        for variant, name in zip(variants, ("static", "continuous"), strict=True)
    }
    nasty = answer_of(file, results)
    page = render_html(report_of(nasty))
    assert "<script>window.owned" not in page
    assert "window.owned" in shown_text(page)
    assert page.count("<script") == 3
    markdown = render_markdown(report_of(nasty))
    assert "<script>" not in re.sub(r"^(`{3,})text\n.*?^\1$", "", markdown, flags=re.S | re.M)


def test_same_answer_same_page(answer: Answer, page: str) -> None:
    assert render_html(report_of(toy_answer())) == page


def test_a_page_of_two_variants_and_five_seeds_stays_small() -> None:
    file = named_file(seeds=(1, 2, 3, 4, 5))
    big = toy_results(named_file(seeds=(1,)), num_requests=2000)
    results = {
        name: [dataclasses.replace(runs[0], seed=seed) for seed in range(1, 6)] for name, runs in big.items()
    }
    answer = answer_of(file, results)
    assert len(render_html(report_of(answer))) < 2_000_000


def test_a_page_of_many_variants_stays_small() -> None:
    file = named_file()
    found = toy_results(named_file(seeds=(1,)), num_requests=2000)
    names = [f"variant {index}" for index in range(12)]
    variants = tuple(dataclasses.replace(file.variants[1], name=name) for name in names)
    file = dataclasses.replace(
        file, variants=variants, reference=names[0], base=dataclasses.replace(file.base, thresholds=())
    )
    runs = {name: [dataclasses.replace(found["continuous"][0], variant=name)] for name in names}
    page = render_html(report_of(answer_of(file, runs)))
    assert len(page) - len(plotly_js()) < 600_000


# Axes and bars


@given(st.floats(1e-6, 1e9), st.floats(1.01, 1e4))
def test_a_logarithmic_axis_has_ticks_inside_and_names_every_one(low: float, factor: float) -> None:
    shown = round_ticks(low, low * factor)
    assert shown["type"] == "log"
    if "tickvals" not in shown:
        assert factor < 4  # Plotly's own
        return
    assert sum(low <= value <= low * factor for value in shown["tickvals"]) >= 3
    for value, text in zip(shown["tickvals"], shown["ticktext"], strict=True):
        assert float(text.replace(",", "")) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(
    ("low", "high", "names"),
    [
        (0.004, 0.9, ["10 ms", "30 ms", "100 ms", "300 ms"]),
        (0.002, 2.0, ["10 ms", "100 ms", "1 s"]),
        (2e-6, 9e-6, ["2 µs", "3 µs", "4 µs", "5 µs", "6 µs", "7 µs", "8 µs", "9 µs"]),
        (3.0, 3000.0, ["10 s", "100 s", "1,000 s"]),
    ],
)
def test_times_on_a_logarithmic_axis_read_as_times(low: float, high: float, names: list[str]) -> None:
    shown = log_ticks(low, high)
    pairs = zip(shown["tickvals"], shown["ticktext"], strict=True)
    assert [name for value, name in pairs if low <= value <= high * (1 + 1e-9)] == names


AMOUNTS = st.lists(st.floats(0, 1e3), min_size=2, max_size=2)


@given(st.dictionaries(st.text("abc<", min_size=1, max_size=3), AMOUNTS, min_size=1, max_size=6))
def test_the_legend_names_exactly_what_can_be_seen(parts: dict[str, list[float]]) -> None:
    traces = stacked_bars({name: ("v0", values) for name, values in parts.items()}, ["a", "b"], "s")
    widest = max(sum(values[i] for values in parts.values()) for i in range(2))
    seen = [name for name, values in parts.items() if any(v > 0 and v >= SEEN_FROM * widest for v in values)]
    assert [html.unescape(trace["name"]) for trace in traces] == seen
    for trace in traces:
        for value, text in zip(trace["x"], trace["text"], strict=True):
            assert bool(text) == (value >= WRITTEN_FROM * widest)


# Fewer points


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(-9, 9)), min_size=1, max_size=300), st.integers(1, 20)
)
def test_thinning_keeps_ends_and_extremes(points: list[tuple[int, int]], columns: int) -> None:
    x, y = np.array(sorted(points), dtype=np.float64).T
    kept = thinned(x, y, columns)
    assert kept.size <= 2 * columns + 2 or x.size <= 2 * columns + 2
    assert kept[0] == 0 and kept[-1] == x.size - 1
    assert sorted(set(kept.tolist())) == kept.tolist()
    assert (y[kept].min(), y[kept].max()) == (y.min(), y.max())
    # And within every column of pixels, whose number is found here one point at a time.
    width = (x[-1] - x[0]) / columns or 1.0
    column = [min(int((at - x[0]) // width), columns - 1) for at in x]
    for one in set(column):
        inside = [i for i in range(x.size) if column[i] == one]
        shown = [i for i in inside if i in kept]
        assert min(y[inside]) == min(y[shown])
        assert max(y[inside]) == max(y[shown])


@given(st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=1, max_size=9))
def test_runs_are_the_map(rows: list[list[int]]) -> None:
    packed = in_runs(np.array(rows))
    pairs = list(zip(packed["runs"][::2], packed["runs"][1::2], strict=True))
    cells = [value for value, count in pairs for _ in range(count)]
    assert [cells[i : i + packed["columns"]] for i in range(0, len(cells), packed["columns"])] == rows
    assert all(one[0] != other[0] for one, other in pairwise(pairs))


def test_index_links_every_report() -> None:
    entry = {"path": "a b/report.html", "name": "serving/a", "question": EVIL, "answer": "2 ×"}
    page = render_index([entry, entry | {"picture": "data:image/webp;base64,AA=="}])
    assert page.count("<img ") == page.count('src="data:image/webp;base64,AA=="') == 1
    assert 'href="a b/report.html"' in page
    assert "<script" not in page
    assert EVIL in shown_text(page)


# The Markdown twin


def test_markdown_has_the_sections_that_decide(answer: Answer) -> None:
    markdown = render_markdown(report_of(answer))
    titles = re.findall(r"^## (.*)$", markdown, flags=re.M)
    told = ("Decision table", "Warnings", "The question as understood", "What is not modelled", "Reproduce")
    assert [title for title in titles if title in told] == list(told)
    assert build_report(answer).answer.split(":")[0] in markdown
    assert "## Why" not in markdown, "a section of pictures alone has nothing to show here"
