"""``gpuyard memory``: where a device's memory goes, line by line with its formula."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.cli.exits import FINE
from sim.errors import ScenarioError

if TYPE_CHECKING:
    from sim.hardware import HardwareProfile
    from sim.model.shape import ModelShape
    from sim.price.start_log import StartLog
    from sim.report.memory import MemoryPage
    from sim.report.memory_table import Account, Asked

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
    "quantization": "none, fp8, int8 or int4, of a checkpoint whose config does not say it",
    "kv_cache_memory_bytes": "vLLM's kv_cache_memory_bytes (21474836480, or 20GiB)",
}
SWITCHES = ("async_scheduling", "enable_prefix_caching", "enable_chunked_prefill")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model, device, and vLLM's options by vLLM's names."""
    parser.add_argument(
        "--model", metavar="M", help="a Hugging Face or shipped name (gpuyard list models), or a config.json"
    )
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
    from sim.report.memory_table import Asked, account_json, account_rows, account_text, table_text

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
    try:
        accounts = _accounts(arguments, model, devices, sizes)
    except ScenarioError as error:
        raise _by_option(error) from None
    asked = Asked(tokens=arguments.tokens, fit=arguments.fit)
    contents = [account_json(one, asked) for one in accounts]
    if len(accounts) == 1:
        content: Any = contents[0]
        rows = content["lines"]
        _print(arguments, content, rows, lambda: account_text(accounts[0], asked))
    else:
        content, rows = contents, account_rows(contents)
        _print(arguments, content, rows, lambda: table_text(model.name, accounts, asked))
    if arguments.out:
        _write(_page(accounts, asked), Path(arguments.out), content, rows)
    return FINE


def _accounts(
    arguments: argparse.Namespace,
    model: ModelShape,
    devices: Sequence[HardwareProfile],
    sizes: Sequence[int],
) -> list[Account]:
    """One for each device and size; of several, one that does not start is an answer."""
    from sim.plan.account import account_of, account_or_refusal, options_of

    given = options_of(_given(arguments))
    if len(devices) * len(sizes) == 1:
        given["tensor_parallel_size"] = sizes[0]
        return [account_of(given, devices[0], model, fits=arguments.fit)]
    starts = [({**given, "tensor_parallel_size": size}, device) for device in devices for size in sizes]
    found = [account_or_refusal(one, device, model, fits=arguments.fit) for one, device in starts]
    if all(one.engine is None for one in found):  # what was typed is wrong, wherever it runs
        account_of(*starts[0], model, fits=arguments.fit)
    return found


def _by_option(error: ScenarioError) -> ScenarioError:
    """The same error with this verb's options in place of a scenario's keys."""
    keys = (*ENGINE_OPTIONS, *SWITCHES, "tensor_parallel_size")
    options = {name: f"--{name.replace('_', '-')}" for name in keys}
    name = error.path.removeprefix("engine.")
    written = re.compile(rf"\b({'|'.join(options)}): (?=\S)")
    hint = written.sub(lambda found: f"{options[found[1]]} ", error.hint)
    return error.told(path=options.get(name, error.path), hint=hint)


def _page(accounts: Sequence[Account], asked: Asked) -> MemoryPage:
    from sim.report.memory import MemoryPage

    first = accounts[0]
    is_one = len(accounts) == 1
    names = [f"{first.model.name} on {first.hardware.name}"] if is_one else [one.where for one in accounts]
    named = list(zip(names, accounts, strict=True))
    title = f"The memory of each GPU for {first.model.name}"
    if is_one and first.plan is not None:
        title = f"The memory of {first.gpus} for {names[0]}, {first.plan.account}"
    return MemoryPage(
        title=title,
        plans={name: one.plan for name, one in named if one.plan is not None and not one.refusal},
        refused={name: one.refusal for name, one in named if one.refusal},
        command=_command(),
        tokens=asked.tokens,
        has_fits=asked.fit,
        notes={name: one.notes for name, one in named},
    )


def _given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of the engine that were typed."""
    named = ((name, getattr(arguments, name)) for name in (*ENGINE_OPTIONS, *SWITCHES))
    return {name: _number_or_text(value) for name, value in named if value is not None}


def _number_or_text(value: Any) -> Any:
    """Bytes may be typed as vLLM takes them, a whole number, or with their unit."""
    is_whole = isinstance(value, str) and value.isascii() and value.isdigit()
    return int(value) if is_whole else value


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
        problem = "a directory, not a file" if file.is_dir() else "no such file"
        raise ScenarioError(problem, path="--from-log", given=given, hint="a file, or - for the input")
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
