"""What each layer of a model keeps in vLLM's KV cache: pages of which size, for how many tokens.

Read from vLLM 0.33.0 (SPEC of its memory account): layers that share another layer's K and V keep nothing, a
state page is padded to an attention page, and the block grows until one attention page holds a state.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from math import lcm

from sim.model.counts import INDEXER_SCALE_BYTES, kv_dtype_bytes, layer_state_bytes, served_dtype
from sim.model.kv_groups import KvGroup, LayerKv, groups_of
from sim.model.matrices import kv_heads_of_gpu
from sim.model.mixers import AttentionShape, DeltaShape, Mamba2Shape, MlaShape, StateMixer
from sim.model.shape import DtypeChoice, ModelShape
from sim.scenario.dataclass import dataclass

# FlashMLA's FP8 rows for sparse attention: 512 B of latent, four float32 scales, 64 bfloat16 of rope.
SPARSE_FP8_ROW_BYTES = 656
BLOCK = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class KvSettings:
    """What decides pages beside the model. ``generation``: 9 of compute capability 9.0; 0 without CUDA.

    ``caches_states``: states are kept at block boundaries ("align"), so that a prefix can be found again.
    ``raises_blocks``: vLLM's blocks grow to what its kernels take and to what holds a state; in other engines
    states lie beside the pages of the attention.
    """

    kv_cache_dtype: str = "auto"
    dtype: DtypeChoice = "auto"
    tensor_parallel_size: int = 1
    block_size: int = BLOCK
    generation: int = 0
    caches_states: bool = True
    keeps_checkpoints: bool = True
    delta_alignment: int = 64
    latent_alignment: int = 128
    raises_blocks: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class KvRow:
    """K and V of one token in one layer on one GPU, which has ``num_heads`` of ``all_heads`` KV heads."""

    num_heads: int
    all_heads: int
    head_dim: int
    v_head_dim: int
    entry_bytes: int

    @property
    def num_bytes(self) -> int:
        """Of all its heads."""
        return self.num_heads * (self.head_dim + self.v_head_dim) * self.entry_bytes


@lru_cache(maxsize=64)  # an account is made for each variant, seed and point
def kv_groups(model: ModelShape, settings: KvSettings) -> tuple[KvGroup, ...]:
    """The groups of a whole model (a stage's part of them: ``KvGroup.of_layers``)."""
    layers = layers_kv(model, settings)
    has_states = any(layer.kind == "state" for layer in layers)
    return groups_of(
        layers,
        packs_pages=_packs_pages(model),
        caches_prefixes=not has_states or (settings.caches_states and model.num_attention_layers > 0),
    )


def block_size_of(model: ModelShape, settings: KvSettings) -> int:
    """Tokens of a block: what was asked for, raised to what the kernels take and to what holds a state."""
    if not settings.raises_blocks:
        return settings.block_size
    block = _kernel_block(model, settings)
    states = [kind.state for kind in model.kinds if kind.state is not None]
    row_bytes = max(_rows(model, settings), default=0)
    if not states or not row_bytes:
        return block
    alignment = settings.latent_alignment if model.mla is not None else BLOCK
    if settings.caches_states and any(isinstance(state, DeltaShape) for state in states):
        alignment = lcm(alignment, settings.delta_alignment)
    state_bytes = max(_state_bytes(state, model, settings) for state in states)
    held = -(-state_bytes // (alignment * row_bytes)) * alignment
    return max(block, held)


def layers_kv(model: ModelShape, settings: KvSettings) -> list[LayerKv]:
    """One entry for every page table entry of a layer: its K and V, its indexer's keys, its state."""
    block = block_size_of(model, settings)
    found: list[LayerKv] = []
    for index, kind in enumerate(model.layers):
        for mixer in kind.mixers:
            if isinstance(mixer, AttentionShape):
                if mixer.kv_source is None:
                    found.append(_attention(index, mixer, model, settings, block))
            elif isinstance(mixer, MlaShape):
                found += _latent(index, mixer, model, settings, block)
            else:
                found.append(_state(index, mixer, model, settings, block))
    return _with_padded_states(found) if settings.raises_blocks else found


def _attention(
    index: int, attention: AttentionShape, model: ModelShape, settings: KvSettings, block: int
) -> LayerKv:
    row, is_sliding = _row(attention, model, settings), attention.window is not None
    return LayerKv(
        layer=index,
        kind="sliding" if is_sliding else "full" if attention.chunk is None else "chunked",
        row=row,
        page_bytes=block * row.num_bytes,
        block_size=block,
        window_tokens=attention.reach,
    )


def _row(attention: AttentionShape, model: ModelShape, settings: KvSettings) -> KvRow:
    return KvRow(
        num_heads=kv_heads_of_gpu(attention.num_kv_heads, settings.tensor_parallel_size),
        all_heads=attention.num_kv_heads,
        head_dim=attention.head_dim,
        v_head_dim=attention.v_head_dim,
        entry_bytes=kv_dtype_bytes(model, settings.kv_cache_dtype, settings.dtype),
    )


def _latent(
    index: int, mla: MlaShape, model: ModelShape, settings: KvSettings, block: int
) -> Iterator[LayerKv]:
    """The indexer's keys are in a layer of their own, before the layer that they choose for."""
    row_bytes = _latent_row_bytes(mla, model, settings)
    one = LayerKv(
        layer=index,
        kind="full",
        row=("latent", row_bytes),
        page_bytes=block * row_bytes,
        block_size=block,
        is_latent=True,
    )
    if mla.indexer is not None and mla.indexer.own:
        keys = mla.indexer.head_dim + INDEXER_SCALE_BYTES
        yield replace(one, row=("indexer", keys), page_bytes=block * keys)
    yield one


def _latent_row_bytes(mla: MlaShape, model: ModelShape, settings: KvSettings) -> int:
    width = kv_dtype_bytes(model, settings.kv_cache_dtype, settings.dtype)
    if mla.indexer is not None and width == 1 and settings.generation == 9:
        return SPARSE_FP8_ROW_BYTES
    return mla.latent_size * width


def _state(index: int, mixer: StateMixer, model: ModelShape, settings: KvSettings, block: int) -> LayerKv:
    # Mamba-2 and gated delta nets keep checkpoints while a prompt is computed: one page more. KDA does not.
    is_delta = isinstance(mixer, DeltaShape) and not mixer.forgets_by_entry
    checkpoints = settings.keeps_checkpoints and (isinstance(mixer, Mamba2Shape) or is_delta)
    num_bytes = _state_bytes(mixer, model, settings)
    return LayerKv(
        layer=index,
        kind="state",
        row=("state", type(mixer).__name__, num_bytes),
        page_bytes=num_bytes,
        block_size=block,
        pages_per_request=2 + checkpoints if settings.caches_states and model.num_attention_layers else 1,
    )


def _state_bytes(mixer: StateMixer, model: ModelShape, settings: KvSettings) -> int:
    return layer_state_bytes(mixer, served_dtype(model, settings.dtype), settings.tensor_parallel_size)


def _with_padded_states(layers: list[LayerKv]) -> list[LayerKv]:
    """States are as large as the largest page of the attention beside them."""
    pages = [layer.page_bytes for layer in layers if layer.kind != "state"]
    if not pages:
        return layers
    page = max(pages)
    return [
        replace(layer, page_bytes=max(layer.page_bytes, page)) if layer.kind == "state" else layer
        for layer in layers
    ]


def _rows(model: ModelShape, settings: KvSettings) -> Iterator[int]:
    """Bytes that a token takes in each kind of layer's attention."""
    for kind in model.kinds:
        attention, mla = kind.attention, kind.mla
        if attention is not None and attention.kv_source is None:
            yield _row(attention, model, settings).num_bytes
        if mla is not None:
            yield _latent_row_bytes(mla, model, settings)


def _kernel_block(model: ModelShape, settings: KvSettings) -> int:
    """The smallest block at least as large as asked for that the attention's kernels take."""
    if model.mla is None:
        return settings.block_size
    is_one_byte = kv_dtype_bytes(model, settings.kv_cache_dtype, settings.dtype) == 1
    if model.mla.indexer is not None and settings.generation:
        least = 64
    elif settings.generation == 10:
        least = 128  # CUTLASS MLA
    elif settings.generation == 9 and is_one_byte:
        least = 64  # FlashMLA; 16-bit rows are read by FlashAttention, which takes 16
    else:
        least = BLOCK
    return max(settings.block_size, least)


def _packs_pages(model: ModelShape) -> bool:
    """Whether the layout has the blocks outermost: sparse indexers, heads of different sizes (Gemma 4)."""
    has_indexer = any(kind.mla is not None and kind.mla.indexer is not None for kind in model.kinds)
    sizes = {
        kind.attention.head_dim for kind in model.kinds if kind.attention and kind.attention.kv_source is None
    }
    return has_indexer or len(sizes) > 1
