"""Runs made by hand for the report's tests: a toy engine of 30 lines in place of the real one.

Every step takes 20 ms + 0.2 ms per sequence. Contiguous: one slot of ``MAX_LEN`` tokens each, in
batches that run to their longest member. Paged: a block at a time, admission at every step.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from plain_engine import plain_engine

from sim.hardware import HardwareProfile
from sim.model.mixers import AttentionShape
from sim.model.shape import LayerShape, MlpShape, ModelShape
from sim.rng import stream
from sim.scenario.distribution import Distribution
from sim.scenario.fields import Threshold
from sim.scenario.file import ScenarioFile, Variant
from sim.serving.records import (
    FINISHED,
    BlockMap,
    PreemptionColumns,
    RequestColumns,
    RunResult,
    SegmentColumns,
)
from sim.serving.scenario import Scenario, Slo, Workload
from sim.serving.usage import KV_KINDS
from sim.serving.workload.arrivals import Arrivals

MS = 1_000_000_000
MAX_LEN, NUM_SLOTS, BLOCK = 512, 12, 16
CAPACITY = MAX_LEN * NUM_SLOTS
TOY_MEMORY = {
    "lines": [
        {
            "label": "weights",
            "bytes": 10**9,
            "formula": "1,000,000,000 parameters x 1 B",
            "basis": "counted",
        }
    ],
    "warnings": [],
}


@dataclass
class _Toy:
    """A request in flight."""

    id: int
    arrival: int
    prompt: int
    output: int
    made: int = 0
    scheduled: int = -1
    first: int = -1
    finish: int = -1
    pieces: list[tuple[int, int, int]] = field(default_factory=list)  # address, size, since

    @property
    def held(self) -> int:
        return self.prompt + self.made

    @property
    def final(self) -> int:
        return self.prompt + self.output


class _Engine:
    """One run; ``finish`` turns it into records."""

    def __init__(self, requests: list[_Toy], paged: bool) -> None:
        self.paged, self.now = paged, 0
        self.coming, self.waiting, self.running = requests[:], [], []  # type: ignore[var-annotated]
        size = BLOCK if paged else MAX_LEN
        self.free = [address for address in range(0, CAPACITY, size)]
        self.segments: list[tuple[int, ...]] = []
        self.rectangles: list[tuple[int, ...]] = []
        self.levels = dict.fromkeys(KV_KINDS, 0)

    def run(self) -> None:
        while self.coming or self.waiting or self.running:
            while self.coming and self.coming[0].arrival <= self.now:
                self.waiting.append(self.coming.pop(0))
            if not self.waiting and not self.running:
                self.now = self.coming[0].arrival
                continue
            self.admit()
            self.step()

    def admit(self) -> None:
        if self.running and not self.paged:
            return
        while self.waiting and len(self.free) >= self.need(self.waiting[0]):
            one = self.waiting.pop(0)
            one.scheduled = self.now
            self.take(one, 1 if not self.paged else -(-(one.prompt + 1) // BLOCK))
            self.running.append(one)

    def need(self, one: _Toy) -> int:
        # The toy never preempts: paged admission keeps room for everybody's final length.
        if not self.paged:
            return 1
        owed = sum(-(-other.final // BLOCK) - len(other.pieces) for other in self.running)
        return owed + -(-one.final // BLOCK)

    def take(self, one: _Toy, count: int) -> None:
        size = BLOCK if self.paged else MAX_LEN
        for _ in range(count):
            one.pieces.append((self.free.pop(0), size, self.now))

    def step(self) -> None:
        for one in self.running:
            if self.paged and one.held + 1 > len(one.pieces) * BLOCK:
                self.take(one, 1)
        length = 20 * MS + len(self.running) * MS // 5
        fresh = [one for one in self.running if one.made == 0]
        tokens = sum(one.held for one in self.running)
        given = sum(size for one in self.running for _, size, _ in one.pieces)
        later = sum(min(one.final, sum(p[1] for p in one.pieces)) - one.held for one in self.running)
        levels = (tokens, later, given - tokens - later, 0)
        for kind, level in zip(KV_KINDS, levels, strict=True):
            self.levels[kind] += level * length
        decoding = len(self.running) - len(fresh)
        self.segments.append(
            (0, self.now, 1, length, 0, decoding, tokens, len(fresh), sum(one.prompt for one in fresh),
             len(self.running), len(self.waiting), *levels)
        )  # fmt: skip
        self.now += length
        for one in self.running:
            if one.made < one.output:
                one.made += 1
                one.first = self.now if one.first < 0 else one.first
                one.finish = self.now
        done = [one for one in self.running if one.made == one.output]
        if self.paged or len(done) == len(self.running):
            for one in done:
                self.release(one)
            self.running = [one for one in self.running if one not in done]

    def release(self, one: _Toy) -> None:
        for address, size, since in one.pieces:
            self.rectangles.append((address, size, since, self.now, one.id))
            self.free.append(address)


def toy_scenario(**changes: Any) -> Scenario:
    """A small chat question on an invented device."""
    base: dict[str, Any] = {
        "schema_version": 1,
        "question": "What does continuous batching gain over static for toy traffic?",
        "kind": "serving",
        "seeds": (1, 2),
        "hardware": toy_hardware(),
        "model": toy_model(),
        "workload": Workload(
            arrivals=Arrivals(process="poisson", requests_per_s=4.0),
            prompt_tokens=Distribution(distribution="lognormal", mean=120, max=250),
            output_tokens=Distribution(distribution="lognormal", mean=100, max=250),
            num_requests=120,
            warmup_requests=5,
        ),
        "engine": plain_engine(max_num_seqs=64, max_model_len=MAX_LEN),
        "slo": Slo(ttft_s=0.5, tpot_s=0.05),
        "thresholds": (
            Threshold(metric="p50_ttft_s", variant="continuous", max=1.0),
            Threshold(metric="p50_ttft_s", variant="static", max=0.1),
        ),
    }
    return Scenario(**(base | changes))


def toy_hardware() -> HardwareProfile:
    """An invented GPU."""
    unknown = dict.fromkeys(
        ("compute_capability", "clock_hz", "max_sram_bytes_per_block", "register_file_bytes_per_sm",
         "sram_bytes_per_s", "l2_bytes", "l2_bytes_per_s", "dram_bytes", "dram_bytes_per_s", "host_link",
         "intra_node", "inter_node", "gpus_per_node", "graph_launch_s", "idle_w")
    )  # fmt: skip
    return HardwareProfile(
        name="toy-gpu", vendor="Toy", architecture="toy", sm_count=10, sram_bytes_per_sm=100_000,
        hbm_bytes=10**10, hbm_bytes_per_s=10**12, peak_flops_per_s={"bfloat16": 1e14}, kernel_launch_s=4e-6,
        tdp_w=300.0, usd_per_hour=2.0,
        sources={"hbm_bytes": "datasheet p. 1", "hbm_bytes_per_s": "measured", "usd_per_hour": "list price"},
        **unknown,
    )  # fmt: skip


def toy_model() -> ModelShape:
    """An invented model."""
    attention = AttentionShape(num_heads=4, num_kv_heads=4, head_dim=64, v_head_dim=64)
    layer = LayerShape(mixers=(attention,), mlps=(MlpShape(intermediate_size=1024),))
    return ModelShape(
        name="toy-model", architecture="llama", hidden_size=256, intermediate_size=1024,
        vocab_size=1000, max_position_embeddings=512, dtype="bfloat16", tie_word_embeddings=False,
        kinds=(layer,), pattern=(0,) * 4,
    )  # fmt: skip


def toy_run(
    scenario: Scenario, variant: str, seed: int, *, paged: bool, num_requests: int = 120
) -> RunResult:
    """One run of the toy engine."""
    arrivals = np.cumsum(stream(seed, "arrivals").exponential(1 / 4.0, num_requests))
    prompts = np.clip(stream(seed, "prompts").lognormal(4.6, 0.6, num_requests), 8, 250).astype(int)
    outputs = np.clip(stream(seed, "outputs").lognormal(4.4, 0.6, num_requests), 2, 250).astype(int)
    toys = [_Toy(i, int(arrivals[i] * 1e12), int(prompts[i]), int(outputs[i])) for i in range(num_requests)]
    engine = _Engine(toys, paged)
    engine.run()
    return _recorded(engine, toys, scenario, variant, seed)


def _recorded(engine: _Engine, toys: list[_Toy], scenario: Scenario, variant: str, seed: int) -> RunResult:
    rectangles = np.array(sorted(engine.rectangles, key=lambda r: r[2]), dtype=np.int64).T
    names = [column.name for column in dataclasses.fields(SegmentColumns)][:15]  # the rest has defaults
    columns = np.array(engine.segments, dtype=np.int64).T
    segments = SegmentColumns(**dict(zip(names, columns, strict=True)))
    busy = int(segments.first_step_ps.sum())
    seconds = busy / 1e12
    return RunResult(
        scenario=scenario, variant=variant, seed=seed, requests=_request_columns(toys), class_names=("",),
        segments=segments,
        preemptions=PreemptionColumns(**dict.fromkeys(
            ("time_ps", "request", "replica", "recompute_tokens"), np.empty(0, dtype=np.int64)
        )),
        window_ps=(toys[5].arrival, max(toy.finish for toy in toys)), kv_budget_tokens=CAPACITY,
        whole_ps=(toys[5].arrival, max(toy.finish for toy in toys)),
        kv_time_tokens_ps=engine.levels,
        operator_s={"qkv_proj": 0.2 * seconds, "attention_decode": 0.3 * seconds, "mlp": 0.5 * seconds},
        busy_ps=busy, num_events=len(engine.segments),
        block_map=BlockMap(
            capacity_tokens=CAPACITY, block_size=BLOCK, replica=0, address_tokens=rectangles[0],
            size_tokens=rectangles[1], start_ps=rectangles[2], end_ps=rectangles[3], request=rectangles[4],
            kind=0 * rectangles[4],
            is_truncated=False,
        ) if seed == 1 else None,
        notes=(), explain={"memory": TOY_MEMORY},
    )  # fmt: skip


def _request_columns(toys: list[_Toy]) -> RequestColumns:
    def column(name: str) -> Any:
        return np.array([getattr(toy, name) for toy in toys], dtype=np.int64)

    count = len(toys)
    nothing = np.zeros(count, dtype=np.int64)
    return RequestColumns(
        arrival_ps=column("arrival"), first_scheduled_ps=column("scheduled"), first_token_ps=column("first"),
        finish_ps=column("finish"), status=np.full(count, FINISHED, dtype=np.uint8),
        prompt_tokens=column("prompt"), output_tokens=column("output"), generated_tokens=column("made"),
        cached_tokens=nothing, num_preemptions=nothing, recompute_tokens=nothing,
        class_id=np.zeros(count, dtype=np.int16), replica=np.zeros(count, dtype=np.int16),
        is_measured=np.arange(count) >= 5,
    )  # fmt: skip


def toy_file(scenario: Scenario) -> ScenarioFile:
    """The file that the toy scenario might have come from."""
    static = {"engine": {"batching": "static", "kv_allocator": "contiguous"}}
    engine = dataclasses.replace(scenario.engine, batching="static", kv_allocator="contiguous")
    return ScenarioFile(
        path="scenarios/toy.yaml", base=scenario, reference="static",
        variants=(
            Variant(name="static", differences=static, scenario=dataclasses.replace(scenario, engine=engine)),
            Variant(name="continuous", differences={}, scenario=scenario),
        ),
        raw={},
    )  # fmt: skip


def toy_results(file: ScenarioFile, num_requests: int = 120) -> dict[str, list[RunResult]]:
    """All variants over all seeds."""
    return {
        variant.name: [
            toy_run(
                variant.scenario,
                variant.name,
                seed,
                paged=variant.name == "continuous",
                num_requests=num_requests,
            )
            for seed in file.base.seeds
        ]
        for variant in file.variants
    }
