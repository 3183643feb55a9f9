"""Speculative decoding: Leviathan et al. (arXiv 2211.17192), and what a verified draft costs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plain_engine import plain_engine
from random_runs import HARDWARE, MODEL, run

from sim.model.config import load_model
from sim.price.step import TILE_ROWS, CompiledPrice
from sim.serving.record_statistics import token_gaps
from sim.serving.records import FINISHED, RequestTable, RunResult
from sim.serving.scenario import Scenario, Speculative, Workload
from sim.serving.summary import summarize

OUTPUT_TOKENS = 2000


def drafted(drafts: int, acceptance: float, count: int = 12, output: int = OUTPUT_TOKENS) -> RunResult:
    table = RequestTable(
        arrival_ps=np.zeros(count, dtype=np.int64),
        prompt_tokens=np.full(count, 40),
        output_tokens=np.full(count, output),
    )
    speculative = Speculative(num_speculative_tokens=drafts, acceptance_rate=acceptance)
    engine = {"batching": "vllm", "max_num_seqs": count, "max_model_len": 4096, "speculative": speculative}
    return run(table, {**engine, "num_gpu_blocks_override": 4000}, "skip")


@pytest.mark.parametrize(("drafts", "acceptance"), [(1, 0.5), (2, 0.8), (4, 0.6), (7, 0.9), (3, 0.0)])
def test_tokens_per_verification_are_leviathans(drafts: int, acceptance: float) -> None:
    """Theorem 3.8's expectation (1 - a^(k + 1)) / (1 - a), within three standard errors."""
    expected = (1 - acceptance ** (drafts + 1)) / (1 - acceptance)
    found = summarize(drafted(drafts, acceptance)).metrics
    variance = sum(
        (j - expected) ** 2 * acceptance ** (j - 1) * (1 - acceptance) for j in range(1, drafts + 1)
    )
    variance += (drafts + 1 - expected) ** 2 * acceptance**drafts
    verifications = 12 * OUTPUT_TOKENS / expected
    cut_off = 12 * (drafts + 1) / verifications  # the last verification of an answer may be cut short
    within = 3 * (variance / verifications) ** 0.5 + cut_off
    assert found["mean_acceptance_length"] == pytest.approx(expected, abs=within)
    assert found["draft_acceptance_fraction"] == pytest.approx((expected - 1) / drafts, abs=within)


def test_drafts_that_are_always_right_come_in_whole_steps() -> None:
    result = drafted(4, 1.0, count=1)
    segments = result.segments
    assert segments.num_accepted_tokens is not None and segments.num_draft_tokens is not None
    assert segments.num_steps.sum() == 1 + -(-(OUTPUT_TOKENS - 1) // 5)
    assert set(segments.num_draft_tokens[2:-1].tolist()) == {4}


@given(st.integers(1, 5), st.sampled_from([0.0, 0.4, 0.9, 1.0]), st.integers(1, 6))
def test_every_output_token_has_its_step_and_its_gap(drafts: int, acceptance: float, count: int) -> None:
    result = drafted(drafts, acceptance, count, output=150)
    assert (result.requests.status == FINISHED).all()
    segments = result.segments
    assert segments.num_accepted_tokens is not None
    made = (segments.num_decode * segments.num_steps).sum() + segments.num_accepted_tokens.sum()
    assert made == count * 149  # the first token of each comes with its prompt
    gaps = token_gaps(result)
    assert (gaps.num * gaps.weight).sum() == made


def price_of(model: str) -> CompiledPrice:
    shape = MODEL if model == "llama-3.1-8b" else load_model(model)
    return CompiledPrice(
        Scenario(
            schema_version=1, question="", kind="serving", hardware=HARDWARE, model=shape,
            workload=Workload(), engine=plain_engine(max_model_len=2048),
        )
    )  # fmt: skip


@pytest.mark.parametrize("model", ["llama-3.1-8b", "llama-2-7b"])
@given(sequences=st.integers(1, 200), context=st.integers(16, 2000), drafts=st.integers(1, 8))
def test_a_verification_reads_kv_once(model: str, sequences: int, context: int, drafts: int) -> None:
    """Drafts cost the linear layers and the head of their tokens; attention nothing within a tile's rows."""
    price = price_of(model)
    total = sequences * context
    plain, verified = (
        price.step_ps(sequences, total, ()),
        price.step_ps(sequences, total, (), sequences * drafts),
    )
    tokens = sequences * (1 + drafts)
    more = price.linear_ps(tokens) - price.linear_ps(sequences)
    more += price.head_ps(tokens) - price.head_ps(sequences)
    shape = load_model(model)
    rows = (1 + drafts) * shape.num_attention_heads // shape.num_key_value_heads
    assert verified >= plain + more
    if rows <= TILE_ROWS:
        assert verified == plain + more
    assert verified < (1 + drafts) * plain  # else nobody would speculate


def test_a_verification_costs_more_than_a_decode_and_less_than_a_prompt_each() -> None:
    price = price_of("llama-3.1-8b")
    decode = price.step_ps(64, 64_000, ())
    verified = price.step_ps(64, 64_000, (), 64 * 4)
    prompts = price.step_ps(0, 0, [(5, 995, True, None)] * 64)
    assert decode < verified < 1.6 * decode < prompts


def test_without_speculation_the_metrics_are_absent() -> None:
    table = RequestTable(
        arrival_ps=np.zeros(1, dtype=np.int64), prompt_tokens=np.array([5]), output_tokens=np.array([5])
    )
    result = run(table, {"batching": "vllm", "max_model_len": 64, "num_gpu_blocks_override": 50}, "skip")
    assert result.segments.num_draft_tokens is None
    assert summarize(result).metrics["mean_acceptance_length"] is None
