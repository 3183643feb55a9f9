"""An attention's sizes, resolved: what the algorithms share."""

from __future__ import annotations

from dataclasses import dataclass

from sim.errors import ScenarioError
from sim.kernel.scenario import DTYPE_BYTES, Attention

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
