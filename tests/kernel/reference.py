"""The attention algorithms in NumPy, tile by tile, counting every access to device memory.

Nothing here is fast. It shows that the tiled arithmetic is softmax attention, and that the simulator's bytes
are those that the algorithm moves. One head: q (queries × d), k and v (keys × d), arrays of any float
type. Causal: the last query sees every key. A query that sees no key gets zeros. ``mask`` (queries × keys,
True: may look) is loaded tile by tile, under its own name.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
FLOAT32_BYTES = 4


@dataclass(slots=True)
class DeviceMemory:
    """Tensors in HBM; loads and stores are counted in bytes by tensor."""

    element_bytes: int = 2
    tensors: dict[str, Any] = field(default_factory=dict)
    reads: Counter[str] = field(default_factory=Counter)
    writes: Counter[str] = field(default_factory=Counter)
    float32: frozenset[str] = frozenset({"l", "m", "lse", "delta", "dq_sum", "o_partial"})

    def load(self, name: str, rows: slice) -> Any:
        """Rows of a tensor, into SRAM."""
        found = self.tensors[name][rows].copy()
        self.reads[name] += found.size * self._size(name)
        return found

    def store(self, name: str, rows: slice, values: Any) -> None:
        """Rows of a tensor, out of SRAM."""
        self.tensors[name][rows] = values
        self.writes[name] += np.size(values) * self._size(name)

    def _size(self, name: str) -> int:
        return FLOAT32_BYTES if name in self.float32 else self.element_bytes


def plain_attention(q: Array, k: Array, v: Array, *, causal: bool = False, mask: Mask | None = None) -> Array:
    """softmax(q kᵀ / √d) v, all at once."""
    return probabilities(q, k, visible(len(q), len(k), causal=causal, mask=mask)) @ v


def plain_gradients(
    q: Array, k: Array, v: Array, do: Array, *, causal: bool = False, mask: Mask | None = None
) -> tuple[Array, Array, Array]:
    """(dq, dk, dv) of plain attention."""
    p = probabilities(q, k, visible(len(q), len(k), causal=causal, mask=mask))
    dp = do @ v.T
    ds = p * (dp - (dp * p).sum(axis=1, keepdims=True)) / np.sqrt(q.shape[1])
    return ds @ k, ds.T @ q, p.T @ do


def probabilities(q: Array, k: Array, may_look: Mask) -> Array:
    """Rows of the softmax; a row that sees nothing is zero."""
    scores = np.where(may_look, q @ k.T / np.sqrt(q.shape[1]), -np.inf)
    top = np.max(scores, axis=1, keepdims=True, initial=-np.inf)
    weights = np.exp(scores - np.where(np.isfinite(top), top, 0.0))
    total = weights.sum(axis=1, keepdims=True)
    return np.asarray(weights / np.where(total > 0, total, 1.0))


def visible(queries: int, keys: int, *, causal: bool, mask: Mask | None = None) -> Mask:
    """Which query sees which key."""
    allowed = np.ones((queries, keys), dtype=bool) if mask is None else mask.copy()
    if causal:
        allowed &= np.arange(keys)[None, :] <= np.arange(queries)[:, None] + keys - queries
    return allowed


def online_softmax(scores: Array, tile: int) -> Array:
    """Softmax of rows in one pass over tiles: running maximum and sum, rescaled as they change.

    Milakov and Gimelshein, 1805.02867, Algorithm 3.
    """
    top = np.full(len(scores), -np.inf)
    total = np.zeros(len(scores))
    for start in range(0, scores.shape[1], tile):
        part = scores[:, start : start + tile]
        higher = np.maximum(top, part.max(axis=1))
        total = total * np.exp(top - higher) + np.exp(part - higher[:, None]).sum(axis=1)
        top = higher
    return np.asarray(np.exp(scores - top[:, None]) / total[:, None])


@dataclass(slots=True, kw_only=True)
class Tiled:
    """One head's problem and its tiles."""

    memory: DeviceMemory
    block_m: int
    block_n: int
    causal: bool = False

    @property
    def queries(self) -> int:
        """Query rows."""
        return len(self.memory.tensors["q"])

    @property
    def keys(self) -> int:
        """Key rows."""
        return len(self.memory.tensors["k"])

    def row_tiles(self) -> list[slice]:
        """Tiles of queries."""
        return [slice(a, min(a + self.block_m, self.queries)) for a in range(0, self.queries, self.block_m)]

    def column_tiles(self) -> list[slice]:
        """Tiles of keys."""
        return [slice(a, min(a + self.block_n, self.keys)) for a in range(0, self.keys, self.block_n)]

    def is_seen(self, rows: slice, columns: slice) -> bool:
        """Whether some query of the tile sees some key of it, by the causal rule."""
        return not self.causal or columns.start <= rows.stop - 1 + self.keys - self.queries

    def may_look(self, rows: slice, columns: slice) -> Mask:
        """The tile's part of the causal rule and of the mask."""
        allowed = np.ones((rows.stop - rows.start, columns.stop - columns.start), dtype=bool)
        if self.causal:
            last = np.arange(rows.start, rows.stop) + self.keys - self.queries
            allowed &= np.arange(columns.start, columns.stop)[None, :] <= last[:, None]
        if "mask" in self.memory.tensors:
            allowed &= self.memory.load("mask", rows)[:, columns]
        return allowed

    def scores(self, q: Array, k: Array, rows: slice, columns: slice) -> Array:
        """The tile of q kᵀ / √d, hidden pairs at minus infinity."""
        return np.where(self.may_look(rows, columns), q @ k.T / np.sqrt(q.shape[1]), -np.inf)


def finite(top: Array) -> Array:
    """A maximum to subtract: zero for rows that have seen nothing."""
    return np.where(np.isfinite(top), top, 0.0)


def flash_1_forward(tiled: Tiled) -> None:
    """2205.14135, Algorithm 1: outer loop over K and V; o, l and m live in HBM between the steps."""
    memory = tiled.memory
    for rows in tiled.row_tiles():
        height = rows.stop - rows.start
        memory.store("o", rows, np.zeros((height, memory.tensors["q"].shape[1])))
        memory.store("l", rows, np.zeros(height))
        memory.store("m", rows, np.full(height, -np.inf))
    for columns in tiled.column_tiles():
        k, v = memory.load("k", columns), memory.load("v", columns)
        for rows in tiled.row_tiles():
            if not tiled.is_seen(rows, columns):
                continue
            q, o = memory.load("q", rows), memory.load("o", rows)
            total, top = memory.load("l", rows), memory.load("m", rows)
            scores = tiled.scores(q, k, rows, columns)
            higher = np.maximum(top, scores.max(axis=1))
            weights = np.exp(scores - finite(higher)[:, None])
            kept = np.where(np.isfinite(top), np.exp(top - finite(higher)), 0.0) * total
            together = kept + weights.sum(axis=1)
            divisor = np.where(together > 0, together, 1.0)
            memory.store("o", rows, (kept[:, None] * o + weights @ v) / divisor[:, None])
            memory.store("l", rows, together)
            memory.store("m", rows, higher)


def flash_1_backward(tiled: Tiled) -> None:
    """2205.14135, Algorithm 4: scores recomputed tile by tile; dq is added up in HBM."""
    memory = tiled.memory
    for rows in tiled.row_tiles():
        memory.store("dq", rows, np.zeros_like(memory.tensors["q"][rows]))
    for columns in tiled.column_tiles():
        k, v = memory.load("k", columns), memory.load("v", columns)
        dk, dv = np.zeros_like(k), np.zeros_like(v)
        for rows in tiled.row_tiles():
            if not tiled.is_seen(rows, columns):
                continue
            q, o, do = (memory.load(name, rows) for name in ("q", "o", "do"))
            dq, total, top = (memory.load(name, rows) for name in ("dq", "l", "m"))
            scores = tiled.scores(q, k, rows, columns)
            p = np.exp(scores - finite(top)[:, None]) / np.where(total > 0, total, 1.0)[:, None]
            dv += p.T @ do
            ds = p * (do @ v.T - (do * o).sum(axis=1, keepdims=True)) / np.sqrt(q.shape[1])
            dk += ds.T @ q
            memory.store("dq", rows, dq + ds @ k)
        memory.store("dk", columns, dk)
        memory.store("dv", columns, dv)


def flash_2_forward(tiled: Tiled) -> None:
    """2307.08691, Algorithm 1: outer loop over Q; o is rescaled in registers and stored once."""
    memory = tiled.memory
    for rows in tiled.row_tiles():
        q = memory.load("q", rows)
        o = np.zeros_like(q)
        top, total = np.full(len(q), -np.inf), np.zeros(len(q))
        for columns in tiled.column_tiles():
            if not tiled.is_seen(rows, columns):
                break
            k, v = memory.load("k", columns), memory.load("v", columns)
            scores = tiled.scores(q, k, rows, columns)
            higher = np.maximum(top, scores.max(axis=1))
            weights = np.exp(scores - finite(higher)[:, None])
            rescale = np.where(np.isfinite(top), np.exp(top - finite(higher)), 0.0)
            o = o * rescale[:, None] + weights @ v
            total, top = total * rescale + weights.sum(axis=1), higher
        divisor = np.where(total > 0, total, 1.0)
        memory.store("o", rows, o / divisor[:, None])
        memory.store("lse", rows, np.where(total > 0, finite(top) + np.log(divisor), 0.0))


def flash_2_backward(tiled: Tiled) -> None:
    """2307.08691, Algorithm 2: outer loop over K and V, dq added up in HBM in float32, then converted."""
    memory = tiled.memory
    for rows in _slices(tiled.queries, 128):
        o, do = memory.load("o", rows), memory.load("do", rows)
        memory.store("delta", rows, (o * do).sum(axis=1))
    for columns in tiled.column_tiles():
        k, v = memory.load("k", columns), memory.load("v", columns)
        dk, dv = np.zeros_like(k), np.zeros_like(v)
        for rows in tiled.row_tiles():
            if not tiled.is_seen(rows, columns):
                continue
            q, do = memory.load("q", rows), memory.load("do", rows)
            lse, delta = memory.load("lse", rows), memory.load("delta", rows)
            p = np.exp(tiled.scores(q, k, rows, columns) - lse[:, None])
            dv += p.T @ do
            ds = p * (do @ v.T - delta[:, None]) / np.sqrt(q.shape[1])
            dk += ds.T @ q
            memory.store("dq_sum", rows, memory.load("dq_sum", rows) + ds @ k)
        memory.store("dk", columns, dk)
        memory.store("dv", columns, dv)
    for rows in _slices(tiled.queries, 128):
        memory.store("dq", rows, memory.load("dq_sum", rows))


def split_kv_decode(memory: DeviceMemory, num_splits: int) -> None:
    """Each split attends to its part of the keys; the partial results are combined by their log-sum-exp."""
    q = memory.tensors["q"]
    every = slice(0, len(q))
    small, larger = divmod(len(memory.tensors["k"]), num_splits)
    start = 0
    for split in range(num_splits):
        part = slice(start, start + small + (split < larger))
        start = part.stop
        k, v = memory.load("k", part), memory.load("v", part)
        scores = memory.load("q", every) @ k.T / np.sqrt(q.shape[1])
        top = scores.max(axis=1)
        weights = np.exp(scores - top[:, None])
        into = slice(split * len(q), (split + 1) * len(q))
        memory.store("o_partial", into, weights @ v / weights.sum(axis=1, keepdims=True))
        memory.store("lse", into, top + np.log(weights.sum(axis=1)))
    everything = slice(0, num_splits * len(q))
    partial = memory.load("o_partial", everything).reshape(num_splits, *q.shape)
    lse = memory.load("lse", everything).reshape(num_splits, len(q))
    share = np.exp(lse - lse.max(axis=0))
    memory.store("o", every, np.einsum("sq,sqd->qd", share / share.sum(axis=0), partial))


def _slices(length: int, tile: int) -> list[slice]:
    return [slice(start, min(start + tile, length)) for start in range(0, length, tile)]
