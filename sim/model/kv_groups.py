"""Which KV-cache groups vLLM makes of a model's layers, and how many blocks of them a request takes.

Every group has its own block table per request; all groups take blocks from one pool. A block of the pool
holds the pages of the layers of any one group, so it is as large as the widest group. The rules are those of
vLLM 0.33.0 (``v1/core/kv_cache_planning.py``, ``v1/kv_cache_interface.py``); sizes are bytes on one GPU.
Not modelled: draft models' layers, encoders' cross-attention, context parallelism.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from typing import Literal

from sim.scenario.dataclass import dataclass

KvKind = Literal["full", "sliding", "chunked", "state"]


def window_blocks(window_tokens: int, block_size: int, num_tokens: int, in_flight_tokens: int) -> int:
    """Most blocks of a sliding window in a request of ``num_tokens``, ``in_flight_tokens`` of them in one go.

    What left the window is given back only when the steps that read it are over. The window's first token
    may be a block's last one: one block more.
    """
    return -(-min(window_tokens - 1 + in_flight_tokens, num_tokens) // block_size) + 1


def chunk_blocks(chunk_tokens: int, block_size: int, num_tokens: int, in_flight_tokens: int) -> int:
    """The same of chunked local attention, whose chunks begin with a block."""
    return -(-min(chunk_tokens + in_flight_tokens, num_tokens) // block_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerKv:
    """What one layer keeps: a page for every ``block_size`` tokens, or pages with a state.

    ``row``: what must be equal for layers to share a group with others (heads, sizes, bytes of an entry).
    ``window_tokens``: of a sliding window, or of a chunk. ``pages_per_request``: of a state, and of them
    ``pages_held`` while the request decodes.
    """

    layer: int
    kind: KvKind
    row: Hashable
    page_bytes: int
    block_size: int
    window_tokens: int | None = None
    pages_per_request: int = 0
    pages_held: int = 1
    is_latent: bool = False

    def blocks(self, num_tokens: int, in_flight_tokens: int) -> int:
        """Pages of a request that has grown to ``num_tokens``, ``in_flight_tokens`` of them in one go."""
        if self.kind == "state":
            return self.pages_per_request
        if self.kind == "full":
            return -(-num_tokens // self.block_size)
        most = window_blocks if self.kind == "sliding" else chunk_blocks
        return most(self.window_tokens or 0, self.block_size, num_tokens, in_flight_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class KvGroup:
    """Layers that share a block table. All have the same kind, block size and window."""

    layers: tuple[LayerKv, ...]
    caches_prefixes: bool = True

    @property
    def kind(self) -> KvKind:
        """Whose blocks are given back when: never, behind the window, behind the chunk, or a state's."""
        return self.layers[0].kind

    @property
    def block_size(self) -> int:
        """Tokens of a block; of a state: tokens from one that is kept to the next."""
        return self.layers[0].block_size

    @property
    def window_tokens(self) -> int | None:
        """Of a sliding window, or of a chunk; None: all tokens are kept, or a state."""
        return self.layers[0].window_tokens

    @property
    def num_layers(self) -> int:
        """Without the padding that fills a group up to the widest one."""
        return len(self.layers)

    @property
    def block_bytes(self) -> int:
        """One page of each of its layers."""
        return sum(layer.page_bytes for layer in self.layers)

    def blocks(self, num_tokens: int, in_flight_tokens: int) -> int:
        """Blocks of a request that has grown to ``num_tokens``."""
        if self.kind == "state":
            return max(layer.pages_per_request for layer in self.layers)
        return self.layers[0].blocks(num_tokens, in_flight_tokens)

    def held(self, num_tokens: int) -> int:
        """Blocks of a request of ``num_tokens`` that decodes: windows have let go, a state is one page.

        One more of a state in the step that passes into the next block.
        """
        if self.kind == "state":
            return max(layer.pages_held for layer in self.layers)
        return min(self.blocks(num_tokens, 1), -(-num_tokens // self.block_size))

    def of_layers(self, first: int, count: int) -> KvGroup:
        """The part of it that a pipeline stage with these layers holds; perhaps none of it."""
        here = tuple(layer for layer in self.layers if first <= layer.layer < first + count)
        return replace(self, layers=here)


def groups_of(
    layers: Sequence[LayerKv], *, packs_pages: bool = False, caches_prefixes: bool = True
) -> tuple[KvGroup, ...]:
    """The groups of the whole model, in the order of their first layers' kinds.

    ``packs_pages``: pages of different sizes lie side by side in a block (layouts with the blocks
    outermost: sparse indexers, layers with heads of another size). Otherwise pages are made equal first.
    """
    if not layers:
        return ()
    if _are_of_one_type(layers):
        found: Iterable[Sequence[LayerKv]] = [layers]
    elif packs_pages and len({layer.page_bytes for layer in layers}) > 1:
        found = _packed(layers)
    else:
        equal = _with_equal_pages(layers)
        found = [equal] if _are_of_one_type(equal) else _equal_numbers(equal)
    return tuple(KvGroup(layers=tuple(group), caches_prefixes=caches_prefixes) for group in found)


def _type_of(layer: LayerKv) -> Hashable:
    """Layers that need blocks at the same tokens have the same type."""
    return layer.kind, layer.block_size, layer.window_tokens


def _are_of_one_type(layers: Sequence[LayerKv]) -> bool:
    return len({_type_of(layer) for layer in layers}) == 1


def _with_equal_pages(layers: Sequence[LayerKv]) -> list[LayerKv]:
    """Smaller pages hold more tokens where that comes out even, else they are padded; states are padded.

    Rows of latent attention cannot be padded: the windows beside them are then kept as full attention is.
    """
    largest = max(layer.page_bytes for layer in layers)
    fitted = []
    for layer in layers:
        times, rest = divmod(largest, layer.page_bytes)
        if layer.kind != "state" and rest == 0:
            fitted.append(replace(layer, page_bytes=largest, block_size=layer.block_size * times))
        elif not layer.is_latent:
            fitted.append(replace(layer, page_bytes=largest))
        else:
            full_block = next(one.block_size for one in layers if one.kind == "full")
            return [kept_whole(one, full_block) for one in layers]
    return fitted


def kept_whole(layer: LayerKv, block_size: int) -> LayerKv:
    """The same layer, if all its tokens were kept: no window and no chunk."""
    if layer.kind not in ("sliding", "chunked"):
        return layer
    page_bytes = layer.page_bytes * block_size // layer.block_size
    return replace(layer, kind="full", window_tokens=None, block_size=block_size, page_bytes=page_bytes)


def _equal_numbers(layers: Sequence[LayerKv]) -> list[list[LayerKv]]:
    """Groups of equal numbers of equal layers: as many as the rarest kind has, or the commonest one's
    where that is less than 1.5 times as many. Consecutive layers go to different groups."""
    buckets: dict[Hashable, list[LayerKv]] = {}
    for layer in layers:
        buckets.setdefault((_type_of(layer), layer.row, layer.page_bytes), []).append(layer)
    fewest, most = (choose(len(bucket) for bucket in buckets.values()) for choose in (min, max))
    size = most if most < fewest * 1.5 else fewest
    groups = []
    for bucket in buckets.values():
        count = -(-len(bucket) // size)
        groups += [bucket[start::count] for start in range(count)]
    return groups


def _packed(layers: Sequence[LayerKv]) -> list[list[LayerKv]]:
    """One group for each type, its pages side by side; those that repeat a pattern of pages are split.

    Only types that mix page sizes, equally many layers of each, ask for that; types of one page size are then
    split like them. States go where a block has room for them.
    """
    by_type: dict[Hashable, dict[int, list[LayerKv]]] = {}
    for layer in layers:
        by_type.setdefault(_type_of(layer), {}).setdefault(layer.page_bytes, []).append(layer)
    types = list(by_type.values())
    balanced = [pages for pages in types if len({len(found) for found in pages.values()}) == 1]
    least = max((_repeats(pages) for pages in balanced if len(pages) > 1), default=0)
    repeats = _closest_size([_repeats(pages) for pages in balanced], least) if least else 0
    counts = [-(-_repeats(pages) // repeats) if repeats and pages in balanced else 1 for pages in types]
    room = max(_widest(pages, _fewest_wide(pages, count)) for pages, count in zip(types, counts, strict=True))
    groups: list[list[LayerKv]] = []
    for pages, count in zip(types, counts, strict=True):
        first = next(iter(pages.values()))[0]
        if first.kind == "state":
            count = max(count, -(-_repeats(pages) // max(room // first.page_bytes, 1)))
        if count == 1:
            groups.append([layer for found in pages.values() for layer in found])
            continue
        pattern = list(zip(*pages.values(), strict=True))
        groups += [[layer for row in pattern[start::count] for layer in row] for start in range(count)]
    return groups


def _repeats(pages: dict[int, list[LayerKv]]) -> int:
    return max(len(found) for found in pages.values())


def _fewest_wide(pages: dict[int, list[LayerKv]], count: int) -> int:
    """Into how many groups a type could be split: states down to one layer each."""
    states = next(iter(pages.values()))[0].kind == "state"
    return sum(len(found) for found in pages.values()) if states else count


def _widest(pages: dict[int, list[LayerKv]], count: int) -> int:
    return sum(-(-len(found) // count) * page for page, found in pages.items())


def _closest_size(numbers: Sequence[int], least: int) -> int:
    """The group size that leaves the least padding; of equal ones the largest."""
    sizes = range(max(1, least), max(numbers) + 1)
    return max(sizes, key=lambda size: (-sum(-number % size for number in numbers), size))


@dataclass(frozen=True, slots=True, kw_only=True)
class KvPool:
    """Blocks for all groups of one GPU, one of them the null block that holds nothing.

    ``num_blocks`` counts the null block, as vLLM's own number does. ``in_flight_tokens``: what may be
    computed at once (batches under way x max_num_batched_tokens).
    """

    groups: tuple[KvGroup, ...]
    num_blocks: int
    block_bytes: int
    in_flight_tokens: int
    reserves_null_block: bool = True

    def blocks_of(self, num_tokens: int) -> int:
        """Blocks of all groups that a request of ``num_tokens`` needs at most."""
        return sum(group.blocks(num_tokens, self.in_flight_tokens) for group in self.groups)

    def blocks_held(self, num_tokens: int) -> int:
        """Blocks of all groups that a request of ``num_tokens`` holds while it decodes."""
        return sum(group.held(num_tokens) for group in self.groups)

    def concurrency(self, num_tokens: int) -> float:
        """vLLM's "maximum concurrency": requests of ``num_tokens`` that the blocks hold, each with all that
        its prompt takes while it is computed."""
        return self.num_blocks / self.blocks_of(num_tokens)

    def decoding(self, num_tokens: int) -> int:
        """Requests of ``num_tokens`` that the blocks hold at once while they decode."""
        return self.usable_blocks // self.blocks_held(num_tokens)

    @property
    def usable_blocks(self) -> int:
        """What requests can have."""
        return max(0, self.num_blocks - self.reserves_null_block)

    def fits(self, num_tokens: int) -> bool:
        """Whether one request of ``num_tokens`` can be served at all."""
        return self.blocks_of(num_tokens) <= self.usable_blocks

    def longest(self, most: int) -> int:
        """The longest request up to ``most`` tokens that fits; 0 where not even one token does."""
        if not self.fits(1):
            return 0
        low, high = 1, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.fits(middle) else (low, middle - 1)
        return low


def pool_of(
    groups: tuple[KvGroup, ...], num_bytes: int, *, in_flight_tokens: int, reserves_null_block: bool = True
) -> KvPool:
    """The pool that ``num_bytes`` make: a block is as large as the widest group."""
    block_bytes = max(group.block_bytes for group in groups)
    return KvPool(
        groups=groups,
        num_blocks=max(0, num_bytes) // block_bytes,
        block_bytes=block_bytes,
        in_flight_tokens=in_flight_tokens,
        reserves_null_block=reserves_null_block,
    )
