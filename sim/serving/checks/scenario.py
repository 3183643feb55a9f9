"""What must hold in a serving scenario: workload, routing, model on device, and that some request fits."""

from __future__ import annotations

from pathlib import Path

from sim.errors import ScenarioError
from sim.model.counts import check_tensor_parallel_size, served_dtype
from sim.model.shape import check_pipeline_parallel_size
from sim.model.weights import check_block_split, served_quantization
from sim.price.memory import check_length, memory_plan
from sim.scenario.distribution import EXAMPLES, Distribution, check_distribution, check_keys
from sim.scenario.place import Place
from sim.serving.batching.registry import known_batching
from sim.serving.checks.engine import check_engine, check_policies
from sim.serving.routing import ROUTING
from sim.serving.scenario import (
    DEFAULT_HASH_BLOCK_TOKENS,
    RequestClass,
    Scenario,
    Sessions,
    SharedPrefix,
    Trace,
    Workload,
    max_model_len,
)
from sim.serving.workload.arrivals import ARRIVAL_PROCESSES, Arrivals
from sim.serving.workload.sources import SOURCES
from sim.units import format_gb


def check_arrivals(given: Arrivals, place: Place, base_dir: Path) -> None:
    """An arrival process with its own keys and no others."""
    check_keys(given, "process", ARRIVAL_PROCESSES, place)
    if given.think_time_s is not None:
        check_distribution(given.think_time_s, place.child("think_time_s"), base_dir)
    if given.rates is None:
        return
    there = place.child("rates")
    if not any(step.requests_per_s > 0 for step in given.rates):
        raise there.error(
            "no request would ever arrive",
            given=[step.requests_per_s for step in given.rates],
            allowed="at least one rate above 0",
            hint=EXAMPLES["rates"],
        )
    for index in range(1, len(given.rates)):
        before, after = given.rates[index - 1].start_s, given.rates[index].start_s
        if after <= before:
            raise (
                there.item(index)
                .child("start_s")
                .error(
                    f"{after:g} s is not after the step before, which starts at {before:g} s",
                    given=after,
                    allowed="starts in ascending order",
                )
            )


_LENGTHS = ("prompt_tokens", "output_tokens")


def check_workload(workload: Workload, place: Place, base_dir: Path, policy: str = "fcfs") -> None:
    """Exactly one of drawn lengths, classes and trace, with what each needs; ``policy``: the engine's."""
    _check_one_source(workload, place)
    if workload.arrivals is not None:
        check_arrivals(workload.arrivals, place.child("arrivals"), base_dir)
    if workload.trace is not None:
        _check_trace(workload, workload.trace, place, base_dir)
    else:
        _check_drawn(workload, place)
    for name, one in (workload.classes or {}).items():
        there = place.child("classes").child(name)
        _check_class(one, there, base_dir)
        _check_priority(one.priority, there, policy)
    for name in ("prompt_tokens", "output_tokens"):
        _check_tokens(getattr(workload, name), place.child(name), base_dir)
    _check_sharing(workload.shared_prefix, workload.sessions, place, base_dir)
    _check_warmup(workload, place)


def _allowed_sources() -> str:
    *others, last = (name for name in SOURCES if name not in _LENGTHS)
    return ", ".join(["prompt_tokens with output_tokens", *others, f"or {last}"])


def _check_one_source(workload: Workload, place: Place) -> None:
    given = [name for name in dict.fromkeys((*_LENGTHS, *SOURCES)) if getattr(workload, name)]
    if workload.classes is not None and not workload.classes:
        raise place.child("classes").error(
            "no class in the mixture",
            given={},
            allowed="at least one class",
            hint="classes: {chat: {share: 1, prompt_tokens: 512, output_tokens: 256}}",
        )
    if not given:
        raise place.error(
            "says not how long requests are",
            allowed=_allowed_sources(),
            hint="prompt_tokens: 512 and output_tokens: 256",
        )
    if len(given) > 1 and set(given) != set(_LENGTHS):
        raise place.error(
            f"{' and '.join(given)} both say what requests are",
            given=given,
            allowed=f"one of {_allowed_sources()}",
            hint=f"keep {given[-1]} alone",
        )
    for name, other in (_LENGTHS, _LENGTHS[::-1]):
        if given == [other]:
            raise place.child(name).error(
                f"missing: {other} is given alone", allowed=_allowed_sources(), hint=f"{name}: 256"
            )
    if "classes" in given:
        _refuse_beside(workload, place, "classes", "inside each class")
    if "trace" in given:
        _refuse_beside(workload, place, "trace", "in a workload without a trace")


def _refuse_beside(workload: Workload, place: Place, kind: str, where: str) -> None:
    for name in ("shared_prefix", "sessions"):
        if getattr(workload, name) is not None:
            raise place.child(name).error(
                f"has no effect beside {kind}", allowed=f"{name} {where}", hint=f"move {name}, or remove it"
            )


def _check_drawn(workload: Workload, place: Place) -> None:
    arrivals = workload.arrivals
    if arrivals is None:
        raise place.child("arrivals").error(
            "missing: only a trace has its own arrival times",
            allowed="{process: ..., ...}",
            hint="arrivals: {process: poisson, requests_per_s: 8}",
        )
    if not arrivals.is_drawn:
        if workload.num_requests is None:
            raise place.child("num_requests").error(
                f"missing: {arrivals.process} has no end without it",
                allowed="a whole number, at least 1",
                hint="num_requests: 2000",
            )
        if workload.duration_s is not None:
            raise place.child("duration_s").error(
                f"has no effect with process: {arrivals.process}, which ends by num_requests",
                given=workload.duration_s,
                allowed="num_requests",
                hint="remove duration_s",
            )
    elif workload.num_requests is None and workload.duration_s is None:
        raise place.error(
            "nothing says when the requests end",
            allowed="num_requests, duration_s, or both",
            hint="num_requests: 2000, or duration_s: 10 min",
        )


def _check_trace(workload: Workload, trace: Trace, place: Place, base_dir: Path) -> None:
    from sim.scenario.csv_files import check_file
    from sim.serving.workload.trace_formats import AUTO, TRACE_FORMATS

    there = place.child("trace")
    check_file(trace.path, there.child("path"), base_dir)
    if trace.format == AUTO:
        return
    known = TRACE_FORMATS[trace.format]
    if trace.columns is not None and not known.takes_columns:
        takers = [name for name, one in TRACE_FORMATS.items() if one.takes_columns]
        raise there.child("columns").error(
            f"has no effect with format: {trace.format}, whose columns are known",
            given=dict(trace.columns),
            allowed=f"columns with format {' or '.join(takers)}",
            hint=f"remove columns, or format: {takers[0]}",
        )
    if trace.hash_block_tokens != DEFAULT_HASH_BLOCK_TOKENS and not known.takes_block_tokens:
        takers = [name for name, one in TRACE_FORMATS.items() if one.takes_block_tokens]
        raise there.child("hash_block_tokens").error(
            f"has no effect with format: {trace.format}",
            given=trace.hash_block_tokens,
            allowed=f"hash_block_tokens with format {' or '.join(takers)}",
            hint=f"remove it, or format: {takers[0]}",
        )


def _check_class(one: RequestClass, place: Place, base_dir: Path) -> None:
    _check_tokens(one.prompt_tokens, place.child("prompt_tokens"), base_dir)
    _check_tokens(one.output_tokens, place.child("output_tokens"), base_dir)
    _check_sharing(one.shared_prefix, one.sessions, place, base_dir)


def _check_priority(priority: int, place: Place, policy: str) -> None:
    if priority != 0 and policy == "fcfs":
        raise place.child("priority").error(
            "has no effect under policy: fcfs",
            given=priority,
            allowed="0 under fcfs",
            hint="engine.policy: priority (with batching: vllm), or remove it",
        )


def _check_tokens(given: Distribution | None, place: Place, base_dir: Path) -> None:
    if given is not None:
        check_distribution(given, place, base_dir, least=1)


def _check_sharing(
    prefix: SharedPrefix | None, sessions: Sessions | None, place: Place, base_dir: Path
) -> None:
    if prefix is not None:
        _check_tokens(prefix.prefix_tokens, place.child("shared_prefix").child("prefix_tokens"), base_dir)
    if sessions is not None:
        there = place.child("sessions")
        _check_tokens(sessions.turns, there.child("turns"), base_dir)
        check_distribution(sessions.think_time_s, there.child("think_time_s"), base_dir)


def _check_warmup(workload: Workload, place: Place) -> None:
    total, warmup = workload.num_requests, workload.warmup_requests or 0
    if total is not None and warmup >= total:
        raise place.child("warmup_requests").error(
            f"warmup_requests {warmup:,} leaves nothing to measure of num_requests {total:,}",
            given=warmup,
            allowed=f"below num_requests ({total:,})",
            hint=f"warmup_requests: {total // 10}",
        )
    end = workload.duration_s
    if end is not None and (workload.warmup_s or 0.0) >= end:
        raise place.child("warmup_s").error(
            f"warmup_s {workload.warmup_s:g} leaves nothing to measure of duration_s {end:g}",
            given=workload.warmup_s,
            allowed=f"below duration_s ({end:g})",
            hint=f"warmup_s: {end / 10:g}",
        )


PEAK_OF_QUANTIZATION = {"fp8": "float8", "int8": "int8"}


def check_model_and_hardware(scenario: Scenario, top: Place) -> None:
    """The model's length and heads against the engine's, and the dtypes against the hardware's peaks."""
    place = top.child("engine")
    _check_length(scenario, place)
    if scenario.engine.service_time is not None:
        return
    _check_step_budget(scenario, place)
    _check_tensor_parallel(scenario, place)
    _check_pipeline(scenario, place)
    _check_peak(scenario, place)
    _check_some_request_fits(scenario, top)


def _check_length(scenario: Scenario, place: Place) -> None:
    try:
        check_length(scenario.model, scenario.engine)
    except ScenarioError as error:
        raise error.told(file=place.file, path=place.child("max_model_len").path) from None


def _check_step_budget(scenario: Scenario, place: Place) -> None:
    engine = scenario.engine
    if not known_batching(engine.batching).pads_batches and not engine.enable_chunked_prefill:
        check_whole_prompts_fit(engine.max_num_batched_tokens, max_model_len(scenario), place)


def check_whole_prompts_fit(budget: int, length: int, place: Place) -> None:
    """Without chunked prefill a step has room for the longest prompt."""
    if budget < length:
        raise place.child("max_num_batched_tokens").error(
            f"max_num_batched_tokens {budget:,} is below max_model_len {length:,}: "
            "without chunked prefill the longest prompt never fits into a step",
            given=budget,
            allowed=f"at least max_model_len ({length:,})",
            hint=f"max_num_batched_tokens: {length}, max_model_len: {budget}, "
            "or enable_chunked_prefill: true",
        )


def _check_tensor_parallel(scenario: Scenario, place: Place) -> None:
    size, hardware = scenario.engine.tensor_parallel_size, scenario.hardware
    there = place.child("tensor_parallel_size")
    try:
        check_tensor_parallel_size(scenario.model, size)
        if scenario.engine.quantization == "none":
            check_block_split(scenario.model, size)
    except ScenarioError as error:
        raise there.error(error.problem, given=size, allowed=error.allowed, hint=error.hint) from None
    if size > 1 and hardware.intra_node is None and hardware.host_link is None:
        raise there.cannot_run(
            f"no link between GPUs is known for {hardware.name}",
            given=size,
            allowed="1",
            hint="give hardware.intra_node.bytes_per_s",
        )


def _check_pipeline(scenario: Scenario, place: Place) -> None:
    """A layer for every stage, and a link to send over."""
    engine, hardware = scenario.engine, scenario.hardware
    stages = engine.pipeline_parallel_size
    there = place.child("pipeline_parallel_size")
    try:
        check_pipeline_parallel_size(scenario.model, stages)
    except ScenarioError as error:
        raise there.error(error.problem, given=stages, allowed=error.allowed) from None
    fits = engine.gpus_per_replica <= (hardware.gpus_per_node or engine.gpus_per_replica)
    field = "intra_node" if fits else "inter_node"
    if stages > 1 and getattr(hardware, field) is None:
        raise there.cannot_run(
            f"no {field} link between GPUs is known for {hardware.name}, over which stages would send",
            given=stages,
            allowed="1",
            hint=f"give hardware.{field}.bytes_per_s",
        )


def _check_peak(scenario: Scenario, place: Place) -> None:
    """The dtypes that the products run in must have a peak rate on this device.

    Quantised projections run in the quantised type; attention and lm_head stay in the activations'.
    """
    engine, hardware = scenario.engine, scenario.hardware
    peaks = hardware.peak_flops_per_s
    dtype = served_dtype(scenario.model, engine.dtype)
    if dtype not in peaks:
        origin = f"the dtype of {scenario.model.name}" if engine.dtype == "auto" else "engine.dtype"
        raise place.child("dtype").cannot_run(
            f"{hardware.name} has no peak rate for {dtype} ({origin})",
            given=engine.dtype,
            allowed=", ".join(name for name in ("bfloat16", "float16", "float32") if name in peaks),
            hint=f"dtype: {'float16' if 'float16' in peaks else 'float32'}; "
            f"devices with {dtype}: {_devices_with(dtype)}",
        )
    quantized = PEAK_OF_QUANTIZATION.get(served_quantization(scenario.model, engine.quantization), dtype)
    if quantized not in peaks:
        raise place.child("quantization").cannot_run(
            f"{hardware.name} has no peak rate for {quantized}",
            given=engine.quantization,
            allowed=", ".join(
                name
                for name in ("none", "fp8", "int8", "int4")
                if PEAK_OF_QUANTIZATION.get(served_quantization(scenario.model, name), dtype) in peaks
            ),
            hint=f"quantization: int4 (weight-only), or one of {_devices_with(quantized)}",
        )


def _devices_with(dtype: str) -> str:
    from sim.hardware import hardware_names, load_hardware

    names = [name for name in hardware_names() if dtype in load_hardware(name).peak_flops_per_s]
    return ", ".join(names) or "none"


def _least(given: Distribution) -> float:
    """The smallest value that can be drawn, as far as the scenario says."""
    if given.distribution == "fixed":
        return given.value or 0
    smallest = min(given.values) if given.values else 0
    return max(given.min or 0, smallest)


def _check_some_request_fits(scenario: Scenario, top: Place) -> None:
    workload, length = scenario.workload, max_model_len(scenario)
    there = top.child("workload")
    kinds: list[tuple[Place, Workload | RequestClass]] = [(there, workload)]
    kinds += [(there.child("classes").child(name), one) for name, one in (workload.classes or {}).items()]
    for place, kind in kinds:
        if kind.prompt_tokens is None or kind.output_tokens is None:
            continue
        prompt, output = _least(kind.prompt_tokens), _least(kind.output_tokens)
        if prompt + output > length:
            raise place.child("prompt_tokens").error(
                f"at least {prompt:g} prompt and {output:g} output tokens are above "
                f"max_model_len {length:,}: every request would be refused",
                given=prompt,
                allowed=f"together at most {length:,}",
                hint="shorter requests, or a larger max_model_len",
            )


def check_kv_fits(scenario: Scenario, top: Place) -> None:
    """The model leaves room for KV cache, and contiguous allocation for at least one reservation."""
    engine = scenario.engine
    if engine.service_time is not None:
        return
    place = top.child("engine")
    try:
        plan = memory_plan(scenario.model, scenario.hardware, engine)
    except ScenarioError as error:
        raise error.told(file=error.file or top.file, path=error.path or place.path) from None
    length = max_model_len(scenario)
    reserves_whole = engine.kv_allocator == "contiguous" and engine.kv_reservation == "max"
    if engine.use_kv_cache and reserves_whole and plan.kv_budget_tokens < length:
        raise place.child("max_model_len").cannot_run(
            f"a reservation of max_model_len {length:,} tokens is above the {plan.kv_budget_tokens:,} tokens "
            f"({format_gb(plan.kv_budget_bytes)}) that the KV cache can hold",
            given=engine.max_model_len,
            allowed=f"at most {plan.kv_budget_tokens:,}",
            hint="a smaller max_model_len, or kv_reservation: pow2",
        )


def check_serving(scenario: Scenario, *, file: str) -> None:
    """What must hold in a serving scenario."""
    top = Place(file=file)
    base_dir = Path(file).parent
    check_workload(scenario.workload, top.child("workload"), base_dir, scenario.engine.policy)
    check_engine(scenario.engine, top.child("engine"))
    _check_routing(scenario, top)
    check_policies(scenario.engine, top.child("engine"), base_dir)
    check_model_and_hardware(scenario, top)
    check_kv_fits(scenario, top)


def _check_routing(scenario: Scenario, top: Place) -> None:
    batching, routing = scenario.engine.batching, ROUTING[scenario.routing]
    if routing.choose is None and scenario.replicas > 1 and not known_batching(batching).shares_queue:
        others = " or ".join(name for name, one in ROUTING.items() if one.choose is not None)
        raise top.child("routing").error(
            f"with batching: {batching} each replica has its own queue",
            given=scenario.routing,
            allowed=f"{others} with batching: {batching}",
            hint="routing: least_loaded",
        )
