"""An engine's start-up log: what each of its lines says of the memory, and the settings that it started with.

Wordings are those that vLLM 0.2 to 0.33, SGLang 0.4 to 0.5 and TensorRT-LLM 0.5 to 1.x print, found in
public logs. What stands before a line (time, level, process, container, colour) is passed over, a line that a
terminal broke is put together, and a line of which nothing is known says nothing. GB, as some releases print,
is 2**30 bytes as GiB is: all of them divide by it. Of several starts in one log the last that says anything
of memory is read.

Not read: command lines and environment variables beside the log, and the log of a running server.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field
from functools import lru_cache
from typing import Literal

from sim.scenario.dataclass import dataclass

LoggingEngine = Literal["vllm", "sglang", "tensorrt-llm"]
Value = int | float | str | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One value that a line says: bytes under ``..._bytes``, else a count, a share, a word."""

    name: str
    value: Value
    line: int  # from 1
    rank: str = ""  # "TP1" where the line's prefix says who printed it


@dataclass(frozen=True, slots=True, kw_only=True)
class StartLog:
    """One start as its log tells it. ``settings`` by our names, those of the engine's configuration first."""

    engine: LoggingEngine
    facts: tuple[Fact, ...]
    settings: Mapping[str, Fact]
    ranks: tuple[str, ...] = ()  # who printed anything at all
    num_starts: int = 1
    texts: Mapping[int, str] = field(default_factory=dict)  # the lines with facts, without what colours them

    def of(self, name: str) -> tuple[Fact, ...]:
        """All that was said of it, in the log's order."""
        return tuple(fact for fact in self.facts if fact.name == name)

    def last(self, name: str) -> Fact | None:
        """What was said last of it."""
        return next(reversed(self.of(name)), None)


# What a placeholder stands for. A size is followed by its unit; {a+/b/c} takes the unit of the last.
_NUMBER, _UNIT = r"-?\d[\d,]*(?:\.\d+)?", r"(?:[KMGT]i?B|[bB]ytes)"
_KINDS = {"size": rf"(?P<{{0}}>{_NUMBER}) ?(?P<{{0}}_unit>{_UNIT})", "n": rf"(?P<{{0}}>{_NUMBER})"}
_KINDS |= {"gib": rf"(?P<{{0}}>{_NUMBER})", "word": r"(?P<{0}>[\w+-]+(?:\.[\w+-]+)*)"}
_KINDS |= {"path": r"(?P<{0}>[^\s,;]+?)(?=[.,;]*(?:\s|$))"}
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

# (a piece that every such line has, the line). ``{weights:size}`` reads weights_bytes with its unit.
_VLLM = (
    ("API server version", r"API server version v?{version:word}"),
    ("version", r"[█▀▄] +version v?{version:word}"),
    ("LLM engine (v", r"LLM engine \(v{version:word}\)"),
    ("model weights", r"(?:L|l)oading model weights took {weights:size}"),
    ("Model loading took", r"Model loading took {weights:size}"),
    ("model weights take", r"model weights take *{weights:size}"),
    ("weights memory", r"weights memory: {weights:size}"),
    ("for weight", r"Actual usage is {weights:size} for weight"),
    ("consumed memory", r"Actual usage is {consumed:size} for consumed memory"),
    ("peak activation", r"{activation_peak:size} for peak activation"),
    ("activation peak memory", r"PyTorch activation peak memory(?: takes)? *{activation_peak:size}"),
    ("torch peak memory increase", r"torch peak memory increase: {activation_peak:size}"),
    ("peak_torch_memory=", r"peak_torch_memory={peak_torch:size}"),
    ("non_torch_memory", r"non_torch_memory(?: takes|=| ) *{non_torch:size}"),
    ("non-torch", r"non-torch (?:forward )?increase memory: {non_torch:size}"),
    ("for non-torch memory", r"{non_torch:size} for non-torch memory"),
    ("for CUDAGraph memory", r"{cuda_graphs:size} for CUDAGraph memory"),
    ("Graph capturing finished", r"Graph capturing finished in {_seconds:n} secs?, took {cuda_graphs:size}"),
    (
        "CUDA graph pool memory",
        r"CUDA graph pool memory: {cuda_graphs:size} \(actual\), {cuda_graphs_estimate:size} \(estimated\)",
    ),
    ("Estimated CUDA graph memory", r"Estimated CUDA graph memory: {cuda_graphs_estimate:size}"),
    ("PIECEWISE=", r"PIECEWISE={piecewise_graphs:n}"),
    ("FULL=", r"\bFULL={full_graphs:n}"),
    ("total_gpu_memory", r"total_gpu_memory[ =(]*{device_total:size}"),
    ("GiB) on startup", r"Free memory on device [^(]*\({free_at_start:gib}/{device_total:size}\) on startup"),
    ("utilization", r"gpu_memory_utilization(?: \(|=| +){gpu_memory_utilization:n}"),
    ("current vLLM instance can use", r"instance can use  +{usable:size}"),
    ("GiB) x gpu_memory_utilization", r"gpu_memory_utilization \([\d.]+\) = {usable:size}"),
    ("(util)", r"Requested memory: {gpu_memory_utilization:n} \(util\), {usable:size}"),
    ("Initial free memory", r"Initial free memory: {free_at_start:size}"),
    ("GPU memory utilization", r"memory utilization (?:is )?\({gpu_memory_utilization:n}, {usable:size}\)"),
    ("--gpu-memory-utilization=", r"current --gpu-memory-utilization={gpu_memory_utilization:n}"),
    ("reserved for KV Cache", r"reserved for KV Cache is {kv_cache:size}"),
    ("available_kv_cache_memory", r"available_kv_cache_memory[ =]+{kv_cache:size}"),
    ("Available KV cache memory", r"Available KV cache memory: {kv_cache:size}"),
    ("kv_cache_size=", r"kv_cache_size={kv_cache:size}"),
    ("kv cache memory in use", r"Current kv cache memory in use is {kv_cache:size}"),
    (" blocks: ", r"# (?:GPU|CUDA|cuda|gpu) blocks: {num_gpu_blocks:n}"),
    ("num_gpu_blocks is", r"num_gpu_blocks is ?: ?{num_gpu_blocks:n}"),
    # A profile run of graphs overrides 0 blocks; what was asked for overrides what was counted.
    ("blocks_override=", r"blocks=[1-9]\d* with num_gpu_blocks_override={num_gpu_blocks_override:n}"),
    ("GPU KV cache size", r"GPU KV cache size: {kv_cache_tokens:n} tokens"),
    (
        "Maximum concurrency",
        r"Maximum concurrency for {max_model_len:n} tokens per request: {max_concurrency:n}x",
    ),
    ("attention block size", r"Setting attention block size to {block_size:n} tokens"),
    ("padding layers", r"Add {padding_layers:n} padding layers"),
    ("max model len", r"Using max model len {max_model_len:n}"),
    ("Chunked prefill", r"Chunked prefill is enabled with max_num_batched_tokens={max_num_batched_tokens:n}"),
    ("max_num_batched_tokens to", r"tokens to {max_num_batched_tokens:n} for {usage_context:word}"),
    ("max_num_seqs to", r"max_num_seqs to {max_num_seqs:n} for {usage_context:word}"),
    ("compile range (1", r"compile range \(1, {max_num_batched_tokens:n}\)"),
    ("data type to store kv cache", r"Using {kv_cache_dtype:word} data type to store kv cache"),
    ("Asynchronous scheduling is", r"Asynchronous scheduling is {async_scheduling:word}"),
    ("Encoder cache will be", r"initialized with a budget of {encoder_tokens:n} tokens"),
    ("world size", r"in world size {world_size:n} is assigned"),
    ("Using FlashInfer for top-p", r"Using {flashinfer_sampler:word} for top-p & top-k sampling"),
    ("implementation of top-p", r"Falling back to the {pytorch_sampler:word}-native implementation of top-p"),
    ("Resolved architecture", r"Resolved architecture: {architecture:word}"),
    ("Starting to load model", r"Starting to load model {model:path}"),
    ("max seq len (", r"max seq len \({max_model_len:n}\)"),
    ("KV cache is needed", r"\({kv_cache_needed:size} KV cache is needed"),
    ("available KV cache memory (", r"available KV cache memory \({kv_cache:size}\)"),
    ("estimated maximum model length", r"estimated maximum model length is {longest_that_fits:n}"),
    ("can be stored in KV cache (", r"stored in KV cache \({kv_cache_tokens:n}\)"),
    ("has a total capacity of", r"total capacity of {device_total:size}"),
    ("Tried to allocate", r"Tried to allocate {tried_to_allocate:size}"),
)  # fmt: skip
_SGLANG = (
    ("Load weight begin", r"Load weight begin\. avail mem={free_before_weights:size}"),
    ("Load weight end", r"Load weight end\..*?type={architecture:word}"),
    ("Load weight end", r"Load weight end\..*?avail mem={free_after_weights:size}"),
    ("Load weight end", r"Load weight end\..*?mem usage={weights:size}"),
    ("KV Cache is allocated", r"KV Cache is allocated\..*?#tokens: {kv_cache_tokens:n}"),
    ("KV Cache is allocated", r"KV Cache is allocated\..*?K size: {k_cache:size}, V size: {v_cache:size}"),
    ("KV Cache is allocated", r"KV Cache is allocated\..*?KV size: {kv_cache:size}"),
    ("KV Cache is allocated", r"KV Cache is allocated\. dtype: torch\.{kv_cache_dtype:word}"),
    ("Mamba Cache is allocated", r"conv_state size: {conv_states:size}, ssm_state size: {ssm_states:size}"),
    ("Using KV cache dtype", r"Using KV cache dtype: torch\.{kv_cache_dtype:word}"),
    ("Memory pool end", r"Memory pool end\. avail mem={free_after_pool:size}"),
    ("Capture cuda graph end", r"Capture cuda graph end\..*?mem usage={cuda_graphs:size}"),
    ("Capture cuda graph begin", r"Capture cuda graph begin\..*?avail mem={free_before_graphs:size}"),
    ("Found local HF snapshot for", r"Found local HF snapshot for {model:path}"),
    ("Init torch distributed ends", r"Init torch distributed ends\..*?mem usage={distributed:size}"),
    ("mem_fraction_static", r"mem_fraction_static {mem_fraction_static:n}"),
    ("max_total_num_token", r"max_total_num_tokens?={kv_cache_tokens:n}"),
    ("max_prefill_tokens=", r"chunked_prefill_size={max_num_batched_tokens:n}, max_prefill_tokens="),
    ("max_running_requests=", r"\bmax_running_requests={max_num_seqs:n}, context_len={max_model_len:n}"),
    ("available_gpu_mem=", r"available_gpu_mem={free_after_graphs:size}"),
)
_TENSORRT_LLM = (
    ("TensorRT-LLM version", r"TensorRT-LLM version: {trtllm_version:word}"),
    ("Loaded engine size", r"Loaded engine size: {weights:size}"),
    ("IExecutionContext creation", r"IExecutionContext creation:.*?now: CPU \d+, GPU {engine_gpu:n} \(MiB\)"),
    ("k/v cache", r"Allocate {kv_cache:size} for k/v cache"),
    ("tokens in paged KV cache", r"Using {kv_cache_tokens:n} tokens in paged KV cache"),
    (
        "for max tokens in paged KV cache",
        r"Allocated {kv_cache:size} for max tokens in paged KV cache \({kv_cache_tokens:n}\)",
    ),
    ("primary pool", r"blocks in KV cache primary pool: {num_gpu_blocks:n}"),
    ("max tokens in paged kv cache", r"paged kv cache: total: {device_total:size}"),
    ("device total memory", r"device total memory {device_total:size}"),
    ("fraction is set", r"fraction is set {free_gpu_memory_fraction:n}"),
    ("Number of tokens per block", r"Number of tokens per block: {tokens_per_block:n}"),
    ("max_num_requests", r"max_seq_len={max_model_len:n}, max_num_requests={max_num_seqs:n}"),
    ("max_num_tokens", r"max_num_tokens={max_num_batched_tokens:n}"),
    ("MPI size", r"MPI size: {world_size:n}"),
    ("maxBatchSize", r"maxBatchSize: {max_num_seqs:n}"),
    ("maxNumTokens", r"maxNumTokens: {max_num_batched_tokens:n}"),
    ("mMaxAttentionWindowSize", r"mMaxAttentionWindowSize: {max_model_len:n}"),
)
_WORDINGS: Mapping[LoggingEngine, Sequence[tuple[str, str]]] = {
    "vllm": _VLLM,
    "sglang": _SGLANG,
    "tensorrt-llm": _TENSORRT_LLM,
}
# (what a line has, what it says of the start)
ERRORS = (
    ("To serve at least one request with", "max_model_len is longer than the KV cache holds"),
    ("the maximum number of tokens that can be stored", "max_model_len is longer than the KV cache holds"),
    ("No available memory for the cache blocks", "nothing is left for KV cache"),
    ("is less than desired GPU memory utilization", "less was free at the start than the share asks for"),
    ("OutOfMemoryError", "PyTorch ran out of memory"),
    ("CUDA out of memory", "PyTorch ran out of memory"),
    ("Not enough memory. Please try to increase --mem-fraction-static", "nothing is left for KV cache"),
)  # fmt: skip

# Where an engine prints its own configuration, and our words for its keys.
_CONFIGS = (
    ("vllm", "non-default args: {"),
    ("vllm", "args: Namespace("),
    ("vllm", " with config: "),
    ("sglang", "server_args=ServerArgs("),
    ("sglang", "ServerArgs("),
)  # fmt: skip
_KEYS = {
    "model": "model", "model_path": "model", "dtype": "dtype", "quantization": "quantization",
    "kv_cache_dtype": "kv_cache_dtype", "max_seq_len": "max_model_len", "max_model_len": "max_model_len",
    "context_length": "max_model_len", "tensor_parallel_size": "tensor_parallel_size",
    "tp_size": "tensor_parallel_size", "pipeline_parallel_size": "pipeline_parallel_size",
    "pp_size": "pipeline_parallel_size", "gpu_memory_utilization": "gpu_memory_utilization",
    "max_num_seqs": "max_num_seqs", "max_running_requests": "max_num_seqs",
    "max_num_batched_tokens": "max_num_batched_tokens", "chunked_prefill_size": "max_num_batched_tokens",
    "block_size": "block_size", "page_size": "block_size", "kv_cache_memory_bytes": "kv_cache_memory_bytes",
    "num_gpu_blocks_override": "num_gpu_blocks_override", "enable_prefix_caching": "enable_prefix_caching",
    "async_scheduling": "async_scheduling", "enforce_eager": "enforce_eager",
    "mem_fraction_static": "mem_fraction_static", "enable_chunked_prefill": "enable_chunked_prefill",
    "chunked_prefill_enabled": "enable_chunked_prefill", "performance_mode": "performance_mode",
}  # fmt: skip
_NEGATED = {"disable_radix_cache": "enable_prefix_caching", "disable_overlap_schedule": "async_scheduling"}
NOT_COUNTED = {
    "speculative_config": "a draft model's weights, KV and graphs", "speculative_model": "a draft model",
    "enable_lora": "LoRA adapters", "lora_config": "LoRA adapters",
    "cpu_offload_gb": "weights kept in host memory", "data_parallel_size": "replicas of the engine",
    "decode_context_parallel_size": "KV split over the GPUs of a tensor parallel group",
    "enable_expert_parallel": "whole experts on each GPU", "dp_size": "replicas of the engine",
    "ep_size": "whole experts on each GPU", "speculative_algorithm": "drafts",
    "enable_dp_attention": "attention on each GPU for requests of its own",
    "max_cudagraph_capture_size": "a list of graph sizes of its own",
}  # fmt: skip
"""Keys that change memory in a way that the account does not have, and what they bring."""

_COLOUR = re.compile(r"(?:\x1b|\\x1b|\\u001b|\\033|\^\[|␛)\[[\d;]*m|\[(?:\d{1,3};)+\d{1,3}m|\[\d{1,2}m")
_BEGINS = re.compile(
    r"^(?:.{0,80}?\| )?(?:>> |\W{0,3})(?:\(\w[^)]*pid=\d*[^)]*\)|(?:INFO|WARNING|ERROR|DEBUG|CRITICAL)\b"
    r"|\[?\d{4}-\d\d-\d\d[ T]|\[TensorRT-LLM\]|\[TRT-LLM|\[T\w+\]|Traceback|\w+Error: )"
)
_PREFIX = 200  # letters in which a line says who prints it, a container's words before it included
_CUT = re.compile(r"[\d.,]+(?!\S*[-/])")
_RANK = re.compile(
    r"(?:Worker(?:Proc)?[ _]|\d\d:\d\d:\d\d |\b(?=DP\d+_))((?:(?:DP|PP|TP|EP|CP|PCP|DCP)\d+[ _]?)+)"
)
_WORKER = re.compile(r"\((?:VllmWorkerProcess|RayWorkerWrapper|RayWorkerVllm) (pid=\d+)")
_START = {"vllm": ("API server version", "LLM engine"), "sglang": ("server_args=",), "tensorrt-llm": ()}


def read_start_log(text: str) -> StartLog | None:
    """What the log says of its last start; None where no line of any engine was recognised."""
    text = _COLOUR.sub("", text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n"))
    lines = text.split("\n")
    telling = {number: lines[number - 1] for number in _telling(text)}
    joined = list(_put_together(lines))
    found = {engine: tuple(_facts(engine, lines, telling, joined)) for engine in _WORDINGS}
    configs = {engine: list(_configs(engine, joined)) for engine in _WORDINGS}
    engine = max(_WORDINGS, key=lambda one: (len({fact.name for fact in found[one]}), len(configs[one])))
    facts = (*found[engine], *_errors(telling))
    if not facts and not configs[engine]:
        return None
    begins = [1, *_later_starts(engine, telling)]
    spans = [*zip(begins, [*begins[1:], len(lines) + 1], strict=True)]
    first, end = next((one for one in reversed(spans) if _tells(facts, one)), spans[-1])
    inside = tuple(fact for fact in facts if first <= fact.line < end)
    settings = [fact for fact in configs[engine] if first <= fact.line < end]
    printed = (
        line for line in lines[first - 1 : end - 1] if "Worker" in line or " TP" in line or "_TP" in line
    )
    ranks = dict.fromkeys(rank for line in printed if (rank := _rank_of(line[:_PREFIX])))
    return StartLog(
        engine=engine,
        facts=inside,
        settings=_settings(inside, settings),
        ranks=tuple(ranks),
        num_starts=len(spans),
        texts={fact.line: lines[fact.line - 1].strip() for fact in (*inside, *settings)},
    )


def _telling(text: str) -> list[int]:
    """Numbers of the lines that have a piece of any wording: the others are most of a server's log."""
    ends = [match.start() for match in re.finditer("\n", text)]
    pieces = [piece for wordings in _WORDINGS.values() for piece, _ in wordings]
    pieces += [words for words, _ in ERRORS] + [words for starts in _START.values() for words in starts]
    found = set()
    for piece in dict.fromkeys(pieces):
        place = text.find(piece)
        while place >= 0:
            number = bisect_left(ends, place)
            found.add(number + 1)
            place = text.find(piece, ends[number]) if number < len(ends) else -1
    return sorted(found)


def _tells(facts: Sequence[Fact], span: tuple[int, int]) -> bool:
    return any(span[0] <= fact.line < span[1] and fact.name.endswith(("_bytes", "_tokens")) for fact in facts)


def _put_together(lines: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, its pieces): what a terminal broke belongs to the line that begins."""
    first, pieces = 1, list[str]()
    for number, line in enumerate(lines, 1):
        if pieces and (_BEGINS.match(line) or not _BEGINS.match(pieces[0]) or len(pieces) == 40):
            yield first, pieces
            pieces = []
        if not pieces:
            first = number
        pieces.append(line)
    if pieces:
        yield first, pieces


@lru_cache(maxsize=3)
def _patterns(engine: LoggingEngine) -> tuple[tuple[str, re.Pattern[str]], ...]:
    def group(match: re.Match[str]) -> str:
        name, kind = match[1], match[2]
        return _KINDS[kind].format(name + ("_bytes" if kind in ("size", "gib") else ""))

    return tuple(
        (piece, re.compile(re.sub(r"\{(\w+):(\w+)\}", group, line))) for piece, line in _WORDINGS[engine]
    )


def _facts(
    engine: LoggingEngine,
    lines: Sequence[str],
    telling: Mapping[int, str],
    joined: Sequence[tuple[int, list[str]]],
) -> Iterator[Fact]:
    """Of each line, and of those put together what lies over a break."""
    patterns = _patterns(engine)
    found = [
        fact
        for number, line in telling.items()
        for fact in _facts_in(patterns, line, number, goes_on=_CUT.match("".join(lines[number : number + 1])))
    ]
    for first, pieces in joined:
        if len(pieces) > 1:
            whole = "".join(pieces)
            ends = [sum(map(len, pieces[: i + 1])) for i in range(len(pieces) - 1)]
            found += _facts_in(patterns, whole, first, ends)
    yield from sorted(found, key=lambda fact: fact.line)


def _facts_in(
    patterns: Sequence[tuple[str, re.Pattern[str]]],
    line: str,
    number: int,
    breaks: Sequence[int] = (),
    *,
    goes_on: object = None,
) -> Iterator[Fact]:
    """``goes_on``: the next line may be the rest of a number at this one's end."""
    for piece, pattern in patterns:
        if piece not in line and not breaks:
            continue
        for match in pattern.finditer(line):
            if breaks and not any(match.start() < one < match.end() for one in breaks):
                continue
            if goes_on and not line[match.end() :].strip(".,"):
                continue
            rank = _rank_of(line[: match.start()])
            for name, said in match.groupdict().items():
                if not name.endswith("_unit") and not name.startswith("_"):
                    yield Fact(name=name, value=_value(name, said, match), line=number, rank=rank)


def _value(name: str, said: str, match: re.Match[str]) -> Value:
    if name.endswith("_bytes"):
        units = match.groupdict()
        unit = units.get(f"{name}_unit") or next(u for key, u in units.items() if key.endswith("_unit"))
        return round(float(said.replace(",", "")) * _UNITS.get(unit[0], 1))
    if re.fullmatch(_NUMBER, said):
        number = float(said.replace(",", ""))
        return number if "." in said else int(number)
    return said


def _rank_of(text: str) -> str:
    found = [*_RANK.finditer(text)]
    if found:
        return found[-1][1].strip(" _").replace(" ", "_")
    worker = _WORKER.search(text)
    return worker[1] if worker else ""


def _errors(telling: Mapping[int, str]) -> Iterator[Fact]:
    for number, line in telling.items():
        said = next((meaning for words, meaning in ERRORS if words in line), None)
        if said is not None:
            yield Fact(name="error", value=said, line=number)


def _later_starts(engine: LoggingEngine, telling: Mapping[int, str]) -> Iterator[int]:
    """Numbers of lines at which another start begins: the process that says it again is a new one."""
    seen: set[tuple[str, str]] = set()
    for number, line in telling.items():
        words = next((words for words in _START[engine] if words in line), None)
        if words is None or (words == "LLM engine" and "nitializing a" not in line):
            continue
        process = re.search(r"\((\w+) pid=", line)
        said = words, process[1] if process else ""
        if said in seen:
            yield number
            seen = {said}
        seen.add(said)


def _configs(engine: LoggingEngine, joined: Sequence[tuple[int, list[str]]]) -> Iterator[Fact]:
    """The keys of every configuration that is printed."""
    begins = [words for whose, words in _CONFIGS if whose == engine]
    for number, pieces in joined:
        if not any(word in piece for word in ("args", "Args", "config") for piece in pieces):
            continue
        line = "".join(pieces)
        words = next((words for words in begins if words in line), None)
        for key, said in _pairs(line.partition(words)[2]) if words else ():
            if key in _KEYS or key in NOT_COUNTED:
                yield Fact(name=_KEYS.get(key, key), value=_said(said), line=number)
            elif key in _NEGATED and isinstance(value := _said(said), bool):
                yield Fact(name=_NEGATED[key], value=not value, line=number)


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    """``a=1, b=[2, 3]`` or ``'a': 1`` as pairs, those of the outermost brackets only."""
    depth, quote, piece = 0, "", ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
        elif letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        if depth < 0 or (depth == 0 and not quote and letter == ","):
            yield from _pair(piece)
            piece = ""
            if depth < 0:
                return
        else:
            piece += letter
    yield from _pair(piece)


def _pair(piece: str) -> Iterator[tuple[str, str]]:
    match = re.match(r"\s*['\"]?(\w+)['\"]?\s*[=:]\s*(.+?)\s*$", piece, re.DOTALL)
    if match:
        yield match[1], match[2]


def _said(text: str) -> Value:
    plain = text.strip("'\"").removeprefix("torch.")
    words: dict[str, Value] = {"None": None, "True": True, "False": False}
    if plain in words:
        return words[plain]
    if re.fullmatch(_NUMBER, plain):
        return float(plain) if "." in plain else int(plain.replace(",", ""))
    return plain


def _settings(facts: Sequence[Fact], configs: Sequence[Fact]) -> Mapping[str, Fact]:
    """What the configuration says, then what single lines say of settings; None and "auto" say nothing."""
    names = {*_KEYS.values(), "version", "usage_context", "free_gpu_memory_fraction"}
    names -= {"block_size"}  # what vLLM raised it to is a result, not what was asked for
    found: dict[str, Fact] = {}
    for fact in (*configs, *(fact for fact in facts if fact.name in names)):
        if fact.value is not None and fact.value != "auto" and fact.name not in found:
            found[fact.name] = fact
    return found
