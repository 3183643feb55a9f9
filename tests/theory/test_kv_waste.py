"""KV memory by kind against what was published and what arithmetic says."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from fake_price import requests, run_fixed

from sim.kinds.load import load_scenario
from sim.kinds.run import run_one
from sim.results.summary import Summary
from sim.serving.summary import summarize
from sim.serving.usage import KV_KINDS

SCENARIO = Path(__file__).parents[2] / "scenarios/serving/paged_vs_contiguous_opt13b.yaml"

# Kwon et al., "PagedAttention" (2309.06180), Fig. 2, all four bars: per cent of the KV memory.
FIG_2 = {"orca_max": 20.4, "orca_pow2": 26.8, "orca_oracle": 38.2, "paged": 96.3}
DOMINANT = {"orca_max": "internal", "orca_oracle": "external"}  # 57.3 and 36.6 % there


@cache
def summary_of(variant: str, seed: int) -> Summary:
    scenario = next(v.scenario for v in load_scenario(SCENARIO).variants if v.name == variant)
    return summarize(run_one(scenario, variant=variant, seed=seed))


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("variant", FIG_2)
def test_share_that_holds_tokens_is_figure_2s(variant: str, seed: int) -> None:
    share = summary_of(variant, seed).metrics["kv_tokens_fraction"]
    assert share is not None
    assert 100 * share == pytest.approx(FIG_2[variant], abs=8.0)


@pytest.mark.parametrize("variant", DOMINANT)
def test_dominant_waste_is_the_published_one(variant: str) -> None:
    metrics = summary_of(variant, 1).metrics
    waste = {kind: metrics[f"kv_{kind}_fraction"] or 0.0 for kind in ("reserved", "internal", "external")}
    assert max(waste, key=lambda kind: waste[kind]) == DOMINANT[variant]


def test_lengths_are_sharegpts() -> None:
    from sim.serving.workload.sources import draw_requests

    workload = load_scenario(SCENARIO).base.workload
    tables = [draw_requests(workload, seed) for seed in range(1, 21)]
    prompts = np.concatenate([table.prompt_tokens for table in tables])
    outputs = np.concatenate([table.output_tokens for table in tables])
    assert prompts.mean() == pytest.approx(161, rel=0.02)
    assert outputs.mean() == pytest.approx(338, rel=0.02)
    assert (prompts + outputs).max() <= 2048


def test_the_kinds_fill_the_budget() -> None:
    for variant in FIG_2:
        metrics = summary_of(variant, 1).metrics
        kinds = [metrics[f"kv_{kind}_fraction"] or 0.0 for kind in KV_KINDS]
        assert min(kinds) >= 0
        assert sum(kinds) <= 1 + 1e-12


@pytest.mark.parametrize("block_size", [1, 4, 16, 64])
def test_a_paged_sequence_wastes_half_a_block(block_size: int) -> None:
    # Prompts of every length modulo the block, one after another, one step each: the empty rest of the last
    # block is block_size - 1, ..., 1, 0 tokens, on average (block_size - 1) / 2.
    lengths = list(range(1, 4 * block_size + 1))
    table = requests([0] * len(lengths), lengths, [1] * len(lengths))
    result = run_fixed(
        table, max_num_seqs=1, block_size=block_size, num_gpu_blocks_override=4, max_model_len=512
    )
    rest = result.kv_time_tokens_ps["internal"] / result.busy_ps
    assert rest == (block_size - 1) / 2


def test_contiguous_max_holds_the_mean_length_over_the_reservation() -> None:
    # One place of 1,024 tokens: a request of 100 + 24 that decodes holds 100, 101, ..., 123 of them in turn.
    table = requests([0], [100], [24])
    result = run_fixed(
        table,
        kv_allocator="contiguous",
        kv_reservation="max",
        max_model_len=1024,
        num_gpu_blocks_override=64,
    )
    integral, busy = result.kv_time_tokens_ps, result.busy_ps
    held = sum(range(101, 124)) / 24  # nothing is held while the prompt is computed
    assert integral["tokens"] / busy == pytest.approx(held)
    assert integral["internal"] == (1024 - 124) * busy
    assert sum(integral.values()) == 1024 * busy
