"""A model's shape, layer by layer, and its cut into the stages of a pipeline.

A layer is what mixes tokens in it (none, one, or two side by side) and the MLPs behind. Equal layers are one
``LayerShape``: ``ModelShape.kinds`` has each once, ``pattern`` says which of them every layer is. A quantised
matrix is held as its ``WeightScheme`` says: the bits of a code, and who shares a scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import ceil, gcd
from typing import Literal

from sim.errors import ScenarioError
from sim.model.mixers import (
    AttentionShape,
    MambaShape,
    Mixer,
    MlaShape,
    StateMixer,
)
from sim.scenario.dataclass import dataclass

Dtype = Literal["bfloat16", "float16", "float32"]


DtypeChoice = Dtype | Literal["auto"]


Quantization = Literal["none", "fp8", "int8", "int4", "mxfp4", "nvfp4"]


Groups = Literal["free", "whole", "halved"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightScheme:
    """Codes of ``bits``, and a scale for ``rows`` x ``group`` weights (``group`` along k, ``rows`` along n).

    ``group`` None: a scale for each output channel (``rows`` 1), or for the whole matrix (``rows`` 0).
    """

    kind: Quantization
    bits: int
    group: int | None = None
    rows: int = 1
    scale_bytes: int = 4
    zero_bits: int = 0  # of a group's zero point
    groups: Groups = "whole"
    """What of a group a GPU may have: any part of it (bitsandbytes), all, or half of it and less where an
    expert's part does not divide (AWQ, GPTQ in vLLM)."""

    @property
    def has_blocks(self) -> bool:
        """Whether scales belong to two-dimensional blocks, which a split must respect."""
        return self.group is not None and self.rows > 1

    @property
    def traffic_bits(self) -> float:
        """Bits that one weight takes when it is read: scales count where they are more than 0.1 %."""
        if self.group is None or self.has_blocks:
            return float(self.bits)
        return self.bits + (8 * self.scale_bytes + self.zero_bits) / self.group

    def num_bytes(self, n: int, k: int) -> float:
        """Codes and scales of an n x k matrix."""
        codes = n * k * self.bits / 8
        if self.group is None:
            return codes + self.scale_bytes * (n if self.rows else 1)
        groups = ceil(n / self.rows) * ceil(k / self.group) if self.has_blocks else n * k / self.group
        return codes + groups * (self.scale_bytes + self.zero_bits / 8)

    def refined(self, inner: int, hidden: int) -> WeightScheme:
        """Smaller blocks or groups where an expert's part does not divide.

        vLLM 0.33 takes the common divisor of FP8 blocks, and halves groups of AWQ and GPTQ down to 32.
        """
        if self.group is None:
            return self
        if self.has_blocks:
            size = gcd(self.group, inner, hidden)
            return replace(self, group=size, rows=size)
        size = self.group
        while self.groups == "halved" and (inner % size or hidden % size) and size // 2 >= SMALLEST_GROUP:
            size //= 2
        return replace(self, group=size)


SMALLEST_GROUP = 32  # of experts in vLLM's kernels for integer codes

FP8_TENSOR = WeightScheme(kind="fp8", bits=8, rows=0)
FP8_CHANNEL = WeightScheme(kind="fp8", bits=8)
INT8_CHANNEL = WeightScheme(kind="int8", bits=8)
# Two 4-bit floats a byte, a float8 scale for 16 of them (and a float32 for the matrix, left out).
NVFP4 = WeightScheme(kind="nvfp4", bits=4, group=16, scale_bytes=1)
# The OCP MX formats 1.0: an 8-bit exponent for 32 codes.
MXFP4 = WeightScheme(kind="mxfp4", bits=4, group=32, scale_bytes=1)
MXFP8 = WeightScheme(kind="fp8", bits=8, group=32, scale_bytes=1)


def fp8_blocks(rows: int, columns: int) -> WeightScheme:
    """DeepSeek's blocks: a float32 scale each."""
    return WeightScheme(kind="fp8", bits=8, group=columns, rows=rows)


def grouped(bits: int, group: int | None, *, has_zeros: bool, groups: Groups | None = None) -> WeightScheme:
    """AWQ, GPTQ and their like: a 16-bit scale a group, and a zero point of as many bits as a code."""
    groups = groups or ("halved" if has_zeros else "whole")
    kind: Quantization = "int4" if bits <= 4 else "int8"
    zero_bits = bits if has_zeros else 0
    return WeightScheme(kind=kind, bits=bits, group=group, scale_bytes=2, zero_bits=zero_bits, groups=groups)


# What an engine's own quantization makes of a 16-bit checkpoint (engine.quantization).
SCHEMES: dict[Quantization, WeightScheme] = {
    "fp8": WeightScheme(kind="fp8", bits=8, rows=0, scale_bytes=0),  # a scale a channel: below 0.1 %
    "int8": WeightScheme(kind="int8", bits=8, rows=0, scale_bytes=0),
    "int4": grouped(4, 128, has_zeros=True, groups="free"),
    "mxfp4": MXFP4,
    "nvfp4": NVFP4,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpShape:
    """A plain MLP; ``num_matrices`` is 3 where it is gated (SwiGLU), else 2."""

    intermediate_size: int
    num_matrices: int = 3
    bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeShape:
    """Mixture of experts."""

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    num_shared_experts: int = 0
    shared_expert_intermediate_size: int = 0  # all shared experts together
    router_bias: bool = False
    shared_expert_gate: bool = False  # Qwen2-MoE: one more vector of hidden_size per layer
    num_matrices: int = 3
    bias: bool = False
    latent_size: int | None = None  # Nemotron 3: routed experts work on a narrower vector


Mlp = MlpShape | MoeShape


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """One layer: token mixers (two of them work side by side, or one after the other) and MLPs.

    No mixer: a layer that is an MLP alone; no MLP: one that is a mixer alone (Nemotron-H has both).
    """

    mixers: tuple[Mixer, ...]
    mlps: tuple[Mlp, ...]
    norms: int = 2  # of hidden_size
    vectors: int = 0  # entries of what is neither a norm nor in a mixer or an MLP
    schemes: tuple[tuple[str, WeightScheme], ...] = ()  # of its matrices that the checkpoint quantises

    @property
    def attention(self) -> AttentionShape | None:
        """Its attention over K and V of every head, if it has one."""
        return next((one for one in self.mixers if isinstance(one, AttentionShape)), None)

    @property
    def mla(self) -> MlaShape | None:
        """Its latent attention, if it has one."""
        return next((one for one in self.mixers if isinstance(one, MlaShape)), None)

    @property
    def state(self) -> StateMixer | None:
        """Its recurrent mixer, which keeps a state of fixed size for each sequence."""
        return next((one for one in self.mixers if isinstance(one, StateMixer)), None)

    @property
    def moe(self) -> MoeShape | None:
        """Its experts, if it has them."""
        return next((one for one in self.mlps if isinstance(one, MoeShape)), None)

    @property
    def mlp(self) -> MlpShape | None:
        """Its plain MLP, if it has one."""
        return next((one for one in self.mlps if isinstance(one, MlpShape)), None)

    @property
    def layer_type(self) -> str:
        """What mixes tokens here, in the words of a config's ``layer_types``."""
        return "+".join(one.layer_type for one in self.mixers) or "none"

    @property
    def keeps_kv(self) -> bool:
        """Whether it has K and V of its own: shared ones are the source layer's."""
        return self.mla is not None or (self.attention is not None and self.attention.kv_source is None)


def kinds_of(layers: Iterable[LayerShape]) -> tuple[tuple[LayerShape, ...], tuple[int, ...]]:
    """``kinds`` and ``pattern`` of these layers, in their order."""
    places: dict[LayerShape, int] = {}
    pattern = tuple(places.setdefault(layer, len(places)) for layer in layers)
    return tuple(places), pattern


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes that decide cost and memory."""

    name: str
    architecture: str  # model_type of the config
    hidden_size: int
    intermediate_size: int  # the config's own word: a layer's MLP says how wide it is
    vocab_size: int
    max_position_embeddings: int
    dtype: Dtype
    tie_word_embeddings: bool
    kinds: tuple[LayerShape, ...]  # each kind of layer once
    pattern: tuple[int, ...]  # one entry per layer: its place in kinds
    learned_positions: int = 0  # rows of a learned position table; 0 with rotary or ALiBi
    rotary_fraction: float = 1.0  # the part of a head that rotary embeddings turn; 0 without them
    rotary_rows: int | None = None  # of the tables that an engine keeps for them; None: one of all positions
    norm: Literal["rmsnorm", "layernorm", "bias_free_layernorm", "none"] = "rmsnorm"
    embedding_norm: bool = False
    other_embedding_parameters: int = 0  # tables beside the token embedding (Gemma 3n's of each layer)
    lm_head_bias: bool = False
    checkpoint_quantization: Quantization = "none"  # what most of the published weights are held in
    lm_head_scheme: WeightScheme | None = None  # how the checkpoint holds it; None: 16-bit
    checkpoint_kv_dtype: Literal["auto", "fp8"] = "auto"  # the KV cache's type that the checkpoint names
    notes: tuple[str, ...] = ()  # what was assumed, for the reader
    is_guessed: bool = False  # an unknown architecture, or keys that nobody read: any size may be another
    encoder_parameters: int = 0  # of the vision encoder beside it, projector included; in no other count
    uncounted: str = ""  # parts of a multimodal config that are not in any number here
    source: str = ""
    published_parameters: int | None = None
    published_parameters_source: str = ""

    @property
    def num_hidden_layers(self) -> int:
        """Layers, whatever is in them."""
        return len(self.pattern)

    @property
    def layers(self) -> tuple[LayerShape, ...]:
        """One per layer, from the first to the last."""
        return tuple(self.kinds[place] for place in self.pattern)

    def counted_kinds(self) -> Iterator[tuple[LayerShape, int]]:
        """Each kind of layer, and how many layers are of it."""
        return ((kind, self.pattern.count(place)) for place, kind in enumerate(self.kinds))

    @property
    def layer_types(self) -> tuple[str, ...]:
        """One per layer: what mixes tokens in it."""
        types = [kind.layer_type for kind in self.kinds]
        return tuple(types[place] for place in self.pattern)

    @property
    def attention(self) -> AttentionShape | None:
        """The attention of its full layers, else of its first layer with attention; None: latent or none."""
        found = [kind.attention for kind in self.kinds if kind.attention is not None]
        return next((one for one in found if one.reach is None), found[0] if found else None)

    @property
    def mla(self) -> MlaShape | None:
        """Its latent attention, if it has one."""
        return next((kind.mla for kind in self.kinds if kind.mla is not None), None)

    @property
    def mamba(self) -> MambaShape | None:
        """Its Mamba-1 mixer, if it has one."""
        return next((kind.state for kind in self.kinds if isinstance(kind.state, MambaShape)), None)

    @property
    def moe(self) -> MoeShape | None:
        """The experts of its first layer that has some."""
        return next((kind.moe for kind in self.kinds if kind.moe is not None), None)

    @property
    def has_state(self) -> bool:
        """Whether some layer keeps a recurrent state for each sequence."""
        return any(kind.state is not None for kind in self.kinds)

    @property
    def num_attention_heads(self) -> int:
        """Query heads of its (first full) attention; 0 without attention."""
        return self.mla.num_heads if self.mla else self.attention.num_heads if self.attention else 0

    @property
    def num_key_value_heads(self) -> int:
        """K and V heads of the same layer; with latent attention as many as there are query heads."""
        return self.mla.num_heads if self.mla else self.attention.num_kv_heads if self.attention else 0

    @property
    def head_dim(self) -> int:
        """Entries of a head of the same layer; of a rebuilt key with latent attention."""
        return self.mla.qk_head_dim if self.mla else self.attention.head_dim if self.attention else 0

    @property
    def rotary_dim(self) -> int:
        """Entries of a head that rotary embeddings turn; 0 with learned positions, ALiBi, or none."""
        if self.learned_positions or not self.rotary_fraction:
            return 0
        return self.mla.qk_rope_head_dim if self.mla else int(self.head_dim * self.rotary_fraction)

    @property
    def num_rotary_entries(self) -> int:
        """Of the cos/sin tables that an engine keeps beside the weights."""
        return (self.rotary_rows or self.max_position_embeddings) * self.rotary_dim

    @property
    def sliding_window(self) -> int | None:
        """The window of its first layer that has one."""
        found = (kind.attention.window for kind in self.kinds if kind.attention is not None)
        return next((window for window in found if window is not None), None)

    @property
    def norms_per_layer(self) -> int:
        """Norms of hidden_size in its first layer."""
        return self.kinds[0].norms if self.kinds else 0

    @property
    def mlp_matrices(self) -> int:
        """3 for a gated MLP (SwiGLU), 2 for a plain one, as in the first layer that has an MLP."""
        return next((mlp.num_matrices for kind in self.kinds for mlp in kind.mlps), 3)

    @property
    def num_attention_layers(self) -> int:
        """Layers that keep K and V, full, windowed or latent."""
        return sum(count for kind, count in self.counted_kinds() if kind.keeps_kv)

    @property
    def num_attending_layers(self) -> int:
        """Layers with attention, those that read another layer's K and V among them."""
        attends = [kind.attention is not None or kind.mla is not None for kind in self.kinds]
        return sum(attends[place] for place in self.pattern)

    @property
    def num_blocks(self) -> int:
        """Parts that add to the residual stream: a mixer, or the MLPs behind it; two in an ordinary layer."""
        return sum(count * (len(kind.mixers) + bool(kind.mlps)) for kind, count in self.counted_kinds())

    @property
    def num_sliding_layers(self) -> int:
        """Layers whose KV ends at the sliding window."""
        return sum(
            count
            for kind, count in self.counted_kinds()
            if kind.keeps_kv and kind.attention is not None and kind.attention.window is not None
        )

    @property
    def num_moe_layers(self) -> int:
        """Layers with experts."""
        return sum(count for kind, count in self.counted_kinds() if kind.moe is not None)

    @property
    def num_dense_mlp_layers(self) -> int:
        """Layers with a plain MLP."""
        return sum(count for kind, count in self.counted_kinds() if kind.mlp is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Consecutive layers. The first stage holds the token embedding, the last the final norm and lm_head.

    A tied lm_head needs the table twice where first and last are not the same GPU.
    """

    shape: ModelShape  # of these layers alone
    index: int
    num_stages: int

    @property
    def is_first(self) -> bool:
        """Whether tokens come in here."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """Whether tokens are sampled here."""
        return self.index == self.num_stages - 1


def layers_of_stages(num_layers: int, num_stages: int) -> list[int]:
    """How many layers each stage has, as vLLM cuts: a remainder goes to the stages before the last one.

    36 layers over 8 stages: 4 4 4 5 5 5 5 4. The last stage has lm_head besides (vLLM's get_pp_indices).
    """
    counts = [num_layers // num_stages] * num_stages
    for place in range(num_layers % num_stages):
        counts[-2 - place] += 1
    return counts


def stages_of(m: ModelShape, num_stages: int) -> tuple[Stage, ...]:
    """The stages of a pipeline; one stage is the model as it is."""
    check_pipeline_parallel_size(m, num_stages)
    if num_stages == 1:
        return (Stage(shape=m, index=0, num_stages=1),)
    stages, first, layers = [], 0, m.layers
    for index, count in enumerate(layers_of_stages(m.num_hidden_layers, num_stages)):
        kinds, pattern = kinds_of(layers[first : first + count])
        shape = replace(m, kinds=kinds, pattern=pattern)
        stages.append(Stage(shape=shape, index=index, num_stages=num_stages))
        first += count
    return tuple(stages)


def check_pipeline_parallel_size(m: ModelShape, num_stages: int) -> None:
    """Every stage has a layer."""
    if num_stages > m.num_hidden_layers:
        raise ScenarioError(
            f"{m.num_hidden_layers} layers of {m.name} are fewer than {num_stages} stages",
            path="engine.pipeline_parallel_size",
            given=num_stages,
            allowed=f"1 to {m.num_hidden_layers}",
        )
