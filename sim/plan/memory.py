"""The engine whose memory is asked for: from options, and from what a start-up log says."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, get_args

from sim.errors import ScenarioError
from sim.hardware import HardwareProfile, hardware_names, load_hardware
from sim.hardware.engine_profile import with_profile
from sim.hardware.vllm_releases import (
    CHANGES,
    LATEST,
    NEWEST,
    OLDEST,
    PerformanceMode,
    is_known_release,
    version_of,
)
from sim.model.catalogue import hugging_face_names
from sim.model.config import load_model
from sim.model.shape import ModelShape
from sim.price.memory import check_length, memory_plan, settled_sizes
from sim.price.memory_lines import GIB
from sim.price.start_log import NOT_COUNTED, Fact, StartLog
from sim.price.start_log_rows import TRIED, LogBeside, Ours, Setting, facts_of, rows_of
from sim.scenario.place import Place
from sim.serving.checks.engine import check_engine, engine_of
from sim.serving.scenario import EngineConfig

Given = Mapping[str, Any]


def engine_for(given: Given, hardware: HardwareProfile, model: ModelShape) -> EngineConfig:
    """The engine that a scenario with these keys would have on this device."""
    engine = engine_of(with_profile(given, file="")).on(hardware, model)
    check_engine(engine, Place(file="", path="engine"))
    check_length(model, engine)
    block = {} if engine.max_model_len == -1 else settled_sizes(model, hardware, engine)
    return replace(engine, **block)


# --- a start-up log ---

# (what a log has, the first and the last release that prints it)
_ERAS: tuple[tuple[str, tuple[int, int] | None, tuple[int, int] | None], ...] = (
    ("oading model weights took", None, (0, 8)),
    ("peak_torch_memory=", None, (0, 6)),
    ("total_gpu_memory +[0-9]", None, (0, 6)),
    ("# GPU blocks", None, (0, 8)),
    (r"# (?:CUDA|cuda) blocks", (0, 7), (0, 10)),
    ("current vLLM instance can use", None, (0, 10)),
    (r"Model loading took [\d.]+ GB", (0, 8), (0, 8)),
    (r"Model loading took [\d.]+ GiB and", (0, 8), (0, 11)),
    (r"Model loading took [\d.]+ GiB memory and", (0, 11), None),
    ("GPU KV cache size", (0, 8), None),
    ("Available KV cache memory", (0, 9), None),
    (r"\(EngineCore_\d", (0, 10), (0, 10)),
    (r"\(EngineCore_DP\d", (0, 10), (0, 16)),
    (r"\(EngineCore pid", (0, 17), None),
    ("CUDA graph memory", (0, 18), None),
    ("CUDA graph pool memory", (0, 18), None),
)
# A checkpoint's format, as engines and names of checkpoints call it, in our words. What holds by module is
# the checkpoint's own business: its config says it.
_FORMATS = (
    (r"fp8", "fp8"), (r"w8a8|int8", "int8"),
    (r"awq|gptq|int4|w4a16|bitsandbytes|bnb|4bit|auto-round|inc", "int4"),
)  # fmt: skip
_SUFFIX = re.compile(
    r"[-_.](?:nvfp4|mxfp4|fp8|awq|gptq|int[48]|w[48]a(?:4|8|16)|[48]bits?|bnb|quantized|dynamic|block|static|"
    r"per-?tensor|marlin|autoround|g\d+|gguf|hf|vllm)$",
    re.IGNORECASE,
)
_TYPES = {"half": "float16", "float": "float32"}
_TAKEN = (
    "tensor_parallel_size", "pipeline_parallel_size", "max_model_len", "max_num_seqs",
    "max_num_batched_tokens", "gpu_memory_utilization", "mem_fraction_static", "free_gpu_memory_fraction",
    "block_size", "num_gpu_blocks_override", "kv_cache_memory_bytes", "enable_prefix_caching",
    "enable_chunked_prefill",
)  # fmt: skip
_TOLD = (
    "vllm_version", "tensor_parallel_size", "max_model_len", "gpu_memory_utilization", "max_num_seqs",
    "max_num_batched_tokens", "block_size", "dtype", "quantization", "kv_cache_dtype", "sampler",
    "enable_prefix_caching", "async_scheduling",
)  # fmt: skip
_OF_VLLM = ("vllm_version", "gpu_memory_utilization", "sampler")


def beside_log(log: StartLog, given: Given) -> LogBeside:
    """Our account with the log's settings, and with those ``given`` in their place, beside the log.

    ``given``: ``model`` and ``hardware`` by name or path, and keys of the engine. Raises ScenarioError where
    what is given is wrong; what the log says and we cannot follow is a note.
    """
    settings = {one.name: one for one in _of_log(log)}
    for name, value in given.items():
        before = settings.get(name)
        differs = before is not None and before.origin == "log" and before.value != value
        instead = str(before.value) if before is not None and differs else ""
        if name == "model" and name in log.settings and log.settings[name].value != value:
            instead = str(log.settings[name].value)
        settings[name] = Setting(name=name, value=value, origin="given", instead_of=instead)
    model, hardware, notes = _model(log, settings), _hardware(log, settings), [*_notes(log)]
    if isinstance(model, ModelShape):
        settings |= {one.name: one for one in _format_of(log, model, settings)}
    keys = {name: one.value for name, one in settings.items() if name not in ("model", "hardware")}
    ours, refusal = None, model if isinstance(model, str) else ""
    if isinstance(model, ModelShape):
        if hardware is None:
            settings["hardware"] = _device_by_cache(log, model, keys)
            hardware = load_hardware(settings["hardware"].value)
        ours, refusal = _ours(model, hardware, keys, given)
        if ours is not None:
            settings |= {one.name: one for one in _unsaid(log, settings, ours)}
    unsaid = {name for name, one in settings.items() if one.origin == "assumed"}
    tried: dict[str, Any] = {name: values for name, values in TRIED.items() if name in unsaid}
    if "vllm_version" in unsaid:
        tried["vllm_version"] = _releases(log)

    def account(changes: Given) -> Ours | None:
        if not isinstance(model, ModelShape) or hardware is None:
            return None
        return _made(model, hardware, {**keys, **changes})

    return LogBeside(
        log=log,
        settings=tuple(settings.values()),
        rows=rows_of(log, account if ours else lambda _: None, tried),
        ours=ours,
        refusal=refusal,
        notes=tuple(notes),
    )


def _ours(model: ModelShape, hardware: HardwareProfile, keys: Given, given: Given) -> tuple[Ours | None, str]:
    """Our account, and why it would not start; an error in what was given is raised."""
    try:
        engine = engine_for(keys, hardware, model)
        plan = memory_plan(model, hardware, engine, refuses=False)
    except ScenarioError as error:
        if error.path.rpartition(".")[2] in given:
            raise
        return None, error.problem
    refusal = ""
    try:
        memory_plan(model, hardware, engine)
    except ScenarioError as error:
        refusal = error.problem.replace("\n ", ":").strip()
    return Ours(plan=plan, model=model, engine=engine, hardware=hardware), refusal


def _made(model: ModelShape, hardware: HardwareProfile, keys: Given) -> Ours | None:
    try:
        engine = engine_for(keys, hardware, model)
        plan = memory_plan(model, hardware, engine, refuses=False)
    except ScenarioError:
        return None
    return Ours(plan=plan, model=model, engine=engine, hardware=hardware)


def _of_log(log: StartLog) -> Iterator[Setting]:
    """What the log says of the engine, by our names."""
    said = log.settings
    yield Setting(name="runtime", value=log.engine, origin="log", why="by the wording of its lines")
    if log.engine == "vllm":
        yield _version(log)
    for name in _TAKEN:
        fact = said.get(name)
        if fact is not None and isinstance(fact.value, (int, float)) and fact.value != -1:
            yield Setting(name=name, value=fact.value, origin="log", line=fact.line)
    yield from (one for one in _sizes_by_ranks(log) if one.name not in said)
    for name in ("dtype", "kv_cache_dtype"):
        fact = said.get(name)
        word = str(fact.value).lower() if fact else ""
        word = "fp8" if word.startswith("fp8") else _TYPES.get(word, word)
        if fact and word in ("fp8", "bfloat16", "float16", "float32") and (name, word) != ("dtype", "fp8"):
            yield Setting(name=name, value=word, origin="log", line=fact.line)
    yield from _words_of_log(log)


def _words_of_log(log: StartLog) -> Iterator[Setting]:
    """Settings that lines of their own say in words."""
    said = log.settings
    if (block := log.last("tokens_per_block")) is not None:
        yield Setting(name="block_size", value=block.value, origin="log", line=block.line)
    if (mode := said.get("performance_mode")) is not None and mode.value in get_args(PerformanceMode):
        yield Setting(name="performance_mode", value=mode.value, origin="log", line=mode.line)
    if "async_scheduling" in said:
        fact = said["async_scheduling"]
        yield Setting(
            name="async_scheduling", value=fact.value in (True, "enabled"), origin="log", line=fact.line
        )
    for fact_name, sampler in (("flashinfer_sampler", "flashinfer"), ("pytorch_sampler", "pytorch")):
        if (found := log.last(fact_name)) is not None:
            yield Setting(name="sampler", value=sampler, origin="log", line=found.line)
    if (context := said.get("usage_context")) is not None:
        usage = "offline" if context.value == "LLM_CLASS" else "server"
        yield Setting(name="usage", value=usage, origin="log", line=context.line)


def _version(log: StartLog) -> Setting:
    """The release: as the log says it, the nearest that is modelled, or the newest with its wordings."""
    fact = log.settings.get("version")
    if fact is not None and is_known_release(str(fact.value)):
        return Setting(name="vllm_version", value=str(fact.value), origin="log", line=fact.line)
    since, until = _era(log)
    version = version_of(str(fact.value)) if fact is not None else None
    if fact is not None and version is not None:
        nearest, why = (
            min(max(version, OLDEST), NEWEST),
            f"the nearest to the log's {fact.value} that is modelled",
        )
    else:
        nearest, why = until, f"the newest whose wordings these are, from {since[0]}.{since[1]} on"
    value = LATEST if nearest == NEWEST else f"{nearest[0]}.{nearest[1]}"
    return Setting(name="vllm_version", value=value, origin="assumed", why=why)


def _era(log: StartLog) -> tuple[tuple[int, int], tuple[int, int]]:
    """The first and the last release that print such lines."""
    since, until = OLDEST, NEWEST
    for wording, first, last in _ERAS:
        if any(re.search(wording, text) for text in log.texts.values()):
            since, until = max(since, first or since), min(until, last or until)
    return since, max(since, until)


def _releases(log: StartLog) -> tuple[str, ...]:
    """Those of them from which on something changed."""
    since, until = _era(log)
    return tuple(f"{major}.{minor}" for (major, minor), _ in CHANGES if since <= (major, minor) <= until)


def _sizes_by_ranks(log: StartLog) -> Iterator[Setting]:
    """From the world's size, or from who prints: at least two where a line says which of several it is."""
    stages = _ranks(log, "PP")
    if stages:
        why = f"ranks up to PP{max(stages)} print"
        yield Setting(name="pipeline_parallel_size", value=max(2, max(stages) + 1), origin="assumed", why=why)
    world, name = log.last("world_size"), "tensor_parallel_size"
    numbers, workers = _ranks(log, "TP"), [rank for rank in log.ranks if rank.startswith("pid=")]
    if world is not None and isinstance(world.value, int):
        size = max(1, world.value // (max(stages) + 1 if stages else 1))
        yield Setting(name=name, value=size, origin="log", line=world.line)
    elif numbers:
        why = f"ranks up to TP{max(numbers)} print"
        yield Setting(name=name, value=max(2, 1 << max(numbers).bit_length()), origin="assumed", why=why)
    elif workers:
        why = (
            f"{len(workers)} more worker processes print" if workers[1:] else "one more worker process prints"
        )
        yield Setting(name=name, value=1 << len(workers).bit_length(), origin="assumed", why=why)


def _ranks(log: StartLog, tag: str) -> list[int]:
    return [int(found[1]) for rank in log.ranks if (found := re.search(rf"(?<![A-Z]){tag}(\d+)", rank))]


def _format_of(log: StartLog, model: ModelShape, settings: Mapping[str, Setting]) -> Iterator[Setting]:
    """A format that the log's words or the checkpoint's name promise, where the config has none."""
    if "quantization" in settings or model.checkpoint_quantization != "none":
        return
    fact, name = log.settings.get("quantization"), log.settings.get("model")
    for said, why in ((fact, "the log's {}"), (name, "the name {}")):
        word = str(said.value).lower() if said else ""
        found = next((kind for pattern, kind in _FORMATS if re.search(pattern, word)), None)
        if found is not None and said is not None:
            why = why.format(said.value) + "; the checkpoint's own config.json says which modules"
            yield Setting(name="quantization", value=found, origin="assumed", why=why)
            return


def _model(log: StartLog, settings: dict[str, Setting]) -> ModelShape | str:
    """The shape, or why there is none."""
    if "model" in settings:
        return load_model(settings["model"].value, path="--model")
    fact = log.settings.get("model")
    if fact is None:
        return "the log names no model: --model"
    for name in _names_of(str(fact.value)):
        try:
            model = load_model(name, path="--model")
        except ScenarioError:
            continue
        why = "" if name == fact.value else f"the shape of {name}"
        settings["model"] = Setting(name="model", value=fact.value, origin="log", line=fact.line, why=why)
        return model
    return f"no shipped shape is called {fact.value}: --model, a shipped name or its config.json"


def _names_of(said: str) -> Iterator[str]:
    """What a model may be called in the catalogue: as written, by the end of its path, without its format."""
    cached = re.search(r"models--([\w.-]+?)--([\w.-]+)", said)
    parts = [part for part in re.split(r"[\\/]+", said) if part]
    names = [
        said,
        *([f"{cached[1]}/{cached[2]}"] if cached else []),
        "/".join(parts[-2:]),
        parts[-1] if parts else "",
    ]
    known: dict[str, str] = {}
    for one in hugging_face_names():
        known.setdefault(one.lower().rpartition("/")[2], one)
    for name in names:
        yield name
        short = name.lower().rpartition("/")[2]
        while True:
            if short in known:
                yield known[short]
            shorter = _SUFFIX.sub("", short)
            if shorter == short:
                break
            short = shorter


_NEAR_DEVICE, USUAL_DEVICE = 0.01, "h100-sxm-80gb"
_NEAR_CACHE = 0.1  # of the device's memory: settings that the log does not say change no more of it


def _hardware(log: StartLog, settings: dict[str, Setting]) -> HardwareProfile | None:
    """The device given, else the shipped one whose memory is nearest to the total that the log says.

    Where none is near: the nearest, with that much memory.
    """
    if "hardware" in settings:
        return load_hardware(settings["hardware"].value, path="--hardware")
    total = log.last("device_total_bytes")
    if total is None or not isinstance(total.value, int) or total.value <= 0:
        return None
    bytes_ = total.value
    near = sorted((max(size, bytes_) / min(size, bytes_) - 1, name) for name, size in _memory_of_devices())
    alike = [name for distance, name in near if distance <= _NEAR_DEVICE]
    name, said = near[0][1], f"the log's {bytes_ / GIB:.2f} GiB"
    others = (
        f"; {', '.join(alike[1:4])} {'has' if len(alike) == 2 else 'have'} about as much" if alike[1:] else ""
    )
    why = f"its memory is nearest to {said}{others}" if alike else f"with {said}, which no shipped device has"
    settings["hardware"] = Setting(name="hardware", value=name, origin="assumed", line=total.line, why=why)
    device = load_hardware(name)
    return device if alike else replace(device, hbm_bytes=bytes_)


def _device_by_cache(log: StartLog, model: ModelShape, keys: Given) -> Setting:
    """Where no line says the device: the shipped one whose KV cache is nearest to the log's."""
    sizes = [
        float(fact.value) for fact in facts_of(log, "kv_cache_bytes") if isinstance(fact.value, int | float)
    ]
    if not sizes or min(sizes) <= 0:
        why = "the log says neither the device nor how much memory it has: --hardware"
        return Setting(name="hardware", value=USUAL_DEVICE, origin="assumed", why=why)
    made = ((name, _made(model, load_hardware(name), keys)) for name in hardware_names())
    gaps = [
        (abs(ours.left_for_kv - min(sizes)), name, ours.hardware.hbm_bytes) for name, ours in made if ours
    ]
    gap, name, total = min(gaps, default=(0.0, USUAL_DEVICE, 1))
    said = f"nearest to the log's {min(sizes) / GIB:.2f} GiB"
    why = f"of all shipped devices its KV cache is {said}: --hardware"
    parts = [facts_of(log, f"{part}_bytes") for part in ("free_after_weights", "weights")]
    held = sum(max(float(fact.value or 0) for fact in facts) for facts in parts if facts) if all(parts) else 0
    if held > total:
        why = (
            f"no shipped device fits: {held / GIB:.2f} GiB of weights and free memory are logged: --hardware"
        )
    elif gap > _NEAR_CACHE * total:
        why = f"no shipped device fits: its KV cache is {said}, and {gap / GIB:.1f} GiB off: --hardware"
    return Setting(name="hardware", value=name, origin="assumed", why=why)


@lru_cache(maxsize=1)
def _memory_of_devices() -> tuple[tuple[str, int], ...]:
    return tuple((name, load_hardware(name).hbm_bytes) for name in hardware_names())


def _unsaid(log: StartLog, settings: Mapping[str, Setting], ours: Ours) -> Iterator[Setting]:
    """What the account took by itself: vLLM's default where the log prints all that is not one."""
    has_args = any("non-default args" in text for text in log.texts.values())
    for name in _TOLD:
        if name in settings or (name in _OF_VLLM and log.engine != "vllm"):
            continue
        value = ours.plan.max_model_len if name == "max_model_len" else getattr(ours.engine, name)
        said, is_default = log.settings.get(name), has_args and name != "sampler"
        why = (
            f"what {said.value} holds in which format, the checkpoint's own config.json says" if said else ""
        )
        is_default &= said is None
        yield Setting(name=name, value=value, origin="default" if is_default else "assumed", why=why)


def _notes(log: StartLog) -> Iterator[str]:
    """What the log says that the account does not have, and how it ended."""
    if log.num_starts > 1:
        yield f"the log holds {log.num_starts} starts: the last that says anything of memory is read"
    for fact in _first_of_each(log.of("error")):
        yield f"line {fact.line}: the start failed: {fact.value}"
    if (tried := log.last("tried_to_allocate_bytes")) is not None and isinstance(tried.value, int):
        yield f"line {tried.line}: {tried.value / GIB:.2f} GiB could not be had"
    for name, brings in NOT_COUNTED.items():
        found = log.settings.get(name)
        if found is None or (found.value is not True and found.value in (False, 0, 1, "0", None)):
            continue
        what = f"{brings}, which is not counted here"
        if name == "speculative_config" and "ngram" in str(found.value):
            what = "drafts looked up in the prompt, which have no weights and no KV of their own"
        yield f"line {found.line}: {name} {_short(found.value)}: {what}"
    eager = log.settings.get("enforce_eager")
    if eager is not None and eager.value is True:
        less = "no CUDA graphs are captured; a part of ours for them is too much"
        yield f"line {eager.line}: enforce_eager: {less}"
    encoder = log.last("encoder_tokens_bytes") or log.last("encoder_tokens")
    if encoder is not None:
        yield f"line {encoder.line}: a multimodal encoder ran as well; our activation peak is without it"


def _first_of_each(facts: Sequence[Fact]) -> Iterator[Fact]:
    seen = set()
    for fact in facts:
        if fact.value not in seen:
            seen.add(fact.value)
            yield fact


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."
