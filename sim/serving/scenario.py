"""A serving scenario as frozen dataclasses: workload, engine, replicas, SLO; in vLLM's words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from sim.hardware import HardwareProfile, engine_defaults, vllm_releases
from sim.hardware.engine_profile import EngineOverheads, Runtime
from sim.model.shape import ModelShape
from sim.price.memory import FITTED, settled_sizes
from sim.results.metric import PERCENTILES
from sim.scenario.dataclass import dataclass
from sim.scenario.distribution import Distribution
from sim.scenario.fields import Announced, Threshold, key
from sim.serving.workload.arrivals import Arrivals
from sim.units import format_s

if TYPE_CHECKING:
    from sim.serving.routing import Routing


DEFAULT_HASH_BLOCK_TOKENS = 512  # Mooncake's


def _trace_formats() -> Mapping[str, str]:
    from sim.serving.workload.trace_formats import format_docs

    return format_docs()


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPrefix:
    """Prompts that begin with the same tokens: a system prompt per group."""

    num_groups: int = key("distinct prefixes", ge=1, le=1_000_000)
    prefix_tokens: Distribution = key("length of each group's prefix; it comes before prompt_tokens")
    order: Literal["drawn", "in_turn"] = key(
        "who comes next: any group, or one after another", default="drawn"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """Multi-turn conversations: a turn's prompt is all that was said before, plus the new part."""

    turns: Distribution = key("turns per session")
    think_time_s: Distribution = key("pause between an answer's last token and the next turn")


SLO_TIMES = ("ttft_s", "tpot_s", "itl_s", "e2e_s")
SLO_STATISTICS = ("mean", "p50", "p90", "p95", "p99")


def _at_most(statistic: str, time: str) -> float | None:
    limit: float | None = key(
        f"{statistic} of {time} over the window's requests: at most", default=None, gt=0
    )
    return limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What a point must keep to. Statistics of times, where any is stated, decide; else the share of requests
    that meet every bound of their own (``ttft_s``, ``tpot_s``, ``e2e_s``)."""

    ttft_s: float | None = key("first token within", default=None, gt=0)
    tpot_s: float | None = key("mean time per output token after the first", default=None, gt=0)
    e2e_s: float | None = key("last token within", default=None, gt=0)
    attainment_fraction: float = key(
        "a point meets its SLO when this share of the offered requests does",
        default=0.99,
        gt=0,
        le=1,
    )
    mean_ttft_s: float | None = _at_most("mean", "ttft_s")
    p50_ttft_s: float | None = _at_most("p50", "ttft_s")
    p90_ttft_s: float | None = _at_most("p90", "ttft_s")
    p95_ttft_s: float | None = _at_most("p95", "ttft_s")
    p99_ttft_s: float | None = _at_most("p99", "ttft_s")
    mean_tpot_s: float | None = _at_most("mean", "tpot_s")
    p50_tpot_s: float | None = _at_most("p50", "tpot_s")
    p90_tpot_s: float | None = _at_most("p90", "tpot_s")
    p95_tpot_s: float | None = _at_most("p95", "tpot_s")
    p99_tpot_s: float | None = _at_most("p99", "tpot_s")
    mean_itl_s: float | None = _at_most("mean", "itl_s")
    p50_itl_s: float | None = _at_most("p50", "itl_s")
    p90_itl_s: float | None = _at_most("p90", "itl_s")
    p95_itl_s: float | None = _at_most("p95", "itl_s")
    p99_itl_s: float | None = _at_most("p99", "itl_s")
    mean_e2e_s: float | None = _at_most("mean", "e2e_s")
    p50_e2e_s: float | None = _at_most("p50", "e2e_s")
    p90_e2e_s: float | None = _at_most("p90", "e2e_s")
    p95_e2e_s: float | None = _at_most("p95", "e2e_s")
    p99_e2e_s: float | None = _at_most("p99", "e2e_s")

    @property
    def limits(self) -> Mapping[str, float]:
        """The statistics that are stated, by metric."""
        names = (f"{statistic}_{time}" for time in SLO_TIMES for statistic in SLO_STATISTICS)
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    @property
    def bounds(self) -> Mapping[str, float]:
        """What each request must meet to count as good, by ``ttft``, ``tpot``, ``e2e``.

        Where none is stated: of the percentiles that are, the loosest of each time.
        """
        named = {"ttft": self.ttft_s, "tpot": self.tpot_s, "e2e": self.e2e_s}
        stated = {name: limit for name, limit in named.items() if limit is not None}
        if stated:
            return stated
        of_time: dict[str, float] = {}
        for metric, limit in self.limits.items():
            statistic, _, time = metric.removesuffix("_s").partition("_")
            if statistic != "mean" and time in named:
                of_time[time] = max(limit, of_time.get(time, 0.0))
        return of_time

    @property
    def time_limits(self) -> Mapping[str, float]:
        """The limited times, by metric. For a share of requests: the percentile that it asks of each time."""
        if self.limits:
            return self.limits
        shares = [percent for percent in PERCENTILES if percent <= round(100 * self.attainment_fraction, 6)]
        percent = max(shares, default=min(PERCENTILES))
        return {f"p{percent}_{time}_s": limit for time, limit in self.bounds.items()}

    def known_limits(self, numbers: Mapping[str, float | None]) -> dict[str, float]:
        """The limited times that have a value, by metric, and their limits.

        For a share of requests: of each time the percentile that it asks for, or the next lower one that
        enough requests carry.
        """
        found: dict[str, float] = {}
        for metric, limit in self.time_limits.items():
            statistic, _, time = metric.partition("_")
            names = [metric]
            if not self.limits:
                lower = [one for one in reversed(PERCENTILES) if one < int(statistic.removeprefix("p"))]
                names += [f"p{one}_{time}" for one in lower]
            known = (name for name in names if numbers.get(name) is not None)
            found |= next(({name: limit} for name in known), {})
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestClass:
    """One kind of request in a mixture (chat, RAG, agents)."""

    share: float = key("weight of this class among arrivals (of its sessions, where it has them)", gt=0)
    prompt_tokens: Distribution = key("prompt length of a request (of a turn's new part)")
    output_tokens: Distribution = key("answer length")
    shared_prefix: SharedPrefix | None = key("system prompts in common", default=None)
    sessions: Sessions | None = key("multi-turn", default=None)
    timeout_s: float | None = key("the client gives up this long after arrival", default=None, gt=0)
    priority: int = key("vLLM's priority: smaller goes first under policy: priority", default=0)
    slo: Slo | None = key("this class's own SLO", default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """A recorded trace in place of drawn requests."""

    path: str = key("the file (optionally .gz), relative to the scenario file")
    format: str = key("layout of the file; auto looks at it", default="auto", choices=_trace_formats)
    columns: Mapping[str, str] | None = key(
        "csv, jsonl: {arrival: ..., prompt_tokens: ..., output_tokens: ...} to the file's names",
        default=None,
    )
    time_unit: Literal["auto", "s", "ms", "us", "ns"] = key("unit of the arrival column", default="auto")
    time_scale: float = key("arrival times are multiplied by this; 0.5 doubles the load", default=1.0, gt=0)
    repeat: int = key("play the trace this many times, one after another", default=1, ge=1, le=100_000)
    skip_requests: int = key("leave out this many requests from the start", default=0, ge=0)
    hash_block_tokens: int = key(
        "mooncake: tokens per hash id; a CSV says it in the name of its column prefix_block_hashes16_first64",
        default=DEFAULT_HASH_BLOCK_TOKENS,
        ge=1,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Who asks for what, when: drawn requests, a mixture of classes, or a trace."""

    arrivals: Arrivals | None = key("when requests come; a trace has its own times", default=None)
    prompt_tokens: Distribution | None = key("prompt length", default=None)
    output_tokens: Distribution | None = key("answer length", default=None)
    num_requests: int | None = key(
        "how many requests (of a trace: the first so many)", default=None, ge=1, le=100_000_000
    )
    duration_s: float | None = key("stop offering requests after this time", default=None, gt=0)
    warmup_requests: int | None = key(
        "the first so many requests are simulated but not measured; without it and warmup_s the end of the "
        "start-up is found (by MSER-5), except for a trace",
        default=None,
        ge=0,
    )
    warmup_s: float | None = key(
        "requests that arrive before this are simulated but not measured", default=None, ge=0
    )
    shared_prefix: SharedPrefix | None = key("system prompts in common", default=None)
    sessions: Sessions | None = key("multi-turn conversations", default=None)
    timeout_s: float | None = key("the client gives up this long after arrival", default=None, gt=0)
    classes: Mapping[str, RequestClass] | None = key("a mixture, by name", default=None)
    trace: Trace | None = key("a recorded trace", default=None)

    @property
    def states_warmup(self) -> bool:
        """Whether the scenario itself says what is not measured; 0 requests say that everything is."""
        return self.warmup_requests is not None or self.warmup_s is not None

    def lengthened(self, factor: int) -> Workload:
        """The same, over ``factor`` times as many requests and as much time."""
        longer = {
            name: value * factor
            for name in ("num_requests", "duration_s")
            if (value := getattr(self, name)) is not None
        }
        return replace(self, **longer)

    @property
    def length_said(self) -> str:
        """How long a run of it is, in words."""
        if self.num_requests is not None:
            return f"{self.num_requests:,} requests"
        return format_s(self.duration_s or 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculative:
    """Drafts that the model verifies; their number right is drawn."""

    method: Literal["ngram"] = key("who drafts; draft models (EAGLE, MTP) are not modelled", default="ngram")
    num_speculative_tokens: int = key("drafts per step", ge=1, le=64)
    acceptance_rate: float = key("chance that a draft is right if those before it are", ge=0, le=1)


BATCHING_NAMES, KV_ALLOCATOR_NAMES, METRIC_NAMES = Announced(), Announced(), Announced()
ENGINE_CHOICES = {"batching": BATCHING_NAMES, "kv_allocator": KV_ALLOCATOR_NAMES}
"""Fields of ``engine`` whose choices understand keys of their own."""


def _vllm_versions() -> Mapping[str, object]:
    from sim.serving.vllm.versions import VERSIONS

    return VERSIONS


def _routings() -> Mapping[str, Routing]:
    from sim.serving.routing import ROUTING

    return ROUTING


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """One engine (replica). The names and their meaning are vLLM's where vLLM has them.

    ``EngineConfig()`` is what ``engine: {}`` means in a file.
    """

    batching: str = key(
        "who decides what runs in a step, or ./file.py:function for a user's policy; default: vllm, or "
        "continuous where a key asks for what vLLM does not have",
        default=None,
        choices=BATCHING_NAMES,
        or_path=True,
    )
    runtime: Runtime = key("whose memory and sizes; default: the profile's engine, or vllm", default="vllm")
    vllm_version: str = key(
        "vllm: whose decisions, defaults and memory account, from 0.6 on",
        default=vllm_releases.LATEST,
        choices=_vllm_versions,
        or_like=r"^v?\d+\.\d+",
        like_said=vllm_releases.allowed_releases(),
    )
    usage: vllm_releases.Usage = key(
        "vllm: default sizes of its server, or of its offline LLM class", default="server"
    )
    performance_mode: vllm_releases.PerformanceMode = key(
        "vllm: throughput doubles the sizes that are left to their defaults", default="balanced"
    )
    schedule_order: Literal["decode_first", "prefill_first"] = key(
        "decode_first: decodes, then prompts in the same step (vLLM V1, Sarathi); "
        "prefill_first: a step with prompts has only prompts (Orca, old vLLM)",
        default="decode_first",
    )
    policy: str = key(
        "vllm: fcfs, priority, or ./file.py:Class for a waiting order or preemption victim of your own",
        default="fcfs",
    )
    static_batch_wait_s: float = key(
        "static: wait this long after the oldest arrival for a full batch", default=0.0, ge=0
    )
    static_returns: Literal["streamed", "at_end"] = key(
        "static: when a client sees its tokens: as they are made, or when the whole batch is done",
        default="streamed",
    )
    max_num_seqs: int = key(
        "most sequences in a step; the batch size of static batching; default: 256, or vLLM's on the device",
        default=None,
        ge=1,
        le=1_000_000,
    )
    max_num_batched_tokens: int = key(
        "most tokens in a step; default: 8192, or vLLM's on the device", default=None, ge=1, le=100_000_000
    )
    max_model_len: int | None = key(
        "longest prompt + output; default: the model's; -1: the longest that fits", default=None, ge=-1
    )
    enable_chunked_prefill: bool = key("a prompt may be split over steps", default=True)
    enable_prefix_caching: bool = key("share KV of equal prefixes; default: with vllm", default=None)
    long_prefill_token_threshold: int = key(
        "vllm: most prompt tokens of one request in a step; 0: no limit", default=0, ge=0
    )
    long_prefill_token_threshold_adaptive: bool = key(
        "vllm: raise it while few requests are there", default=False
    )
    scheduler_reserve_full_isl: bool = key("vllm: admit only where the whole prompt fits now", default=True)
    prefill_schedule_interval: int = key(
        "vllm: steps with prefill at least so many steps apart", default=1, ge=1
    )
    max_num_active_seqs: int | None = key(
        "vllm: most running sequences, if below max_num_seqs", default=None, ge=1
    )
    async_scheduling: bool = key(
        "vllm: plan the next step while one runs; default: with vllm, but not with drafts or pipeline stages",
        default=None,
    )
    speculative: Speculative | None = key("vllm: n-gram drafts", default=None)
    kv_allocator: str = key("how KV memory is given out", default="paged", choices=KV_ALLOCATOR_NAMES)
    kv_reservation: Literal["max", "pow2", "oracle"] = key(
        "contiguous: reserve max_model_len (Orca's Max), the next power of two, or the true length",
        default="max",
    )
    block_size: int = key("paged: tokens per block", default=engine_defaults.ANY_BLOCK, ge=1, le=1_000_000)
    watermark: float = key("paged: share of blocks kept free at admission", default=0.0, ge=0, lt=1)
    gpu_memory_utilization: float = key(
        "share of the device's memory to use; default: 0.92, before vLLM 0.22 0.90", default=None, gt=0, le=1
    )
    kv_cache_memory_bytes: int | None = key("KV on each GPU, whatever is left", default=None, ge=1)
    mem_fraction_static: float | None = key(
        "sglang: share for weights and KV; default: by device and sizes", default=None, gt=0, lt=1
    )
    free_gpu_memory_fraction: float | None = key(
        "tensorrt-llm: share for KV of what is free beside weights; default: 0.9", default=None, gt=0, le=1
    )
    sampler: vllm_releases.SamplerChoice = key(
        "vllm: who filters by top-k and top-p, for its memory", default="auto"
    )
    num_gpu_blocks_override: int | None = key(
        "this many blocks of block_size tokens, in place of the memory budget",
        default=None,
        ge=1,
        le=1_000_000_000,
    )
    use_kv_cache: bool = key("false: recompute everything at every step", default=True)
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = key("weights and activations", default="auto")
    kv_cache_dtype: Literal["auto", "bfloat16", "float16", "fp8", "float32"] = key(
        "KV entries", default="auto"
    )
    quantization: Literal["none", "fp8", "int8", "int4"] = key(
        "weights: fp8 and int8 with activations in the same type (W8A8), int4 weight-only (W4A16)",
        default="none",
    )
    attention: Literal["flash", "standard"] = key(
        "flash: scores stay in SRAM; standard: scores go to HBM and back", default="flash"
    )
    tensor_parallel_size: int = key("GPUs per replica, weights split over them", default=1, ge=1, le=1024)
    pipeline_parallel_size: int = key(
        "vllm: stages of a replica, each a share of the layers on tensor_parallel_size GPUs; as many batches "
        "are under way",
        default=1,
        ge=1,
        le=1024,
    )
    stepping: Literal["skip", "every_step"] = key(
        "skip: one event per decision; every_step: the reference engine, one event per step",
        default="skip",
    )
    profile: str | None = key(
        "an engine profile, by name or path: what overheads and async_scheduling are where nothing is said",
        default=None,
    )
    overheads: EngineOverheads = key("host time per step", default=EngineOverheads())
    price_table: str | None = key(
        "measured kernel times in place of the profile's laws: a folder made by `python -m calibrate import`",
        default=None,
    )
    service_time: Distribution | None = key(
        "a drawn service time per request (seconds) in place of a price: the engine becomes a queue",
        default=None,
    )

    def __post_init__(self) -> None:
        """Defaults that depend on other keys, as in vLLM's server: the only place that knows them.

        Prefix caching is on, and asynchronous scheduling (so since 0.14.0, by its release notes), except with
        n-gram drafts (vLLM turns it off then) and with pipeline stages (both together are not modelled).
        """
        batching = self.batching or ("continuous" if self._is_beyond_vllm else "vllm")
        is_vllm, release = batching == "vllm", vllm_releases.release_of(self.vllm_version)
        is_plain = self.speculative is None and self.pipeline_parallel_size == 1
        defaults = {
            "batching": batching,
            "enable_prefix_caching": is_vllm,
            "async_scheduling": is_vllm and is_plain and release.runs_asynchronously,
            **engine_defaults.sizes_without_device(self.runtime, is_vllm=is_vllm),
        }
        for name, value in defaults.items():
            if any(getattr(self, name) is unsaid for unsaid in (None, engine_defaults.ANY_BLOCK)):
                object.__setattr__(self, name, value)
        share = self.gpu_memory_utilization
        if share is None or isinstance(share, vllm_releases.ReleaseDefault):
            share = vllm_releases.ReleaseDefault(release.gpu_memory_utilization)
            object.__setattr__(self, "gpu_memory_utilization", share)

    @property
    def _is_beyond_vllm(self) -> bool:
        """Whether something is asked for that vLLM's scheduler does not have."""
        other_order = self.schedule_order == "prefill_first"
        other_memory = self.kv_allocator != "paged" or not self.use_kv_cache
        return other_order or other_memory or self.service_time is not None

    def on(self, hardware: HardwareProfile, model: ModelShape | None = None) -> EngineConfig:
        """The same, with the engine's sizes on this device where none were said, and for this model."""
        whole_prompt = 0
        if model is not None and not self.enable_chunked_prefill:
            is_open_ended = self.max_model_len in (None, FITTED)
            whole_prompt = model.max_position_embeddings if is_open_ended else self.max_model_len or 0
        unsaid: dict[str, Any] = {**engine_defaults.unsaid_sizes(hardware, self, whole_prompt)}
        if isinstance(self.gpu_memory_utilization, vllm_releases.ReleaseDefault):
            unsaid["gpu_memory_utilization"] = float(self.gpu_memory_utilization)
        return replace(self, **unsaid) if unsaid else self

    @property
    def needs_room_for_longest(self) -> bool:
        """Whether it starts only where a request of max_model_len fits."""
        return self.batching == "vllm" and self.runtime == "vllm" and self.has_kv_budget

    @property
    def gpus_per_replica(self) -> int:
        """GPUs that one engine runs on."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def has_kv_budget(self) -> bool:
        """Whether KV memory is limited: not for a plain queue, nor without a KV cache."""
        return self.service_time is None and self.use_kv_cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One question, fully stated. ``load_scenario`` makes it; ``run_scenario`` answers it."""

    schema_version: int = key("format of this file", ge=1)
    question: str = key("what the report answers")
    kind: Literal["serving"] = key("what is simulated")
    seeds: tuple[int, ...] = key("one run per seed and variant", default=(1,), ge=0, le=2**32 - 1)
    hardware: HardwareProfile = key("a profile's name, a path to one, or one written out")
    model: ModelShape = key("a shipped shape's name, or a path to a Hugging Face config.json")
    workload: Workload = key("who asks for what, when")
    engine: EngineConfig = key("one engine", default=EngineConfig())
    replicas: int = key("identical engines behind a router", default=1, ge=1, le=10_000)
    routing: str = key("who gets a request", default="round_robin", choices=_routings)
    slo: Slo = key("bounds that an answer must meet", default=Slo())
    answer_by: str | None = key(
        "the metric that answers the question; default: a time to the first token, or what is served where "
        "the load is not kept up with",
        default=None,
        choices=METRIC_NAMES,
    )
    thresholds: tuple[Threshold, ...] = key("bounds that make exit code 1", default=())
    precision: float | None = key(
        "chooses the length: num_requests doubles, 6 times at most, until the 95 % interval over the seeds "
        "of what answers reaches no further than this share of it to either side",
        default=None,
        ge=0.001,
        le=0.5,
    )

    def __post_init__(self) -> None:
        """Sizes that depend on the device and on the model, where none were said."""
        engine = self.engine.on(self.hardware, self.model)
        if engine.has_kv_budget and (changed := settled_sizes(self.model, self.hardware, engine)):
            engine = replace(engine, **changed)
        if engine is not self.engine:
            object.__setattr__(self, "engine", engine)


def max_model_len(scenario: Scenario) -> int:
    """The longest prompt + output: the engine's limit, or else the model's."""
    return scenario.engine.max_model_len or scenario.model.max_position_embeddings


def num_gpus(scenario: Scenario) -> int:
    """GPUs of all replicas."""
    return scenario.replicas * scenario.engine.gpus_per_replica
