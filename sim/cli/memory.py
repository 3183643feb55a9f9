"""``gpuyard memory``: where a device's memory goes, line by line with its formula."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from sim.cli.exits import FINE
from sim.errors import ScenarioError

if TYPE_CHECKING:
    from sim.hardware import HardwareProfile
    from sim.model.shape import ModelShape
    from sim.price.memory_words import MemoryPlan
    from sim.serving.scenario import EngineConfig

# The options of vLLM that decide memory, by the same names: what stands for the value, its type.
ENGINE_OPTIONS: dict[str, tuple[str, type]] = {
    "pipeline_parallel_size": ("N", int),
    "max_model_len": ("TOKENS", int),
    "max_num_seqs": ("N", int),
    "max_num_batched_tokens": ("TOKENS", int),
    "block_size": ("TOKENS", int),
    "gpu_memory_utilization": ("FRACTION", float),
    "kv_cache_memory_bytes": ("BYTES", str),
    "dtype": ("DTYPE", str),
    "quantization": ("KIND", str),
    "kv_cache_dtype": ("DTYPE", str),
    "vllm_version": ("VERSION", str),
    "usage": ("USAGE", str),
    "sampler": ("NAME", str),
    "runtime": ("NAME", str),
    "mem_fraction_static": ("FRACTION", float),
    "free_gpu_memory_fraction": ("FRACTION", float),
    "profile": ("PROFILE", str),
}
OF_OTHERS = {
    "runtime": "whose account: vllm, sglang, tensorrt-llm",
    "mem_fraction_static": "SGLang's mem_fraction_static",
    "free_gpu_memory_fraction": "TensorRT-LLM's free_gpu_memory_fraction",
    "profile": "an engine profile, which says whose account it is",
    "kv_cache_memory_bytes": "vLLM's kv_cache_memory_bytes (20 GiB)",
}
SWITCHES = ("async_scheduling", "enable_prefix_caching")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, device, and vLLM's options by vLLM's names."""
    parser.add_argument("--model", required=True, metavar="M", help="a shipped name, or a config.json")
    parser.add_argument(
        "--hardware",
        required=True,
        metavar="H[,H]",
        help="a shipped name, or a profile's YAML; several: a table",
    )
    parser.add_argument(
        "--tensor-parallel-size", metavar="N[,N]", help="vLLM's tensor_parallel_size; several: a table"
    )
    for name, (placeholder, kind) in ENGINE_OPTIONS.items():
        flag, said = f"--{name.replace('_', '-')}", OF_OTHERS.get(name, f"vLLM's {name}")
        parser.add_argument(flag, type=kind, metavar=placeholder, help=said)
    for name in SWITCHES:
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=f"vLLM's {name}")
    parser.add_argument("--tokens", type=int, metavar="N", help="also: what the KV of N tokens takes")
    parser.add_argument(
        "--fit", action="store_true", help="also: the longest context, and how many requests of which length"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, in bytes")


def run(arguments: argparse.Namespace) -> int:
    """Print the account of one GPU, and what its KV cache holds; of several devices or sizes a table."""
    from sim.hardware import load_hardware
    from sim.model.config import load_model

    if arguments.tokens is not None and arguments.tokens < 1:
        raise ScenarioError("too few", path="--tokens", given=arguments.tokens, allowed="1 or more")
    model = load_model(arguments.model, path="--model")
    devices = [load_hardware(name, path="--hardware") for name in _listed(arguments.hardware)]
    sizes = _sizes(arguments.tensor_parallel_size)
    given = {
        name: getattr(arguments, name)
        for name in (*ENGINE_OPTIONS, *SWITCHES)
        if getattr(arguments, name) is not None
    }
    if len(devices) * len(sizes) > 1:
        rows = [_row_of(model, device, size, given) for device in devices for size in sizes]
        print(json.dumps(rows, indent=2) if arguments.json else _table(arguments.model, rows))
        return FINE
    engine = _engine(given, sizes[0], devices[0], model)
    plan = _plan(model, devices[0], engine, arguments)
    print(
        json.dumps(_as_json(plan, arguments), indent=2)
        if arguments.json
        else _as_text(plan, engine, arguments)
    )
    return FINE


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()] or [text]


def _sizes(text: str | None) -> list[int]:
    parts = _listed(text or "1")
    if not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise ScenarioError(
            "not a number of GPUs", path="--tensor-parallel-size", given=text, allowed="8, or 1,2,4,8"
        )
    return [int(part) for part in parts]


def _engine(given: Mapping[str, Any], size: int, device: HardwareProfile, model: ModelShape) -> EngineConfig:
    """The engine that a scenario with these keys would have on this device."""
    from dataclasses import replace

    from sim.hardware.engine_profile import with_profile
    from sim.price.memory import check_length, settled_sizes
    from sim.scenario.place import Place
    from sim.serving.checks.engine import check_engine, engine_of

    keys = with_profile({**given, "tensor_parallel_size": size}, file="")
    engine = engine_of(keys).on(device)
    check_engine(engine, Place(file="", path="engine"))
    check_length(model, engine)
    block = {} if engine.max_model_len == -1 else settled_sizes(model, device, engine)
    return replace(engine, **block)


def _plan(
    model: ModelShape, device: HardwareProfile, engine: EngineConfig, arguments: argparse.Namespace
) -> MemoryPlan:
    """With ``--fit`` a length that does not fit is an answer, not a refusal."""
    from dataclasses import replace

    from sim.price.memory import memory_plan

    try:
        return memory_plan(model, device, engine)
    except ScenarioError as error:
        if not arguments.fit or not error.path.endswith("max_model_len"):
            raise
        return memory_plan(model, device, replace(engine, max_model_len=-1))


def _as_json(plan: MemoryPlan, arguments: argparse.Namespace) -> dict[str, Any]:
    content, tokens = plan.to_dict(), arguments.tokens
    if tokens is not None:
        content |= {
            "tokens": tokens,
            "kv_bytes_of_tokens": plan.bytes_of(tokens),
            "kv_bytes_of_tokens_while_decoding": plan.bytes_held(tokens),
        }
    if arguments.fit:
        content["fit"] = [{"tokens": length, "requests": count} for length, count in _fits(plan)]
    return content


def _as_text(plan: MemoryPlan, engine: EngineConfig, arguments: argparse.Namespace) -> str:
    from sim.price.memory_words import render_memory

    count = engine.gpus_per_replica
    gpus = f"each of {count} GPUs" if count > 1 else "one GPU"
    head = f"{arguments.model} on {arguments.hardware}, {gpus}, {plan.account}"
    lines = [head, "", render_memory(plan, arguments.tokens)]
    if arguments.fit:
        lines += ["", f"  longest context       {plan.longest_that_fits:,} tokens (one request alone)"]
        lines += [
            f"  at most               {count:,} requests of {length:,} tokens"
            for length, count in _fits(plan)
        ]
    return "\n".join(lines)


def _fits(plan: MemoryPlan) -> Iterator[tuple[int, int]]:
    """How many requests the blocks hold at once, by their length: halved from the longest down to 1,024."""
    length = plan.longest_that_fits
    while length:
        yield length, plan.pool.usable_blocks // plan.pool.blocks_of(length)
        half = 1 << (length - 1).bit_length() - 1
        length = half if half >= 1024 else 0


def _row_of(
    model: ModelShape, device: HardwareProfile, size: int, given: Mapping[str, Any]
) -> dict[str, Any]:
    """One device and size: what it holds, or why it does not start."""
    from sim.price.memory import memory_plan

    named = {"hardware": device.name, "tensor_parallel_size": size}
    try:
        plan = memory_plan(model, device, _engine(given, size, device, model))
    except ScenarioError as error:
        fits = error.allowed.removeprefix("at most ") if error.path.endswith("max_model_len") else ""
        return {**named, "starts": False, "reason": error.problem.splitlines()[0], "longest_that_fits": fits}
    by_label = {line.label: -line.num_bytes for line in plan.lines}
    return {
        **named,
        "starts": True,
        "weight_bytes": by_label["weights"],
        "kv_budget_bytes": plan.kv_budget_bytes,
        "kv_budget_tokens": plan.kv_budget_tokens,
        "max_model_len": plan.max_model_len,
        "max_concurrency": plan.max_concurrency,
        "longest_that_fits": plan.longest_that_fits,
    }


def _table(model: str, rows: list[dict[str, Any]]) -> str:
    """GiB a GPU; a row that does not start says why."""
    width = max(len(row["hardware"]) for row in rows)
    head = (
        f"  {'':<{width}}  TP{'weights GiB':>13}{'KV GiB':>9}{'KV tokens':>13}{'full requests':>24}"
        f"{'longest context':>17}"
    )
    lines = [f"{model}, each GPU", "", head]
    for row in rows:
        start = f"  {row['hardware']:<{width}}{row['tensor_parallel_size']:>4}"
        if not row["starts"]:
            lines.append(f"{start}  does not start: {row['reason']}")
            continue
        full = f"{row['max_concurrency']:.2f} of {row['max_model_len']:,}"
        lines.append(
            f"{start}{row['weight_bytes'] / 2**30:>13.2f}{row['kv_budget_bytes'] / 2**30:>9.2f}"
            f"{row['kv_budget_tokens']:>13,}{full:>24}{row['longest_that_fits']:>17,}"
        )
    return "\n".join(lines)
