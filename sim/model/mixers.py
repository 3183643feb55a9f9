"""What mixes tokens in a layer: attention of several kinds, and mixers with a state of fixed size."""

from __future__ import annotations

from typing import Literal

from sim.scenario.dataclass import dataclass

StateDtype = Literal["auto", "bfloat16", "float16", "float32"]  # auto: the model's own


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionShape:
    """Softmax attention over K and V of every KV head.

    ``window``: a query sees the last W tokens; ``chunk``: those of its own chunk of C tokens. At most one
    of them; without either a query sees all. ``kv_source``: the layer whose K and V are read in place of own
    ones (cross-layer sharing): such a layer has queries only.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    v_head_dim: int
    window: int | None = None
    chunk: int | None = None
    kv_source: int | None = None
    bias: bool = False  # of q, k and v
    output_bias: bool = False
    sinks: bool = False  # gpt-oss: one learned logit per head and layer
    qk_norm: Literal["none", "per_head", "full"] = "none"  # per_head: head_dim weights; full: all heads
    output_gate: Literal["none", "per_head", "per_entry"] = "none"
    value_is_key: bool = False  # Gemma 4's full layers: no matrix for V

    @property
    def reach(self) -> int | None:
        """Tokens that a query sees at most; None: all."""
        return self.window if self.window is not None else self.chunk

    @property
    def layer_type(self) -> str:
        """In the words of a config's ``layer_types``."""
        if self.window is not None:
            return "sliding_attention"
        return "full_attention" if self.chunk is None else "chunked_attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexerShape:
    """DeepSeek-V3.2's choice of the tokens that latent attention reads (DeepSeek sparse attention)."""

    num_heads: int
    head_dim: int
    top_k: int
    own: bool = True  # False: the layer takes the choice of a layer before it, and keeps no keys


@dataclass(frozen=True, slots=True, kw_only=True)
class MlaShape:
    """Multi-head latent attention: K and V are rebuilt from one compressed vector."""

    num_heads: int
    kv_lora_rank: int
    qk_rope_head_dim: int
    qk_nope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None
    output_bias: bool = False
    indexer: IndexerShape | None = None

    @property
    def qk_head_dim(self) -> int:
        """Entries of a query and of a rebuilt key."""
        return self.qk_nope_head_dim + self.qk_rope_head_dim

    @property
    def latent_size(self) -> int:
        """Entries that the cache holds for a token, whatever the heads."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    @property
    def layer_type(self) -> str:
        """In the words of a config's ``layer_types``."""
        return "full_attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class MambaShape:
    """A Mamba-1 mixer (arXiv:2312.00752): a state of fixed size per sequence in place of KV."""

    inner_size: int
    d_state: int
    d_conv: int
    dt_rank: int
    conv_bias: bool = True
    proj_bias: bool = False
    norms: bool = False  # Jamba: of dt, B and C
    state_dtype: StateDtype = "auto"

    @property
    def layer_type(self) -> str:
        """In the words of a config's ``layer_types``."""
        return "mamba"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mamba2Shape:
    """A Mamba-2 mixer (arXiv:2405.21060): heads share B and C within a group."""

    num_heads: int
    head_dim: int
    num_groups: int
    d_state: int
    d_conv: int
    conv_bias: bool = True
    proj_bias: bool = False
    gated_norm: bool = True
    state_dtype: StateDtype = "auto"

    @property
    def inner_size(self) -> int:
        """Entries of all heads."""
        return self.num_heads * self.head_dim

    @property
    def layer_type(self) -> str:
        """In the words of a config's ``layer_types``."""
        return "mamba"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaShape:
    """A gated delta net (arXiv:2412.06464); where it forgets entry by entry, KDA (arXiv:2510.26692)."""

    num_key_heads: int
    key_head_dim: int
    num_value_heads: int
    value_head_dim: int
    d_conv: int
    forgets_by_entry: bool = False
    state_dtype: StateDtype = "auto"

    @property
    def key_size(self) -> int:
        """Entries of all keys (queries have as many)."""
        return self.num_key_heads * self.key_head_dim

    @property
    def value_size(self) -> int:
        """Entries of all values."""
        return self.num_value_heads * self.value_head_dim

    @property
    def layer_type(self) -> str:
        """In the words of a config's ``layer_types``."""
        return "linear_attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttentionShape:
    """Lightning attention (arXiv:2401.04658) and its like: a square state per head, no convolution."""

    num_heads: int
    head_dim: int
    output_gate: bool = True
    output_norm: bool = True
    qk_norm: bool = False
    state_dtype: StateDtype = "auto"

    @property
    def layer_type(self) -> str:
        """In the words of a config's ``layer_types``."""
        return "linear_attention"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortConvShape:
    """LFM2's gated short convolution: its state is the last inputs."""

    inner_size: int
    d_conv: int
    bias: bool = False
    state_dtype: StateDtype = "auto"

    @property
    def layer_type(self) -> str:
        """In the words of a config's ``layer_types``."""
        return "conv"


StateMixer = MambaShape | Mamba2Shape | DeltaShape | LinearAttentionShape | ShortConvShape


Mixer = AttentionShape | MlaShape | StateMixer
