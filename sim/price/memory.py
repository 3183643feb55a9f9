"""Where a device's memory goes: weights, what start-up takes, and what is left for KV.

The account is vLLM's (``sim.hardware.vllm_releases``: by release), SGLang's or TensorRT-LLM's
(``engine.runtime``); how bytes become blocks and requests is ``sim.model.kv_groups``.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from sim.errors import CannotRun, ScenarioError
from sim.hardware.vllm_releases import check_architecture, release_of
from sim.model.counts import (
    check_tensor_parallel_size,
    kv_bytes_per_token,
    kv_dtype_bytes,
    served_dtype,
    state_bytes_per_request,
)
from sim.model.kv_groups import KvGroup, KvPool, LayerKv, groups_of, kept_whole, pool_of
from sim.model.kv_layers import KvSettings, block_size_of, kv_groups, layers_kv
from sim.model.shape import ModelShape, Stage, stages_of
from sim.model.weights import check_block_split, served_quantization, weight_bytes
from sim.price.memory_lines import GIB, NCCL_GIB, MemoryLine, account_lines, generation_of
from sim.price.memory_words import MemoryPlan, counted, doubts_of, kv_formula, notes_of, warnings_of
from sim.scenario.dataclass import dataclass

if TYPE_CHECKING:
    from sim.hardware import HardwareProfile
    from sim.price.priced import PricedEngine


def memory_plan(
    model: ModelShape, hardware: HardwareProfile, engine: PricedEngine, *, refuses: bool = True
) -> MemoryPlan:
    """The account of one GPU of the replica; refused where nothing is left for KV, or too little for vLLM.

    Over pipeline stages it is the GPU of the stage with the fewest blocks: vLLM gives every stage as many.
    ``max_model_len: -1`` becomes the longest that fits. Not ``refuses``: an account without room is one too.

    Not modelled: LoRA adapters, a vision encoder's run, draft models, fragmentation of PyTorch's allocator,
    memory that other processes hold.
    """
    if engine.runtime == "vllm":
        check_architecture(model.architecture, model.name, engine.vllm_version)
    check_tensor_parallel_size(model, engine.tensor_parallel_size)
    if engine.quantization == "none":
        check_block_split(model, engine.tensor_parallel_size)
    groups = _groups(model, hardware, engine)
    first, accounts = 0, []
    for stage in stages_of(model, engine.pipeline_parallel_size):
        count = stage.shape.num_hidden_layers
        held = tuple(part for group in groups if (part := group.of_layers(first, count)).layers)
        if held:
            accounts.append(_account(stage, hardware, engine, held, refuses=refuses))
        first += count
    tightest = min(accounts, key=lambda account: account.pool.num_blocks)
    length = _length(model, engine, tightest.pool)
    if refuses:
        _check_room(length, engine, tightest.pool)
    return _plan(model, hardware, engine, tightest, length)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Account:
    """Of one stage's GPU."""

    stage: Stage
    lines: tuple[MemoryLine, ...]
    pool: KvPool


def _groups(model: ModelShape, hardware: HardwareProfile, engine: PricedEngine) -> tuple[KvGroup, ...]:
    settings = kv_settings(hardware, engine)
    if engine.runtime == "vllm":
        return kv_groups(model, settings)
    return _groups_of_others(layers_kv(model, settings))


def _groups_of_others(layers: list[LayerKv]) -> tuple[KvGroup, ...]:
    """SGLang and TensorRT-LLM keep every token in every layer here: their pools for windows are not modelled.

    States come out of the same bytes, as many blocks as each takes; how the engines part the two is not
    modelled either.
    """
    attention = [kept_whole(one, one.block_size) for one in layers if one.kind != "state"]
    states = [one for one in layers if one.kind == "state"]
    if not attention or not states:
        return groups_of([*attention, *states])
    block_bytes = sum(one.page_bytes for one in attention)
    ends = [-(-total // block_bytes) for total in accumulate(one.page_bytes for one in states)]
    parted = (
        replace(one, page_bytes=block_bytes, pages_per_request=end - start, pages_held=end - start)
        for one, start, end in zip(states, (0, *ends), ends, strict=False)
    )
    return (*groups_of(attention), *(KvGroup(layers=(one,)) for one in parted))


def kv_settings(hardware: HardwareProfile, engine: PricedEngine) -> KvSettings:
    """What decides the pages of a model under this engine on this device."""
    release = release_of(engine.vllm_version)
    return KvSettings(
        kv_cache_dtype=engine.kv_cache_dtype,
        dtype=engine.dtype,
        tensor_parallel_size=engine.tensor_parallel_size,
        block_size=engine.block_size,
        generation=generation_of(hardware),
        caches_states=engine.runtime == "vllm" and engine.enable_prefix_caching and release.caches_states,
        keeps_checkpoints=release.keeps_checkpoints,
        delta_alignment=release.delta_alignment,
        latent_alignment=release.latent_alignment,
        raises_blocks=engine.runtime == "vllm",
    )


def kv_block_size(model: ModelShape, hardware: HardwareProfile, engine: PricedEngine) -> int:
    """Tokens of a block: as asked for, raised to what the attention kernels take and what holds a state."""
    return block_size_of(model, kv_settings(hardware, engine))


def settled_sizes(model: ModelShape, hardware: HardwareProfile, engine: PricedEngine) -> dict[str, Any]:
    """The keys that this model on this device changes: the block, and a length that is to be fitted."""
    changed: dict[str, Any] = {}
    if engine.runtime == "vllm":
        block = kv_block_size(model, hardware, engine)
        changed |= {"block_size": block} if block != engine.block_size else {}
    if engine.max_model_len == FITTED:
        changed["max_model_len"] = memory_plan(model, hardware, engine).max_model_len
    return changed


def in_flight_tokens(engine: PricedEngine) -> int:
    """Tokens under way at once: of two batches with asynchronous scheduling, else of one for each stage."""
    if not release_of(engine.vllm_version).counts_batches_in_flight:
        return engine.max_num_batched_tokens
    return (engine.pipeline_parallel_size + engine.async_scheduling) * engine.max_num_batched_tokens


def check_length(model: ModelShape, engine: PricedEngine) -> None:
    """No longer than the model's positions."""
    given, longest = engine.max_model_len, model.max_position_embeddings
    if given is not None and given > longest:
        raise ScenarioError(
            f"max_model_len {given:,} is above the {longest:,} positions of {model.name} "
            "(max_position_embeddings)",
            path="engine.max_model_len",
            given=given,
            allowed=f"at most {longest:,}",
            hint=f"max_model_len: {longest}",
        )


FITTED = -1
"""``max_model_len`` that asks for the longest that fits."""


def _length(model: ModelShape, engine: PricedEngine, pool: KvPool) -> int:
    if engine.max_model_len != FITTED:
        return engine.max_model_len or model.max_position_embeddings
    longest = pool.longest(model.max_position_embeddings)
    if longest == 0:
        raise CannotRun(
            "not even one token fits into the KV cache",
            path="engine.max_model_len",
            given=FITTED,
            hint="a larger gpu_memory_utilization, or a smaller max_num_seqs",
        )
    return longest


def _check_room(length: int, engine: PricedEngine, pool: KvPool) -> None:
    """vLLM starts only where one request of max_model_len fits."""
    if not engine.needs_room_for_longest or pool.fits(length):
        return
    longest = pool.longest(length)
    needed, left = pool.blocks_of(length) * pool.block_bytes, pool.usable_blocks * pool.block_bytes
    said = "max_model_len" if engine.max_model_len else "max_model_len (the model's)"
    more = "a larger gpu_memory_utilization, or a smaller max_num_seqs"
    if engine.num_gpu_blocks_override is not None:
        least = pool.blocks_of(length) + pool.reserves_null_block
        more = f"num_gpu_blocks_override: {least}"
    raise CannotRun(
        f"{said} {length:,}: one request of it needs {needed / GIB:.2f} GiB of KV cache, and "
        f"{left / GIB:.2f} GiB are there; vLLM refuses to start",
        path="engine.max_model_len",
        given=engine.max_model_len,
        allowed=f"at most {longest:,}" if longest else "",
        hint=f"max_model_len: {longest}, -1 for the longest that fits, or {more}" if longest else more,
    )


def _account(
    stage: Stage,
    hardware: HardwareProfile,
    engine: PricedEngine,
    groups: tuple[KvGroup, ...],
    *,
    refuses: bool,
) -> _Account:
    release = release_of(engine.vllm_version)
    lines = account_lines(stage, hardware, engine)
    budget = engine.kv_cache_memory_bytes
    if budget is None:
        budget = sum(line.num_bytes for line in lines)
    pool = pool_of(
        groups,
        budget,
        in_flight_tokens=in_flight_tokens(engine),
        reserves_null_block=engine.runtime == "vllm" and release.reserves_null_block,
    )
    if engine.num_gpu_blocks_override is not None:
        pool = replace(pool, num_blocks=engine.num_gpu_blocks_override)
    if refuses and pool.num_blocks == 0 and budget > 0:
        raise _block_too_large(engine, pool.block_bytes, budget)
    if refuses and pool.num_blocks == 0:
        raise _no_room(stage.shape, hardware, engine, lines)
    return _Account(stage=stage, lines=lines, pool=pool)


def _plan(
    model: ModelShape, hardware: HardwareProfile, engine: PricedEngine, account: _Account, length: int
) -> MemoryPlan:
    pool, stage = account.pool, account.stage
    tp, width = engine.tensor_parallel_size, kv_dtype_bytes(model, engine.kv_cache_dtype, engine.dtype)
    per_token = kv_bytes_per_token(stage.shape, width, tp)
    states = state_bytes_per_request(stage.shape, engine.dtype, tp)
    budget = engine.kv_cache_memory_bytes or sum(line.num_bytes for line in account.lines)
    if engine.num_gpu_blocks_override is not None:
        budget = pool.num_blocks * pool.block_bytes
    block = max(group.block_size for group in pool.groups)
    tokens, tokens_formula = _logged_tokens(pool, length, engine)
    return MemoryPlan(
        account=f"vllm {engine.vllm_version}" if engine.runtime == "vllm" else engine.runtime,
        lines=account.lines,
        kv_budget_bytes=budget,
        kv_budget_formula=_budget_formula(engine, account),
        kv_bytes_per_token=per_token,
        kv_formula=kv_formula(model, pool.groups, engine),
        state_bytes_per_sequence=states,
        block_size=min(group.block_size for group in pool.groups),
        num_gpu_blocks=pool.num_blocks,
        whole_blocks=_whole_blocks(pool, length, block),
        kv_budget_tokens=tokens,
        kv_tokens_formula=tokens_formula,
        max_model_len=length,
        longest_position=model.max_position_embeddings,
        longest_that_fits=pool.longest(model.max_position_embeddings),
        kv_bytes_per_full_request=pool.blocks_of(length) * pool.block_bytes,
        max_concurrency=pool.concurrency(length),
        max_num_seqs=engine.max_num_seqs,
        max_num_batched_tokens=engine.max_num_batched_tokens,
        overridden=engine.num_gpu_blocks_override is not None,
        pool=pool,
        notes=notes_of(stage, engine, account.lines, pool),
        warnings=warnings_of(stage, hardware, engine, account.lines, pool),
        doubts=doubts_of(model, engine),
    )


def _budget_formula(engine: PricedEngine, account: _Account) -> str:
    """Where the bytes for KV come from: what the lines above leave, unless they were given."""
    if engine.num_gpu_blocks_override is not None:
        return "num_gpu_blocks_override x bytes of a block"
    if engine.kv_cache_memory_bytes is None:
        return "what is left"
    left = sum(line.num_bytes for line in account.lines) / GIB
    rest = left - engine.kv_cache_memory_bytes / GIB
    told = f"{rest:.2f} GiB of it stay unused" if rest >= 0 else f"{-rest:.2f} GiB less than given"
    return f"kv_cache_memory_bytes, as given; the lines above leave {left:.2f} GiB, {told}"


def _whole_blocks(pool: KvPool, length: int, block: int) -> int:
    """Blocks with all layers in them: as many as one group has; else as hold as many requests."""
    if len(pool.groups) == 1 and pool.groups[0].kind == "full":
        return pool.num_blocks
    return int(pool.concurrency(length) * -(-length // block))


def _logged_tokens(pool: KvPool, length: int, engine: PricedEngine) -> tuple[int, str]:
    """ "GPU KV cache size" of the log, and where it comes from."""
    blocks = counted(pool.num_blocks, "block")
    if len(pool.groups) == 1 and pool.groups[0].kind == "full":
        size = pool.groups[0].block_size
        return pool.num_blocks * size, f"{blocks} x {counted(size, 'token')}"
    if engine.runtime == "vllm" and release_of(engine.vllm_version).prints_tokens_of_groups:
        size, groups = min(group.block_size for group in pool.groups), len(pool.groups)
        words = f"as this release logs it: {blocks} / {counted(groups, 'group')} x {counted(size, 'token')}"
        return pool.num_blocks // groups * size, f"{words}; {_NO_CAPACITY}"
    tokens = int(pool.concurrency(length) * length)
    if engine.runtime != "vllm":
        return tokens, f"full-length requests x max_model_len {length:,}, each with its states"
    return tokens, f"as the log counts them: maximum concurrency x max_model_len {length:,}; {_NO_CAPACITY}"


_NO_CAPACITY = "no capacity, for windows and states do not take a block for every token"


def _no_room(
    model: ModelShape, hardware: HardwareProfile, engine: PricedEngine, lines: tuple[MemoryLine, ...]
) -> ScenarioError:
    is_vllm = engine.runtime == "vllm"
    usable_share = engine.gpu_memory_utilization if is_vllm else 1.0
    usable = int(hardware.hbm_bytes * usable_share)
    weights = -next(line.num_bytes for line in lines if line.label == "weights")
    beside = -sum(line.num_bytes for line in lines[1:] if line.label not in ("weights", "left alone"))
    held = served_quantization(model, engine.quantization)
    kind = served_dtype(model, engine.dtype) if held == "none" else held
    tp = engine.tensor_parallel_size
    needed = (weights + beside) / usable_share
    share = (weights + beside) / hardware.hbm_bytes
    tries = [f"a profile with hbm_bytes above {needed / 1e9:.0f} GB"]
    if any(line.label == "attention scores" for line in lines):
        tries.insert(0, "attention: flash, or a smaller max_num_batched_tokens or max_model_len")
    if held == "none":
        for quantization in ("fp8", "int4"):
            smaller = weight_bytes(
                model, quantization=quantization, dtype=engine.dtype, tensor_parallel_size=tp
            )
            if smaller + beside < usable:
                tries.insert(0, f"quantization: {quantization} ({smaller / 1e9:.1f} GB)")
    larger = _fitting_tensor_parallel_size(model, engine, usable - beside)
    if usable_share < 0.9 and share < 0.9:
        tries.insert(0, f"gpu_memory_utilization: 0.9 (it takes more than {share:.2f})")
    if larger:
        tries.append(f"tensor_parallel_size: {larger}")
    said = f" x gpu_memory_utilization {usable_share:.2f} = {usable / 1e9:.1f} GB" if is_vllm else ""
    return CannotRun(
        "the model leaves no room for KV cache\n"
        f"  {hardware.hbm_bytes / 1e9:.1f} GB{said}; weights of {model.name} in {kind}"
        f"{f' on each of {tp} GPUs' if tp > 1 else ''} = {weights / 1e9:.1f} GB, "
        f"what {'start-up takes' if is_vllm else f'{engine.runtime} keeps'} beside = {beside / 1e9:.1f} GB",
        path="engine",
        hint=", or ".join(tries),
    )


def _block_too_large(engine: PricedEngine, block_bytes: int, left_bytes: int) -> ScenarioError:
    largest = left_bytes * engine.block_size // block_bytes
    return CannotRun(
        f"no block fits into what is left for KV cache: {engine.block_size:,} tokens are "
        f"{block_bytes / 1e9:.2f} GB, {left_bytes / 1e9:.2f} GB are left",
        path="engine.block_size",
        given=engine.block_size,
        allowed=f"at most {largest:,} here" if largest else "",
        hint="block_size: 16"
        if largest >= 16
        else "a smaller model or quantization, or a device with more HBM",
    )


def _fitting_tensor_parallel_size(model: ModelShape, engine: PricedEngine, room: float) -> int | None:
    """The smallest split of the usual ones under which the weights fit into ``room`` bytes."""
    for tp in (2, 4, 8, 16):
        if tp <= engine.tensor_parallel_size or model.num_attention_heads % tp:
            continue
        if (
            weight_bytes(model, quantization=engine.quantization, dtype=engine.dtype, tensor_parallel_size=tp)
            < room - NCCL_GIB * GIB
        ):
            return tp
    return None
