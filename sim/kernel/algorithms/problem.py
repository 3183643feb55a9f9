"""An attention's sizes, resolved: what the algorithms share; and each kernel generation's own tile sizes."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from sim.errors import ScenarioError
from sim.kernel.gpu import Gpu
from sim.kernel.scenario import DTYPE_BYTES, Attention, Tile

STATISTIC_BYTES = 4  # running maximum and sum, log-sum-exp and delta are float32
TABLE_ENTRY_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """The attention with its defaults filled in."""

    given: Attention
    num_kv_heads: int
    seqlen_kv: int

    @property
    def element_bytes(self) -> int:
        """Of Q, K, V and O."""
        return DTYPE_BYTES[self.given.dtype]

    @property
    def heads(self) -> int:
        """Query heads of all sequences."""
        return self.given.batch * self.given.num_heads

    @property
    def kv_heads(self) -> int:
        """KV heads of all sequences."""
        return self.given.batch * self.num_kv_heads

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.given.num_heads // self.num_kv_heads

    @property
    def pairs(self) -> int:
        """(query, key) pairs of one head that count: with ``causal`` the last query sees every key."""
        q, kv = self.given.seqlen, self.seqlen_kv
        if not self.given.causal:
            return q * kv
        skipped = kv - q
        return q * skipped + q * (q + 1) // 2 if skipped >= 0 else kv * (kv + 1) // 2

    @property
    def forward_flops(self) -> float:
        """4 · pairs · head_dim per head (FlashAttention-2, 2307.08691, section 4.1)."""
        return 4.0 * self.pairs * self.given.head_dim * self.heads

    @property
    def backward_flops(self) -> float:
        """Five products in place of two: 2.5 times the forward pass (same section)."""
        return 2.5 * self.forward_flops

    @property
    def query_bytes(self) -> int:
        """Q (and O) of one head."""
        return self.given.seqlen * self.given.head_dim * self.element_bytes

    @property
    def key_bytes(self) -> int:
        """K (and V) of one KV head."""
        return self.seqlen_kv * self.given.head_dim * self.element_bytes

    @property
    def is_paged(self) -> bool:
        """K and V are reached through a block table."""
        return self.given.layout == "paged" or self.given.algorithm == "paged_decode"

    def table_bytes(self, keys: int) -> int:
        """Block-table entries of so many keys, 4 bytes each."""
        return -(-keys // self.given.page_tokens) * TABLE_ENTRY_BYTES if self.is_paged else 0

    def packed(self, block_m: int) -> int:
        """Query heads of a group that share a tile (GQA packing): where one head's queries leave it empty."""
        if self.given.algorithm != "flash_attention_3" and self.given.seqlen > 1:
            return 1  # the others pack single queries only
        most = max(1, block_m // self.given.seqlen)
        return max(
            packed for packed in range(1, self.group + 1) if self.group % packed == 0 and packed <= most
        )

    def keys_seen(self, last_query: int) -> int:
        """Keys that a tile of queries ending before ``last_query`` needs."""
        if not self.given.causal:
            return self.seqlen_kv
        return max(0, min(self.seqlen_kv, last_query + self.seqlen_kv - self.given.seqlen))

    def first_query(self, first_key: int) -> int:
        """The first query that sees ``first_key``."""
        if not self.given.causal:
            return 0
        return max(0, first_key - (self.seqlen_kv - self.given.seqlen))


def problem_of(given: Attention) -> Problem:
    """Checked and resolved."""
    num_kv_heads = given.num_kv_heads or given.num_heads
    if given.num_heads % num_kv_heads:
        raise ScenarioError(
            "every KV head serves equally many query heads",
            path="kernel.attention.num_kv_heads",
            given=num_kv_heads,
            allowed=f"a divisor of num_heads ({given.num_heads})",
        )
    return Problem(given=given, num_kv_heads=num_kv_heads, seqlen_kv=given.seqlen_kv or given.seqlen)


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


_LARGE_SRAM = 140 * 1024  # A100 and later data-centre devices; Ada and the smaller Ampere have 99 KiB

# (block_m, block_n, num_stages, num_warps) by the largest head_dim they serve: the published kernels' sizes
# (flash-attention 2.7 flash_fwd_launch_template.h and flash_bwd_launch_template.h, hopper/tile_size.h).
_FLASH_2_FORWARD = {64: (128, 128, 1, 4), 128: (128, 64, 1, 4), 256: (64, 64, 1, 4), 1024: (64, 32, 1, 8)}
_FLASH_2_BACKWARD = {64: (128, 128, 1, 8), 128: (64, 128, 1, 8), 256: (64, 64, 1, 8), 1024: (32, 32, 1, 8)}
_FLASH_3_FORWARD = {
    64: (192, 128, 2, 16),
    128: (128, 128, 2, 12),
    192: (128, 96, 2, 12),
    256: (128, 80, 2, 12),
}
_FLASH_3_BACKWARD = {64: (128, 128, 2, 12), 128: (64, 128, 2, 12), 256: (64, 80, 1, 12)}
_ADA_FORWARD = {64: (128, 128, 1, 4), 128: (128, 32, 1, 4), 256: (64, 32, 1, 4), 1024: (32, 32, 1, 4)}
_DECODE_SMALL = {64: (16, 128, 2, 4), 128: (16, 64, 2, 4), 256: (16, 32, 2, 4), 1024: (16, 16, 2, 4)}
_DECODE = {64: (16, 128, 2, 4), 128: (16, 128, 2, 4), 256: (16, 64, 2, 4), 1024: (16, 32, 2, 4)}


def flash_1_tiles(gpu: Gpu, problem: Problem, given: Tile) -> TileSizes:
    """⌈M / 4d⌉ columns and min(⌈M / 4d⌉, d) rows, M an SM's SRAM in elements (2205.14135, Algorithm 1)."""
    elements = gpu.profile.sram_bytes_per_sm // problem.element_bytes
    columns = ceil(elements / (4 * problem.given.head_dim))
    rows = min(columns, problem.given.head_dim)
    return _overridden((rows, columns, 1, 8), given)


def flash_tiles(gpu: Gpu, problem: Problem, given: Tile, *, is_backward: bool) -> TileSizes:
    """The tiles of FlashAttention 2, 3 or decoding for this head size."""
    algorithm = problem.given.algorithm
    if algorithm in ("flash_attention_3", "flash_trtllm"):
        table = _FLASH_3_BACKWARD if is_backward else _FLASH_3_FORWARD
    elif algorithm in ("split_kv_decode", "paged_decode"):
        table = _DECODE if gpu.sram_bytes_per_block >= _LARGE_SRAM else _DECODE_SMALL
    elif not is_backward and gpu.sram_bytes_per_block < _LARGE_SRAM:
        table = _ADA_FORWARD
    else:
        table = _FLASH_2_BACKWARD if is_backward else _FLASH_2_FORWARD
    return _overridden(_for_head(table, problem.given.head_dim), given)


def _for_head(table: dict[int, tuple[int, int, int, int]], head_dim: int) -> tuple[int, int, int, int]:
    return next((sizes for most, sizes in table.items() if head_dim <= most), list(table.values())[-1])


def _overridden(own: tuple[int, int, int, int], given: Tile) -> TileSizes:
    return TileSizes(
        block_m=given.block_m or own[0],
        block_n=given.block_n or own[1],
        num_stages=given.num_stages or own[2],
        num_warps=given.num_warps or own[3],
    )
