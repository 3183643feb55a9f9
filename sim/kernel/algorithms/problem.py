"""What is computed and how it is cut: sizes of products, norms, copies, attention; tiles; ``Algorithm``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol

from sim.errors import CannotRun
from sim.kernel.gpu import DTYPE_BYTES, Direction, Footprint, Generation, Gpu, fits
from sim.kernel.launches import Launch
from sim.scenario.dataclass import dataclass
from sim.scenario.fields import key

Dtype = Literal["float32", "float16", "bfloat16", "float8"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gemm:
    """(m × k) · (k × n), ``batch`` times."""

    m: int = key("rows of the output", ge=1, le=100_000_000)
    n: int = key("columns of the output", ge=1, le=100_000_000)
    k: int = key("the summed dimension", ge=1, le=100_000_000)
    batch: int = key("independent products", default=1, ge=1, le=10_000_000)
    dtype: Dtype = key("activations, output, and the peak it runs at", default="bfloat16")
    weight_bits: int | None = key(
        "weight-only quantization: bits per weight in HBM, dequantized in SRAM", default=None, ge=1, le=16
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Norm:
    """RMSNorm over rows."""

    rows: int = key("rows (tokens)", ge=1, le=100_000_000)
    columns: int = key("values per row (hidden_size)", ge=1, le=10_000_000)
    dtype: Dtype = key("values", default="bfloat16")
    is_fused: bool = key(
        "one kernel; false: square, mean, scale and weight as kernels of their own", default=True
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """Bytes from one memory to another."""

    size_bytes: float = key("how much", gt=0, le=1e15)
    source: Literal["hbm", "dram"] = key("where it lies", default="hbm")
    target: Literal["hbm", "dram"] = key("where it goes", default="hbm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Tile sizes in place of the kernel's own choice."""

    block_m: int | None = key("rows of a tile (of Q, of the output)", default=None, ge=1, le=65_536)
    block_n: int | None = key("columns of a tile (of K and V, of the output)", default=None, ge=1, le=65_536)
    block_k: int | None = key("GEMM: slice of the summed dimension", default=None, ge=1, le=65_536)
    num_stages: int | None = key("tiles in flight; 1: load, then compute", default=None, ge=1, le=16)
    num_warps: int | None = key("warps of a thread block", default=None, ge=1, le=32)
    num_splits: int | None = key("split-KV, split-K: blocks that share one sum", default=None, ge=1, le=4096)


STATISTIC_BYTES = 4  # running maximum and sum, log-sum-exp and delta are float32
TABLE_ENTRY_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The attention with its defaults filled in."""

    algorithm: str
    batch: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    seqlen: int
    seqlen_kv: int
    causal: bool = False
    dtype: Dtype = "bfloat16"
    mask: bool = False
    dropout: bool = False
    page_tokens: int = 16
    is_paged: bool = False  # K and V are reached through a block table
    packs_heads: bool = False  # query heads of a group share a tile, not only where a query is alone

    @property
    def element_bytes(self) -> int:
        """Of Q, K, V and O."""
        return DTYPE_BYTES[self.dtype]

    @property
    def heads(self) -> int:
        """Query heads of all sequences."""
        return self.batch * self.num_heads

    @property
    def kv_heads(self) -> int:
        """KV heads of all sequences."""
        return self.batch * self.num_kv_heads

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.num_heads // self.num_kv_heads

    @property
    def pairs(self) -> int:
        """(query, key) pairs of one head that count: with ``causal`` the last query sees every key."""
        q, kv = self.seqlen, self.seqlen_kv
        if not self.causal:
            return q * kv
        skipped = kv - q
        return q * skipped + q * (q + 1) // 2 if skipped >= 0 else kv * (kv + 1) // 2

    @property
    def forward_flops(self) -> float:
        """4 · pairs · head_dim per head (FlashAttention-2, 2307.08691, section 4.1)."""
        return 4.0 * self.pairs * self.head_dim * self.heads

    @property
    def backward_flops(self) -> float:
        """Five products in place of two: 2.5 times the forward pass (same section)."""
        return 2.5 * self.forward_flops

    @property
    def query_bytes(self) -> int:
        """Q (and O) of one head."""
        return self.seqlen * self.head_dim * self.element_bytes

    @property
    def key_bytes(self) -> int:
        """K (and V) of one KV head."""
        return self.seqlen_kv * self.head_dim * self.element_bytes

    def table_bytes(self, keys: int) -> int:
        """Bytes of the block-table entries of ``keys`` keys."""
        return -(-keys // self.page_tokens) * TABLE_ENTRY_BYTES if self.is_paged else 0

    def packed(self, block_m: int) -> int:
        """Query heads of a group that share a tile (GQA packing): where one head's queries leave it empty."""
        if not self.packs_heads and self.seqlen > 1:
            return 1  # the others pack single queries only
        most = max(1, block_m // self.seqlen)
        return max(
            packed for packed in range(1, self.group + 1) if self.group % packed == 0 and packed <= most
        )

    def keys_seen(self, last_query: int) -> int:
        """Keys that a tile of queries ending before ``last_query`` needs."""
        if not self.causal:
            return self.seqlen_kv
        return max(0, min(self.seqlen_kv, last_query + self.seqlen_kv - self.seqlen))

    def first_query(self, first_key: int) -> int:
        """The first query that sees ``first_key``."""
        if not self.causal:
            return 0
        return max(0, first_key - (self.seqlen_kv - self.seqlen))


def tile_lengths(length: int, tile: int) -> list[int]:
    """The tiles of a length: all full but the last."""
    return [min(tile, length - start) for start in range(0, length, tile)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TileSizes:
    """Rows and columns of a tile, tiles in flight, warps of a block."""

    block_m: int
    block_n: int
    num_stages: int
    num_warps: int

    @property
    def words(self) -> str:
        """ "128 x 64, 4 warps"; stages where loads and computation overlap."""
        stages = f", {self.num_stages} stages" if self.num_stages > 1 else ""
        return f"{self.block_m} x {self.block_n}, {self.num_warps} warps{stages}"


HeadTable = Mapping[int, tuple[int, int, int, int]]  # by the largest head_dim: the fields of TileSizes
LARGE_SRAM = 140 * 1024  # A100 and later data-centre devices; Ada and the smaller Ampere have 99 KiB
FLASH_TILE_KEYS = ("block_m", "block_n", "num_stages", "num_warps")
_STEP = 16  # columns of a tensor core's product


def tiles_of(table: HeadTable, head_dim: int, given: Tile) -> TileSizes:
    """The published kernel's tile for this head size, unless the scenario says otherwise."""
    last = list(table.values())[-1]
    return overridden(next((sizes for most, sizes in table.items() if head_dim <= most), last), given)


def overridden(published: tuple[int, int, int, int], given: Tile) -> TileSizes:
    """The kernel's tile with what the scenario states in its place."""
    return TileSizes(
        block_m=given.block_m or published[0],
        block_n=given.block_n or published[1],
        num_stages=given.num_stages or published[2],
        num_warps=given.num_warps or published[3],
    )


def fitting(
    gpu: Gpu, sizes: TileSizes, given: Tile, footprint: Callable[[TileSizes], Footprint]
) -> TileSizes:
    """The scenario's tile as it stands, or the algorithm's: fewer columns, then rows, where it must.

    So do the published kernels where SRAM is small or values are wide; a tile that a scenario states is
    never changed, and refused with the limit that it breaks.
    """
    if replace(given, num_splits=None) != Tile():
        return sizes
    return next((one for one in _smaller(sizes) if fits(gpu, footprint(one))), sizes)


def _smaller(sizes: TileSizes) -> Iterator[TileSizes]:
    """The tile itself, then with fewer columns, then with half the rows, then with fewer stages."""
    for num_stages in range(sizes.num_stages, 0, -1):
        rows = sizes.block_m
        while rows >= min(_STEP, sizes.block_m):
            yield replace(sizes, num_stages=num_stages, block_m=rows)
            for columns in range((sizes.block_n - 1) // _STEP * _STEP, 0, -_STEP):
                yield replace(sizes, num_stages=num_stages, block_m=rows, block_n=columns)
            rows //= 2


# What one step of a warp's tensor core products covers, rows and summed columns (mma.m16n8k16; PTX ISA), and
# the rows of a warpgroup's (wgmma.m64nNk16).
_ATOM, _WARPGROUP_ROWS = 16, 64
LOADING_WARPS = 4  # FlashAttention 3: a warpgroup


def layout_of_warps(tile: TileSizes, problem: Problem, *, is_backward: bool) -> str:
    """FlashAttention 2: what its layout asks for where the tile breaks it (kernel_traits.h of its csrc).

    Forward the warps lie below each other, 16 rows each; backward in any grid, each 16 x 16 scores.
    """
    del problem
    if not is_backward:
        step = _ATOM * tile.num_warps
        if tile.block_m % step or tile.block_n % _ATOM:
            return f"block_m a multiple of {step} (16 rows for each warp), block_n of {_ATOM}"
        return ""
    grids = [down for down in range(1, tile.num_warps + 1) if tile.num_warps % down == 0]
    if any(
        tile.block_m % (_ATOM * down) == 0 and tile.block_n % (_ATOM * tile.num_warps // down) == 0
        for down in grids
    ):
        return ""
    return f"a grid of {tile.num_warps} warps with a multiple of 16 rows and 16 columns each"


def layout_of_warpgroups(tile: TileSizes, problem: Problem, *, is_backward: bool) -> str:
    """FlashAttention 3: the same (hopper/mainloop_fwd_sm90_tma_gmma_ws.hpp: warpgroups of 64 rows below each
    other). Its backward pass may swap rows and columns, so that either are a warpgroup's."""
    rows, columns = tile.block_m, tile.block_n
    if is_backward:
        fits_either = rows % _WARPGROUP_ROWS == 0 or columns % _WARPGROUP_ROWS == 0
        if fits_either and rows % _ATOM == 0 and columns % _ATOM == 0:
            return ""
        return f"multiples of {_ATOM}, one of them of {_WARPGROUP_ROWS} (a warpgroup's rows)"
    computing = tile.num_warps - LOADING_WARPS
    step = max(_WARPGROUP_ROWS, _ATOM * computing)
    summed = _ATOM * 2 // problem.element_bytes  # 32 bytes of a row of P
    if rows % step or columns % summed:
        return f"block_m a multiple of {step} (64 rows for each warpgroup that computes), block_n of {summed}"
    return ""


class Layout(Protocol):
    """What the kernel's warps ask for, in words, where a tile breaks it; otherwise nothing."""

    def __call__(self, tile: TileSizes, problem: Problem, *, is_backward: bool) -> str:
        """The words."""


def check_layout(
    layout: Layout | None, problem: Problem, sizes: TileSizes, own: TileSizes, direction: Direction
) -> None:
    """Refuses a stated tile that its warps cannot be laid over; float32 runs on no tensor core."""
    is_own = replace(sizes, num_stages=own.num_stages) == own
    if layout is None or is_own or problem.dtype == "float32":
        return
    if allowed := layout(sizes, problem, is_backward=direction == "backward"):
        raise CannotRun(
            f"{problem.algorithm} {direction}: its warps cannot be laid over this tile",
            path="kernel.tile",
            given=sizes.words,
            allowed=allowed,
            hint=f"the kernel's own is {own.words}",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """A way to compute attention, and all that loader, checks, device and reports must know of it.

    ``launches`` are those of one direction; ``extra_bytes`` is the peak of what is neither input nor output,
    for these launches in the scenario's direction. ``paged`` are the kernels that read a block table where
    the scenario says ``layout: paged``; ``is_always_paged`` where they always do.
    """

    launches: Callable[[Gpu, Problem, Tile, Direction], list[Launch]]
    extra_bytes: Callable[[Problem, Sequence[Launch], str], int]
    generation: Generation
    paged: Generation | None = None
    is_always_paged: bool = False
    has_backward: bool = True
    packs_heads: bool = False
    stores_scores: bool = False  # the N x N scores lie in HBM between kernels
    in_training_step: bool = False
    tile_keys: tuple[str, ...] = FLASH_TILE_KEYS
    tiles_follow_sram: bool = False  # reports show its time against the size of SRAM

    def generation_of(self, *, is_paged: bool) -> Generation:
        """The kernels that carry it out."""
        return self.paged if is_paged and self.paged is not None else self.generation
