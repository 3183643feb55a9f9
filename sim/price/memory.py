"""Where a device's memory goes: weights, activations, CUDA graphs, and what is left for KV."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from sim.errors import CannotRun, ScenarioError
from sim.model.counts import (
    DTYPE_BYTES,
    check_tensor_parallel_size,
    kv_bytes_for_request,
    kv_bytes_per_token,
    kv_dtype_bytes,
    kv_heads_per_gpu,
    num_parameters,
    served_dtype,
    state_bytes_per_request,
)
from sim.model.matrices import layer_matrices
from sim.model.shape import ModelShape, Stage, stages_of
from sim.model.weights import check_block_split, served_quantization, weight_bytes
from sim.scenario.dataclass import dataclass

if TYPE_CHECKING:
    from sim.hardware import HardwareProfile
    from sim.price.priced import PricedEngine


# Per sequence and vocabulary entry while PyTorch sorts the logits for top-k and top-p, beside the
# logits in the model's type: float32 logits 4, sorted values 4, their int64 indices 8, the sort's
# int64 input indices 8, and its scratch for keys and values 4 + 8. With two bytes for bfloat16 logits
# that is 38. Logs say, peak over max_num_seqs x vocab_size: Llama-3-8B 41 (vllm#10511), Qwen2.5-7B 39
# (vllm#13882), gemma-3-4b-it with 1,024 sequences 40 (vllm#21489, vision encoder included).
# Not modelled: FlashInfer's and Triton's samplers, which do without the sort and take less.
SAMPLER_BYTES_PER_LOGIT = 4 + 4 + 8 + 8 + (4 + 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationPeak:
    """Bytes on one GPU, and the formula with its numbers."""

    num_bytes: int
    formula: str


def activation_peak(model: ModelShape, engine: PricedEngine, *, samples: bool = True) -> ActivationPeak:
    """The larger of the layers' and the sampler's moment (see the module); without ``samples`` the former.

    Not modelled: attention workspaces, buffers of the custom all-reduce, vision encoders, and the
    allocator's rounding.
    """
    tokens, seqs = engine.max_num_batched_tokens, min(engine.max_num_seqs, engine.max_num_batched_tokens)
    width = DTYPE_BYTES[served_dtype(model, engine.dtype)]
    hidden = tokens * model.hidden_size * width
    per_token = widest_part(model, engine.tensor_parallel_size)
    # Two of hidden_size: the hidden states and the residual.
    layers = tokens * per_token * width + 2 * hidden
    per_logit = width + SAMPLER_BYTES_PER_LOGIT
    sampler = seqs * model.vocab_size * per_logit + hidden
    if layers >= sampler or not samples:
        return ActivationPeak(
            num_bytes=layers,
            formula=f"layers: max_num_batched_tokens {tokens:,} x (2 x hidden_size {model.hidden_size:,} + "
            f"widest part {per_token:,}) x {width} B",
        )
    return ActivationPeak(
        num_bytes=sampler,
        formula=f"sampler: max_num_seqs {seqs:,} x vocab_size {model.vocab_size:,} x {per_logit} B + "
        f"max_num_batched_tokens {tokens:,} x hidden_size {model.hidden_size:,} x {width} B",
    )


def widest_part(model: ModelShape, tensor_parallel_size: int) -> int:
    """Entries per token that live at once in the widest part of a layer, beside the residual stream.

    q, k, v and the attention's output; or gate, up and their product; with experts, the latter for
    each visited expert, its output sharing the memory of gate and up.
    """
    by_name = {matrix.name: matrix for matrix in layer_matrices(model, tensor_parallel_size)}
    widths = [0]
    attention = sum(
        by_name[name].n for name in ("qkv_proj", "q_proj", "q_b_proj", "kv_b_proj") if name in by_name
    )
    if "o_proj" in by_name:
        widths.append(attention + by_name["o_proj"].k)
    for up, down in (("gate_up_proj", "down_proj"), ("up_proj", "down_proj")):
        if up in by_name:
            widths.append(by_name[up].n + by_name[down].k)
    if "moe_gate_up" in by_name:
        up_n, down_k = by_name["moe_gate_up"].n, by_name["moe_down"].k
        visited = by_name["moe_gate_up"].experts_per_token
        widths.append(visited * (max(up_n, model.hidden_size) + down_k))
    return max(widths)


GIB = 2**30


# What lies outside of PyTorch's allocator: the CUDA context's growth after start-up, cuBLAS and NCCL.
# vLLM's logs print 0.02 to 0.09 GiB on one GPU (0.07: vllm#21489) and 0.20 to 0.30 GiB on two
# (vllm#14447, vllm#15815); eight GPUs have been seen with 0.9 to 2.2 GiB.
NON_TORCH_BYTES = 0.08 * GIB


NON_TORCH_BYTES_OF_NCCL = 0.20 * GIB


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLine:
    """One line of the account; ``num_bytes`` is negative where memory is taken."""

    label: str
    num_bytes: int
    formula: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """One GPU's memory, line by line, and what the KV cache holds.

    ``kv_budget_tokens`` is for sequences shorter than any sliding window, as vLLM's "GPU KV cache
    size" counts; ``max_concurrency`` (requests of ``max_model_len`` tokens) does take windows and
    recurrent states into account.
    """

    lines: tuple[MemoryLine, ...]
    kv_budget_bytes: int
    kv_bytes_per_token: int
    kv_formula: str
    block_size: int
    num_gpu_blocks: int
    kv_budget_tokens: int
    max_model_len: int
    kv_bytes_per_full_request: int
    max_concurrency: float
    overridden: bool  # num_gpu_blocks_override in place of the budget
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``: the fields by their names."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("lines", "notes")}
        lines = [{"label": x.label, "bytes": x.num_bytes, "formula": x.formula} for x in self.lines]
        return {"lines": lines, **plain, "notes": list(self.notes)}


def memory_plan(model: ModelShape, hardware: HardwareProfile, engine: PricedEngine) -> MemoryPlan:
    """The account of one GPU of the replica; refused where nothing is left for KV.

    Over pipeline stages it is the GPU of the stage with the fewest blocks: vLLM gives every stage as many.

    Not modelled: LoRA adapters, vision encoders, draft models, fragmentation of PyTorch's allocator,
    memory that other processes hold.
    """
    check_tensor_parallel_size(model, engine.tensor_parallel_size)
    if engine.quantization == "none":
        check_block_split(model, engine.tensor_parallel_size)
    stages = stages_of(model, engine.pipeline_parallel_size)
    return min((_stage_plan(one, hardware, engine) for one in stages), key=lambda plan: plan.num_gpu_blocks)


def _stage_plan(stage: Stage, hardware: HardwareProfile, engine: PricedEngine) -> MemoryPlan:
    model = stage.shape
    lines = _lines(stage, hardware, engine)
    budget = sum(line.num_bytes for line in lines)
    per_token = kv_bytes_per_token(model, _kv_entry_bytes(model, engine), engine.tensor_parallel_size)
    block_bytes = engine.block_size * per_token
    blocks = engine.num_gpu_blocks_override or max(0, budget) // block_bytes
    if blocks == 0 and budget > 0:
        raise _block_too_large(engine, block_bytes, budget)
    if blocks == 0:
        raise _no_room(model, hardware, engine, lines)
    length = engine.max_model_len or model.max_position_embeddings
    full = _full_request_bytes(model, engine, length)
    return MemoryPlan(
        lines=lines,
        kv_budget_bytes=blocks * block_bytes if engine.num_gpu_blocks_override else budget,
        kv_bytes_per_token=per_token,
        kv_formula=_kv_formula(model, engine),
        block_size=engine.block_size,
        num_gpu_blocks=blocks,
        kv_budget_tokens=blocks * engine.block_size,
        max_model_len=length,
        kv_bytes_per_full_request=full,
        max_concurrency=blocks * block_bytes / full,
        overridden=engine.num_gpu_blocks_override is not None,
        notes=_notes(stage, engine),
    )


def kv_of_tokens(model: ModelShape, engine: PricedEngine, num_tokens: int) -> MemoryLine:
    """The KV that one sequence of ``num_tokens`` takes on one GPU, sliding windows counted."""
    if num_tokens < 1:
        raise ScenarioError("not a number of tokens", path="tokens", given=num_tokens, allowed="at least 1")
    tp, width = engine.tensor_parallel_size, _kv_entry_bytes(model, engine)
    num_bytes = kv_bytes_for_request(model, num_tokens, width, tp)
    per_token = kv_bytes_per_token(model, width, tp)
    formula = f"{num_tokens:,} tokens x {per_token:,} B"
    if num_bytes != num_tokens * per_token:
        sliding, window = model.num_sliding_layers, model.sliding_window
        formula += f", {sliding} of {model.num_attention_layers} layers only for the last {window:,} tokens"
    return MemoryLine(label=f"KV of {num_tokens:,} tokens", num_bytes=num_bytes, formula=formula)


def render_memory(plan: MemoryPlan, tokens: MemoryLine | None = None) -> str:
    """The account as text: label, GiB, GB and formula; ``tokens`` is ``kv_of_tokens``'s line, if asked."""
    rows = [_row(line) for line in plan.lines]
    budget = "num_gpu_blocks_override x block_size x KV of a token" if plan.overridden else "what is left"
    rows.append(_row(MemoryLine(label="= KV cache", num_bytes=plan.kv_budget_bytes, formula=budget)))
    per_token = plan.kv_bytes_per_token
    rows += [
        "",
        f"KV of a token   {plan.kv_formula} = {per_token:,} B = {per_token / 1024:.4g} KiB",
        f"KV blocks       {plan.num_gpu_blocks:,} of {plan.block_size} tokens = "
        f"{plan.kv_budget_tokens:,} tokens",
        f"full requests   {plan.max_concurrency:.2f} of max_model_len {plan.max_model_len:,} tokens "
        f"({plan.kv_bytes_per_full_request / GIB:.2f} GiB each)",
    ]
    if tokens is not None:
        size = tokens.num_bytes
        sizes = f"{size / 2**20:.4g} MiB = {size / GIB:.2f} GiB = {size / 1e9:.2f} GB"
        rows.append(f"{tokens.label}: {tokens.formula} = {sizes}")
    rows += [f"note: {note}" for note in plan.notes]
    return "\n".join(rows)


def _row(line: MemoryLine) -> str:
    return f"{line.label:<28}{line.num_bytes / GIB:>9.2f} GiB{line.num_bytes / 1e9:>9.2f} GB   {line.formula}"


def _kv_formula(model: ModelShape, engine: PricedEngine) -> str:
    layers, width, tp = (
        model.num_attention_layers,
        _kv_entry_bytes(model, engine),
        engine.tensor_parallel_size,
    )
    if model.mla is not None:
        latent = f"(kv_lora_rank {model.mla.kv_lora_rank} + rope {model.mla.qk_rope_head_dim})"
        return f"{layers} layers x {latent} x {width} B"
    heads = kv_heads_per_gpu(model, tp)
    held = f"{heads} KV heads" + (f" of {model.num_key_value_heads} on each GPU" if tp > 1 else "")
    return f"{layers} layers x {held} x head_dim {model.head_dim} x 2 (K and V) x {width} B"


def _lines(stage: Stage, hardware: HardwareProfile, engine: PricedEngine) -> tuple[MemoryLine, ...]:
    total, share = hardware.hbm_bytes, engine.gpu_memory_utilization
    peak = activation_peak(stage.shape, engine, samples=stage.is_last)
    has_nccl = engine.gpus_per_replica > 1
    nccl = NON_TORCH_BYTES_OF_NCCL if has_nccl else 0.0
    kept_free = total - int(total * share)
    return (
        MemoryLine(label="device total", num_bytes=total, formula=f"hbm_bytes of {hardware.name}"),
        MemoryLine(
            label="left alone",
            num_bytes=-kept_free,
            formula=f"(1 - gpu_memory_utilization {share:g}) x total; CUDA graphs are captured into it",
        ),
        _weights_line(stage, engine),
        MemoryLine(label="activation peak", num_bytes=-peak.num_bytes, formula=peak.formula),
        MemoryLine(
            label="CUDA context, cuBLAS" + (", NCCL" if has_nccl else ""),
            num_bytes=-int(NON_TORCH_BYTES + nccl),
            formula="0.08 GiB outside of PyTorch" + (" + 0.20 GiB for NCCL" if has_nccl else ""),
        ),
    )


def _weights_line(stage: Stage, engine: PricedEngine) -> MemoryLine:
    model = stage.shape
    tp, dtype = engine.tensor_parallel_size, served_dtype(model, engine.dtype)
    held = served_quantization(model, engine.quantization)
    num_bytes = weight_bytes(
        model, quantization=engine.quantization, dtype=engine.dtype, tensor_parallel_size=tp, stage=stage
    )
    rotary = _rotary_table_bytes(model, engine)
    formula = f"{num_parameters(model):,} parameters"
    if stage.num_stages > 1:
        ends = [name for name, has in (("embedding", stage.is_first), ("lm_head", stage.is_last)) if has]
        formula = f"{model.num_hidden_layers} layers of stage {stage.index + 1} of {stage.num_stages}"
        formula += f" with {ends[0]}" if ends else ""
    if held == "none":
        formula += f" x {DTYPE_BYTES[dtype]} B ({dtype})"
    else:
        formula += f", {held} where quantised, the rest {dtype}"
    formula += f" / {tp} GPUs" if tp > 1 else ""
    if rotary:
        formula += f" + rotary table {model.max_position_embeddings:,} x {rotary_width(model)} x "
        formula += f"{DTYPE_BYTES[dtype]} B"
    return MemoryLine(label="weights", num_bytes=-(num_bytes + rotary), formula=formula)


def rotary_width(model: ModelShape) -> int:
    """Entries of the cos/sin table per position: the rotated part of a head."""
    return model.mla.qk_rope_head_dim if model.mla else model.head_dim


def _rotary_table_bytes(model: ModelShape, engine: PricedEngine) -> int:
    """vLLM keeps one cos/sin table for all positions of the model with its weights."""
    if model.learned_positions or model.num_attention_layers == 0:
        return 0
    width = DTYPE_BYTES[served_dtype(model, engine.dtype)]
    return model.max_position_embeddings * rotary_width(model) * width


def _kv_entry_bytes(model: ModelShape, engine: PricedEngine) -> int:
    return kv_dtype_bytes(model, engine.kv_cache_dtype, engine.dtype)


def _full_request_bytes(model: ModelShape, engine: PricedEngine, length: int) -> int:
    """KV of a request of ``length`` tokens, rounded up to whole blocks, plus its recurrent states."""
    tp, rounded = engine.tensor_parallel_size, -(-length // engine.block_size) * engine.block_size
    kv = kv_bytes_for_request(model, rounded, _kv_entry_bytes(model, engine), tp)
    return kv + state_bytes_per_request(model, engine.dtype, tp)


def _notes(stage: Stage, engine: PricedEngine) -> tuple[str, ...]:
    model = stage.shape
    notes = list(model.notes)
    if stage.num_stages > 1:
        notes.append(
            f"stage {stage.index + 1} of {stage.num_stages} has the fewest KV blocks: every stage has as many"
        )
    tp = engine.tensor_parallel_size
    if model.mla is not None and tp > 1:
        notes.append(f"latent attention: every one of the {tp} GPUs keeps the whole KV")
    elif tp > model.num_key_value_heads:
        notes.append(f"{model.num_key_value_heads} KV heads are repeated on {tp} GPUs")
    return tuple(notes)


def _no_room(
    model: ModelShape, hardware: HardwareProfile, engine: PricedEngine, lines: tuple[MemoryLine, ...]
) -> ScenarioError:
    usable = int(hardware.hbm_bytes * engine.gpu_memory_utilization)
    weights = -lines[2].num_bytes
    beside = -sum(line.num_bytes for line in lines[3:])
    held = served_quantization(model, engine.quantization)
    kind = served_dtype(model, engine.dtype) if held == "none" else held
    tp = engine.tensor_parallel_size
    needed = (weights + beside) / engine.gpu_memory_utilization
    share = (weights + beside) / hardware.hbm_bytes
    tries = [f"a profile with hbm_bytes above {needed / 1e9:.0f} GB"]
    if held == "none":
        for quantization in ("fp8", "int4"):
            smaller = weight_bytes(
                model, quantization=quantization, dtype=engine.dtype, tensor_parallel_size=tp
            )
            if smaller + beside < usable:
                tries.insert(0, f"quantization: {quantization} ({smaller / 1e9:.1f} GB)")
    larger = _fitting_tensor_parallel_size(model, engine, usable - beside)
    if engine.gpu_memory_utilization < 0.9 and share < 0.9:
        tries.insert(0, f"gpu_memory_utilization: 0.9 (it takes more than {share:.2f})")
    if larger:
        tries.append(f"tensor_parallel_size: {larger}")
    return CannotRun(
        "the model leaves no room for KV cache\n"
        f"  {hardware.hbm_bytes / 1e9:.1f} GB x gpu_memory_utilization {engine.gpu_memory_utilization:.2f} = "
        f"{usable / 1e9:.1f} GB; weights of {model.name} in {kind}"
        f"{f' on each of {tp} GPUs' if tp > 1 else ''} = {weights / 1e9:.1f} GB, "
        f"activations and CUDA context = {beside / 1e9:.1f} GB",
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
            < room - NON_TORCH_BYTES_OF_NCCL
        ):
            return tp
    return None
