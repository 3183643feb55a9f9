"""How large the mixers of a config are: attention, latent attention, recurrent ones told by their sizes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

from sim.model.mixers import (
    AttentionShape,
    DeltaShape,
    IndexerShape,
    LinearAttentionShape,
    Mamba2Shape,
    MambaShape,
    Mixer,
    MlaShape,
    ShortConvShape,
    StateDtype,
    StateMixer,
)
from sim.model.reader import MOST_HEADS, MOST_LAYERS, ConfigReader

Found = Mapping[str, Any]


# What one layer does, in the words of configs.
Kind = Literal["full", "sliding", "chunked", "recurrent", "conv", "parallel", "mlp", "moe", "none"]


HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
KV_HEADS = (
    "num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num", "num_attention_groups",
    "num_query_groups",
)  # fmt: skip
HEAD_DIM = ("head_dim", "attention_head_dim", "kv_channels", "head_size")
WINDOW = (
    "sliding_window",
    "sliding_window_size",
    "window_size",
    "attention_window_size",
    "local_attention_window",
)
MAMBA_HEADS = ("mamba_num_heads", "mamba_n_heads", "n_mamba_heads")
MAMBA_STATE = ("ssm_state_size", "mamba_d_state", "state_size")
KDA_CONV = ("short_conv_kernel_size", "linear_conv_kernel_dim")
# Keys of configs whose recurrent layers have as many heads, of the same size, as their attention.
LIGHTNING = ("linear_num_heads", "linear_head_dim", "attn_type_list", "layer_group_size")
SHORT_CONV = ("conv_L_cache", "conv_l_cache")


def is_recurrent_only(c: ConfigReader) -> bool:
    """Sizes of a recurrent state, and no attention heads (Mamba)."""
    return c.value(*MAMBA_STATE) is not None and c.keys.get("num_attention_heads") is None


class AttentionReader:
    """The attention of each layer, with heads that may differ between kinds of layers and single layers."""

    def __init__(self, c: ConfigReader, found: Found, kinds: Sequence[Kind]) -> None:
        self.c, self.found, self.kinds, self.layers = c, found, kinds, len(kinds)
        self.hidden: int = found["hidden_size"]
        self.latent = latent_attention(c, found) if c.value("kv_lora_rank") is not None else None
        if self.latent is not None:
            if "sliding" in kinds or "chunked" in kinds:
                raise c.refuse("latent attention with a window is not modelled", "kv_lora_rank")
            self.shares_index = self._shared_index()
            return
        single = c.value("num_attention_heads_per_layer") is not None
        names = ("num_attention_heads_per_layer",) if single else HEADS
        self.heads = c.by_layer(*names, layers=self.layers, most=MOST_HEADS)
        c.ignore(*HEADS)
        self.kv_heads = self._kv_heads()
        self.head_dim = self._head_dim()
        self.window = self._window()
        self.chunk = c.optional_count("attention_chunk_size")
        self.sources = self._sources()
        self.own = self._own_sizes()

    def of(self, index: int, kind: Kind) -> Mixer:
        """The attention of one layer."""
        if self.latent is not None:
            shared = self.latent.indexer is not None and index in self.shares_index
            return _without_index(self.latent) if shared else self.latent
        found, own = self.found, self.own(index, kind)
        heads, kv_heads = own.get("heads", self.heads[index]), own.get("kv_heads", self.kv_heads[index])
        if heads % kv_heads:
            raise self.c.refuse(
                "KV heads must divide the attention heads",
                "num_key_value_heads",
                given=kv_heads,
                allowed=f"a divisor of num_attention_heads, {heads}",
            )
        head_dim = own.get("head_dim", self.head_dim)
        return AttentionShape(
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=head_dim,
            v_head_dim=own.get("v_head_dim", found["v_head_dim"] or head_dim),
            window=self.window if kind == "sliding" else None,
            chunk=self.chunk if kind == "chunked" else None,
            kv_source=self.sources.get(index),
            bias=found["qkv_bias"],
            output_bias=found["output_bias"],
            sinks=found["sinks"],
            qk_norm=found["qk_norm"],
            output_gate=found["output_gate"],
            value_is_key=found["value_is_key"] and kind == "full",
        )

    def _kv_heads(self) -> tuple[int, ...]:
        if "num_key_value_heads" in self.found:
            self.c.ignore(*KV_HEADS)
            return (int(self.found["num_key_value_heads"]),) * self.layers
        blocks = self.c.blocks("attention", self.layers)
        if blocks is not None:
            return tuple(self._of_block(one, i) for i, one in enumerate(blocks))
        names = ("num_key_value_heads_per_layer", *KV_HEADS)
        if self.c.value(*names) is None:
            return self.heads
        return self.c.by_layer(*names, layers=self.layers, most=MOST_HEADS)

    def _of_block(self, block: ConfigReader, index: int) -> int:
        if block.flag("no_op", default=False):
            return self.heads[index]
        given = block.optional_count("num_key_value_heads", most=MOST_HEADS)
        group = block.count("n_heads_in_group", default=1, most=MOST_HEADS)
        return given if given is not None else max(1, self.heads[index] // group)

    def _head_dim(self) -> int:
        given = self.c.optional_count(*HEAD_DIM, most=1_000_000)
        if given is not None:
            return given
        heads = self.heads[0]
        if self.hidden % heads:
            raise self.c.refuse(
                "does not divide hidden_size, and there is no head_dim",
                "num_attention_heads",
                given=heads,
                allowed=f"a divisor of {self.hidden}",
                hint="write head_dim",
            )
        return self.hidden // heads

    def _window(self) -> int | None:
        if "sliding" not in self.kinds:
            self.c.ignore(*WINDOW)
            return None
        window = self.c.optional_count(*WINDOW)
        if window is None:
            raise self.c.refuse(
                "missing, but some layers are sliding_attention", "sliding_window", allowed="tokens"
            )
        return window + int(self.found["window_reaches_more"])

    def _sources(self) -> dict[int, int]:
        """Cross-layer sharing: the last layers read the K and V of the last one of their kind before them."""
        shared = self.c.count("num_kv_shared_layers", default=0, least=0, most=MOST_LAYERS)
        first = self.layers - min(shared, self.layers - 1)
        sources = {}
        for index in range(first, self.layers):
            same = [i for i in range(first) if self.kinds[i] == self.kinds[index]]
            if same:
                sources[index] = same[-1]
        factor = self.c.count("cla_share_factor", default=1, most=MOST_LAYERS)
        if self.c.flag("use_cla", default=False):
            sources |= {i: i - i % factor for i in range(self.layers) if i % factor}
        return sources

    def _own_sizes(self) -> Callable[[int, Kind], dict[str, int]]:
        """Sizes that full or sliding layers, or single ones, have in place of the common ones."""
        c = self.c
        by_kind: dict[Kind, dict[str, int]] = {"full": {}, "sliding": {}}
        names: tuple[tuple[Kind, str, tuple[str, ...]], ...] = (
            ("full", "head_dim", ("global_head_dim",)),
            ("full", "kv_heads", ("num_global_key_value_heads",)),
            ("sliding", "heads", ("swa_num_attention_heads",)),
            ("sliding", "kv_heads", ("swa_num_key_value_heads",)),
            ("sliding", "head_dim", ("swa_head_dim",)),
            ("sliding", "v_head_dim", ("swa_v_head_dim",)),
        )
        for kind, field, keys in names:
            given = c.optional_count(*keys, most=MOST_HEADS)
            if given is not None:
                by_kind[kind][field] = given
        by_kind["sliding"] |= self._other_setting()
        single = self._single_layers()
        return lambda index, kind: by_kind.get(kind, {}) | single.get(index, {})

    def _other_setting(self) -> dict[str, int]:
        """Step-3.5's sliding layers."""
        inner = self.c.inner("attention_other_setting")
        if inner is None:
            return {}
        inner.ignore("attention_type", "true_head_dim")
        names = {"heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM}
        found = {field: inner.optional_count(*keys, most=MOST_HEADS) for field, keys in names.items()}
        return {field: value for field, value in found.items() if value is not None}

    def _single_layers(self) -> dict[int, dict[str, int]]:
        """``per_layer_config``: what single layers have of their own."""
        inner = self.c.inner("per_layer_config")
        found: dict[int, dict[str, int]] = {}
        for key in inner.keys if inner is not None else ():
            at = int(key) if re.fullmatch(r"[0-9]{1,5}", str(key)) else self.layers
            if inner is not None and at >= self.layers:
                raise inner.refuse("not a layer", str(key), given=key, allowed=f"0 to {self.layers - 1}")
            own = inner.inner(str(key)) if inner is not None else None
            if own is None:
                continue
            names = {"heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM}
            sizes = {field: own.optional_count(*keys, most=MOST_HEADS) for field, keys in names.items()}
            found[at] = {field: value for field, value in sizes.items() if value is not None}
            unread = own.unread()
            if unread:
                raise own.refuse("not modelled of a single layer", unread[0], allowed="heads and their size")
        return found

    def _shared_index(self) -> frozenset[int]:
        """Layers that take the choice of a layer before them: GLM-5.1's list, or GLM-5.2's period."""
        c = self.c
        if self.latent is None or self.latent.indexer is None:
            return frozenset()
        period = c.count("index_topk_freq", default=1, most=MOST_LAYERS)
        first = c.count("index_skip_topk_offset", default=2, least=0, most=MOST_LAYERS) - 1
        words, letters = c.words("indexer_types", layers=self.layers), c.value("index_topk_pattern")
        if words is not None:
            return frozenset(i for i, word in enumerate(words) if word != "full")
        if isinstance(letters, str | list):
            return frozenset(i for i, letter in enumerate(letters) if letter == "S")
        return frozenset(i for i in range(self.layers) if max(i - first, 0) % period)


def latent_attention(c: ConfigReader, found: Found) -> MlaShape:
    """Latent attention, where the config has a ``kv_lora_rank``; with a sparse indexer where it has one."""
    c.ignore(*KV_HEADS, *HEAD_DIM, *WINDOW, "qk_head_dim")
    indexer = None
    if c.value("index_topk") is not None:
        indexer = IndexerShape(
            num_heads=c.count("index_n_heads", most=MOST_HEADS),
            head_dim=c.count("index_head_dim", most=1_000_000),
            top_k=c.count("index_topk"),
        )
    heads = c.count(*HEADS, most=MOST_HEADS)
    return MlaShape(
        num_heads=heads,
        kv_lora_rank=c.count("kv_lora_rank", most=10_000_000),
        qk_rope_head_dim=c.count("qk_rope_head_dim", most=1_000_000),
        qk_nope_head_dim=c.count("qk_nope_head_dim", most=1_000_000),
        v_head_dim=c.count("v_head_dim", default=max(1, found["hidden_size"] // heads), most=1_000_000),
        q_lora_rank=c.optional_count("q_lora_rank", most=10_000_000),
        output_bias=found["output_bias"],
        indexer=indexer,
    )


def _without_index(latent: MlaShape) -> MlaShape:
    return replace(latent, indexer=replace(latent.indexer, own=False)) if latent.indexer else latent


def short_conv(c: ConfigReader, hidden: int) -> ShortConvShape:
    """LFM2's gated short convolution."""
    return ShortConvShape(
        inner_size=c.count("conv_dim", default=hidden, most=10_000_000),
        d_conv=c.count(*SHORT_CONV, least=2, most=1_000_000),
        bias=c.flag("conv_bias", default=False),
    )


def recurrent_mixer(c: ConfigReader, found: Found) -> StateMixer:
    """The recurrent mixer, which its sizes tell: gated delta net, KDA, Mamba-2, Mamba-1, else lightning."""
    kept = _state_dtype(c, found)
    inner = c.inner("linear_attn_config")
    if inner is not None:
        c.ignore(*KDA_CONV, "linear_num_heads", "linear_head_dim")
        return _kda(inner, ("num_heads",), ("head_dim",), kept)
    if c.value("linear_num_value_heads") is not None:
        return DeltaShape(
            num_key_heads=c.count("linear_num_key_heads", most=MOST_HEADS),
            key_head_dim=c.count("linear_key_head_dim", most=1_000_000),
            num_value_heads=c.count("linear_num_value_heads", most=MOST_HEADS),
            value_head_dim=c.count("linear_value_head_dim", most=1_000_000),
            d_conv=c.count("linear_conv_kernel_dim", default=4, least=2, most=1_000_000),
            state_dtype=kept,
        )
    # Lightning attention has no convolution.
    has_both = c.value("linear_num_heads") is not None and c.value("linear_conv_kernel_dim") is not None
    if c.value("short_conv_kernel_size") is not None or has_both:
        return _kda(c, ("linear_num_heads", *HEADS), ("linear_head_dim", *HEAD_DIM), kept)
    if _is_mamba2(c):
        return _mamba2(c, found, kept)
    if c.value(*MAMBA_STATE) is not None:
        return _mamba(c, found, kept)
    heads = c.count("linear_num_heads", *HEADS, most=MOST_HEADS)
    if not found["lightning"] and not any(c.value(one) is not None for one in LIGHTNING):
        raise c.refuse(
            "no key says how large the state of its linear attention is",
            "linear_num_value_heads",
            allowed="linear_num_value_heads and its like (gated delta net), linear_attn_config (KDA), "
            "mamba_d_state (Mamba), linear_num_heads (lightning attention)",
        )
    return LinearAttentionShape(
        num_heads=heads,
        head_dim=c.count("linear_head_dim", *HEAD_DIM, default=max(1, found["hidden_size"] // heads)),
        state_dtype=kept,
    )


def _state_dtype(c: ConfigReader, found: Found) -> StateDtype:
    given = c.text("mamba_ssm_cache_dtype", "mamba_ssm_dtype", default=found["state_dtype"])
    if given not in ("auto", "bfloat16", "float16", "float32"):
        raise c.refuse(
            "unknown type", "mamba_ssm_cache_dtype", given=given, allowed="auto, bfloat16, float32"
        )
    return cast(StateDtype, given)


def _kda(c: ConfigReader, heads: tuple[str, ...], dims: tuple[str, ...], kept: StateDtype) -> DeltaShape:
    count, size = c.count(*heads, most=MOST_HEADS), c.count(*dims, most=1_000_000)
    return DeltaShape(
        num_key_heads=count,
        key_head_dim=size,
        num_value_heads=count,
        value_head_dim=size,
        d_conv=c.count(
            "short_conv_kernel_size", "linear_conv_kernel_dim", default=4, least=2, most=1_000_000
        ),
        forgets_by_entry=True,
        state_dtype="float32" if kept == "auto" else kept,
    )


def _is_mamba2(c: ConfigReader) -> bool:
    if c.value(*MAMBA_HEADS) is not None:
        return True
    return is_recurrent_only(c) and c.value("num_heads") is not None


def _mamba2(c: ConfigReader, found: Found, kept: StateDtype) -> Mamba2Shape:
    names = MAMBA_HEADS if c.value(*MAMBA_HEADS) is not None else ("num_heads",)
    heads = c.count(*names, most=MOST_HEADS)
    wide = c.optional_count("mamba_d_ssm", most=10_000_000)
    expand = c.count("mamba_expand", "expand", default=2, most=1_000)
    inner = wide if wide is not None else expand * found["hidden_size"]
    dims: tuple[str, ...] = ("mamba_head_dim", "mamba_d_head", "mamba_headdim")
    dims += () if names == MAMBA_HEADS else ("head_dim",)
    return Mamba2Shape(
        num_heads=heads,
        head_dim=c.count(*dims, default=max(1, inner // heads), most=1_000_000)
        if c.value(*dims) != "auto"
        else max(1, inner // heads),
        num_groups=c.count("n_groups", "mamba_n_groups", "mamba_ngroups", default=1, most=MOST_HEADS),
        d_state=c.count(*MAMBA_STATE, most=1_000_000),
        d_conv=c.count("conv_kernel", "mamba_d_conv", "conv_kernel_size", default=4, least=2, most=1_000_000),
        conv_bias=c.flag("use_conv_bias", "mamba_conv_bias", default=True),
        proj_bias=c.flag("mamba_proj_bias", "use_bias", default=False),
        gated_norm=c.flag("mamba_rms_norm", default=True),
        state_dtype=kept,
    )


def _mamba(c: ConfigReader, found: Found, kept: StateDtype) -> MambaShape:
    hidden, ranks = found["hidden_size"], ("mamba_dt_rank", "time_step_rank")
    computed = c.value(*ranks) in (None, "auto")
    norms = c.value("mamba_expand") is not None  # Jamba's key, and Jamba's norms of dt, B and C
    expand = c.count("mamba_expand", "expand", default=2, most=1_000)
    # Falcon Mamba writes its inner size, beside an expand that says something else.
    inner = c.optional_count("intermediate_size", most=10_000_000) if is_recurrent_only(c) else None
    return MambaShape(
        inner_size=inner if inner is not None else expand * hidden,
        d_state=c.count(*MAMBA_STATE, most=1_000_000),
        d_conv=c.count("mamba_d_conv", "conv_kernel", default=4, least=2, most=1_000_000),
        dt_rank=-(-hidden // 16) if computed else c.count(*ranks, most=1_000_000),
        conv_bias=c.flag("mamba_conv_bias", "use_conv_bias", default=True),
        proj_bias=c.flag("mamba_proj_bias", "use_bias", default=False),
        norms=norms,
        state_dtype=kept,
    )
