"""From the keys of a config to its layers: which mixer each has, how large, and which MLP.

Keys are read by what they mean, under whichever of their names; no rule asks for a model's name.
"""

from __future__ import annotations

from sim.model.mixer_rules import (
    HEAD_DIM,
    HEADS,
    KV_HEADS,
    MAMBA_HEADS,
    MAMBA_STATE,
    SHORT_CONV,
    WINDOW,
    AttentionReader,
    Found,
    Kind,
    is_recurrent_only,
    recurrent_mixer,
    short_conv,
)
from sim.model.mixers import Mixer
from sim.model.mlp_rules import LARGEST_LAYER, MlpReader
from sim.model.reader import MOST_LAYERS, ConfigReader
from sim.model.shape import LayerShape

WORDS: dict[str, Kind] = {
    "full_attention": "full", "attention": "full", "full": "full", "global": "full", "attn": "full",
    "global_attention": "full", "indexed_attention": "full", "deepseek_sparse_attention": "full",
    "*": "full", "A": "full", "G": "full",
    "sliding_attention": "sliding", "sliding": "sliding", "local": "sliding", "local_attention": "sliding",
    "swa": "sliding", "sliding_window": "sliding", "sliding_window_attention": "sliding", "L": "sliding",
    "chunked_attention": "chunked", "chunked": "chunked",
    "mamba": "recurrent", "mamba2": "recurrent", "ssm": "recurrent", "linear_attention": "recurrent",
    "linear": "recurrent", "M": "recurrent", "gated_delta_net": "recurrent", "kda": "recurrent",
    "lightning_attention": "recurrent", "lightning": "recurrent",
    "conv": "conv", "short_conv": "conv",
    "mlp": "mlp", "ffn": "mlp", "-": "mlp", "moe": "moe", "E": "moe", "none": "none", "no_op": "none",
}  # fmt: skip


LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
LISTS = ("layer_types", "layers_block_type", "layer_type_list", "hybrid_override_pattern")


def num_layers(c: ConfigReader) -> int:
    """Decoder layers; where no key says how many, as many as the config lists."""
    if c.value(*LAYERS) is None:
        listed = c.value(*LISTS, "block_configs")
        if isinstance(listed, list | str) and 0 < len(listed) <= MOST_LAYERS:
            return len(listed)
    return c.count(*LAYERS, most=MOST_LAYERS)


def layer_kinds(c: ConfigReader, layers: int) -> tuple[Kind, ...]:
    """What each layer does. The first of these rules that has its keys answers."""
    for rule in (_listed, _typed, _linear_lists, _every_nth_full, _attention_at, _windowed):
        found = rule(c, layers)
        if found is not None:
            return found
    if is_recurrent_only(c):
        return _all("recurrent", layers)
    if c.value(*MAMBA_STATE) is not None:  # sizes of both, and no key says which layer is which: side by side
        return _all("parallel", layers)
    return _all("full", layers)


def _all(kind: Kind, layers: int) -> tuple[Kind, ...]:
    return (kind,) * layers


def _word(c: ConfigReader, key: str, word: str) -> Kind:
    if word not in WORDS:
        is_letter = isinstance(c.keys.get(key), str)
        raise c.refuse(
            "a kind of layer that is not modelled",
            key,
            given=word,
            allowed=", ".join(name for name in WORDS if (len(name) == 1) == is_letter),
            hint="a model of attention layers only",
        )
    return WORDS[word]


def _listed(c: ConfigReader, layers: int) -> tuple[Kind, ...] | None:
    """A list of words, one per layer, or a string of letters (Nemotron-H)."""
    c.value(*LISTS)
    key = next((one for one in LISTS if c.keys.get(one) is not None), None)
    if key is None:
        return None
    given = c.keys[key]
    if isinstance(given, str):
        given = list(given)
        if len(given) != layers:
            raise c.refuse(
                "not one letter per layer", key, given=c.keys[key], allowed=f"{layers} letters, one per layer"
            )
        return tuple(_word(c, key, letter) for letter in given)
    words = c.words(key, layers=layers) or []
    # Which layers slide is already said; the window is read with the attention's sizes.
    c.ignore("sliding_window_pattern", "_sliding_window_pattern", "global_attn_every_n_layers")
    c.ignore("max_window_layers", "use_sliding_window", "full_attention_interval", "layer_group_size")
    c.ignore("full_attn_idxs", "attn_layer_indices", "attn_layer_period", "attn_layer_offset")
    return tuple(_word(c, key, word) for word in words)


def _typed(c: ConfigReader, layers: int) -> tuple[Kind, ...] | None:
    """Lists of 0 and 1: MiniMax's (1 is full attention), MiMo's (1 slides)."""
    kinds: tuple[tuple[str, tuple[Kind, Kind]], ...] = (
        ("attn_type_list", ("recurrent", "full")),
        ("hybrid_layer_pattern", ("full", "sliding")),
    )
    for key, words in kinds:
        if c.value(key) is not None:
            marks = c.by_layer(key, layers=layers, least=0, most=1)
            return tuple(words[mark] for mark in marks)
    return None


def _linear_lists(c: ConfigReader, layers: int) -> tuple[Kind, ...] | None:
    """Kimi Linear lists its layers from 1."""
    inner = c.inner("linear_attn_config")
    if inner is None:
        return None
    full = inner.indices("full_attn_layers", layers=layers, first=1)
    linear = inner.indices("kda_layers", "linear_layers", layers=layers, first=1)
    if full is None and linear is None:
        raise inner.refuse("missing", "full_attn_layers", allowed=f"layers, 1 to {layers}")
    at = full if full is not None else frozenset(range(layers)) - (linear or frozenset())
    return tuple("full" if i in at else "recurrent" for i in range(layers))


def _every_nth_full(c: ConfigReader, layers: int) -> tuple[Kind, ...] | None:
    """The last of every n layers is full, the others are recurrent (Qwen3-Next, Ring)."""
    every = c.optional_count("full_attention_interval", "layer_group_size", most=MOST_LAYERS)
    if every is None:
        return None
    return tuple("full" if (i + 1) % every == 0 else "recurrent" for i in range(layers))


def _attention_at(c: ConfigReader, layers: int) -> tuple[Kind, ...] | None:
    """Attention at every n-th layer (Jamba), or at those listed (Bamba, LFM2); the others are recurrent."""
    other: Kind = "conv" if c.value(*SHORT_CONV) is not None else "recurrent"
    listed = c.indices("attn_layer_indices", "full_attn_idxs", layers=layers)
    if listed is not None:
        return tuple("full" if i in listed else other for i in range(layers))
    if c.value("attn_layer_period") is None:
        return None
    period = c.count("attn_layer_period", most=MOST_LAYERS)
    offset = c.count("attn_layer_offset", default=0, least=0, most=period - 1)
    return tuple("full" if i % period == offset else other for i in range(layers))


def _windowed(c: ConfigReader, layers: int) -> tuple[Kind, ...] | None:
    """Which layers have a window, or stay within a chunk; None where none has."""
    if c.value("attention_chunk_size") is not None:
        return _chunked(c, layers)
    if c.value("attention_types") is not None:
        return _repeated(c, layers)
    c.ignore("max_window_layers")
    if not c.flag("use_sliding_window", default=True) or c.optional_count(*WINDOW) is None:
        c.ignore("sliding_window_pattern", *WINDOW)
        return None
    listed = c.indices("local_layer_ids", "swa_layers", layers=layers)
    if listed is not None:
        return tuple("sliding" if i in listed else "full" for i in range(layers))
    pattern = c.value("sliding_window_pattern", "_sliding_window_pattern", "global_attn_every_n_layers")
    if isinstance(pattern, str):  # EXAONE 4: LLLG
        if not pattern:
            raise c.refuse("empty", "sliding_window_pattern", given=pattern, allowed="L and G")
        letters = [_word(c, "sliding_window_pattern", one) for one in pattern]
        return tuple(letters[i % len(letters)] for i in range(layers))
    if pattern is not None:
        names = ("sliding_window_pattern", "_sliding_window_pattern", "global_attn_every_n_layers")
        every = c.count(*names, most=MOST_LAYERS)
        return tuple("full" if (i + 1) % every == 0 else "sliding" for i in range(layers))
    first = 0
    if "use_sliding_window" in c.keys:
        first = c.count("max_window_layers", default=0, least=0, most=LARGEST_LAYER)
    return tuple("full" if i < first else "sliding" for i in range(layers))


_GUESSED_CHUNKS = (
    "attention_chunk_size without no_rope_layers: no key says which layers stay within a chunk; every fourth "
    "is taken to see all, as in Llama 4, which another architecture may not do"
)


def _chunked(c: ConfigReader, layers: int) -> tuple[Kind, ...]:
    """Llama 4: layers with rotary positions stay within a chunk, those without see all."""
    listed = c.value("no_rope_layers")
    if not c.has("no_rope_layers") and c.value("no_rope_layer_interval") is None:
        c.notes.append(_GUESSED_CHUNKS)
    every = c.count("no_rope_layer_interval", default=4, most=MOST_LAYERS)
    if not listed:
        return tuple("full" if (i + 1) % every == 0 else "chunked" for i in range(layers))
    marks = c.by_layer("no_rope_layers", layers=layers, least=0, most=1)
    return tuple("chunked" if mark else "full" for mark in marks)


def _repeated(c: ConfigReader, layers: int) -> tuple[Kind, ...]:
    """GPT-Neo: pairs of words and how often they are repeated."""
    words: list[str] = []
    given = c.value("attention_types")
    for pair in given if isinstance(given, list) else ():
        if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], list) and type(pair[1]) is int:
            words += [str(one) for one in pair[0]] * max(0, min(pair[1], layers))
    if len(words) != layers:
        raise c.refuse("not one entry per layer", "attention_types", given=given, allowed=f"{layers} kinds")
    c.ignore("attention_layers")
    return tuple(_word(c, "attention_types", word) for word in words)


class LayerReader:
    """Builds the layers of one config; ``found`` is what the architecture adds (``Traits``)."""

    def __init__(self, c: ConfigReader, found: Found, layers: int) -> None:
        self.c, self.found, self.layers = c, found, layers
        self.hidden: int = found["hidden_size"]
        self.kinds = _block_kinds(c, layers) or layer_kinds(c, layers)
        self.has_sublayers = any(kind in ("mlp", "moe") for kind in self.kinds)

    def shapes(self) -> list[LayerShape]:
        """All layers, from the first to the last."""
        mixers, mlps = self._mixers(), MlpReader(self.c, self.found, self.kinds)
        norms, extra = self.found["norms"], self.found.get("layer_vectors", 0)
        return [
            LayerShape(mixers=mixers[i], mlps=mlps.of(i), norms=norms, vectors=extra)
            for i in range(self.layers)
        ]

    def _mixers(self) -> list[tuple[Mixer, ...]]:
        attends = any(kind in ("full", "sliding", "chunked", "parallel") for kind in self.kinds)
        recurs = any(kind in ("recurrent", "parallel") for kind in self.kinds)
        if not attends:
            self.c.ignore(*HEADS, *KV_HEADS, *HEAD_DIM, *WINDOW)
        if not recurs:
            self.c.ignore(*MAMBA_STATE, *MAMBA_HEADS)
        if "conv" not in self.kinds:
            self.c.ignore(*SHORT_CONV, "conv_dim", "conv_bias")
        attention = AttentionReader(self.c, self.found, self.kinds) if attends else None
        if any(word in ("mamba", "mamba2", "ssm", "M") for word in self.c.value(*LISTS) or ()):
            self.c.count(*MAMBA_STATE, most=1_000_000)  # a Mamba layer states the size of its state
        state = recurrent_mixer(self.c, self.found) if recurs else None
        conv = short_conv(self.c, self.hidden) if "conv" in self.kinds else None
        times = self.found["sublayers"]
        mixers: list[tuple[Mixer, ...]] = []
        for index, kind in enumerate(self.kinds):
            parts: list[Mixer | None] = []
            if attention is not None and kind in ("full", "sliding", "chunked", "parallel"):
                parts += [attention.of(index, kind)] * times
            if kind in ("recurrent", "parallel"):
                parts.append(state)
            if kind == "conv":
                parts.append(conv)
            mixers.append(tuple(one for one in parts if one is not None))
        return mixers


def _block_kinds(c: ConfigReader, layers: int) -> tuple[Kind, ...] | None:
    """Nemotron-NAS says block by block whether there is attention at all."""
    blocks = c.blocks("attention", layers)
    if blocks is None:
        return None
    return tuple("none" if one.flag("no_op", default=False) else "full" for one in blocks)
