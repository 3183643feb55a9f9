"""Steps that compile every variant of the kernels that a run can need, before it is timed.

Triton compiles anew when a length becomes 1, or ceases to be a multiple of 16, and for every number of
splits. One such compilation within a run is a second that no user of an engine ever waits for. So forward
passes are run on made-up batches: lone chunks around every edge of the tiles, and decodes of every count and
context at which tiles or splits change. What the pool holds is overwritten: nothing may be cached yet.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch

from calibrate.engine.llama import Batch, Chunk, Llama
from kernels.launch import cdiv
from kernels.paged_decode_attention import MIN_TOKENS_PER_SPLIT

TILE_EDGES = (16, 64, *range(128, 1025, 128))  # beyond, every SM has a tile of its own and K is not split
SPLITS = (2, 3, 4, 5, 8, 9, 15, 16, 17, 24, 31, 32)
ALIGNED = 16  # tokens: the divisor that Triton specialises for


def warm_up_steps(model: Llama, *, max_num_batched_tokens: int, max_num_seqs: int, max_len: int) -> int:
    """Runs them all; how many there were."""
    pool = model.layers[0].cache[0]
    longest = min(max_len, pool.shape[0] * pool.shape[1], model.tables[0].shape[0])
    batches = chain(
        chunk_batches(pool, min(max_num_batched_tokens, longest), longest),
        decode_batches(pool, max_num_seqs, longest),
    )
    count = 0
    for batch in batches:
        model.forward(batch)
        count += 1
    if pool.is_cuda:
        torch.cuda.synchronize()
    return count


def counts_up_to(most: int) -> list[int]:
    """One, two, both sides of every edge, and the most."""
    edges = {count for edge in TILE_EDGES for count in (edge, edge - 1)}
    return sorted(count for count in {1, 2, *edges, most - 1, most} if 1 <= count <= most)


def chunk_batches(pool: torch.Tensor, most: int, longest: int) -> Iterator[Batch]:
    """Chunks alone: a whole prompt, one behind cached tokens to an aligned length, and one beyond it."""
    for tokens in counts_up_to(most):
        aligned = cdiv(tokens + 1, ALIGNED) * ALIGNED
        for context in (tokens, aligned, aligned + 1):
            if context <= longest:
                blocks = torch.arange(cdiv(context, pool.shape[1]), device=pool.device)
                whole = Chunk(start=0, stop=tokens, context=context, blocks=blocks)
                yield batch_of(pool, tokens, context, chunks=(whole,))


def decode_batches(pool: torch.Tensor, max_num_seqs: int, longest: int) -> Iterator[Batch]:
    """Batches of every count, and one sequence at every number of splits, its table aligned or not."""
    block_size = pool.shape[1]
    contexts = {block_size, 2 * block_size, ALIGNED * block_size}
    starts = {MIN_TOKENS_PER_SPLIT * splits for splits in SPLITS}
    contexts |= starts | {start + block_size for start in starts} | {longest}
    sizes = [(1, context) for context in sorted(contexts)]
    sizes += [(count, 2 * block_size) for count in counts_up_to(max_num_seqs)]
    for count, context in sizes:
        if context <= longest:
            yield batch_of(pool, count, context, decodes=count)


def batch_of(
    pool: torch.Tensor, rows: int, context: int, *, chunks: tuple[Chunk, ...] = (), decodes: int = 0
) -> Batch:
    """``rows`` tokens of one chunk that ends at ``context``, or of ``decodes`` sequences of that context."""
    device = pool.device
    first = context - rows if chunks else context - 1
    position = torch.arange(rows, device=device) * bool(chunks) + first
    blocks = torch.arange(cdiv(context, pool.shape[1]), dtype=torch.int32, device=device)
    return Batch(
        token_M=torch.zeros(rows, dtype=torch.int64, device=device),
        position_M=position.int(),
        slot_M=position.long(),
        table_BP=blocks.repeat(decodes, 1),
        context_B=torch.full((decodes,), context, dtype=torch.int32, device=device),
        max_context=context if decodes else 0,
        chunks=chunks,
        sampled=torch.arange(decodes or 1, device=device),
    )
