"""``gpuyard memory``: where a device's memory goes, line by line with its formula."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.cli.exits import FINE
from sim.errors import ScenarioError

if TYPE_CHECKING:
    from sim.hardware import HardwareProfile
    from sim.model.shape import ModelShape
    from sim.price.memory_words import MemoryPlan
    from sim.price.start_log import StartLog
    from sim.report.memory import MemoryPage
    from sim.serving.scenario import EngineConfig

Row = dict[str, Any]

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
    "performance_mode": ("MODE", str),
    "num_gpu_blocks_override": ("BLOCKS", int),
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
SWITCHES = ("async_scheduling", "enable_prefix_caching", "enable_chunked_prefill")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, device, and vLLM's options by vLLM's names."""
    parser.add_argument("--model", metavar="M", help="a shipped name, or a config.json")
    parser.add_argument(
        "--hardware",
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
    parser.add_argument(
        "--from-log",
        metavar="FILE",
        help="an engine's start-up log: its lines beside ours; other options replace what it says",
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="print JSON, in bytes")
    shape.add_argument("--csv", action="store_true", help="print the lines as CSV, in bytes")
    parser.add_argument(
        "--out", metavar="DIR", help="also write memory.html (what stands where), .md, .json and .csv"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the account of one GPU, and what its KV cache holds; of several devices or sizes a table."""
    from sim.hardware import load_hardware
    from sim.model.config import load_model

    if arguments.from_log is not None:
        return _beside_log(arguments)
    missing = [f"--{name}" for name in ("model", "hardware") if getattr(arguments, name) is None]
    if missing:
        raise ScenarioError(
            f"{', '.join(missing)} {'are' if missing[1:] else 'is'} missing",
            path="memory",
            hint="gpuyard memory --help; with --from-log a start-up log may name them",
        )
    if arguments.tokens is not None and arguments.tokens < 1:
        raise ScenarioError("too few", path="--tokens", given=arguments.tokens, allowed="1 or more")
    model = load_model(arguments.model, path="--model")
    devices = [load_hardware(name, path="--hardware") for name in _listed(arguments.hardware)]
    sizes = _sizes(arguments.tensor_parallel_size)
    given = _given(arguments)
    if len(devices) * len(sizes) > 1:
        return _several(arguments, model, devices, sizes, given)
    engine = _engine(given, sizes[0], devices[0], model)
    plan = _plan(model, devices[0], engine, arguments)
    content = _as_json(plan, arguments)
    _print(arguments, content, content["lines"], lambda: _as_text(plan, engine, arguments))
    if arguments.out:
        from sim.report.memory import MemoryPage

        fits = tuple(_fits(plan)) if arguments.fit else ()
        where = f"{model.name} on {devices[0].name}"
        title = f"The memory of {_gpus(engine)} for {where}, {plan.account}"
        _write(
            MemoryPage(title=title, plans={where: plan}, command=_command(), fits=fits),
            Path(arguments.out),
            content,
            content["lines"],
        )
    return FINE


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of the engine that were typed."""
    named = ((name, getattr(arguments, name)) for name in (*ENGINE_OPTIONS, *SWITCHES))
    return {name: value for name, value in named if value is not None}


def _command() -> str:
    return shlex.join(["gpuyard", *sys.argv[1:]])


def _print(arguments: argparse.Namespace, content: Any, rows: list[Row], text: Callable[[], str]) -> None:
    """In the form that was asked for."""
    if arguments.json:
        print(json.dumps(content, indent=2))
    elif arguments.csv:
        from sim.export.files import table_csv

        print(table_csv(rows), end="")
    else:
        print(text())


def _write(page_of: MemoryPage, out: Path, content: Any, rows: list[Row]) -> None:
    from sim.export.files import write_table, write_whole
    from sim.report.markdown import render_markdown
    from sim.report.memory import memory_report, render_memory_page

    if out.exists() and not out.is_dir():
        raise ScenarioError("results need a folder, this is a file", file=str(out))
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "memory.html", render_memory_page(page_of))
    write_whole(out / "memory.md", render_markdown(memory_report(page_of), "memory.html", "memory.json"))
    write_whole(out / "memory.json", json.dumps(content, indent=2) + "\n")
    write_table(rows, out / "memory.csv")
    print(f"\nwritten: {out / 'memory.html'}, memory.md, memory.json, memory.csv", file=sys.stderr)


def _beside_log(arguments: argparse.Namespace) -> int:
    """The log's lines beside ours."""
    from sim.plan.memory import beside_log
    from sim.report.memory import MemoryPage, log_json, log_rows, log_text

    for option in ("hardware", "tensor_parallel_size"):
        value = getattr(arguments, option)
        if value is not None and len(_listed(value)) > 1:
            path = f"--{option.replace('_', '-')}"
            raise ScenarioError("one start has one", path=path, given=value, allowed="one with --from-log")
    for option in ("tokens", "fit"):
        if getattr(arguments, option):
            raise ScenarioError("not with --from-log", path=f"--{option}", hint="without --from-log")
    given = _given(arguments)
    given |= {
        name: found for name in ("model", "hardware") if (found := getattr(arguments, name)) is not None
    }
    if arguments.tensor_parallel_size is not None:
        given["tensor_parallel_size"] = _sizes(arguments.tensor_parallel_size)[0]
    beside = beside_log(_read_log(arguments.from_log), given)
    content, rows = log_json(beside, arguments.from_log), log_rows(beside)
    _print(arguments, content, rows, lambda: log_text(beside, arguments.from_log))
    if arguments.out:
        name = Path(arguments.from_log).name
        plans = (
            {f"{beside.ours.model.name} on {beside.ours.hardware.name}": beside.ours.plan}
            if beside.ours
            else {}
        )
        page_of = MemoryPage(
            title=f"{name}, a start of {beside.log.engine}, beside ours",
            plans=plans,
            command=_command(),
            beside=beside,
        )
        _write(page_of, Path(arguments.out), content, rows)
    return FINE


def _read_log(given: str) -> StartLog:
    """The start that the file tells of; "-" is standard input."""
    from sim.price.start_log import read_start_log

    file = Path(given)
    if given != "-" and not file.is_file():
        raise ScenarioError("no such file", path="--from-log", given=given, hint="a file, or - for the input")
    read = sys.stdin.buffer.read() if given == "-" else file.read_bytes()
    is_wide = read[:2] in (b"\xff\xfe", b"\xfe\xff")
    log = read_start_log(read.decode("utf-16" if is_wide else "utf-8", errors="replace"))
    if log is None:
        raise ScenarioError(
            "no line of an engine's start-up is in it",
            path="--from-log",
            given=given,
            allowed="what vLLM, SGLang or TensorRT-LLM prints when it starts",
            hint='the lines with "Model loading took" or "GPU KV cache size" must be in it',
        )
    return log


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
    from sim.plan.memory import engine_for

    return engine_for({**given, "tensor_parallel_size": size}, device, model)


def _gpus(engine: EngineConfig) -> str:
    count = engine.gpus_per_replica
    return f"each of {count} GPUs" if count > 1 else "one GPU"


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
    from sim.report.memory import memory_bar

    head = f"{arguments.model} on {arguments.hardware}, {_gpus(engine)}, {plan.account}"
    lines = [head, "", memory_bar(plan), "", render_memory(plan, arguments.tokens)]
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


def _several(
    arguments: argparse.Namespace,
    model: ModelShape,
    devices: Sequence[HardwareProfile],
    sizes: Sequence[int],
    given: Mapping[str, Any],
) -> int:
    """A row for each device and size."""
    found = [_row_of(model, device, size, given) for device in devices for size in sizes]
    rows = [row for row, _ in found]
    _print(arguments, rows, rows, lambda: _table(arguments.model, rows))
    if arguments.out:
        from sim.report.memory import MemoryPage

        named = [(f"{row['hardware']}, TP {row['tensor_parallel_size']}", row, plan) for row, plan in found]
        page_of = MemoryPage(
            title=f"The memory of each GPU for {model.name}",
            plans={name: plan for name, _, plan in named if plan is not None},
            refused={name: row["reason"] for name, row, plan in named if plan is None},
            command=_command(),
        )
        _write(page_of, Path(arguments.out), rows, rows)
    return FINE


def _row_of(
    model: ModelShape, device: HardwareProfile, size: int, given: Mapping[str, Any]
) -> tuple[Row, MemoryPlan | None]:
    """One device and size: what it holds, or why it does not start."""
    from sim.price.memory import memory_plan

    named = {"hardware": device.name, "tensor_parallel_size": size}
    try:
        plan = memory_plan(model, device, _engine(given, size, device, model))
    except ScenarioError as error:
        fits = error.allowed.removeprefix("at most ") if error.path.endswith("max_model_len") else ""
        reason = error.problem.splitlines()[0]
        return {**named, "starts": False, "reason": reason, "longest_that_fits": fits}, None
    by_label = {line.label: -line.num_bytes for line in plan.lines}
    row = {
        **named,
        "starts": True,
        "weight_bytes": by_label["weights"],
        "kv_budget_bytes": plan.kv_budget_bytes,
        "kv_budget_tokens": plan.kv_budget_tokens,
        "max_model_len": plan.max_model_len,
        "max_concurrency": plan.max_concurrency,
        "longest_that_fits": plan.longest_that_fits,
    }
    return row, plan


def _table(model: str, rows: list[Row]) -> str:
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
