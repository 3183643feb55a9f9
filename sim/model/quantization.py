"""Checkpoint quantization: ``quantization_config`` and ``hf_quant_config.json``, module by module.

Read are the formats of fp8 (blocks, channels, tensors), fbgemm_fp8, compressed-tensors, ModelOpt (also mixed
by layer), AWQ, GPTQ, bitsandbytes, mxfp4 and nvfp4, with the modules that stay 16-bit. Embeddings, lm_head
(unless GPTQ names it), routers, norms and vectors always do, as in vLLM 0.33. Others are refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fnmatch import translate
from functools import cache
from typing import Any, Literal

from sim.model.matrices import kind_matrices
from sim.model.reader import ConfigReader
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
from sim.scenario.dataclass import dataclass

# Where blocks of a layer stand in a checkpoint, and what our matrices are called in it.
BLOCKS = {
    "attention": ("self_attn", "attn", "attention", "self_attention", "mixer"),
    "state": ("mixer", "mamba", "linear_attn", "self_attn", "conv", "short_conv", "attention"),
    "mlp": ("mlp", "feed_forward", "mixer", "ffn", "shared_mlp", "mlps.0"),
    "experts": (
        "mlp.experts", "feed_forward.experts", "mixer.experts", "block_sparse_moe.experts", "experts",
    ),
    "shared": (
        "mlp.shared_experts", "mlp.shared_expert", "feed_forward.shared_expert", "mixer.shared_experts",
        "shared_mlp", "mlp.shared_mlp",
    ),
}  # fmt: skip
_UP = ("gate_proj", "up_proj", "gate_up_proj", "w1", "w3", "fc1", "c_fc", "dense_h_to_4h", "input_linear")
_DOWN = ("down_proj", "w2", "fc2", "c_proj", "dense_4h_to_h", "output_linear")
MODULES: dict[str, tuple[str, tuple[str, ...]]] = {
    "qkv_proj": (
        "attention",
        ("q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value", "c_attn", "Wqkv", "wq", "wk", "wv"),
    ),
    "q_proj": ("attention", ("q_proj",)),
    "o_proj": ("attention", ("o_proj", "out_proj", "dense", "c_proj", "wo")),
    "head_gate_proj": ("attention", ("g_proj", "gate_proj")),
    "q_a_proj": ("attention", ("q_a_proj", "fused_qkv_a_proj", "fused_qkv_a_proj_with_mqa")),
    "q_b_proj": ("attention", ("q_b_proj",)),
    "kv_a_proj": ("attention", ("kv_a_proj_with_mqa", "fused_qkv_a_proj", "fused_qkv_a_proj_with_mqa")),
    "kv_b_proj": ("attention", ("kv_b_proj",)),
    "indexer_q_proj": ("attention", ("indexer.wq_b",)),
    "in_proj": (
        "state",
        ("in_proj", "in_proj_qkvz", "in_proj_qkv", "in_proj_z", "q_proj", "k_proj", "qkv_proj"),
    ),
    "in_proj_ba": ("state", ("in_proj_ba", "in_proj_a", "in_proj_b")),
    "x_proj": ("state", ("x_proj",)),
    "dt_proj": ("state", ("dt_proj",)),
    "out_proj": ("state", ("out_proj", "o_proj")),
    "beta_proj": ("state", ("b_proj",)),
    "decay_a_proj": ("state", ("f_a_proj",)),
    "decay_b_proj": ("state", ("f_b_proj",)),
    "output_gate_a_proj": ("state", ("g_a_proj",)),
    "output_gate_b_proj": ("state", ("g_b_proj",)),
    "gate_up_proj": ("mlp", _UP),
    "up_proj": ("mlp", _UP),
    "down_proj": ("mlp", _DOWN),
    "moe_gate_up": ("experts", (*_UP, *(f"0.{one}" for one in _UP))),
    "moe_down": ("experts", (*_DOWN, *(f"0.{one}" for one in _DOWN))),
    "shared_gate_up": ("shared", _UP),
    "shared_down": ("shared", _DOWN),
    "latent_down_proj": ("mlp", ("fc1_latent_proj",)),
    "latent_up_proj": ("mlp", ("fc2_latent_proj",)),
}


# Which modules are experts, and what stands before a layer's number.
EXPERT_MATRICES = ("moe_gate_up", "moe_down")
ROOTS = (
    "model.",
    "language_model.model.",
    "model.language_model.",
    "backbone.",
    "transformer.",
    "language_model.",
)
_BEFORE_LAYERS = re.compile(r"^.*?(?:^|\.)(?:layers|h|blocks)\.")
_OTHER_PARTS = re.compile(r"(^|\.)(vision|visual|audio|image|img|multi_modal|mm_|mtp|embed_vision|projector)")


Path = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a checkpoint's quantization says: schemes by module, and the type of its KV cache."""

    scheme_of: Callable[[int, str], WeightScheme | None]  # of a layer's matrix; None: 16-bit
    kv_dtype: Literal["auto", "fp8"] = "auto"
    notes: tuple[str, ...] = ()


class ModuleNames:
    """A list of modules as checkpoints write it: names, parents, parts of names, wildcards, ``re:``."""

    def __init__(self, c: ConfigReader, key: str, entries: object) -> None:
        self.by_layer: dict[str, set[Path]] = {}  # of one layer: what follows its number
        self.anywhere: set[Path] = set()
        globs, self.patterns = [], []
        if entries is not None and (
            not isinstance(entries, list) or not all(isinstance(one, str) for one in entries)
        ):
            raise c.refuse("not a list of modules", key, given=entries)
        for entry in entries or ():
            if entry.startswith("re:"):
                self.patterns.append(_compiled(c, key, entry[3:]))
            elif _OTHER_PARTS.search(entry):
                continue
            elif any(mark in entry for mark in "*?["):
                globs.append(translate(_from_layers(entry)))
            else:
                self._add(tuple(_from_layers(entry).split(".")))
        self.globs = re.compile("|".join(globs)) if globs else None
        texts = [*globs, *(pattern.pattern for pattern in self.patterns)]
        self._is_same_in_all = not any(re.search(r"\d", text) for text in texts)
        self._in_all: dict[str, bool] = {}  # where no entry names a layer

    def _add(self, parts: Path) -> None:
        if parts[0] == "layers" and len(parts) > 1:
            self.by_layer.setdefault(parts[1], set()).add(parts[2:])
        else:
            self.anywhere.add(parts)

    def has(self, layer: int, matrix: str) -> bool:
        """Whether the list names this matrix of a layer, or something that it is part of."""
        own = self.by_layer.get(str(layer), set())
        if own or not self._is_same_in_all:
            return any(self._names(own, layer, path) for path in paths_of(matrix))
        if matrix not in self._in_all:
            self._in_all[matrix] = any(self._names(own, layer, path) for path in paths_of(matrix))
        return self._in_all[matrix]

    def _names(self, own: set[Path], layer: int, path: Path) -> bool:
        ends = range(len(path) + 1)
        if own and any(path[:end] in own for end in ends):
            return True
        if self.anywhere and any(path[i:j] in self.anywhere for i in ends for j in ends[i + 1 :]):
            return True
        if self.globs is None and not self.patterns:
            return False
        whole = f"layers.{layer}." + ".".join(path)
        parents = [f"layers.{layer}." + ".".join(path[:end]) for end in ends[1:]]
        if self.globs is not None and any(self.globs.match(one) for one in (*parents, f"model.{whole}")):
            return True
        return any(pattern.match(root + whole) for pattern in self.patterns for root in ROOTS)


def _compiled(c: ConfigReader, key: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise c.refuse(f"not a regular expression: {error}", key, given=text) from error


def _from_layers(entry: str) -> str:
    """Without what stands before the layers; a pattern keeps its leading star."""
    return _BEFORE_LAYERS.sub("layers.", entry, count=1) if not entry.startswith("*") else entry


@cache
def paths_of(matrix: str) -> tuple[Path, ...]:
    """Under which names a checkpoint may have this matrix of a layer, after the layer's number."""
    block, leaves = MODULES.get(matrix, ("", ()))
    return tuple(tuple(f"{at}.{leaf}".split(".")) for at in BLOCKS.get(block, ()) for leaf in leaves)


def checkpoint_of(c: ConfigReader) -> Checkpoint | None:
    """What ``quantization_config`` says, None without one."""
    q = c.inner("quantization_config") or c.inner("compression_config")
    if q is None or not q.keys:
        return None
    method = q.text("quant_method").lower().replace("-", "_")
    if method in ("", "modelopt", "modelopt_fp4", "modelopt_mixed", "modelopt_fp8"):
        return _modelopt(q)
    reader = METHODS.get(method)
    if reader is None:
        raise q.refuse(
            "a quantization that is not modelled",
            "quant_method",
            given=q.keys.get("quant_method"),
            allowed="fp8, fbgemm_fp8, compressed-tensors, modelopt, awq, gptq, bitsandbytes, mxfp4",
            hint="the unquantised model, with engine.quantization",
        )
    return reader(q)


def _uniform(scheme: WeightScheme, kept: ModuleNames, *, only: tuple[str, ...] = ()) -> Checkpoint:
    """One scheme for all linear layers but those kept (or only for some matrices)."""

    def scheme_of(layer: int, matrix: str) -> WeightScheme | None:
        if matrix not in MODULES or (only and matrix not in only):
            return None
        return None if kept.has(layer, matrix) else scheme

    return Checkpoint(scheme_of=scheme_of)


def _kept(q: ConfigReader) -> ModuleNames:
    names = ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules", "llm_int8_skip_modules")
    return ModuleNames(q, next((one for one in names if one in q.keys), names[0]), q.value(*names))


def _fp8(q: ConfigReader) -> Checkpoint:
    blocks = q.value("weight_block_size")
    if blocks is None:
        return _uniform(FP8_TENSOR, _kept(q))
    if not isinstance(blocks, list) or len(blocks) != 2:
        raise q.refuse("not two sizes", "weight_block_size", given=blocks, allowed="[128, 128]")
    rows, columns = (q.whole(one, "weight_block_size", most=1_000_000) for one in blocks)
    return _uniform(fp8_blocks(rows, columns), _kept(q))


def _fbgemm(q: ConfigReader) -> Checkpoint:
    return _uniform(FP8_CHANNEL, _kept(q))


def _mxfp4(q: ConfigReader) -> Checkpoint:
    return _uniform(MXFP4, _kept(q), only=EXPERT_MATRICES)


def _grouped(q: ConfigReader) -> Checkpoint:
    bits = q.count("bits", "w_bit", default=4, most=8)
    if bits not in (2, 3, 4, 8):
        raise q.refuse("not modelled", "bits", given=bits, allowed="4 or 8")
    size = q.value("group_size", "q_group_size")
    group = None if size == -1 else q.count("group_size", "q_group_size", default=128, most=1_000_000)
    return _uniform(grouped(bits, group, has_zeros=True), _kept(q))


def _bitsandbytes(q: ConfigReader) -> Checkpoint:
    if not q.flag("load_in_4bit", "_load_in_4bit", default=False):
        return _uniform(INT8_CHANNEL, _kept(q))
    # NF4 and FP4: a float32 for 64 codes; quantised once more, 8 bits for 64.
    twice = q.flag("bnb_4bit_use_double_quant", default=False)
    return _uniform(WeightScheme(kind="int4", bits=4, group=64, scale_bytes=1 if twice else 4), _kept(q))


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
    if isinstance(algorithm, str) and algorithm.upper() == "MIXED_PRECISION":
        return replace(_mixed(inner), kv_dtype=kv, notes=notes)
    is_kv_only = algorithm is None and kv != "auto"
    scheme = None if is_kv_only else _algorithm(inner, algorithm, inner.value("group_size"))
    if scheme is None:
        return Checkpoint(scheme_of=lambda layer, matrix: None, kv_dtype=kv, notes=notes)
    return replace(_uniform(scheme, _kept(inner)), kv_dtype=kv, notes=notes)


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
    kept = _kept(q)

    def scheme_of(layer: int, matrix: str) -> WeightScheme | None:
        if kept.has(layer, matrix):
            return None
        return next((scheme for scheme, names in lists if names.has(layer, matrix)), None)

    return Checkpoint(scheme_of=scheme_of)


def _compressed(q: ConfigReader) -> Checkpoint:
    """compressed-tensors: groups of modules with the same scheme; ``Linear`` means all."""
    groups = q.inner("config_groups")
    if groups is None or not groups.keys:
        raise q.refuse("missing", "config_groups", allowed="groups of modules and their scheme")
    kept, own, everywhere = _kept(q), [], None
    for name in groups.keys:
        group = groups.inner(name)
        if group is None:
            continue
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
    return Checkpoint(scheme_of=scheme_of, kv_dtype=kv, notes=notes)


def _group_scheme(group: ConfigReader) -> WeightScheme:
    weights = group.inner("weights")
    if weights is None:
        raise group.refuse("missing", "weights", allowed="num_bits, type and strategy")
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
    if kind == "int" and bits in (2, 3, 4, 8):
        return grouped(bits, group_size, has_zeros=not weights.flag("symmetric", default=True))
    raise weights.refuse("not modelled", "num_bits", given=f"{kind} of {bits} bits", allowed="4 or 8")


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


METHODS: dict[str, Callable[[ConfigReader], Checkpoint]] = {
    "fp8": _fp8,
    "fbgemm_fp8": _fbgemm,
    "compressed_tensors": _compressed,
    "awq": _grouped,
    "awq_marlin": _grouped,
    "gptq": _grouped,
    "gptq_marlin": _grouped,
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
