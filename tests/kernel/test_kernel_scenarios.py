"""Kernel scenarios from file to report: every shipped one, refusals, what a report shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sim.errors import ScenarioError
from sim.kernel.gpu import gpu_of
from sim.kernel.metrics import KERNEL_METRICS, summarize_kernel
from sim.kernel.run import copy_ps, overlapped_ps
from sim.kernel.tables import KERNEL_TABLES, kernel_trace_events
from sim.kinds.load import load_scenario
from sim.kinds.registry import report_of
from sim.kinds.run import run_scenario
from sim.report.html import render_html
from sim.report.markdown import render_markdown
from sim.results.answer import Answer
from sim.scenario.shipped import data_dir, scenario_name

SHIPPED = sorted(data_dir("scenarios").glob("kernel/*.yaml"))


def answer(name: str, overrides: Sequence[str] = ()) -> Answer:
    return run_scenario(load_scenario(name, overrides=overrides))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_scenario_answers(path: Any) -> None:
    found = answer(scenario_name(path))
    for variant, summaries in found.summaries.items():
        metrics = summaries[0].metrics
        assert set(metrics) == set(KERNEL_METRICS)
        if summaries[0].verdict.word == "OUT_OF_MEMORY":
            assert variant in ("standard_at_8k", "standard_32k")  # the first: the paper's own row on 40 GB
            continue
        assert metrics["time_s"], variant
        shares = [metrics[f"{bound}_bound_fraction"] or 0.0 for bound in ("compute", "memory", "latency")]
        assert sum(shares) == pytest.approx(1.0)
    text = render_markdown(report_of(found))
    assert "What is not modelled" in text


def test_a_report_has_its_pictures_and_opens_offline() -> None:
    html = render_html(report_of(answer("kernel/standard_vs_flash")))
    for key in ("launches", "hbm_traffic", "roofline", "speedup_by_length", "time_by_sram", "sram_fill"):
        assert f'id="plot-{key}"' in html
    assert "plot-tiles_0" in render_html(report_of(answer("kernel/tiles_over_time")))


@pytest.mark.parametrize("key", ["launches", "hbm_traffic"])
def test_the_bar_of_standard_attention_names_its_scores(key: str) -> None:
    report = report_of(answer("kernel/standard_vs_flash"))
    pictures = {one.key: one for section in report.sections for one in section.pictures}
    at = {trace["name"]: trace["x"][trace["y"].index("standard")] for trace in pictures[key].traces}
    assert at["S = QKᵀ"] > 0
    assert at["P = softmax(S)" if key == "hbm_traffic" else "softmax"] > 0
    assert at.get("all others", 0.0) < 0.05 * sum(at.values())
    # Under whatever name, the whole bar is there: the numbers below the picture are its parts.
    numbers = sum(float(str(part)) for row in pictures[key].rows if row[0] == "standard" for part in row[2:])
    assert sum(at.values()) == pytest.approx(numbers, rel=0.01)


def test_two_runs_are_the_same_bytes() -> None:
    one, other = (answer("kernel/block_size") for _ in range(2))
    assert render_markdown(report_of(one)) == render_markdown(report_of(other))
    assert one.comparison.to_dict() == other.comparison.to_dict()


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("kernel.attention.num_kv_heads=3", "a divisor of num_heads"),
        ("kernel.attention.dtype=float8", "no float8 rate"),
        ("kernel.gemm={m: 1, n: 1, k: 1}", "exactly one of"),
        ("kernel.trace=true", "thread blocks"),
        ("kernel.attention.algorithm=flash", "flash_attention_2"),
        ("kernel.tile.num_splits=4", "no such tile size"),
        ("kernel.attention.layout=paged", "reads a block table"),
        ("model=gpt2", "only a training step"),
        ("kernel.tile.blockn=64", "block_n"),
    ],
)
def test_what_does_not_go_together_is_refused(override: str, words: str) -> None:
    with pytest.raises(ScenarioError) as refused:
        load_scenario("kernel/speedup_by_length", overrides=[override])
    assert words in str(refused.value)


def test_a_tile_that_one_variant_cannot_have_sets_it_aside() -> None:
    file = load_scenario("kernel/speedup_by_length", overrides=["kernel.tile.block_n=1024"])
    assert {one.scenario.kernel.attention.algorithm for one in file.variants} == {"standard"}
    assert all(one.scenario.kernel.attention.algorithm != "standard" for one in file.refused)
    assert all("max_sram_bytes_per_block" in str(one.refusal) for one in file.refused)


def test_out_of_memory_is_an_answer_not_an_error() -> None:
    found = answer("kernel/speedup_by_length", ["kernel.attention.seqlen=32768"])
    summary = found.summaries["standard"][0]
    assert summary.metrics["time_s"] is None
    assert summary.refused["time_s"].startswith("out of memory: needs")
    assert summary.verdict.word == "OUT_OF_MEMORY"
    assert found.summaries["flash_attention_2"][0].metrics["time_s"]
    assert render_html(report_of(found))


def test_tables_and_trace_of_a_traced_run() -> None:
    result: Any = answer("kernel/tiles_over_time").results["causal"][0]
    columns = {name: make(result) for name, make in KERNEL_TABLES.items()}
    tiles = {column.name: column.values for column in columns["tiles"]}
    assert len(set(tiles["block"])) == result.plan.launches[0].num_blocks
    assert (tiles["end_s"] >= tiles["start_s"]).all()
    assert len(json.dumps(kernel_trace_events(result))) > 1000
    total = sum(column.values.sum() for column in columns["traffic"] if column.name.endswith("bytes"))
    assert total == summarize_kernel(result).metrics["hbm_bytes"]


def test_host_copies_overlap_in_chunks() -> None:
    """Eight chunks: the longer of the two, and one chunk of the shorter."""
    assert overlapped_ps(800, 80) == 800 + 10
    assert overlapped_ps(80, 800) == 800 + 10
    h100 = load_scenario("kernel/kv_offload").base.hardware
    assert copy_ps(h100, 63e9) == 1_000_000_000_000
    assert gpu_of(h100).profile is h100


def test_thresholds_and_overrides_work_on_kernel_metrics(tmp_path: Path) -> None:
    scenario = tmp_path / "copy.yaml"
    scenario.write_text(
        "schema_version: 1\nquestion: How fast is a copy?\nkind: kernel\nhardware: a100-sxm-80gb\n"
        "kernel: {copy: {size_bytes: 1 GB}}\nthresholds:\n  - {metric: time_s, max: 2 ms}\n"
    )
    found = run_scenario(load_scenario(scenario)).summaries["base"][0]
    assert found.metrics["hbm_bytes"] == 2e9
    # 2 GB at what streaming reaches of 2,039 GB/s (the profile's own curve), and one launch.
    assert found.metrics["time_s"] == pytest.approx(2e9 / 1.905e12, rel=0.03)
