"""A model's shape, and its cut into the stages of a pipeline."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from sim.errors import ScenarioError
from sim.scenario.dataclass import dataclass

LayerType = Literal["full_attention", "sliding_attention", "linear_attention", "mamba"]


Dtype = Literal["bfloat16", "float16", "float32"]


DtypeChoice = Dtype | Literal["auto"]


Quantization = Literal["none", "fp8", "int8", "int4", "mxfp4"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeShape:
    """Mixture of experts."""

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    num_shared_experts: int = 0
    shared_expert_intermediate_size: int = 0  # all shared experts together
    num_dense_layers: int = 0  # layers with a plain MLP (first_k_dense_replace and its like)
    router_bias: bool = False
    shared_expert_gate: bool = False  # Qwen2-MoE: one more vector of hidden_size per layer


@dataclass(frozen=True, slots=True, kw_only=True)
class MlaShape:
    """Multi-head latent attention: K and V are rebuilt from one compressed vector."""

    kv_lora_rank: int
    qk_rope_head_dim: int
    qk_nope_head_dim: int
    v_head_dim: int
    q_lora_rank: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MambaShape:
    """A Mamba-1 mixer (Jamba): a state of fixed size per sequence in place of KV."""

    d_state: int
    d_conv: int
    expand: int
    dt_rank: int
    conv_bias: bool = True
    proj_bias: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes that decide cost and memory."""

    name: str
    architecture: str  # model_type of the config
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    dtype: Dtype
    tie_word_embeddings: bool
    mlp_matrices: int  # 3 for gated (SwiGLU), 2 for plain
    attention_bias: bool  # of q, k and v
    mlp_bias: bool
    layer_types: tuple[LayerType, ...]  # one per layer
    sliding_window: int | None
    learned_positions: int  # rows of a learned position table; 0 with rotary or ALiBi
    norm: Literal["rmsnorm", "layernorm"]
    attention_output_bias: bool = False
    attention_sinks: bool = False  # gpt-oss: one learned logit per head and layer
    qk_norm: Literal["none", "per_head", "full"] = "none"  # per_head: head_dim weights; full: all heads
    norms_per_layer: int = 2
    embedding_norm: bool = False
    lm_head_bias: bool = False
    moe: MoeShape | None = None
    mla: MlaShape | None = None
    mamba: MambaShape | None = None
    checkpoint_quantization: Quantization = "none"  # the published weights' own (quantization_config)
    notes: tuple[str, ...] = ()  # what was assumed, for the reader
    source: str = ""
    published_parameters: int | None = None
    published_parameters_source: str = ""

    @property
    def num_attention_layers(self) -> int:
        """Layers that keep K and V, full or sliding."""
        return sum(kind in ("full_attention", "sliding_attention") for kind in self.layer_types)

    @property
    def num_sliding_layers(self) -> int:
        """Layers whose KV ends at the sliding window."""
        return self.layer_types.count("sliding_attention")

    @property
    def num_moe_layers(self) -> int:
        """Layers with experts."""
        return self.num_hidden_layers - self.moe.num_dense_layers if self.moe else 0

    @property
    def num_dense_mlp_layers(self) -> int:
        """Layers with a plain MLP."""
        return self.num_hidden_layers - self.num_moe_layers


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
    stages, first = [], 0
    for index, count in enumerate(layers_of_stages(m.num_hidden_layers, num_stages)):
        shape = replace(
            m,
            num_hidden_layers=count,
            layer_types=m.layer_types[first : first + count],
            moe=_experts_of(m, first, count),
        )
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


def _experts_of(m: ModelShape, first: int, count: int) -> MoeShape | None:
    """Dense layers are taken to be the first ones, as in DeepSeek's models."""
    if m.moe is None:
        return None
    return replace(m.moe, num_dense_layers=min(max(m.moe.num_dense_layers - first, 0), count))
