"""Who wins a sweep and why nobody does: laws over made-up rows, and the points that cannot run."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.cli.command import main
from sim.kinds.load import load_scenario
from sim.kinds.registry import KINDS
from sim.plan.answer import by_cost, decisive, front_metric, is_load, picks
from sim.plan.evaluate import Point, Row, evaluate
from sim.plan.sweep import Sweep, sweep_points
from sim.plan.sweep_pictures import sweep_pictures
from sim.plan.sweep_report import ROWS_OPEN, render_page, render_table, render_twin
from sim.plan.sweep_words import answer_words, axis_notes, plain_name, ratio_words
from sim.results.metric import Swept

TINY = """\
schema_version: 1
question: How many H100s keep the first token within half a second?
kind: serving
seeds: [1]
hardware: h100-sxm-80gb
model: llama-3.1-8b
workload:
  arrivals: {process: poisson, requests_per_s: 20}
  prompt_tokens: {distribution: uniform, min: 100, max: 900}
  output_tokens: {distribution: fixed, value: 30}
  num_requests: 150
engine: {batching: continuous, max_num_seqs: 4, max_model_len: 2048}
slo: {ttft_s: 500 ms}
"""
RATE = "workload.arrivals.requests_per_s"


@pytest.fixture
def tiny(empty_folder: Path) -> Path:
    path = empty_folder / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


@cache
def scenario(name: str = "serving/azure_conversation") -> Any:
    return load_scenario(name).base


def made_row(**given: Any) -> Row:
    """A row of a point that ran and just meets its SLO, with ``given`` in place."""
    row: Row = {
        "meets_slo": True, "verdict": "STABLE", "num_gpus": 1, "usd_per_hour": 2.0, "slo_ratio": 0.5,
        "slo_closest": "p99_ttft_s", "alone_ratio": None, "alone_closest": None, "p99_ttft_s": 0.25,
        "goodput_fraction": 1.0,
    }  # fmt: skip
    return {**row, **given}


def made_sweep(axes: Mapping[str, Sequence[str]], rows: Sequence[Row], kind: str = "") -> Sweep:
    """A sweep over the product of ``axes`` whose rows are made up."""
    one = scenario(kind) if kind else scenario()
    swept = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    points = tuple(Point(swept=each, variant="base", scenario=one, base_dir=".") for each in swept)
    return Sweep(question="?", command="", keys=tuple(axes), points=points, rows=tuple(rows))


MADE_ROWS = st.builds(
    made_row,
    meets_slo=st.sampled_from([True, True, False, None]),
    verdict=st.sampled_from(["STABLE", "STABLE", "UNTESTED", "BACKLOGGED", "OVERLOADED"]),
    num_gpus=st.integers(1, 4),
    usd_per_hour=st.sampled_from([1.0, 2.0, 3.0, 3.0, None]),
    slo_ratio=st.sampled_from([0.1, 0.5, 0.9]),
    p99_ttft_s=st.sampled_from([0.1, 0.2, 0.3, None]),
    cannot_run=st.sampled_from([None, None, None, "it does not fit"]),
)
GRID = {RATE: ["10", "20"], "replicas": ["1", "2", "10"], "engine.max_num_seqs": ["8", "64"]}


def grids() -> st.SearchStrategy[Sweep]:
    size = len(list(product(*GRID.values())))
    return st.lists(MADE_ROWS, min_size=size, max_size=size).map(lambda rows: made_sweep(GRID, rows))


def may_win(row: Row) -> bool:
    return row["cannot_run"] is None and row["meets_slo"] is True and row["verdict"] != "OVERLOADED"


@given(sweep=grids())
def test_nothing_that_meets_the_slo_at_the_same_load_is_cheaper_than_the_winner(sweep: Sweep) -> None:
    found = picks(sweep)
    assert sorted(i for pick in found for i in pick.indices) == list(range(len(sweep.rows)))
    assert [dict(pick.load) for pick in found] == [{RATE: "10"}, {RATE: "20"}]
    for pick in found:
        able = [i for i in pick.indices if may_win(sweep.rows[i])]
        assert (pick.winner is None) == (not able)
        if pick.winner is None:
            continue
        won = sweep.rows[pick.winner]
        assert may_win(won)
        is_priced = all(sweep.rows[i]["usd_per_hour"] is not None for i in able)
        assert pick.measure == ("usd_per_hour" if is_priced else "num_gpus")
        for i in able:
            row = sweep.rows[i]
            assert row[pick.measure] >= won[pick.measure]
            if row[pick.measure] == won[pick.measure] and row["verdict"] == "STABLE":
                assert won["verdict"] == "STABLE"
                assert won["slo_ratio"] <= row["slo_ratio"]


@given(sweep=grids(), order=st.permutations(list(GRID)), data=st.data())
def test_the_order_of_axes_and_of_their_values_never_changes_a_winner(
    sweep: Sweep, order: list[str], data: st.DataObject
) -> None:
    axes = {key: data.draw(st.permutations(GRID[key])) for key in order}
    row_of = {
        frozenset(point.swept.items()): row for point, row in zip(sweep.points, sweep.rows, strict=True)
    }
    other = made_sweep(axes, [])
    other = replace(other, rows=tuple(row_of[frozenset(point.swept.items())] for point in other.points))

    def won(one: Sweep) -> set[tuple[object, ...]]:
        return {
            (pick.load, None if pick.winner is None else frozenset(one.points[pick.winner].swept.items()))
            for pick in picks(one)
        }

    assert won(sweep) == won(other)
    assert [sweep.points[i].swept for i in by_cost(sweep) if sweep.points[i].swept[RATE] == "10"] == [
        other.points[i].swept for i in by_cost(other) if other.points[i].swept[RATE] == "10"
    ]


@given(sweep=grids())
def test_a_point_is_on_the_front_unless_another_of_its_load_beats_it(sweep: Sweep) -> None:
    name = front_metric(sweep)
    assert name in ("p99_ttft_s", "p99_tpot_s")
    for pick in picks(sweep):
        rows = {i: sweep.rows[i] for i in pick.indices}
        able = {
            i: row
            for i, row in rows.items()
            if row["cannot_run"] is None and row["verdict"] != "OVERLOADED" and row.get(name) is not None
        }
        cost = "usd_per_hour" if all(row["usd_per_hour"] is not None for row in able.values()) else "num_gpus"
        for i, row in able.items():
            mine = (row[cost], row[name])
            beaten = any(
                one[cost] <= mine[0] and one[name] <= mine[1] and (one[cost], one[name]) != mine
                for one in able.values()
            )
            assert (i in pick.front) == (not beaten)
        assert set(pick.front) <= set(able)


def test_among_equally_cheap_choices_the_larger_headroom_wins() -> None:
    rows = [made_row(slo_ratio=ratio) for ratio in (0.9, 0.4, 0.7)]
    sweep = made_sweep({"engine.max_num_seqs": ["8", "64", "128"]}, rows)
    [pick] = picks(sweep)
    assert pick.winner == 1
    assert "max_num_seqs = 64, $2.00 an hour, p99 TTFT 250 ms, 40 % of its limit" in answer_words(sweep)


def test_without_a_price_the_fewest_gpus_win_and_the_answer_says_so() -> None:
    rows = [made_row(num_gpus=count, usd_per_hour=None, slo_ratio=0.9 / count) for count in (4, 2, 3)]
    sweep = made_sweep({"replicas": ["4", "2", "3"]}, rows)
    [pick] = picks(sweep)
    assert (pick.winner, pick.measure) == (1, "num_gpus")
    assert "The fewest GPUs that meet the SLO (no price is known of h100-sxm-80gb): 2 GPUs" in answer_words(
        sweep
    )


def test_an_overloaded_point_never_wins_even_alone() -> None:
    sweep = made_sweep({"replicas": ["1", "2"]}, [made_row(verdict="OVERLOADED"), made_row(meets_slo=False)])
    [pick] = picks(sweep)
    assert pick.winner is None
    assert "those within the limits are overloaded" in answer_words(sweep)


@pytest.mark.parametrize(
    ("verdict", "said"), [("UNTESTED", "too short to tell"), ("BACKLOGGED", "queue grew")]
)
def test_a_winner_whose_queue_is_open_is_said_to_be_so(verdict: str, said: str) -> None:
    rows = [made_row(verdict=verdict), made_row(usd_per_hour=4.0, num_gpus=2)]
    sweep = made_sweep({"replicas": ["1", "2"]}, rows)
    [pick] = picks(sweep)
    assert (pick.winner, pick.settled) == (0, 1)
    answer = answer_words(sweep)
    assert said in answer
    assert "the cheapest that is sure is 2 GPUs" in answer
    assert said not in answer_words(made_sweep({"replicas": ["1", "2"]}, [made_row(), rows[1]]))


def test_too_few_requests_leave_the_answer_open() -> None:
    sweep = made_sweep({"replicas": ["1", "2"]}, [made_row(meets_slo=None, slo_ratio=None)] * 2)
    assert "left open, as too few requests carry the percentiles" in answer_words(sweep)


@pytest.mark.parametrize(
    ("kind", "key", "load"),
    [
        ("serving", RATE, True),
        ("serving", "workload.arrivals.concurrency", True),
        ("serving", "workload.trace.time_scale", True),
        ("serving", "workload.trace.path", True),
        ("serving", "workload", True),
        ("serving", "model", True),
        ("serving", "slo.p99_ttft_s", True),
        ("serving", "engine.speculative.acceptance_rate", True),
        ("serving", "compare.variants.a.workload.num_requests", True),
        ("serving", "engine.speculative.num_speculative_tokens", False),
        ("serving", "replicas", False),
        ("serving", "hardware", False),
        ("serving", "engine", False),
        ("serving", "compare.variants.a.engine.max_num_seqs", False),
        ("kernel", "kernel.attention.seqlen", True),
        ("kernel", "kernel.attention.algorithm", False),
        ("kernel", "kernel.tile.block_m", False),
        ("training", "training.max_seq_len", True),
        ("training", "exchange.slow_links[0].slowdown", True),
        ("training", "training.num_workers", False),
        ("training", "failures.interval_s", False),
    ],
)
def test_what_is_asked_for_is_no_choice(kind: str, key: str, load: bool) -> None:
    assert is_load(key, KINDS[kind]) is load


@pytest.mark.parametrize("kind", KINDS)
def test_keys_of_loads_and_choices_are_keys_of_the_kind(kind: str) -> None:
    from dataclasses import fields, is_dataclass
    from typing import get_args

    from sim.scenario.build import field_hints

    swept: Swept = KINDS[kind].swept
    for key in (*swept.load_keys, *swept.choice_keys):
        hint: Any = KINDS[kind].scenario
        for part in key.split("."):
            assert part in {one.name for one in fields(hint)}, key
            hint = field_hints(hint)[part][1]
            hint = next((one for one in (hint, *get_args(hint)) if is_dataclass(one)), hint)
    for name in (*swept.columns, *swept.goals, *swept.against):
        assert name in KINDS[kind].metrics


def test_every_load_is_answered_for_itself(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    axes = ["--over", f"{RATE}=5,20,80", "--over", "replicas=1:3"]
    assert main(["sweep", str(tiny), *axes, "--jobs", "1", "--out", "out"]) == 0
    content = json.loads(Path("out/sweep.json").read_text(encoding="utf-8"))
    assert [answer["load"] for answer in content["answers"]] == [{RATE: rate} for rate in ("5", "20", "80")]
    printed = " ".join(capsys.readouterr().out.split())
    for answer in content["answers"]:
        points = content["points"]
        met = [p["num_gpus"] for p in points if p["meets_slo"] and p["swept"][RATE] == answer["load"][RATE]]
        winner = answer["winner"]
        assert (winner is None) == (not met)
        if winner is not None:
            count = points[winner]["num_gpus"]
            assert count == min(met)
            assert f"at {answer['load'][RATE]} requests/s: {count} GPU" in printed


def test_a_trace_played_faster_is_said_as_its_load() -> None:
    rows = [
        made_row(),
        made_row(usd_per_hour=8.0, num_gpus=4),
        made_row(meets_slo=False),
        made_row(num_gpus=4),
    ]
    sweep = made_sweep({"workload.trace.time_scale": ["1", "0.1"], "replicas": ["1", "4"]}, rows)
    assert "at 1 ×: 1 GPU, $2.00 an hour; at 10 ×: 4 GPUs, $2.00 an hour." in answer_words(sweep)


def test_loads_with_the_same_answer_are_told_together() -> None:
    rows = [made_row(), made_row(), made_row(meets_slo=False, slo_ratio=3.0, p99_ttft_s=1.5)]
    answer = answer_words(made_sweep({RATE: ["5", "10", "90"]}, rows))
    assert (
        "at 5 requests/s and at 10 requests/s: 1 GPU, $2.00 an hour; at 90 requests/s: 1 GPU misses it"
        in answer
    )


# --- points that cannot run ---------------------------------------------------------------------


def test_what_cannot_run_is_a_row_with_its_reason_in_every_format(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_ = ["--set", "engine.quantization=fp8", "--over", "hardware=h100-sxm-80gb,a100-sxm-80gb"]
    assert main(["sweep", str(tiny), *set_, "--jobs", "1", "--out", "out"]) == 0
    reason = "a100-sxm-80gb has no peak rate for float8"
    printed = " ".join(capsys.readouterr().out.split())
    assert (
        f"hardware = a100-sxm-80gb cannot run: engine.quantization: {reason}; try quantization: int4"
        in printed
    )
    assert "1 × h100-sxm-80gb" in printed
    assert "1 of 2 points cannot run; none can on a100-sxm-80gb: engine.quantization: it has no" in printed
    rows = list(csv.DictReader(Path("out/sweep.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["verdict"] == "CANNOT_RUN" for row in rows] == [False, True]
    assert [row["cannot_run"] for row in rows] == ["", f"engine.quantization: {reason}"]
    assert rows[1]["p99_ttft_s"] == ""
    assert float(rows[1]["usd_per_hour"]) > 0  # what it would have cost
    content = json.loads(Path("out/sweep.json").read_text(encoding="utf-8"))
    assert reason in content["points"][1]["cannot_run"]
    assert "int4" in content["points"][1]["remedy"]
    assert content["answers"][0]["winner"] == 0
    for name in ("sweep.html", "sweep.md"):
        view = Path("out", name).read_text(encoding="utf-8")
        assert reason in view
        assert "1 cannot run" in view


def test_a_variant_that_cannot_run_is_a_row_and_the_others_run(
    empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axis = ["--over", "kernel.tile.block_m=64,128", "--jobs", "1", "--out", "out"]
    assert main(["sweep", "kernel/block_size", *axis]) == 0
    content = json.loads(Path("out/sweep.json").read_text(encoding="utf-8"))
    refused = [(one["swept"], one["variant"]) for one in content["points"] if one.get("cannot_run")]
    assert refused == [({"kernel.tile.block_m": "128"}, "512_columns")]
    assert "do not fit the register file" in capsys.readouterr().out


def test_a_kernel_without_memory_is_a_row_with_what_it_needs(
    empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axis = ["--over", "kernel.attention.seqlen=512,4096", "--jobs", "1", "--out", "out"]
    assert main(["sweep", "kernel/attention_on_gpt2", *axis]) == 0
    assert "(pytorch) cannot run: out of memory: needs" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        ("replicas=1,many", "expected a whole number"),
        ("engine.max_num_seq=1,2", "unknown field"),
        ("engine.max_num_seqs=4,0", "max_num_seqs"),
        ("hardware=h100-sxm-80gb,h1000", "no such hardware profile"),
    ],
)
def test_a_mistake_in_an_axis_is_refused_before_anything_runs(
    axis: str, said: str, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(tiny), "--over", axis, "--jobs", "1", "--out", "out"]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.out == ""
    assert not Path("out").exists()


REPLAY = (
    TINY.split("workload:")[0]
    + "workload: {trace: {path: good.csv, format: csv, time_unit: s, columns: {arrival: arrived_at, "
    "prompt_tokens: prompt_tokens, output_tokens: output_tokens}}}\n"
)


@pytest.fixture
def replay(empty_folder: Path) -> Path:
    """A scenario of a trace, and beside its file one with a word in place of a number."""
    for name, last in (("good", "10"), ("bad", "ten")):
        rows = "".join(f"{second},10,5\n" for second in range(9))
        header = "arrived_at,prompt_tokens,output_tokens"
        Path(f"{name}.csv").write_text(f"{header}\n{rows}9,{last},5\n", encoding="utf-8")
    path = empty_folder / "replay.yaml"
    path.write_text(REPLAY, encoding="utf-8")
    return path


def test_a_file_that_is_not_there_is_a_mistake(replay: Path, capsys: pytest.CaptureFixture[str]) -> None:
    axis = ["--over", "workload.trace.path=good.csv,away.csv"]
    assert main(["sweep", str(replay), *axis, "--jobs", "1", "--out", "out"]) == 2
    assert "no such file" in capsys.readouterr().err
    assert not Path("out").exists()


def test_where_no_point_can_run_the_reasons_are_the_error(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axis = ["--over", "hardware=l4,h100-sxm-80gb", "--set", "model=llama-3.1-70b"]
    assert main(["sweep", str(tiny), *axis, "--jobs", "1", "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert "no point of the grid can run" in said
    for device in ("l4", "h100-sxm-80gb"):
        assert f"hardware = {device}: engine: the model leaves no room for KV cache" in said
    assert not Path("out").exists()


def test_what_only_a_run_finds_is_a_row_too(replay: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["sweep", str(replay), "--jobs", "1", "--out", "out", "--over"]
    assert main([*command, "workload.trace.path=good.csv,bad.csv"]) == 0
    content = json.loads(Path("out/sweep.json").read_text(encoding="utf-8"))
    assert [one["verdict"] == "CANNOT_RUN" for one in content["points"]] == [False, True]
    assert "not a number" in content["points"][1]["cannot_run"]
    capsys.readouterr()
    assert main([*command, "workload.trace.path=bad.csv", "--out", "none"]) == 2
    assert "not a number" in capsys.readouterr().err
    assert not Path("none/sweep.csv").exists()


# --- which axis helps ---------------------------------------------------------------------------


def test_a_best_at_the_edge_of_its_axis_says_so(
    empty_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not where the next value was tried and is slower, or cannot be held by the registers."""

    def answer(scenario: str, values: str) -> str:
        over = ["--over", f"kernel.tile.block_n={values}", "--set", "compare=null", "--quiet"]
        assert main(["sweep", scenario, *over, "--out", str(empty_folder / "out")]) == 0
        return " ".join(capsys.readouterr().out.split())

    assert "block_n = 512, the largest block_n tried: the best may lie beyond" in answer(
        "kernel/block_size", "64,128,512"
    )
    inside = answer("kernel/flash_2_tiles", "32,64,128")
    assert "with block_n = 64" in inside
    assert "tried" not in inside


def test_an_axis_that_cannot_help_is_named_with_what_one_prompt_takes(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axes = ["--set", "slo.ttft_s=2 ms", "--over", "replicas=1:3", "--out", "out", "--jobs", "1"]
    assert main(["sweep", str(tiny), *axes]) == 0
    said = "replicas cannot help: one prompt alone takes "
    assert said in " ".join(capsys.readouterr().out.split())
    content = json.loads(Path("out/sweep.json").read_text(encoding="utf-8"))
    [note] = content["axes"]
    assert note.startswith(said)
    assert (
        note.endswith("on an idle engine, longer than 2.00 ms (p90 TTFT).") or "longer than 2.00 ms" in note
    )
    for name in ("sweep.html", "sweep.md"):
        assert said in Path("out", name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "engine",
    ["batching: continuous", "batching: vllm", "batching: continuous, max_num_batched_tokens: 64"],
)
@pytest.mark.parametrize(
    "slo",
    ["{ttft_s: 1 ms}", "{p50_ttft_s: 1 ms, mean_ttft_s: 1 ms}", "{p50_tpot_s: 1 ms}", "{p90_e2e_s: 1 ms}"],
)
def test_nothing_is_faster_than_one_request_alone(engine: str, slo: str, tiny: Path) -> None:
    overrides = [f"engine={{{engine}, max_num_seqs: 8, max_model_len: 2048}}", f"slo={slo}"]
    tiny.write_text(TINY.replace("slo: {ttft_s: 500 ms}\n", ""), encoding="utf-8")
    for point in sweep_points(str(tiny), [f"{RATE}=0.2,40"], overrides=overrides):
        row = evaluate(point)
        assert row["meets_slo"] is False
        assert row["alone_closest"] is not None
        alone, found = row["alone_ratio"], row["slo_ratio"]
        assert isinstance(alone, float) and isinstance(found, float)
        assert 1 < alone <= found * (1 + 1e-9)
        if point.swept[RATE] == "0.2":  # hardly ever two at a time: alone is what is found
            assert found <= 1.25 * alone


def test_an_axis_that_is_too_short_is_named_with_its_end() -> None:
    rows = [made_row(meets_slo=False, slo_ratio=8 / count, p99_ttft_s=4 / count) for count in (1, 2, 4)]
    [note] = axis_notes(made_sweep({"replicas": ["1", "2", "4"]}, rows))
    assert note == (
        "replicas is too short: every value up to 4 misses (p99 TTFT 1.00 s, 2 × its limit there); raise it."
    )
    [note] = axis_notes(made_sweep({"replicas": ["4", "2", "1"]}, rows))
    assert "every value down to 1 misses" in note
    assert note.endswith("lower it.")


def test_an_axis_that_changes_little_does_not_help_and_a_bend_comes_nearest() -> None:
    flat = [made_row(meets_slo=False, slo_ratio=ratio) for ratio in (2.0, 2.01, 2.02)]
    assert axis_notes(made_sweep({"engine.max_num_seqs": ["8", "16", "32"]}, flat)) == [
        "max_num_seqs does not help: with all its values p99 TTFT 250 ms, 2 × its limit or hardly more."
    ]
    bend = [made_row(meets_slo=False, slo_ratio=ratio) for ratio in (3.0, 2.0, 4.0)]
    [note] = axis_notes(made_sweep({"engine.max_num_seqs": ["8", "16", "32"]}, bend))
    assert note.startswith("max_num_seqs alone does not do it: 16 comes nearest")


def test_an_axis_without_any_effect_is_named() -> None:
    rows = [made_row(usd_per_hour=2.0 * count, num_gpus=count) for count in (1, 1, 2, 2)]
    sweep = made_sweep({"replicas": ["1", "2"], "engine.watermark": ["0", "0.1"]}, rows)
    assert axis_notes(sweep) == ["watermark changes nothing: every metric is the same with all its values."]


def test_the_nearest_is_no_overloaded_point_while_another_runs() -> None:
    far = made_row(meets_slo=False, slo_ratio=1.5, p99_ttft_s=0.75)
    near = made_row(meets_slo=False, slo_ratio=1.1, p99_ttft_s=0.55, verdict="OVERLOADED")
    sweep = made_sweep({"engine.max_num_seqs": ["8", "64"]}, [near, far])
    assert picks(sweep)[0].nearest == 1
    assert "the nearest is max_num_seqs = 64, p99 TTFT 750 ms, 1.5 × its limit" in answer_words(sweep)


def test_loads_that_are_carried_need_no_advice() -> None:
    rows = [made_row(), made_row(meets_slo=False, slo_ratio=2.0)]
    assert axis_notes(made_sweep({"replicas": ["2", "1"]}, rows)) == []


# --- words and the table ------------------------------------------------------------------------


@given(ratio=st.floats(1e-4, 1e4))
def test_a_ratio_shows_on_which_side_of_the_limit_it_lies(ratio: float) -> None:
    text = ratio_words(ratio)
    if abs(ratio - 1) > 1e-9:
        assert text.endswith("% of") == (ratio < 1)
        assert text not in ("100 % of", "1 ×")


def test_a_metric_of_a_class_is_said_with_its_class() -> None:
    assert plain_name("p99_ttft_s") == "p99 TTFT"
    assert plain_name("p99_ttft_s of chat") == "p99 TTFT of chat"


@given(sweep=grids())
def test_the_table_is_as_wide_as_a_terminal_and_has_every_point(sweep: Sweep) -> None:
    metrics = ("p99_ttft_s", "goodput_fraction")
    lines = render_table(sweep, metrics).splitlines()
    assert max(map(len, lines)) <= 100
    cells = [line.replace("|", " ").split() for line in lines if line.startswith("|")]
    num_rows = sum(one[0] in ("10", "20", "*", "**") for one in cells)
    assert num_rows == len(sweep.rows)


def test_metrics_that_were_asked_for_are_all_shown(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("mean_queue_s", "p50_e2e_s", "kv_used_fraction", "busy_fraction", "num_steps", "makespan_s")
    asked = [word for name in names for word in ("--metric", name)]
    command = ["sweep", str(tiny), "--over", "replicas=1,2", *asked, "--jobs", "1", "--out", "out"]
    assert main(command) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for word in ("queueing", "p50", "KV cache", "time in", "steps", "makespan"):
        assert word in printed


def test_a_device_is_named_whole_in_the_table_whatever_stands_beside_it() -> None:
    names = ["a100-sxm-80gb", "b200-sxm-180gb", "t4"]
    rows = [made_row(meets_thresholds=True), made_row(meets_thresholds=False, missed="p99"), made_row()]
    rows[2] |= {"cannot_run": "no bfloat16", "verdict": "CANNOT_RUN", "meets_slo": None, "slo_ratio": None}
    shown = render_table(made_sweep({"hardware": names}, rows), ("p99_ttft_s", "goodput_fraction"))
    assert max(map(len, shown.splitlines())) <= 100
    table = [line for line in shown.splitlines() if line.startswith("|")]
    assert [sum(name in line for line in table) for name in names] == [1, 1, 1]
    assert all(line.count("|") == table[0].count("|") for line in table), "it pastes as Markdown"
    assert (
        sum("missed" in line for line in table) == 1 and sum("cannot run [1]" in line for line in table) == 1
    )


def test_a_point_that_misses_a_threshold_of_the_file_cannot_win() -> None:
    axes = {"replicas": ["1", "2", "3"]}
    missed = made_row(meets_thresholds=False, missed="p99_ttft_s max 0.1 (0.2 s)", usd_per_hour=1.0)
    kept = [made_row(meets_thresholds=True, missed="", num_gpus=i, usd_per_hour=float(i)) for i in (2, 3)]
    sweep = made_sweep(axes, [missed, *kept])
    assert picks(sweep)[0].winner == 1
    said = answer_words(sweep)
    assert said.startswith("The cheapest that meets the SLO and the thresholds: 2 GPUs, $2.00 an hour")
    assert (
        "1 of 3 points miss a threshold of the scenario, as replicas = 1: p99_ttft_s max 0.1 (0.2 s)." in said
    )
    none = made_sweep(axes, [missed, missed, missed])
    assert picks(none)[0].winner is None
    assert "those within the SLO miss a threshold of the scenario" in answer_words(none)
    unstated = made_sweep(axes, [made_row(), made_row(), made_row()])
    assert "threshold" not in answer_words(unstated)


def test_thresholds_of_the_file_are_read_of_every_point(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TINY + "thresholds: [{metric: mean_ttft_s, max: 100 ms}]\n"
    tiny.write_text(text, encoding="utf-8")
    one, four = (evaluate(point) for point in sweep_points(str(tiny), ["replicas=1,4"]))
    assert (one["meets_thresholds"], four["meets_thresholds"]) == (False, True)
    assert str(one["missed"]).startswith("mean_ttft_s max 0.1 (") and four["missed"] == ""
    assert main(["sweep", str(tiny), "--over", "replicas=1,4", "--jobs", "1", "--out", "out"]) == 0
    assert "points miss a threshold of the scenario, as replicas = 1: mean_ttft_s" in " ".join(
        capsys.readouterr().out.split()
    )
    rows = list(csv.DictReader(Path("out/sweep.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["meets_thresholds"] for row in rows] == ["false", "true"]
    assert "misses a threshold" in Path("out/sweep.html").read_text(encoding="utf-8")
    variants = "compare: {reference: a, variants: {a: {}, b: {engine: {max_num_seqs: 8}}}}\n"
    tiny.write_text(text.replace("{metric", "{variant: b, metric") + variants, encoding="utf-8")
    found = [(point.variant, evaluate(point)) for point in sweep_points(str(tiny), ["replicas=1"])]
    assert [(name, row["meets_thresholds"] is None) for name, row in found] == [("a", True), ("b", False)]


def test_where_nothing_meets_the_slo_it_is_said_first_what_the_nearest_serves() -> None:
    row = made_row(
        meets_slo=False, slo_ratio=3.0, verdict="OVERLOADED", requests_per_s=3.98, offered_per_s=5.0
    )
    said = answer_words(made_sweep({"replicas": ["1"]}, [row]))
    assert "1 GPU misses it, serving 3.98 of the 5 requests a second offered, p99 TTFT" in said
    unknown = answer_words(made_sweep({"replicas": ["1"]}, [row | {"offered_per_s": None}]))
    assert "1 GPU misses it, falling behind the load, p99 TTFT" in unknown
    assert "offered" not in answer_words(made_sweep({"replicas": ["1"]}, [row | {"verdict": "STABLE"}]))


def test_the_answer_says_what_the_winner_assumes() -> None:
    lent, cpu = "mi300x reaches the efficiencies of h100-sxm-80gb", "no CPU time between steps"
    rows = [made_row(usd_per_hour=1.0, assumes=f"{lent}\n{cpu}"), made_row(assumes=cpu)]
    sweep = made_sweep({"hardware": ["mi300x", "h100-sxm-80gb"]}, rows)
    assert answer_words(sweep).endswith(f". Assumed: {lent}; {cpu}.")
    own = made_sweep({"hardware": ["mi300x", "h100-sxm-80gb"]}, [rows[0] | {"usd_per_hour": 9.0}, rows[1]])
    assert answer_words(own).endswith(f"Assumed: {cpu}."), "what does not win assumes nothing of the answer"
    loads = made_sweep({RATE: ["10", "20"]}, rows)
    assert f"Assumed: {lent} ({RATE} = 10); {cpu}." in answer_words(loads)
    missed = [
        row | {"meets_slo": False, "slo_ratio": ratio} for row, ratio in zip(rows, (2.0, 3.0), strict=True)
    ]
    nearest = made_sweep({"hardware": ["mi300x", "h100-sxm-80gb"]}, missed)
    assert answer_words(nearest).endswith(f"Assumed: {lent}; {cpu}.")


def test_a_winner_on_borrowed_figures_does_not_win_silently() -> None:
    lent = made_row(usd_per_hour=1.0, rests_on_measured=False)
    own = made_row(usd_per_hour=2.95, rests_on_measured=True)
    axes = {"hardware": ["mi300x", "h100-sxm-80gb"]}
    sweep = made_sweep(axes, [lent, own])
    [pick] = picks(sweep)
    assert (pick.winner, pick.measured) == (0, 1)
    assert "and the cheapest on measured figures is 1 × h100-sxm-80gb at $2.95 an hour." in answer_words(
        sweep
    )
    for rows in (
        [lent, own | {"meets_slo": False}],
        [lent | {"usd_per_hour": 9.0}, own],
        [lent, own | {"rests_on_measured": False}],
    ):
        assert "measured figures" not in answer_words(made_sweep(axes, rows))


def test_whether_a_point_rests_on_measured_figures_comes_from_its_run(tiny: Path) -> None:
    points = sweep_points(str(tiny), ["hardware=h100-sxm-80gb,mi300x"])
    rows = [evaluate(point) for point in points]
    assert [row["rests_on_measured"] for row in rows] == [True, False]
    assert "took about 2.3 × as long as simulated (validation board)" in str(rows[1]["assumes"])


def test_the_answer_says_what_the_worst_seed_found() -> None:
    """The mean over the seeds keeps the limit of 50 ms, the worst seed misses it."""
    row = made_row(
        meets_slo=False,
        slo_ratio=1.08,
        slo_closest="p99_tpot_s",
        slo_value=0.054,
        p99_tpot_s=0.0483,
        num_gpus=2,
    )
    sweep = made_sweep({RATE: ["3", "3.2"]}, [made_row(num_gpus=2), row])
    seeds = replace(scenario(), seeds=(1, 2, 3))
    points = tuple(replace(point, scenario=seeds) for point in sweep.points)
    said = "2 GPUs miss it, p99 TPOT 54.0 ms in the worst of 3 seeds, 1.1 × its limit"
    assert said in answer_words(replace(sweep, points=points))
    page = render_page(replace(sweep, points=points), ("p99_tpot_s",))
    assert "p99 TPOT 54.0 ms in the worst of 3 seeds<" in page, "beside the ratio, in the table"
    assert "worst" not in answer_words(sweep), "one seed"


def test_the_worst_seed_of_a_run_is_the_one_that_is_judged(tiny: Path) -> None:
    [point] = sweep_points(str(tiny), ["replicas=1"], overrides=["seeds=[1,2,3]"])
    alone = [evaluate(replace(point, scenario=replace(point.scenario, seeds=(seed,)))) for seed in (1, 2, 3)]
    row = evaluate(point)
    name = str(row["slo_closest"])
    values = [float(str(one[name])) for one in alone]
    assert row["slo_value"] == max(values)
    assert min(values) < max(values)
    assert name in str(row["slo_judged"]).splitlines()


def test_a_percentile_that_too_few_requests_carry_is_not_replaced_silently(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axes = ["--set", "slo={ttft_s: 50 ms, tpot_s: 50 ms}", "--over", f"{RATE}=2,20"]
    assert main(["sweep", str(tiny), *axes, "--out", "out", "--jobs", "1"]) == 0
    captured = " ".join(capsys.readouterr().out.split())
    assert "oo few requests for a p99" in captured
    rows = list(csv.DictReader(Path("out/sweep.csv").read_text(encoding="utf-8").splitlines()))
    judged = rows[0]["slo_closest"]
    assert judged.startswith("p9") and not judged.startswith("p99")
    percentile = judged.partition("_")[0]
    assert list(rows[0])[list(rows[0]).index("usd_per_hour") + 1] == f"{percentile}_ttft_s"
    assert rows[0][f"{percentile}_tpot_s"]
    text = Path("out/sweep.html").read_text(encoding="utf-8")
    deciding = text[text.index("The picture that decides</") : text.index("Why</")]
    assert f"{percentile} TTFT" in deciding
    assert "The dotted line is the SLO, at most 50.0 ms." in deciding


@pytest.mark.parametrize(
    ("key", "values", "alone", "helps"),
    [
        ("replicas", ("2", "4", "8"), (3.98, 3.5, 3.98), False),
        ("replicas", ("2", "4"), (3.98, 3.5), False),
        ("replicas", ("2", "4", "8"), (3.98, 0.9, 3.98), True),
        ("hardware", ("a100-sxm-80gb", "h100-sxm-80gb"), (13.3, 3.9), True),  # others may
        ("engine.profile", ("vllm-0.5", "vllm-0.12"), (3.3, 2.9), True),
        ("engine.profile", ("vllm-0.5", "vllm-0.12"), (3.3, 3.3), False),
        ("engine.tensor_parallel_size", ("1", "2"), (3.0, 1.7), True),
        ("engine.tensor_parallel_size", ("1", "2"), (1.7, 1.7), False),
    ],
)
def test_an_axis_helps_only_where_one_prompt_alone_is_not_too_slow(
    key: str, values: tuple[str, ...], alone: tuple[float, ...], helps: bool
) -> None:
    """What the prefix cache finds varies with the replicas; more of them make no prompt faster by itself."""
    rows = [
        made_row(
            meets_slo=False, slo_ratio=20.0 / (i + 1), alone_ratio=ratio, alone_closest="p99_ttft_s",
            p99_ttft_s=9.0 / (i + 1),
        )
        for i, ratio in enumerate(alone)
    ]  # fmt: skip
    sweep = made_sweep({key: values}, rows)
    [note] = axis_notes(sweep)
    assert ("cannot help" in note) is not helps
    least = "one prompt alone takes " in answer_words(sweep)
    assert least is all(ratio > 1 for ratio in alone)


def test_of_devices_only_those_that_were_tried_cannot_help() -> None:
    """Sought: 500 ms (p99 TTFT)."""
    rows = [
        made_row(
            meets_slo=False, slo_ratio=1.5 + ratio / count, alone_ratio=ratio, alone_closest="p99_ttft_s",
            p99_ttft_s=1.0,
        )
        for ratio in (1.14, 1.02)
        for count in (8, 12)
    ]  # fmt: skip
    sweep = made_sweep({"hardware": ["l40s", "a100-sxm-80gb"], "replicas": ["8", "12"]}, rows)
    [note] = axis_notes(sweep)
    assert note.startswith("no number of replicas on ")
    assert "on l40s and " in note and "on a100-sxm-80gb, idle, longer than " in note
    assert note.endswith("; other GPUs were not tried.")


def test_an_axis_is_not_too_short_where_it_is_open_whether_anything_misses() -> None:
    rows = [made_row(meets_slo=None, slo_ratio=ratio, p99_ttft_s=None) for ratio in (0.14, 0.1)]
    sweep = made_sweep({"replicas": ["1", "2"]}, rows)
    assert axis_notes(sweep) == []
    assert "too few requests carry the percentiles" in answer_words(sweep)


def test_a_device_that_cannot_run_is_named_with_the_reason() -> None:
    why = "engine.dtype: v100-sxm2-16gb has no peak rate for bfloat16"
    rows = [made_row(num_gpus=1), made_row(cannot_run=why, meets_slo=None, verdict="CANNOT_RUN")]
    answer = answer_words(made_sweep({"hardware": ["a100-sxm-80gb", "v100-sxm2-16gb"]}, rows))
    reason = "engine.dtype: it has no peak rate for bfloat16"
    assert f"1 of 2 points cannot run; none can on v100-sxm2-16gb: {reason}." in answer
    assert "no number tried" not in answer


def test_each_devices_least_count_and_the_load_stand_in_the_answer() -> None:
    devices = ["a100-sxm-80gb", "h100-sxm-80gb", "t4"]
    rows = [
        made_row(
            meets_slo=count >= least, num_gpus=count, usd_per_hour=price * count, offered_per_s=4.84,
            notes="Read from a/azure.csv: 9 requests over 1 s.\nPlayed of it: the first 5 of 9 requests; a",
        )
        for price, least in ((1.89, 2), (2.95, 1), (0.2, 9))
        for count in (1, 2)
    ]  # fmt: skip
    answer = answer_words(made_sweep({"hardware": devices, "replicas": ["1", "2"]}, rows))
    least = "2 × a100-sxm-80gb ($3.78), 1 × h100-sxm-80gb ($2.95), no number tried of t4."
    assert f"The fewest of each that meet it: {least}" in answer
    assert "Load: azure.csv, the first 5 of 9 requests, 4.84 requests a second." in answer
    alone = answer_words(made_sweep({"replicas": ["1", "2"]}, rows[:2]))
    assert "fewest of each" not in alone
    whole = [row | {"notes": "Read from azure.csv: 9 requests over 1 s."} for row in rows[:2]]
    assert "Load: azure.csv, all of it, 4.84" in answer_words(made_sweep({"replicas": ["1", "2"]}, whole))
    closed = [whole[0], whole[1] | {"offered_per_s": 9.0}]
    assert "requests a second" not in answer_words(made_sweep({"replicas": ["1", "2"]}, closed))


def test_the_picture_names_the_winner_and_the_ends_of_the_front(tiny: Path) -> None:
    rows = [
        made_row(usd_per_hour=cost, p99_ttft_s=time, num_gpus=1, meets_slo=time < 0.35)
        for cost, time in ((1.0, 0.9), (2.0, 0.3), (2.05, 0.299), (3.0, 0.4), (9.0, 0.1))
    ]
    names = ["l4", "a100-sxm-80gb", "a100-sxm-40gb", "l40s", "b200-sxm-180gb"]
    (picture, *_) = sweep_pictures(made_sweep({"hardware": names}, rows), ())
    told = {one["text"]: (one["x"], one["y"]) for one in picture.layout["annotations"]}
    assert set(told) == {"1 × l4", "1 × a100-sxm-80gb", "1 × b200-sxm-180gb"}, "one is inside, one beaten"
    assert told["1 × l4"] == (1.0, 0.9)
    wide = [row | {"p99_ttft_s": row["p99_ttft_s"] * 10**i} for i, row in enumerate(rows[::-1])][::-1]
    (logarithmic, *_) = sweep_pictures(made_sweep({"hardware": names}, wide), ())
    assert logarithmic.layout["yaxis"]["type"] == "log"
    lowest = min(logarithmic.layout["annotations"], key=lambda one: one["y"])
    assert lowest["y"] == pytest.approx(-1.0), "a logarithmic axis takes powers of ten"


def test_quiet_is_the_answer_alone(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", str(tiny), "--over", "replicas=1,2", "--quiet", "--jobs", "1", "--out", "out"]) == 0
    assert capsys.readouterr().out.startswith("The cheapest that meets the SLO: ")


def test_the_page_says_what_was_held_fixed_what_to_trust_and_how_to_repeat_it(tiny: Path) -> None:
    command = ["sweep", str(tiny), "--over", "replicas=1,2", "--jobs", "1", "--out", "out"]
    assert main(command) == 0
    page = Path("out/sweep.html").read_text(encoding="utf-8")
    twin = Path("out/sweep.md").read_text(encoding="utf-8")
    for text in (
        "What was held fixed", "arrivals.process: poisson", "How far to trust this", "What is not modelled",
        "Where the numbers of h100-sxm-80gb come from", "Reproduce",
    ):  # fmt: skip
        assert text in page, text
        assert (text in twin) != text.startswith("Where the numbers"), text
    assert "The dotted line is the SLO, at most 500 ms." in page
    fixed = twin[twin.index("What was held fixed") : twin.index("How far to trust")]
    assert "replicas: 1" not in fixed


@pytest.mark.parametrize(
    ("kind", "ratio", "is_open"),
    [("serving/host_time", 0.9, True), ("serving/host_time", 0.5, False), ("", 0.9, False)],
)
def test_a_winner_near_its_limit_is_not_decided_by_one_seed(kind: str, ratio: float, is_open: bool) -> None:
    """Of drawn requests; a trace has no other seed."""
    sweep = made_sweep(
        {"replicas": ["1", "2"]}, [made_row(slo_ratio=ratio), made_row(usd_per_hour=4.0)], kind
    )
    one = replace(sweep.points[0].scenario, seeds=(1,))
    sweep = replace(sweep, points=tuple(replace(point, scenario=one) for point in sweep.points))
    assert ("One seed does not decide whether it is met" in answer_words(sweep)) is is_open


MANY = {RATE: [str(rate) for rate in range(1, 6)], "replicas": [str(number) for number in range(1, 101)]}


def many_points() -> Sweep:
    """Five loads of a hundred choices: the n-th load is carried from 10 n replicas on, at a price each."""
    rows = [
        made_row(
            meets_slo=replicas >= 10 * load,
            slo_ratio=10 * load / replicas,
            p99_ttft_s=5 * load / replicas,
            num_gpus=replicas,
            usd_per_hour=2.0 * replicas,
        )
        for load, replicas in product(range(1, 6), range(1, 101))
    ]
    return made_sweep(MANY, rows)


def test_of_many_points_the_decisive_ones_are_pasted_and_the_page_folds_the_rest() -> None:
    sweep = many_points()
    twin, page = render_twin(sweep, ["p99_ttft_s"]), render_page(sweep, ["p99_ttft_s"])
    points = [line for line in twin.splitlines() if re.match(r"\| at \d requests/s, replicas", line)]
    assert len(points) == ROWS_OPEN
    assert "The 40 points that decide; 460 more are in sweep.csv." in twin
    for load in range(1, 6):
        told = [row for row in points if row.startswith(f"| at {load} requests/s")]
        assert len(told) == ROWS_OPEN // 5
        assert any(f"replicas = {10 * load} " in row and "cheapest" in row for row in told)
    assert "Every point" in page and "replicas = 77" in page and "replicas = 77" not in twin
    few = replace(sweep, points=sweep.points[:8], rows=sweep.rows[:8])
    assert "Every point, the cheapest first" in render_twin(few, ["p99_ttft_s"])


def test_the_decisive_points_are_the_winner_what_meets_the_front_and_the_nearest_misses() -> None:
    sweep = many_points()
    first = set(picks(sweep)[0].indices)

    def told(of: Sweep) -> set[int]:
        return {int(of.points[i].swept["replicas"]) for i in decisive(of, ROWS_OPEN) if i in first}

    # The winner; the next that meet; the front, which is the whole line (dearer is faster); nearest misses.
    assert told(sweep) == {10, 11, 12, 1, 2, 3, 9, 8}
    flat = replace(sweep, rows=tuple({**row, "p99_ttft_s": 1.0} for row in sweep.rows))
    assert told(flat) == {10, 11, 12, 13, 1, 9, 8, 7}
    missed = replace(flat, rows=tuple({**row, "meets_slo": False} for row in flat.rows))
    assert told(missed) == {1, *range(94, 101)}  # the nearest to the limit


def test_many_loads_with_one_answer_are_told_by_their_first_and_last() -> None:
    rates = [str(rate) for rate in range(1, 301)]
    rows = [made_row(num_gpus=1 + rate // 200) for rate in range(1, 301)]
    sweep = made_sweep({RATE: rates}, rows)
    said = answer_words(sweep)
    assert "at 1 requests/s to at 199 requests/s (199 loads): 1 GPU" in said
    assert len(said) < 1000
    twin = render_twin(sweep, ["p99_ttft_s"])
    assert "Where the answer changes; 296 more loads are in sweep.csv." in twin
    assert len(twin.splitlines()) < 120


def test_requests_that_come_all_at_once_have_no_verdict_on_their_queue(tiny: Path, tmp_path: Path) -> None:
    text = tiny.read_text().replace("{process: poisson, requests_per_s: 20}", "{process: all_at_once}")
    tiny.write_text(text.replace("slo: {ttft_s: 500 ms}\n", ""))
    out = tmp_path / "out"
    assert main(["sweep", str(tiny), "--over", "engine.max_num_seqs=2,4", "--out", str(out), "--quiet"]) == 0
    twin = (out / "sweep.md").read_text()
    assert "BACKLOGGED" not in twin and twin.count("| all at once |") == 2
    rows = list(csv.DictReader((out / "sweep.csv").open()))
    assert {row["verdict"] for row in rows} == {"ALL_AT_ONCE"}


def test_clients_that_give_up_do_not_win_a_sweep() -> None:
    """Of those that stay the percentiles are good: that is no way to meet an SLO."""
    rows = [made_row(verdict="ABANDONED"), made_row(usd_per_hour=4.0)]
    sweep = made_sweep({"replicas": ["1", "2"]}, rows)
    assert picks(sweep)[0].winner == 1
    alone = made_sweep({"replicas": ["1"]}, rows[:1])
    assert picks(alone)[0].winner is None
    assert "those within the limits are so because clients give up waiting" in answer_words(alone)
