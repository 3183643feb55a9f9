"""Pipeline parallelism in serving: bubbles, latencies and memory against closed forms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from fake_price import HARDWARE, MODEL, requests, seconds
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_engine import plain_engine
from property.test_conservation import assert_laws
from property.test_vllm_engine_agrees import vllm_engines
from random_runs import run, workloads

from sim.arrays import PS_PER_S
from sim.errors import ScenarioError
from sim.hardware import load_hardware
from sim.hardware.engine_profile import EngineOverheads
from sim.kinds.load import load_scenario
from sim.model.config import load_model
from sim.model.counts import num_parameters
from sim.model.shape import layers_of_stages, stages_of
from sim.model.weights import weight_bytes
from sim.price.memory import memory_plan
from sim.price.pipeline import Passage, PipelinePrice, Stations, sent_bytes, stage_sends_s
from sim.price.step import Chunks, CompiledPrice
from sim.serving import result
from sim.serving import run as simulate
from sim.serving.records import RequestTable, RunResult
from sim.serving.scenario import Scenario, Workload

STAGE_PS = 100_000_000_000


class FixedPassage(PipelinePrice):
    """Every stage takes 0.1 s, whatever is in the batch; host and sends as given."""

    warnings = ()
    cold_start_ps = 0

    def __init__(self, num_stages: int, host_ps: int = 0, send_ps: int = 0) -> None:
        self.stages = stages_of(load_model("llama-3.1-8b"), num_stages)
        self._passage = Passage(host_ps, (STAGE_PS,) * num_stages, (send_ps,) * (num_stages - 1))

    def passage(self, num_decode: int, context_tokens: int, chunks: Chunks, drafts: int = 0) -> Passage:
        """See ``PipelinePrice``."""
        return self._passage


def scenario(hardware: str = "h100-sxm-80gb", model: str = "llama-3.1-8b", **engine: Any) -> Scenario:
    return Scenario(
        schema_version=1, question="by hand", kind="serving", hardware=load_hardware(hardware),
        model=load_model(model), workload=Workload(), engine=plain_engine(batching="vllm", **engine),
    )  # fmt: skip


def run_stages(table: RequestTable, num_stages: int, *, host_ps: int = 0, **engine: Any) -> RunResult:
    """A run at 0.1 s per stage."""
    given = {"max_model_len": 4096, "num_gpu_blocks_override": 4096, **engine}
    one = scenario(pipeline_parallel_size=num_stages, **given)
    with (
        patch.object(simulate, "price_of", lambda *_: FixedPassage(num_stages, host_ps)),
        patch.object(result, "split_by_operator", lambda *_: {}),
    ):
        return simulate.run_serving(one, table)


@given(num_stages=st.integers(2, 6), batches=st.integers(1, 20))
@settings(max_examples=40)
def test_m_batches_through_p_stages_leave_the_textbook_bubble(num_stages: int, batches: int) -> None:
    """(p − 1) / (m + p − 1) of the time a stage idles (GPipe, arXiv:1811.06965, section 2.3)."""
    table = requests([0.0] * batches, [64] * batches, [1] * batches)
    result = run_stages(table, num_stages, max_num_batched_tokens=64, max_num_seqs=64)
    expected = [(num_stages + batch) * 0.1 for batch in range(batches)]
    assert seconds(result.requests.finish_ps) == pytest.approx(expected)
    whole = int(result.requests.finish_ps.max())
    bubble = 1 - batches * STAGE_PS / whole
    assert bubble == pytest.approx((num_stages - 1) / (batches + num_stages - 1))
    assert result.busy_ps == whole


def test_one_sequence_waits_for_all_stages_at_every_token() -> None:
    result = run_stages(requests([0.0], [16], [5]), 4)
    assert seconds(result.requests.first_token_ps) == pytest.approx([0.4])
    assert seconds(result.requests.finish_ps) == pytest.approx([2.0])


def test_as_many_batches_as_stages_multiply_the_tokens_and_not_the_speed_of_one() -> None:
    """Four prompts fill a step each: four decode batches go round, one token each per 4 stages of 0.1 s."""
    table = requests([0.0] * 4, [64] * 4, [11] * 4)
    result = run_stages(table, 4, max_num_batched_tokens=64, max_num_seqs=64)
    assert seconds(result.requests.first_token_ps) == pytest.approx([0.4, 0.5, 0.6, 0.7])
    spent = result.requests.finish_ps - result.requests.first_token_ps
    assert (spent / PS_PER_S).tolist() == pytest.approx([10 * 0.4] * 4)  # and not 10 x 4 x 0.4


def test_a_slow_host_is_the_bottleneck() -> None:
    """0.3 s of host per batch, one at a time, hides the stages but for the last batch."""
    table = requests([0.0] * 5, [64] * 5, [1] * 5)
    result = run_stages(table, 2, host_ps=3 * STAGE_PS, max_num_batched_tokens=64, max_num_seqs=64)
    assert seconds(result.requests.finish_ps) == pytest.approx([0.5, 0.8, 1.1, 1.4, 1.7])


def test_a_cold_start_is_paid_once() -> None:
    with patch.object(FixedPassage, "cold_start_ps", STAGE_PS):
        result = run_stages(requests([0.0, 9.0], [64, 64], [1, 1]), 2)
    assert seconds(result.requests.finish_ps) == pytest.approx([0.3, 9.2])


@given(
    stages=st.lists(st.integers(1, 50), min_size=1, max_size=6),
    num_batches=st.integers(1, 12),
    host=st.integers(0, 60),
)
def test_equal_batches_leave_at_the_pace_of_the_slowest_station(
    stages: list[int], num_batches: int, host: int
) -> None:
    """A flow shop of equal jobs: sum of the stations, then one job per longest station."""
    stations = Stations(len(stages))
    passage = Passage(host, tuple(stages), (0,) * (len(stages) - 1))
    left = [stations.enter(0, passage) for _ in range(num_batches)]
    slowest = max(host, *stages)
    assert left == [host + sum(stages) + slowest * batch for batch in range(num_batches)]
    assert stations.busy_ps == [num_batches * one for one in stages]


@pytest.mark.parametrize("num_stages", [2, 3, 8])
@pytest.mark.parametrize("tensor_parallel_size", [1, 2])
def test_the_stages_together_take_what_the_whole_model_takes(
    num_stages: int, tensor_parallel_size: int
) -> None:
    overheads = EngineOverheads(step_s=1e-3, per_sequence_s=1e-5, per_prompt_token_s=1e-7)
    one = scenario(
        pipeline_parallel_size=num_stages, tensor_parallel_size=tensor_parallel_size, overheads=overheads
    )
    chunks = [(512, 0, True, None), (100, 2048, False, None)]
    passage = PipelinePrice(one).passage(16, 16384, chunks)
    whole = CompiledPrice(one).step_ps(16, 16384, chunks) + round(612 * 1e-7 * PS_PER_S)
    assert sum(passage.stages_ps) + passage.host_ps == pytest.approx(whole, rel=1e-6)
    assert passage.total_ps == passage.host_ps + sum(passage.stages_ps) + sum(passage.sends_ps)
    assert max(passage.stages_ps[:-1]) < passage.stages_ps[-1] or num_stages == 3  # lm_head is at the end


def test_launches_bound_each_stage_by_its_own_layers() -> None:
    overheads = EngineOverheads(launch_per_layer_s=1e-3)
    passage = PipelinePrice(scenario(pipeline_parallel_size=4, overheads=overheads)).passage(1, 100, [])
    assert passage.stages_ps == (8 * 10**9,) * 4


def test_a_send_is_a_latency_and_the_ranks_share_of_two_tensors() -> None:
    """2 x 100 tokens x 8192 x 2 B, a quarter per rank, then gathered by four ranks over NVLink."""
    hardware = load_hardware("h100-sxm-80gb")
    one = scenario(model="llama-3.1-70b", tensor_parallel_size=4, pipeline_parallel_size=4)
    assert sent_bytes(one.model, one.engine, 100) == 2 * 100 * 8192 * 2
    assert hardware.intra_node is not None and hardware.inter_node is not None
    inner, outer = hardware.intra_node, hardware.inter_node
    gather = 3 * ((inner.latency_s or 3.4e-6) + 2 * 100 * 8192 * 2 / 4 / inner.bytes_per_s)
    share = 2 * 100 * 8192 * 2 / 4
    sends = stage_sends_s(one.model, hardware, one.engine, 100)
    inside = (inner.latency_s or 3.4e-6) + share / inner.bytes_per_s + gather
    assert sends[0] == pytest.approx(inside)
    assert sends[2] == pytest.approx(inside)  # stages 0, 1 on one node of eight, 2, 3 on the next
    per_gpu = min(inner.bytes_per_s, 8 * outer.bytes_per_s)
    assert sends[1] == pytest.approx((outer.latency_s or 14e-6) + share / per_gpu + gather)


def test_layers_are_cut_as_vllm_cuts_them() -> None:
    assert layers_of_stages(36, 8) == [4, 4, 4, 5, 5, 5, 5, 4]
    assert layers_of_stages(80, 2) == [40, 40]
    assert layers_of_stages(3, 2) == [2, 1]


@given(layers=st.integers(1, 200), num_stages=st.integers(1, 64))
def test_every_layer_is_in_one_stage(layers: int, num_stages: int) -> None:
    if num_stages <= layers:
        counts = layers_of_stages(layers, num_stages)
        assert sum(counts) == layers and len(counts) == num_stages
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("model", ["llama-3.1-70b", "gemma-2-9b", "mixtral-8x7b", "deepseek-v3"])
@pytest.mark.parametrize("num_stages", [2, 4])
def test_stages_weigh_what_the_model_weighs(model: str, num_stages: int) -> None:
    """Once over, but for the final norm of every stage and a tied table that both ends need."""
    whole = load_model(model)
    stages = stages_of(whole, num_stages)
    together = sum(weight_bytes(one.shape, stage=one) for one in stages)
    norms = (num_stages - 1) * (1 + whole.embedding_norm) * whole.hidden_size * 2
    table = whole.vocab_size * whole.hidden_size * 2 if whole.tie_word_embeddings else 0
    assert together == weight_bytes(whole) + norms + table
    assert sum(one.shape.num_moe_layers for one in stages) == whole.num_moe_layers


def test_a_gpu_holds_its_stage_of_weights_and_kv() -> None:
    """Llama-3.1-70B over 2 x 4: 40 of 80 layers, so half the KV of a token, and half the weights or less."""
    model, hardware = load_model("llama-3.1-70b"), load_hardware("h100-sxm-80gb")
    four = memory_plan(model, hardware, plain_engine(tensor_parallel_size=4))
    both = memory_plan(
        model, hardware, plain_engine(batching="vllm", tensor_parallel_size=4, pipeline_parallel_size=2)
    )
    assert both.kv_bytes_per_token * 2 == four.kv_bytes_per_token == 80 * 2 * 2 * 128 * 2
    weights = -both.lines[2].num_bytes
    ends = 128256 * 8192 * 2 // 4
    assert weights == pytest.approx(num_parameters(model) * 2 / 8 + (ends - 2 * ends / 2) / 2, rel=2e-3)
    assert both.num_gpu_blocks > 2 * four.num_gpu_blocks
    assert any("fewest KV blocks" in note for note in both.notes)


def test_a_pipeline_of_one_stage_is_the_engine_without_pipeline() -> None:
    table = requests([0, 0, 0.05, 1.0], [4, 40, 9, 70], [2, 30, 20, 3])
    limits: dict[str, Any] = {"max_num_seqs": 2, "max_num_batched_tokens": 32, "block_size": 4}
    plain = run_with_price(scenario(**limits), table)
    with patch.object(simulate, "price_of", lambda one, *_: PipelinePrice(one)):
        staged = run_with_price(scenario(**limits, stepping="every_step"), table)
    assert (staged.requests.finish_ps == plain.requests.finish_ps).all()


def run_with_price(one: Scenario, table: RequestTable) -> RunResult:
    """At the scenario's own price."""
    return simulate.run_serving(replace(one, hardware=HARDWARE, model=MODEL), table)


@settings(max_examples=150)
@given(
    table=workloads(),
    engine=vllm_engines(),
    num_stages=st.integers(2, 5),
    routing=st.sampled_from([(1, "round_robin"), (2, "least_loaded")]),
)
def test_laws_hold_over_stages(
    table: RequestTable, engine: dict[str, Any], num_stages: int, routing: tuple[int, str]
) -> None:
    """Nothing lost, no step before its time, blocks free at the end (the run itself checks that)."""
    engine = engine | {"async_scheduling": False, "speculative": None, "pipeline_parallel_size": num_stages}
    result = run(table, engine, "skip", has_block_map=False, replicas=routing[0], routing=routing[1])
    assert_laws(result, table)
    split = result.operator_s
    assert sum(split.values()) == pytest.approx(result.busy_ps / PS_PER_S)
    assert all(value >= -1e-9 for value in split.values())


def test_the_real_price_leaves_nearly_the_textbook_bubble() -> None:
    """16 equal prompts, one a step, through 4 stages: 3/19 of the time, but for lm_head and sends."""
    table = requests([0.0] * 16, [2048] * 16, [1] * 16)
    one = scenario(model="llama-3.1-70b", tensor_parallel_size=2, pipeline_parallel_size=4)
    one = replace(one, engine=replace(one.engine, max_num_batched_tokens=2048))
    split = simulate.run_serving(one, table).operator_s
    assert split["pipeline_bubble"] / sum(split.values()) == pytest.approx(3 / 19, rel=0.03)


@pytest.mark.parametrize(
    ("engine", "path"),
    [
        ({"batching": "static"}, "pipeline_parallel_size"),
        ({"batching": "continuous"}, "pipeline_parallel_size"),
        ({"async_scheduling": True}, "async_scheduling"),
        ({"speculative": {"method": "ngram", "num_speculative_tokens": 2, "acceptance_rate": 0.5}}, "specul"),
        ({"price_table": "measured"}, "price_table"),
        ({"pipeline_parallel_size": 33}, "33 stages"),
        ({"overheads": {"schedules_ahead": True}}, "schedules_ahead"),
    ],
)
def test_what_does_not_go_with_a_pipeline_is_refused(
    engine: dict[str, Any], path: str, tmp_path: Path
) -> None:
    given = {"pipeline_parallel_size": 2, **engine}
    file = tmp_path / "one.yaml"
    file.write_text(yaml.safe_dump(scenario_text(given)), encoding="utf-8")
    with pytest.raises(ScenarioError, match=path):
        load_scenario(str(file))


def test_a_pipeline_needs_no_choice_but_its_size(tmp_path: Path) -> None:
    """Left out, async_scheduling is off with stages, where it is on without."""
    file = tmp_path / "one.yaml"
    file.write_text(yaml.safe_dump(scenario_text({"pipeline_parallel_size": 2})), encoding="utf-8")
    engine = load_scenario(str(file)).base.engine
    assert (engine.async_scheduling, engine.gpus_per_replica) == (False, 2)


def scenario_text(engine: dict[str, Any]) -> dict[str, Any]:
    """A small file."""
    fixed = {"distribution": "fixed", "value": 10}
    workload = {
        "arrivals": {"process": "poisson", "requests_per_s": 1},
        "prompt_tokens": fixed,
        "output_tokens": fixed,
        "num_requests": 3,
    }
    head = {"schema_version": 1, "question": "Is it refused?", "kind": "serving"}
    return head | {
        "hardware": "h100-sxm-80gb", "model": "llama-3.1-8b", "workload": workload, "engine": engine
    }  # fmt: skip
