"""The lines of a memory account: vLLM's by release, SGLang's and TensorRT-LLM's.

vLLM's profile run computes ``max_num_batched_tokens`` tokens of ``max_num_seqs`` requests, then samples with
every option on. At its worst it takes the larger of the layers' and the sampler's moment, not their sum.
SGLang: ``mem_fraction_static`` of the memory is for weights and KV together. TensorRT-LLM: KV gets
``free_gpu_memory_fraction`` of what is free after weights and activations. Every line says whether it was
counted, measured at starts, read in the engine's code or documentation, or assumed; no start of the last two
engines was held against theirs.

Not modelled: attention workspaces, a vision encoder's run, LoRA adapters, the allocator's rounding.
"""

from __future__ import annotations

from bisect import bisect_right
from math import ceil
from typing import TYPE_CHECKING, Literal

from sim.errors import CannotRun
from sim.hardware.engine_defaults import sglang_tier
from sim.hardware.vllm_releases import VllmRelease, release_of
from sim.model.counts import DTYPE_BYTES, num_parameters, served_dtype
from sim.model.matrices import kind_matrices
from sim.model.shape import LayerShape, ModelShape, Stage
from sim.model.weights import Mxfp4Kernel, served_quantization, weight_bytes
from sim.price.kernel_set import FLOAT32_BYTES, engine_kernels, forward_score_bytes
from sim.scenario.dataclass import dataclass

if TYPE_CHECKING:
    from sim.hardware import HardwareProfile
    from sim.price.priced import PricedEngine

GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Bytes on one GPU, the formula with its numbers, and what is not sure about them."""

    num_bytes: int
    formula: str
    unsure: str = ""


def activation_peak(
    model: ModelShape,
    engine: PricedEngine,
    release: VllmRelease,
    hardware: HardwareProfile | None = None,
    *,
    samples: bool = True,
) -> Taken:
    """The worse of two moments; without ``samples`` (a stage that is not the last) the layers'."""
    layers = _layers_moment(model, engine, release, samples=samples)
    if not samples:
        return layers
    sampler = _sampler_moment(model, engine, release, hardware)
    return sampler if sampler.num_bytes > layers.num_bytes else layers


def _layers_moment(model: ModelShape, engine: PricedEngine, release: VllmRelease, *, samples: bool) -> Taken:
    tokens, width = engine.max_num_batched_tokens, _width(model, engine)
    rows = release.hidden_rows + (0 if samples else 2)  # a stage sends hidden states and residual on
    widest = widest_part(model, engine)
    hidden = model.hidden_size
    return Taken(
        num_bytes=tokens * (widest + rows * hidden) * width,
        formula=f"layers: max_num_batched_tokens {tokens:,} x (widest part {widest:,} + {rows} x hidden_size "
        f"{hidden:,}) x {width} B",
    )


def _sampler_moment(
    model: ModelShape, engine: PricedEngine, release: VllmRelease, hardware: HardwareProfile | None
) -> Taken:
    tokens, width = engine.max_num_batched_tokens, _width(model, engine)
    rows, vocabulary, hidden = sampled_rows(engine), model.vocab_size, model.hidden_size
    name = sampler_of(engine, release, hardware)
    per_logit = width + release.bytes_beside_a_logit(name)
    workspace = tokens * expert_workspace(model, engine) * width if release.keeps_expert_workspace else 0
    formula = (
        f"sampler ({name}): max_num_seqs {rows:,} x vocab_size {vocabulary:,} x {per_logit} B + "
        f"max_num_batched_tokens {tokens:,} x hidden_size {hidden:,} x {width} B"
    )
    if workspace:
        formula += f" + the experts' buffers {workspace / GIB:.2f} GiB"
    unsure = ""
    if release.keeps_sampler_state and name == "flashinfer":
        unsure = f"{per_logit - 4} to {per_logit} B a logit: nobody has measured this release's sampler"
    return Taken(
        num_bytes=rows * vocabulary * per_logit + tokens * hidden * width + workspace,
        formula=formula,
        unsure=unsure,
    )


def sampled_rows(engine: PricedEngine) -> int:
    """Requests whose last token the profile run samples."""
    return min(engine.max_num_seqs, engine.max_num_batched_tokens)


def sampler_of(engine: PricedEngine, release: VllmRelease, hardware: HardwareProfile | None) -> str:
    """Which sampler runs: as asked, else the release's; FlashInfer's on CUDA from SM 8.0 on, above 16 SMs."""
    if engine.sampler != "auto":
        return engine.sampler
    if release.sampler != "flashinfer" or hardware is None:
        return release.sampler
    has_it = generation_of(hardware) >= 8 and hardware.sm_count > 16
    return "flashinfer" if has_it else "triton"


def _width(model: ModelShape, engine: PricedEngine) -> int:
    return DTYPE_BYTES[served_dtype(model, engine.dtype)]


def widest_part(model: ModelShape, engine: PricedEngine) -> int:
    """Entries per token that live at once in the widest part of a layer, beside the residual stream.

    q, k, v and the attention's output; or gate, up and their product; or the experts' buffers.
    """
    tp, widths = engine.tensor_parallel_size, [expert_workspace(model, engine)]
    for kind in model.kinds:
        by_name = {matrix.name: matrix for matrix in kind_matrices(kind, model.hidden_size, tp)}
        queries = ("qkv_proj", "q_proj", "q_b_proj", "kv_b_proj")
        attention = sum(by_name[name].n for name in queries if name in by_name)
        if "o_proj" in by_name:
            widths.append(attention + by_name["o_proj"].k)
        for up, down in (("gate_up_proj", "down_proj"), ("up_proj", "down_proj"), ("in_proj", "out_proj")):
            if up in by_name and down in by_name:
                widths.append(by_name[up].n + by_name[down].k)
    return max(widths)


def expert_workspace(model: ModelShape, engine: PricedEngine) -> int:
    """Entries per token of the two buffers of vLLM's Triton experts: each visited expert's up and down.

    Kernels for mxfp4 have none of them (gpt-oss: starts of 0.11 and 0.19).
    """
    if served_quantization(model, engine.quantization) == "mxfp4":
        return 0
    return max((_expert_buffers(kind, model, engine) for kind in model.kinds), default=0)


def _expert_buffers(kind: LayerShape, model: ModelShape, engine: PricedEngine) -> int:
    matrices = kind_matrices(kind, model.hidden_size, engine.tensor_parallel_size)
    by_name = {matrix.name: matrix for matrix in matrices}
    if "moe_gate_up" not in by_name:
        return 0
    up, down = by_name["moe_gate_up"], by_name["moe_down"]
    return up.experts_per_token * (max(down.k, up.k) + max(up.n, up.k))


def persistent_state(model: ModelShape, engine: PricedEngine, release: VllmRelease) -> Taken:
    """The V2 runner's penalties: for every slot a count of every vocabulary entry and a bit for each."""
    if not release.keeps_sampler_state:
        return Taken(num_bytes=0, formula="")
    seqs, vocabulary = engine.max_num_seqs, model.vocab_size
    return Taken(
        num_bytes=seqs * (4 * vocabulary + 4 * -(-vocabulary // 32)),
        formula=f"max_num_seqs {seqs:,} x vocab_size {vocabulary:,} x (4 B + 1 bit): counts for penalties",
    )


def generation_of(hardware: HardwareProfile) -> int:
    """Major number of its compute capability; 0 where it has none of NVIDIA's."""
    major = (hardware.compute_capability or "").partition(".")[0]
    return int(major) if major.isdigit() else 0


def non_torch_growth(engine: PricedEngine, release: VllmRelease, hardware: HardwareProfile) -> Taken:
    """Communication buffers, workspaces and kernels that the first forward pass makes outside of PyTorch."""
    tp, generation, unsure = engine.tensor_parallel_size, generation_of(hardware), ""
    if tp > 1:
        gib, why = release.non_torch_gib_of_tensor_parallel, f"NCCL and workspaces on {tp} GPUs"
        unsure = "" if tp in (2, 4) and generation == 9 else "measured on 2 and 4 H100 only"
    elif engine.pipeline_parallel_size > 1:
        gib, why = release.non_torch_gib_of_a_stage, "of a pipeline stage"
    elif 0 < generation < 9:
        gib, why = release.non_torch_gib_before_hopper, "kernels and workspaces on one GPU before Hopper"
    else:
        gib, why = release.non_torch_gib, "kernels and workspaces on one GPU"
        unsure = "" if generation == 9 else "measured on H100 only"
    formula = f"{gib:g} GiB: {why}, beside the CUDA context"
    return Taken(num_bytes=int(gib * GIB), formula=formula, unsure=unsure)


# Least squares over four logs: 0.50 and 0.65 GiB of 67 graphs (0.10 on A100, one and two GPUs), 0.73 of 86
# (an estimate of 0.2x), 1.04 of 102 (the mean of 0.19 on H100, where 0.51 to 1.85 were seen by model).
GRAPH_MIB, GRAPHS_RANGE = 9.5, "half to twice of it"


def num_graphs(engine: PricedEngine, hardware: HardwareProfile) -> tuple[int, int]:
    """Graphs that are captured: piecewise ones of every batch size, full ones of those that only decode.

    Sizes are 1, 2, 4, every 8th to 248, every 16th from 256 on; at most twice max_num_seqs, 512 (1,024 on
    Blackwell's servers) and max_num_batched_tokens. Decoding alone, max_num_seqs tokens are the most.
    """
    most = 1024 if generation_of(hardware) == 10 else 512
    limit = min(2 * engine.max_num_seqs, most, engine.max_num_batched_tokens)
    sizes = [size for size in (1, 2, 4, *range(8, 256, 8), *range(256, 1025, 16)) if size <= limit]
    return len(sizes), sum(size <= engine.max_num_seqs for size in sizes)


def graph_estimate(engine: PricedEngine, hardware: HardwareProfile) -> Taken:
    """CUDA graphs, in proportion to their number."""
    piecewise, full = num_graphs(engine, hardware)
    return Taken(
        num_bytes=int((piecewise + full) * GRAPH_MIB * 2**20),
        formula=f"({piecewise} piecewise + {full} full) graphs x {GRAPH_MIB} MiB",
        unsure=f"{GRAPHS_RANGE} was logged, by model",
    )


# What a CUDA context with cuBLAS held on an H100 before anything was loaded (78.57 of 79.18 GiB free), and
# what NCCL's process groups of two and more GPUs are taken to add (buffers known: below 0.3 GiB).
CONTEXT_GIB, NCCL_GIB = 0.61, 0.2


def outside_share(
    model: ModelShape,
    engine: PricedEngine,
    release: VllmRelease,
    hardware: HardwareProfile,
    *,
    samples: bool = True,
) -> Taken:
    """What must find room beside ``gpu_memory_utilization``: the context, and before 0.21 the graphs.

    The sampler's warm-up, which runs when the KV cache is there already, finds the room that the profile
    run's peak set aside in the share: so did 43 starts of 0.17 to 0.19 on H100, however large their
    vocabulary. Beside experts in mxfp4 it did not (gpt-oss-20b at 0.95, on one GPU and on two; it started at
    0.90); what their kernels hold by then nobody has measured, so there all of it is taken to be outside.
    """
    several = engine.gpus_per_replica > 1
    parts = {"CUDA context": CONTEXT_GIB} | ({"NCCL": NCCL_GIB} if several else {})
    if not release.graphs_are_in_share:
        parts["CUDA graphs"] = graph_estimate(engine, hardware).num_bytes / GIB
    if release.warm_up_is_outside and samples and served_quantization(model, engine.quantization) == "mxfp4":
        per_logit = _width(model, engine) + release.bytes_beside_a_logit(
            sampler_of(engine, release, hardware)
        )
        parts["the sampler's warm-up beside experts in mxfp4"] = (
            sampled_rows(engine) * model.vocab_size * per_logit / GIB
        )
    return Taken(
        num_bytes=int(sum(parts.values()) * GIB),
        formula=" + ".join(f"{name} {gib:.2f} GiB" for name, gib in parts.items()),
    )


Basis = Literal["counted", "read", "measured", "assumed"]
MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLine:
    """One line of the account; ``num_bytes`` is negative where memory is taken.

    ``basis``: counted from the model and the device, read in the engine's code or documentation, measured at
    starts of this release or a near one, or assumed. ``unsure``: what nobody has measured of it.
    """

    label: str
    num_bytes: int
    formula: str
    basis: Basis = "counted"
    unsure: str = ""


def account_lines(stage: Stage, hardware: HardwareProfile, engine: PricedEngine) -> tuple[MemoryLine, ...]:
    """The account of one stage's GPU; what is left over is the KV cache's."""
    total = MemoryLine(
        label="device total", num_bytes=hardware.hbm_bytes, formula=f"hbm_bytes of {hardware.name}"
    )
    runtime = {"vllm": _vllm, "sglang": _sglang, "tensorrt-llm": _tensorrt_llm}[engine.runtime]
    lines = runtime(stage, hardware, engine, weights_line(stage, hardware, engine))
    return (total, *lines, *_scores(stage, hardware, engine))


def _scores(stage: Stage, hardware: HardwareProfile, engine: PricedEngine) -> tuple[MemoryLine, ...]:
    """Standard attention's scores of one layer and prompt chunk, the largest that can come.

    Layers free them before the next one and before sampling: of vLLM's two moments only the layers' has them.
    """
    if not engine_kernels(engine).attention.stores_scores or not stage.shape.num_attending_layers:
        return ()
    model, keys = stage.shape, engine.max_model_len or stage.shape.max_position_embeddings
    if keys < 0:
        raise CannotRun(
            "the longest length that fits is not known where attention writes its scores to memory",
            path="engine.max_model_len",
            given=keys,
            hint="a length of its own (max_model_len: 4096), or attention: flash",
        )
    queries, width = min(engine.max_num_batched_tokens, keys), _width(model, engine)
    heads = -(-model.num_attention_heads // engine.tensor_parallel_size)
    held = forward_score_bytes(heads, queries, keys, width)
    if engine.runtime == "vllm":
        release = release_of(engine.vllm_version)
        layers = _layers_moment(model, engine, release, samples=stage.is_last).num_bytes
        peak = activation_peak(model, engine, release, hardware, samples=stage.is_last).num_bytes
        held = max(0, held + layers - peak)
    formula = (
        f"2 x {heads} heads x chunk {queries:,} x max_model_len {keys:,} x {width} B, and the mask in "
        f"{FLOAT32_BYTES} + {width} B; one layer's at a time"
    )
    return (MemoryLine(label="attention scores", num_bytes=-held, formula=formula),)


def _context(engine: PricedEngine) -> MemoryLine:
    several = engine.gpus_per_replica > 1
    return MemoryLine(
        label="CUDA context" + (", NCCL" if several else ""),
        num_bytes=-int((CONTEXT_GIB + (NCCL_GIB if several else 0.0)) * GIB),
        formula=f"{CONTEXT_GIB} GiB" + (f" + {NCCL_GIB} GiB" if several else ""),
        basis="assumed",
        unsure="as on an H100 under vLLM",
    )


# SGLang of September 2026, ``_handle_gpu_memory_settings``: MiB that are kept from weights and KV where no
# share is given. On an H100 it logs 0.83 (before prefill was captured in graphs, 0.835).
_META, _PER_PREFILL_TOKEN, _PER_GRAPH_SEQUENCE, _OF_EIGHT_GPUS, _LEAST_OF_LARGE = 512, 1.5, 2, 1024, 10 * 1024
_PER_PREFILL_GRAPH, _PREFILL_GRAPHS_OF_LATENT = 8, 1536
_PREFILL_GRAPHS = (
    *range(4, 33, 4), *range(48, 257, 16), *range(288, 513, 32), *range(576, 1025, 64),
    *range(1280, 4097, 256), *range(4608, 1 << 20, 512),
)  # fmt: skip
"""Tokens of each graph of prefill, up to the chunk."""


def _sglang(
    stage: Stage, hardware: HardwareProfile, engine: PricedEngine, weights: MemoryLine
) -> tuple[MemoryLine, ...]:
    context = _context(engine)
    available = hardware.hbm_bytes + context.num_bytes
    share, formula = engine.mem_fraction_static, ""
    if share is None:
        reserved, formula = _sglang_reserved(stage.shape, hardware, engine)
        share = round((hardware.hbm_bytes - reserved) / hardware.hbm_bytes, 3)
        if stage.shape.encoder_parameters:
            factor = _share_beside_encoder(stage.shape)
            share, formula = share * factor, f"{formula}; the share x {factor:.3f} for images"
    kept = MemoryLine(
        label="not static",
        num_bytes=-(available - int(available * share)),
        formula=f"(1 - mem_fraction_static {share:.4g}) x what is free at the start: activations, CUDA graphs"
        + (f"; default: {formula}" if formula else ""),
        basis="read",
        unsure="SGLang takes its default of nvidia-smi's total, up to 2 % more than hbm_bytes"
        if formula
        else "",
    )
    return context, kept, weights


def _sglang_reserved(model: ModelShape, hardware: HardwareProfile, engine: PricedEngine) -> tuple[int, str]:
    """Bytes that the default share leaves, and the formula."""
    tier, tokens = sglang_tier(hardware.hbm_bytes), max(engine.max_num_batched_tokens, 2048)
    is_small = engine.tensor_parallel_size < 4
    sequences = tier.graph_sequences if is_small else tier.graph_sequences_of_many
    graphs = bisect_right(_PREFILL_GRAPHS, engine.max_num_batched_tokens)
    prefill, told = graphs * _PER_PREFILL_GRAPH, f"{graphs} graphs of prefill x {_PER_PREFILL_GRAPH} MiB"
    if model.mla is not None:
        prefill, told = _PREFILL_GRAPHS_OF_LATENT, f"{_PREFILL_GRAPHS_OF_LATENT:,} MiB for graphs of prefill"
    mib = _META + tokens * _PER_PREFILL_TOKEN + sequences * _PER_GRAPH_SEQUENCE + prefill
    mib += engine.gpus_per_replica / 8 * _OF_EIGHT_GPUS
    least = _LEAST_OF_LARGE if hardware.hbm_bytes > 60 * GIB else 0
    formula = (
        f"{_META} MiB + chunked prefill {tokens:,} x {_PER_PREFILL_TOKEN} MiB + graphs of {sequences} "
        f"sequences x {_PER_GRAPH_SEQUENCE} MiB + {told} + {engine.gpus_per_replica} / 8 GiB"
    )
    return int(max(mib, least) * MIB), formula + (", at least 10 GiB" if mib < least else "")


def _share_beside_encoder(model: ModelShape) -> float:
    """SGLang's ``adjust_mem_fraction_for_vlm``: what is left of the share for the images of a request.

    It takes layers x hidden_size² of the encoder over those of ViT-L/14, here their share of its parameters.
    """
    of_vit_l = 12 * 24 * 1024**2
    return 0.95 * max(0.8, min(1.05, 1.0 - 0.1 * (model.encoder_parameters / of_vit_l - 1)))


FREE_SHARE = 0.9  # KvCacheConfig.free_gpu_memory_fraction, NVIDIA's reference of TensorRT-LLM 1.x


def _tensorrt_llm(
    stage: Stage, hardware: HardwareProfile, engine: PricedEngine, weights: MemoryLine
) -> tuple[MemoryLine, ...]:
    context = _context(engine)
    model, tokens = stage.shape, engine.max_num_batched_tokens
    width = DTYPE_BYTES[served_dtype(model, engine.dtype)]
    widest = widest_part(model, engine)
    activations = MemoryLine(
        label="activations",
        num_bytes=-tokens * (widest + 4 * model.hidden_size) * width,
        formula=f"max_num_tokens {tokens:,} x (widest part {widest:,} + 4 x hidden_size "
        f"{model.hidden_size:,}) x {width} B",
        basis="assumed",
        unsure="as vLLM's layers; its sampler takes tokens of one step only",
    )
    share = FREE_SHARE if engine.free_gpu_memory_fraction is None else engine.free_gpu_memory_fraction
    free = hardware.hbm_bytes + context.num_bytes + weights.num_bytes + activations.num_bytes
    kept = MemoryLine(
        label="left free",
        num_bytes=-(max(0, free) - int(max(0, free) * share)),
        formula=f"(1 - free_gpu_memory_fraction {share:g}) x what is free after weights and activations",
        basis="read",
    )
    return context, weights, activations, kept


def _vllm(
    stage: Stage, hardware: HardwareProfile, engine: PricedEngine, weights: MemoryLine
) -> tuple[MemoryLine, ...]:
    """In vLLM's order. The CUDA context and NCCL's groups are there before the first look: not subtracted."""
    model, release = stage.shape, release_of(engine.vllm_version)
    total, share = hardware.hbm_bytes, engine.gpu_memory_utilization
    is_measured: Basis = "measured" if not release.keeps_sampler_state else "read"
    outside = "the CUDA context and NCCL lie there"
    if not release.graphs_are_in_share:
        outside = "CUDA context, NCCL and CUDA graphs lie there"
    lines = [
        MemoryLine(
            label="left alone",
            num_bytes=-(total - ceil(total * share)),
            formula=f"(1 - gpu_memory_utilization {share:g}) x total; {outside}",
            basis="read",
        ),
        weights,
    ]
    if stage.is_last and release.keeps_sampler_state:
        lines.append(_line("sampler state", persistent_state(model, engine, release), "read"))
    peak = activation_peak(model, engine, release, hardware, samples=stage.is_last)
    lines.append(_line("activation peak", peak, is_measured))
    growth = non_torch_growth(engine, release, hardware)
    lines.append(_line("outside of PyTorch", growth, "assumed" if growth.unsure else "measured"))
    if release.graphs_are_in_share:
        lines.append(_line("CUDA graphs", graph_estimate(engine, hardware), "assumed"))
    return tuple(lines)


def _line(label: str, taken: Taken, basis: Basis) -> MemoryLine:
    return MemoryLine(
        label=label, num_bytes=-taken.num_bytes, formula=taken.formula, basis=basis, unsure=taken.unsure
    )


def mxfp4_kernel(hardware: HardwareProfile, engine: PricedEngine) -> Mxfp4Kernel:
    """Which kernel pads the experts of an mxfp4 checkpoint: by generation, and Marlin before 0.11."""
    generation = generation_of(hardware)
    if engine.runtime != "vllm" or not generation:
        return "none"
    if generation >= 10:
        return "flashinfer"
    has_triton = generation == 9 and release_of(engine.vllm_version).has_triton_experts
    return "triton" if has_triton else "marlin"


def weights_line(stage: Stage, hardware: HardwareProfile, engine: PricedEngine) -> MemoryLine:
    """Weights of one GPU, with the rotary table that vLLM keeps beside them."""
    model = stage.shape
    tp, dtype = engine.tensor_parallel_size, served_dtype(model, engine.dtype)
    held = served_quantization(model, engine.quantization)
    kernel = mxfp4_kernel(hardware, engine)
    num_bytes = weight_bytes(
        model,
        quantization=engine.quantization,
        dtype=engine.dtype,
        tensor_parallel_size=tp,
        stage=stage,
        mxfp4_kernel=kernel,
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
        formula += f", experts padded for {kernel}" if held == "mxfp4" and kernel != "none" else ""
    encoder = model.encoder_parameters if stage.is_first else 0
    formula += f" + {encoder:,} of the vision encoder x {DTYPE_BYTES[dtype]} B" if encoder else ""
    formula += f" / {tp} GPUs" if tp > 1 else ""
    if rotary:
        rows = model.rotary_rows or model.max_position_embeddings
        formula += f" + rotary table {rows:,} x {model.rotary_dim} x "
        formula += f"{DTYPE_BYTES[dtype]} B"
    num_bytes += rotary + -(-encoder // tp) * DTYPE_BYTES[dtype]
    return MemoryLine(label="weights", num_bytes=-num_bytes, formula=formula)


def _rotary_table_bytes(model: ModelShape, engine: PricedEngine) -> int:
    """vLLM keeps a cos/sin table for all positions with the weights, one for each rope setting of a model."""
    width = DTYPE_BYTES[served_dtype(model, engine.dtype)]
    return model.num_rotary_entries * width
