"""``gpuyard memory``: where a device's memory goes, line by line with its formula."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from sim.cli.exits import FINE
from sim.errors import ScenarioError

if TYPE_CHECKING:
    from sim.model.shape import ModelShape
    from sim.price.memory import MemoryPlan
    from sim.serving.scenario import EngineConfig

# The options of vLLM that decide memory, by the same names: what stands for the value, its type.
ENGINE_OPTIONS: dict[str, tuple[str, type]] = {
    "tensor_parallel_size": ("N", int),
    "pipeline_parallel_size": ("N", int),
    "max_model_len": ("TOKENS", int),
    "max_num_seqs": ("N", int),
    "max_num_batched_tokens": ("TOKENS", int),
    "block_size": ("TOKENS", int),
    "gpu_memory_utilization": ("FRACTION", float),
    "dtype": ("DTYPE", str),
    "quantization": ("KIND", str),
    "kv_cache_dtype": ("DTYPE", str),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, device, and vLLM's options by vLLM's names."""
    parser.add_argument("--model", required=True, metavar="M", help="a shipped name, or a config.json")
    parser.add_argument("--hardware", required=True, metavar="H", help="a shipped name, or a profile's YAML")
    for name, (placeholder, kind) in ENGINE_OPTIONS.items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=kind, metavar=placeholder, help=f"vLLM's {name}")
    parser.add_argument("--tokens", type=int, metavar="N", help="also: what the KV of N tokens takes")
    parser.add_argument("--json", action="store_true", help="print JSON, in bytes")


def run(arguments: argparse.Namespace) -> int:
    """Print the account of one GPU, and what its KV cache holds."""
    from sim.hardware import load_hardware
    from sim.model.config import load_model
    from sim.price.memory import memory_plan
    from sim.serving.checks.engine import engine_of

    if arguments.tokens is not None and arguments.tokens < 1:
        raise ScenarioError("too few", path="--tokens", given=arguments.tokens, allowed="1 or more")
    options = {name: getattr(arguments, name) for name in ENGINE_OPTIONS}
    given = {name: value for name, value in options.items() if value is not None}
    model = load_model(arguments.model, path="--model")
    hardware = load_hardware(arguments.hardware, path="--hardware")
    engine = engine_of(given).on(hardware)
    plan = memory_plan(model, hardware, engine)
    if arguments.json:
        print(json.dumps(_as_json(plan, arguments.tokens), indent=2))
    else:
        print(_as_text(plan, model, engine, arguments))
    return FINE


def _as_json(plan: MemoryPlan, tokens: int | None) -> dict[str, Any]:
    content = plan.to_dict()
    if tokens is not None:
        content |= {"tokens": tokens, "kv_bytes_of_tokens": tokens * plan.kv_bytes_per_token}
    return content


def _as_text(plan: MemoryPlan, model: ModelShape, engine: EngineConfig, arguments: argparse.Namespace) -> str:
    count = engine.gpus_per_replica
    gpus = f"each of {count} GPUs" if count > 1 else "one GPU"
    rows = [(line.label, line.num_bytes, line.formula) for line in plan.lines]
    budget = "num_gpu_blocks_override" if plan.overridden else "what is left"
    rows.append(("KV cache", plan.kv_budget_bytes, budget))
    lines = [f"{arguments.model} on {arguments.hardware}, {gpus}", ""]
    lines += [_row(label, num_bytes, formula) for label, num_bytes, formula in rows]
    lines += ["", *_what_fits(plan, model)]
    if arguments.tokens is not None:
        lines += ["", _tokens_line(plan, arguments.tokens)]
    return "\n".join([*lines, *(f"note: {note}" for note in plan.notes)])


def _row(label: str, num_bytes: int, formula: str) -> str:
    """Both kinds of gigabyte: GiB = 2**30 is what vLLM logs, GB = 10**9 what datasheets print."""
    return f"  {label:<22}{num_bytes / 2**30:>9.2f} GiB{num_bytes / 1e9:>9.2f} GB   {formula}"


def _what_fits(plan: MemoryPlan, model: ModelShape) -> list[str]:
    per_block = plan.block_size * plan.kv_bytes_per_token
    return [
        f"  one token             {plan.kv_bytes_per_token:,} bytes ({_kib(plan.kv_bytes_per_token)})"
        f"{_token_formula(plan, model)}",
        f"  blocks                {plan.num_gpu_blocks:,} = KV cache / "
        f"({plan.block_size} tokens x {plan.kv_bytes_per_token:,} B = {per_block:,} B)",
        f"  tokens                {plan.kv_budget_tokens:,} = "
        f"{plan.num_gpu_blocks:,} blocks x {plan.block_size}",
        f"  full-length requests  {plan.max_concurrency:.2f} of {plan.max_model_len:,} tokens "
        f"({plan.kv_bytes_per_full_request / 2**30:.3g} GiB each)",
    ]


def _token_formula(plan: MemoryPlan, model: ModelShape) -> str:
    """The product behind a token's bytes, where it is the plain one: K and V in every layer."""
    layers, heads, head_dim = model.num_hidden_layers, model.num_key_value_heads, model.head_dim
    entry_bytes, rest = divmod(plan.kv_bytes_per_token, 2 * layers * heads * head_dim)
    if model.mla is not None or rest or entry_bytes not in (1, 2, 4):
        return ""
    return f" = 2 (K, V) x {layers} layers x {heads} KV heads x {head_dim} x {entry_bytes} B"


def _tokens_line(plan: MemoryPlan, tokens: int) -> str:
    num_bytes = tokens * plan.kv_bytes_per_token
    return (
        f"  {tokens:,} tokens x {plan.kv_bytes_per_token:,} B = {num_bytes:,} B = "
        f"{num_bytes / 2**20:.1f} MiB = {num_bytes / 2**30:.2f} GiB = {num_bytes / 1e9:.2f} GB"
    )


def _kib(num_bytes: int) -> str:
    return f"{num_bytes / 1024:g} KiB"
