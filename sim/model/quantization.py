"""Checkpoint quantization: ``quantization_config`` and ``hf_quant_config.json``, module by module.

Read are the formats of fp8 (blocks, channels, tensors), fbgemm_fp8, compressed-tensors, ModelOpt (also mixed
by layer), AWQ, GPTQ, bitsandbytes, mxfp4 and nvfp4, with the modules that stay 16-bit. Embeddings, lm_head
(unless GPTQ names it), routers, norms and vectors always do, as in vLLM 0.33. Others are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from sim.model.int_groups import auto_round, awq, gptq
from sim.model.matrices import kind_matrices
from sim.model.module_names import EXPERT_MATRICES, MODULES, Checkpoint, ModuleNames, kept_modules, uniform
from sim.model.reader import ConfigReader, says_something
from sim.model.shape import (
    FP8_CHANNEL,
    FP8_TENSOR,
    INT8_CHANNEL,
    MXFP4,
    MXFP8,
    NVFP4,
    LayerShape,
    Quantization,
    WeightScheme,
    fp8_blocks,
    grouped,
)


def checkpoint_of(c: ConfigReader) -> Checkpoint | None:
    """What ``quantization_config`` says, None without one."""
    q = c.inner("quantization_config") or c.inner("compression_config")
    if q is None or not q.keys:
        return None
    method = q.text("quant_method").lower().replace("-", "_")
    if not method and not q.keys.keys() & _SAYS_MODELOPT:
        raise q.refuse("missing", "quant_method", allowed=_METHODS, hint="write which tool quantised it")
    found = _read(q, method)
    return replace(found, notes=(*found.notes, *_unread(q)))


# ModelOpt's files name no method.
_SAYS_MODELOPT = frozenset(
    ["quant_algo", "quantization", "config_groups", "quantized_layers", "kv_cache_quant_algo"]
)
_METHODS = "fp8, fbgemm_fp8, compressed-tensors, modelopt, awq, gptq, auto-round, bitsandbytes, mxfp4"


def _read(q: ConfigReader, method: str) -> Checkpoint:
    if method in ("", "modelopt", "modelopt_fp4", "modelopt_mixed", "modelopt_fp8"):
        return _modelopt(q)
    reader = METHODS.get(method)
    if reader is None:
        raise q.refuse(
            "a quantization that is not modelled",
            "quant_method",
            given=q.keys.get("quant_method"),
            allowed=_METHODS,
            hint="the unquantised model, with engine.quantization",
        )
    return reader(q)


def _fp8(q: ConfigReader) -> Checkpoint:
    q.ignore("kv_cache_scheme")  # whose scales are loaded, but auto stays the model's type
    blocks = q.value("weight_block_size")
    if blocks is None:
        return uniform(FP8_TENSOR, kept_modules(q))
    if not isinstance(blocks, list) or len(blocks) != 2:
        raise q.refuse("not two sizes", "weight_block_size", given=blocks, allowed="[128, 128]")
    rows, columns = (q.whole(one, "weight_block_size", most=1_000_000) for one in blocks)
    return uniform(fp8_blocks(rows, columns), kept_modules(q))


def _fbgemm(q: ConfigReader) -> Checkpoint:
    return uniform(FP8_CHANNEL, kept_modules(q))


def _mxfp4(q: ConfigReader) -> Checkpoint:
    return uniform(MXFP4, kept_modules(q), only=EXPERT_MATRICES)


def _bitsandbytes(q: ConfigReader) -> Checkpoint:
    q.ignore("load_in_8bit")  # what it is otherwise
    if not q.flag("load_in_4bit", "_load_in_4bit", default=False):
        return uniform(INT8_CHANNEL, kept_modules(q))
    # NF4 and FP4: a float32 for 64 codes; quantised once more, 8 bits for 64.
    twice = q.flag("bnb_4bit_use_double_quant", default=False)
    scheme = WeightScheme(kind="int4", bits=4, group=64, scale_bytes=1 if twice else 4, groups="free")
    return uniform(scheme, kept_modules(q))


ALGORITHMS: dict[str, WeightScheme | None] = {
    "FP8": FP8_TENSOR,
    "FP8_PER_CHANNEL_PER_TOKEN": FP8_CHANNEL,
    "FP8_PB_WO": fp8_blocks(128, 128),
    "FP8_PB_REAL": fp8_blocks(128, 128),
    "NVFP4": NVFP4,
    "NVFP4_AWQ": NVFP4,
    "W4A8_NVFP4_FP8": NVFP4,
    "W4A16_NVFP4": NVFP4,
    "MXFP8": MXFP8,
    "W4A16_MXFP4": MXFP4,
    "MXFP4": MXFP4,
    "W4A16_AWQ": grouped(4, 128, has_zeros=False),
    "W4A8_AWQ": grouped(4, 128, has_zeros=False),
    "INT8_SQ": INT8_CHANNEL,
    "W8A8_SQ_PER_CHANNEL": INT8_CHANNEL,
    "W8A16": INT8_CHANNEL,
    "NONE": None,
}


def _algorithm(q: ConfigReader, name: object, group: object) -> WeightScheme | None:
    if not isinstance(name, str) or name.upper() not in ALGORITHMS:
        raise q.refuse(
            "a quantization that is not modelled", "quant_algo", given=name, allowed=", ".join(ALGORITHMS)
        )
    scheme = ALGORITHMS[name.upper()]
    if scheme is None or group is None or scheme.group is None or scheme.has_blocks:
        return scheme
    return replace(scheme, group=q.whole(group, "group_size", most=1_000_000))


def _modelopt(q: ConfigReader) -> Checkpoint:
    """NVIDIA's ModelOpt, from ``hf_quant_config.json`` or inside ``config.json``."""
    inner = q.inner("quantization") or q
    kv, notes = _kv_dtype(inner)
    algorithm = inner.value("quant_algo")
    if algorithm is None and inner.value("config_groups") is not None:
        return _compressed(inner)
    for one in (q, inner):
        one.ignore("config_groups", "quantized_layers")  # which say the same in other words
    if isinstance(algorithm, str) and algorithm.upper() == "MIXED_PRECISION":
        return replace(_mixed(inner), kv_dtype=kv, notes=notes)
    is_kv_only = algorithm is None and kv != "auto"
    scheme = None if is_kv_only else _algorithm(inner, algorithm, inner.value("group_size"))
    if scheme is None:
        return Checkpoint(scheme_of=lambda layer, matrix: None, kv_dtype=kv, notes=notes)
    return replace(uniform(scheme, kept_modules(inner)), kv_dtype=kv, notes=notes)


def _mixed(q: ConfigReader) -> Checkpoint:
    """``quantized_layers``: an algorithm for each module; the others stay 16-bit."""
    listed = q.inner("quantized_layers")
    if listed is None:
        raise q.refuse("missing", "quantized_layers", allowed="an algorithm for each module")
    by_scheme: dict[WeightScheme, list[str]] = {}
    for module, given in listed.keys.items():
        own = ConfigReader(given if isinstance(given, Mapping) else {}, file=q.file, path=listed.path)
        scheme = _algorithm(own, own.value("quant_algo"), own.value("group_size"))
        if scheme is not None:
            by_scheme.setdefault(scheme, []).append(str(module))
    lists = [(scheme, ModuleNames(q, "quantized_layers", names)) for scheme, names in by_scheme.items()]
    kept = kept_modules(q)

    def scheme_of(layer: int, matrix: str) -> WeightScheme | None:
        if kept.has(layer, matrix):
            return None
        return next((scheme for scheme, names in lists if names.has(layer, matrix)), None)

    return Checkpoint(scheme_of=scheme_of)


def _compressed(q: ConfigReader) -> Checkpoint:
    """compressed-tensors: groups of modules with the same scheme; ``Linear`` means all."""
    sparse = _sparsity(q)
    groups = q.inner("config_groups")
    if groups is None or not groups.keys:
        raise q.refuse("missing", "config_groups", allowed="groups of modules and their scheme")
    kept, own, everywhere = kept_modules(q), [], None
    for name in groups.keys:
        group = groups.inner(name)
        if group is None:
            raise groups.refuse("null", name, allowed="targets and the scheme of their weights")
        scheme = _group_scheme(group)
        targets = group.value("targets") or ["Linear"]
        listed = (
            [one for one in targets if one not in ("Linear", "FusedMoE")] if isinstance(targets, list) else []
        )
        own.append((scheme, ModuleNames(group, "targets", listed)))
        if not isinstance(targets, list) or len(listed) < len(targets):
            everywhere = scheme

    def scheme_of(layer: int, matrix: str) -> WeightScheme | None:
        if matrix not in MODULES or kept.has(layer, matrix):
            return None
        return next((scheme for scheme, names in own if names.has(layer, matrix)), everywhere)

    kv, notes = _kv_dtype(q)
    return Checkpoint(scheme_of=scheme_of, kv_dtype=kv, notes=(*sparse, *notes))


def _sparsity(q: ConfigReader) -> tuple[str, ...]:
    """2:4 sparsity: stored dense it takes the same bytes; stored compressed it is refused."""
    sparse = q.inner("sparsity_config")
    if sparse is None or not sparse.keys:
        return ()
    form = sparse.text("format", default="dense")
    if form != "dense":
        raise sparse.refuse(
            "sparse weights are not modelled",
            "format",
            given=form,
            allowed="dense",
            hint="vLLM 0.33 does not load them either; take the dense checkpoint",
        )
    return (_DENSE_SPARSITY,) if sparse.value("targets") else ()


_DENSE_SPARSITY = "vLLM 0.33 refuses a sparsity_config with targets: its weights are counted dense, as stored"


def _group_scheme(group: ConfigReader) -> WeightScheme:
    weights = group.inner("weights")
    if weights is None:
        raise group.refuse("missing", "weights", allowed="num_bits, type and strategy")
    weights.ignore("group_size", "block_structure")  # which some kinds of codes have no use for
    bits, kind = weights.count("num_bits", default=8, most=16), weights.text("type", default="int")
    strategy = weights.text("strategy", default="tensor")
    size = weights.optional_count("group_size", least=-1, most=1_000_000)
    group_size = None if size in (None, -1, 0) else size
    if kind == "float" and bits == 8:
        if strategy == "block":
            return _fp8_structure(weights)
        if group_size is not None and strategy == "group":
            return replace(MXFP8, group=group_size)
        return FP8_CHANNEL if strategy == "channel" else FP8_TENSOR
    if kind == "float" and bits == 4:
        return MXFP4 if group_size == 32 else NVFP4
    if kind == "int" and bits == 8 and group_size is None:
        return INT8_CHANNEL
    if kind == "int" and bits in range(2, 9):
        has_zeros = not weights.flag("symmetric", default=True)
        return grouped(bits, group_size, has_zeros=has_zeros, groups="whole")
    allowed = "floats of 4 or 8 bits, whole numbers of 2 to 8"
    raise weights.refuse("not modelled", "num_bits", given=f"{kind} of {bits} bits", allowed=allowed)


def _fp8_structure(weights: ConfigReader) -> WeightScheme:
    sizes = weights.value("block_structure") or [128, 128]
    if isinstance(sizes, str):
        sizes = [int(one) if one.isdigit() else one for one in sizes.split("x")]
    if not isinstance(sizes, list) or len(sizes) != 2:
        raise weights.refuse("not two sizes", "block_structure", given=sizes, allowed="[128, 128]")
    rows, columns = (weights.whole(one, "block_structure", most=1_000_000) for one in sizes)
    return fp8_blocks(rows, columns)


def _kv_dtype(q: ConfigReader) -> tuple[Literal["auto", "fp8"], tuple[str, ...]]:
    """The KV cache's type that the checkpoint names, and what is to be said of others than 8-bit floats."""
    given: Any = q.value("kv_cache_quant_algo", "kv_cache_scheme", "kv_cache_quant_method")
    if given is None:
        return "auto", ()
    if isinstance(given, str):
        is_fp8, named = given.upper().startswith("FP8"), given
    elif isinstance(given, Mapping):
        is_fp8 = given.get("num_bits") == 8 and given.get("type", "float") == "float"
        named = f"{given.get('type', 'float')} of {given.get('num_bits')} bits"
    else:
        raise q.refuse("not a scheme", "kv_cache_scheme", given=given)
    return ("fp8", ()) if is_fp8 else ("auto", (_OTHER_KV.format(named),))


_OTHER_KV = "the checkpoint names a KV cache of {}, which is not modelled: it is counted in the model's type"


# What says nothing of bytes: activations, how it was quantised and by what, kernels and packing.
_HARMLESS = re.compile(
    r"activation|^fmt$|scale_fmt|zero_point|version|desc_act|^sym$|static|damp|sequential|^model|checkpoint_format"
    r"|^meta$|quant_type|quantizer|backend|batch|block_name|^cache_|dataset|exllama|max_input|preceding|token|cuda"
    r"|format|ratio|quantization_status|transform_config|producer|library|^bnb_|int8|^_|iters|^lr|minmax|enable"
    r"|seed|samples|gpu_mem|gradient|^amp$|dtype|observer|actorder|dynamic|dequantize|quant_method|strategy"
    r"|num_bits|^type$|symmetric|input_|output_|^mse$|pack|offload|act_group|uri|awq_block|has_zero|pre_quant"
    r"|smooth|reduce|rotary|attn_quant|name$|^quant_algo$",
    re.IGNORECASE,
)
_UNREAD = "{} of quantization_config {} not understood: which weights are quantised, and how, may be wrong"


def _unread(q: ConfigReader) -> tuple[str, ...]:
    """Keys of the quantization, and of its groups' weights, that nobody asked for."""
    found = sorted(set(_unread_keys(q)))
    if not found:
        return ()
    return (_UNREAD.format(", ".join(found), "are" if len(found) > 1 else "is"),)


def _unread_keys(q: ConfigReader) -> Iterator[str]:
    for key, value in q.keys.items():
        if key not in q.read and says_something(value) and not _HARMLESS.search(str(key)):
            yield str(key)
    for key, child in q.children.items():
        groups = child.children.values() if key == "config_groups" else ()
        for one in (child,) if key in ("quantization", "weights") else groups:
            yield from _unread_keys(one)


METHODS: dict[str, Callable[[ConfigReader], Checkpoint]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fbgemm,
    "compressed_tensors": _compressed,
    "awq": awq,
    "awq_marlin": awq,
    "gptq": gptq,
    "gptq_marlin": gptq,
    "auto_round": auto_round,
    "intel/auto_round": auto_round,
    "inc": auto_round,
    "bitsandbytes": _bitsandbytes,
    "mxfp4": _mxfp4,
    "gpt_oss_mxfp4": _mxfp4,
}


def held_layers(layers: list[LayerShape], hidden: int, checkpoint: Checkpoint) -> list[LayerShape]:
    """The layers with the scheme of each of their matrices."""
    names = {kind: [one.name for one in kind_matrices(kind, hidden)] for kind in set(layers)}
    held: list[LayerShape] = []
    made: dict[tuple[LayerShape, object], LayerShape] = {}
    for index, layer in enumerate(layers):
        schemes = ((name, checkpoint.scheme_of(index, name)) for name in names[layer])
        known = tuple((name, scheme) for name, scheme in schemes if scheme is not None)
        if (layer, known) not in made:
            made[layer, known] = replace(layer, schemes=known)
        held.append(made[layer, known])
    return held


def main_kind(kinds: Sequence[LayerShape], pattern: Sequence[int], hidden: int) -> Quantization:
    """The kind that most of the quantised weights have; none without any."""
    weights: dict[Quantization, int] = {}
    for place, kind in enumerate(kinds):
        for matrix in kind_matrices(kind, hidden):
            if matrix.scheme is not None:
                size = matrix.n * matrix.k * matrix.num_experts * pattern.count(place)
                weights[matrix.scheme.kind] = weights.get(matrix.scheme.kind, 0) + size
    return max(weights, key=lambda kind: weights[kind], default="none")
