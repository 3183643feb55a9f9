"""Which of our matrices a checkpoint's lists of modules name, and what its quantization makes of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import translate
from functools import cache
from typing import Literal

from sim.model.reader import ConfigReader
from sim.model.shape import WeightScheme
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
    lm_head: WeightScheme | None = None  # of an untied lm_head
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
                self._add(tuple(_from_layers(entry.rstrip(".")).split(".")))
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

    def names(self, module: str) -> bool:
        """Whether the list names this module outside of the layers (lm_head)."""
        if (module,) in self.anywhere or (self.globs is not None and self.globs.match(module)):
            return True
        return any(pattern.match(root + module) for pattern in self.patterns for root in ("", *ROOTS))

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


def uniform(scheme: WeightScheme, kept: ModuleNames, *, only: tuple[str, ...] = ()) -> Checkpoint:
    """One scheme for all linear layers but those kept (or only for some matrices)."""

    def scheme_of(layer: int, matrix: str) -> WeightScheme | None:
        if matrix not in MODULES or (only and matrix not in only):
            return None
        return None if kept.has(layer, matrix) else scheme

    return Checkpoint(scheme_of=scheme_of)


def kept_modules(q: ConfigReader) -> ModuleNames:
    """The list of modules that stay 16-bit, under any of its names."""
    names = ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules", "llm_int8_skip_modules")
    return ModuleNames(q, next((one for one in names if one in q.keys), names[0]), q.value(*names))
