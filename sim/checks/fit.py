"""Whether model, engine and hardware go together: lengths, heads, dtypes and memory."""

from __future__ import annotations

from sim.errors import ScenarioError
from sim.loading.place import Place
from sim.model import (
    check_pipeline_parallel_size,
    check_tensor_parallel_size,
    served_dtype,
    served_quantization,
)
from sim.scenario import Distribution, RequestClass, Scenario, Workload
from sim.serving.batching.registry import known_batching
from sim.units import format_gb

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


def max_model_len(scenario: Scenario) -> int:
    """The longest prompt + output: the engine's limit, or else the model's."""
    return scenario.engine.max_model_len or scenario.model.max_position_embeddings


def _check_length(scenario: Scenario, place: Place) -> None:
    given, longest = scenario.engine.max_model_len, scenario.model.max_position_embeddings
    if given is not None and given > longest:
        raise place.child("max_model_len").error(
            f"max_model_len {given:,} is above the {longest:,} positions of {scenario.model.name} "
            "(max_position_embeddings)",
            given=given,
            allowed=f"at most {longest:,}",
            hint=f"max_model_len: {longest}",
        )


def _check_step_budget(scenario: Scenario, place: Place) -> None:
    engine, length = scenario.engine, max_model_len(scenario)
    budget = engine.max_num_batched_tokens
    pads = known_batching(engine.batching).pads_batches
    if not pads and not engine.enable_chunked_prefill and budget < length:
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
    except ScenarioError as error:
        raise there.error(error.problem, given=size, allowed=error.allowed, hint=error.hint) from None
    if size > 1 and hardware.intra_node is None and hardware.host_link is None:
        raise there.error(
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
        raise there.error(
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
    known = f"what it has: {', '.join(peaks)}"
    dtype = served_dtype(scenario.model, engine.dtype)
    if dtype not in peaks:
        origin = f"the dtype of {scenario.model.name}" if engine.dtype == "auto" else "engine.dtype"
        raise place.child("dtype").error(
            f"{hardware.name} has no peak rate for {dtype} ({origin})",
            given=engine.dtype,
            allowed=known,
            hint=f"dtype: {'float16' if 'float16' in peaks else 'float32'}; "
            f"devices with {dtype}: {_devices_with(dtype)}",
        )
    quantized = PEAK_OF_QUANTIZATION.get(served_quantization(scenario.model, engine.quantization), dtype)
    if quantized not in peaks:
        raise place.child("quantization").error(
            f"{hardware.name} has no peak rate for {quantized}",
            given=engine.quantization,
            allowed=known,
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
    from sim.cost.memory import memory_plan

    place = top.child("engine")
    try:
        plan = memory_plan(scenario.model, scenario.hardware, engine)
    except ScenarioError as error:
        raise ScenarioError(
            error.problem,
            file=error.file or top.file,
            path=error.path or place.path,
            given=error.given,
            allowed=error.allowed,
            hint=error.hint,
        ) from None
    length = max_model_len(scenario)
    reserves_whole = engine.kv_allocator == "contiguous" and engine.kv_reservation == "max"
    if engine.use_kv_cache and reserves_whole and plan.kv_budget_tokens < length:
        raise place.child("max_model_len").error(
            f"a reservation of max_model_len {length:,} tokens is above the {plan.kv_budget_tokens:,} tokens "
            f"({format_gb(plan.kv_budget_bytes)}) that the KV cache can hold",
            given=engine.max_model_len,
            allowed=f"at most {plan.kv_budget_tokens:,}",
            hint="a smaller max_model_len, or kv_reservation: pow2",
        )
