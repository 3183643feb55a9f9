"""Random small runs: workloads and engine settings in which every limit binds."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from plain_engine import plain_engine

from sim.hardware import load_hardware
from sim.hardware.engine_profile import EngineOverheads
from sim.model.config import load_model
from sim.serving.records import RequestTable, RunResult
from sim.serving.run import run_serving
from sim.serving.scenario import Scenario, Workload

HARDWARE = load_hardware("h100-sxm-80gb")
MODEL = load_model("llama-3.1-8b")
MS = 10**9


@st.composite
def workloads(draw: st.DrawFn) -> RequestTable:
    """Up to 24 requests: open, closed loop or sessions, some impatient, some in warm-up."""
    count = draw(st.integers(1, 24))

    def integers(low: int, high: int) -> np.ndarray:
        return np.array(draw(st.lists(st.integers(low, high), min_size=count, max_size=count)))

    arrival = np.sort(integers(0, 400)) * MS
    prompts, outputs = integers(1, 60), integers(1, 40)
    follows = think = None
    kind = draw(st.sampled_from(["open", "open", "closed", "sessions"]))
    if kind == "closed":
        first = draw(st.integers(1, count))
        arrival = np.where(np.arange(count) < first, 0, -1)
        think = integers(0, 50) * MS
    if kind == "sessions":
        has_predecessor = integers(0, 1).astype(bool)
        has_predecessor[0] = False
        follows = np.where(has_predecessor, np.arange(count) - 1, -1)
        arrival = np.where(has_predecessor, -1, arrival)
        think = integers(0, 50) * MS
    timeouts = None
    if draw(st.booleans()):
        timeouts = np.where(integers(0, 2) == 0, integers(1, 300) * MS, -1)
    return RequestTable(
        arrival_ps=arrival.astype(np.int64),
        prompt_tokens=prompts,
        output_tokens=outputs,
        follows=follows,
        think_ps=think,
        closed_loop=kind == "closed",
        timeout_ps=timeouts,
        num_warmup=draw(st.integers(0, max(0, count // 3))),
    )


@st.composite
def engines(draw: st.DrawFn) -> dict[str, Any]:
    """Engine settings small enough that every limit binds."""
    batching = draw(st.sampled_from(["continuous", "continuous", "static"]))
    allocator = draw(st.sampled_from(["paged", "paged", "contiguous"]))
    settings_: dict[str, Any] = {
        "batching": batching,
        "kv_allocator": allocator,
        "max_num_seqs": draw(st.integers(1, 8)),
        "block_size": draw(st.sampled_from([1, 2, 4, 16])),
        "max_model_len": draw(st.sampled_from([64, 90, 128])),
        "enable_chunked_prefill": draw(st.booleans()),
        "schedule_order": draw(st.sampled_from(["decode_first", "prefill_first"])),
        "watermark": draw(st.sampled_from([0.0, 0.1])),
        "static_batch_wait_s": draw(st.sampled_from([0.0, 0.05])) if batching == "static" else 0.0,
        "static_returns": draw(st.sampled_from(["streamed", "at_end"]))
        if batching == "static"
        else "streamed",
        "kv_reservation": draw(st.sampled_from(["max", "pow2", "oracle"])),
        "overheads": EngineOverheads(
            step_s=draw(st.sampled_from([0.0, 0.004])),
            per_sequence_s=1e-5,
            cold_start_s=draw(st.sampled_from([0.0, 0.3])),
            launch_per_layer_s=draw(st.sampled_from([0.0, 2e-4, 5e-4])),
            per_prompt_token_s=draw(st.sampled_from([0.0, 1e-6])),
            cudagraph_capture_sizes=draw(st.sampled_from([(), (1, 2, 4, 8, 16)])),
            decode_attention_fraction=draw(st.sampled_from([1.0, 0.7])),
            frontend_s=draw(st.sampled_from([0.0, 0.012])),
            output_s=draw(st.sampled_from([0.0, 0.003])),
        ),
    }
    settings_["num_gpu_blocks_override"] = -(-draw(st.integers(100, 500)) // settings_["block_size"])
    low = 8 if settings_["enable_chunked_prefill"] else 128
    settings_["max_num_batched_tokens"] = draw(st.integers(low, 160))
    return settings_


def run(
    table: RequestTable, engine: dict[str, Any], stepping: str, *, has_block_map: bool = True, **fields: Any
) -> RunResult:
    """One run of the table."""
    scenario = Scenario(
        schema_version=1,
        question="do both agree?",
        kind="serving",
        hardware=HARDWARE,
        model=MODEL,
        workload=Workload(),
        engine=plain_engine(stepping=stepping, **engine),
        **fields,
    )
    return run_serving(scenario, table, record_block_map=has_block_map)
