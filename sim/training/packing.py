"""Documents into sequences of a fixed capacity: padding, bucketing and bin packing.

A *bin* is one training sequence. ``longest`` and ``maximum`` pad one document per row; ``bucketing`` sorts
documents of like length into the same micro-batch; the rest pack several documents into a row. Documents
longer than the capacity are cut to it. Guarantees: next-fit (``greedy``) uses at most 2 OPT bins, best fit
1.7 OPT, first-fit-decreasing 11/9 OPT + 6/9 (Dosa, ESCAPE 2007).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from sim.errors import ScenarioError
from sim.rng import stream
from sim.scenario.dataclass import dataclass
from sim.scenario.distribution import DrawPlace, draw_tokens
from sim.scenario.not_modelled import unknown_word
from sim.training.scenario import TrainingScenario, max_seq_len, step_shape
from sim.training.step.layer import layer_times
from sim.training.step.shape import StepShape
from sim.training.step.time import head_times

Strategy = Literal[
    "longest",
    "maximum",
    "bucketing",
    "greedy",
    "first_fit_decreasing",
    "best_fit",
    "best_fit_decreasing",
]
PACKING_STRATEGIES: tuple[Strategy, ...] = (
    "longest",
    "maximum",
    "bucketing",
    "greedy",
    "first_fit_decreasing",
    "best_fit",
    "best_fit_decreasing",
)
Masking = Literal["block_diagonal", "crossing"]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """Documents by row, and what each row is padded to."""

    strategy: Strategy
    capacity_tokens: int
    lengths: Ints  # of the documents, cut to the capacity
    bins: Ints  # row of each document
    row_tokens: Ints  # tokens that each row is computed over, padding included
    num_cut_tokens: int

    @property
    def num_rows(self) -> int:
        """Training sequences."""
        return len(self.row_tokens)

    @property
    def padding_fraction(self) -> float:
        """Share of the computed tokens that are padding."""
        computed = int(self.row_tokens.sum())
        return 1.0 - int(self.lengths.sum()) / computed if computed else 0.0

    def attention_pairs(self, masking: Masking) -> int:
        """Query-key pairs before the causal half, which attention's FLOPs are proportional to.

        block_diagonal: Σ len² over documents, the padding of a row as one more; crossing: (row length)².
        """
        if masking == "crossing":
            return int((self.row_tokens.astype(object) ** 2).sum())
        used = np.bincount(self.bins, weights=self.lengths, minlength=self.num_rows).astype(np.int64)
        padding = (self.row_tokens - used).astype(object)
        return int((self.lengths.astype(object) ** 2).sum()) + int((padding**2).sum())


def pack(
    lengths: Sequence[int] | Ints, capacity_tokens: int, strategy: Strategy, *, micro_batch_size: int = 1
) -> Packing:
    """Pack documents, in the order given. ``micro_batch_size`` matters to longest and bucketing only."""
    given = np.asarray(lengths, dtype=np.int64)
    _check(given, capacity_tokens, strategy)
    cut = np.minimum(given, capacity_tokens)
    if strategy in ("longest", "maximum", "bucketing"):
        bins, rows = _padded(cut, capacity_tokens, strategy, micro_batch_size)
    else:
        bins = _packed(cut, capacity_tokens, strategy)
        rows = np.full(int(bins.max()) + 1, capacity_tokens, dtype=np.int64)
    return Packing(
        strategy=strategy,
        capacity_tokens=capacity_tokens,
        lengths=cut,
        bins=bins,
        row_tokens=rows,
        num_cut_tokens=int((given - cut).sum()),
    )


def _check(lengths: Ints, capacity_tokens: int, strategy: str) -> None:
    if strategy not in PACKING_STRATEGIES:
        raise ScenarioError(
            unknown_word("packing", strategy, PACKING_STRATEGIES),
            path="packing.strategy",
            given=strategy,
            allowed=", ".join(PACKING_STRATEGIES),
        )
    if capacity_tokens < 1:
        raise ScenarioError("must be at least 1", path="training.max_seq_len", given=capacity_tokens)
    if lengths.size == 0 or int(lengths.min()) < 1:
        raise ScenarioError(
            "documents of at least one token each are needed",
            path="packing.lengths",
            given=f"{lengths.size} documents",
        )


def _padded(cut: Ints, capacity: int, strategy: Strategy, micro_batch_size: int) -> tuple[Ints, Ints]:
    """One document a row; a micro-batch's rows are as long as its longest, or as the capacity."""
    n = len(cut)
    order = np.argsort(cut, kind="stable") if strategy == "bucketing" else np.arange(n)
    bins = np.empty(n, dtype=np.int64)
    bins[order] = np.arange(n)
    if strategy == "maximum":
        return bins, np.full(n, capacity, dtype=np.int64)
    starts = np.arange(0, n, micro_batch_size)
    longest = np.maximum.reduceat(cut[order], starts)
    return bins, np.repeat(longest, micro_batch_size)[:n]


def _packed(cut: Ints, capacity: int, strategy: Strategy) -> Ints:
    order = np.arange(len(cut))
    if strategy.endswith("decreasing"):
        order = np.argsort(-cut, kind="stable")
    sizes = cut[order].tolist()
    if strategy == "greedy":
        placed = next_fit(sizes, capacity)
    elif strategy == "first_fit_decreasing":
        placed = first_fit(sizes, capacity)
    else:
        placed = best_fit(sizes, capacity)
    bins = np.empty(len(cut), dtype=np.int64)
    bins[order] = placed
    return bins


def next_fit(sizes: Sequence[int], capacity: int) -> list[int]:
    """Each document into the open row, or into a new one which then is the open row."""
    placed, row, room = [], -1, 0
    for size in sizes:
        if size > room:
            row, room = row + 1, capacity
        room -= size
        placed.append(row)
    return placed


def first_fit(sizes: Sequence[int], capacity: int) -> list[int]:
    """Each document into the first row with room: O(n log n) with a tree of the largest room below a node."""
    leaves = 1 << max(0, len(sizes) - 1).bit_length()
    room = [capacity] * (2 * leaves)
    placed = []
    for size in sizes:
        node = 1
        while node < leaves:
            node *= 2
            if room[node] < size:
                node += 1
        placed.append(node - leaves)
        room[node] -= size
        while node > 1:
            node //= 2
            left, right = room[2 * node], room[2 * node + 1]
            largest = left if left >= right else right
            if room[node] == largest:
                break
            room[node] = largest
    return placed


def best_fit(sizes: Sequence[int], capacity: int) -> list[int]:
    """Each document into the row that it leaves the least room in; of equal rows the oldest.

    Rooms are whole tokens: a list of rows per room, and the sorted rooms that have any.
    """
    rows_by_room: dict[int, list[int]] = {}
    rooms: list[int] = []
    placed, num_rows = [], 0
    for size in sizes:
        at = bisect_left(rooms, size)
        if at == len(rooms):
            row, room = num_rows, capacity
            num_rows += 1
        else:
            room = rooms[at]
            row = rows_by_room[room].pop(0)
            if not rows_by_room[room]:
                del rooms[at]
        placed.append(row)
        left = room - size
        if left > 0:
            waiting = rows_by_room.setdefault(left, [])
            if not waiting:
                insort(rooms, left)
            insort(waiting, row)
    return placed


# What rows cost: useful tokens a second, from the price of rows and from attention's smaller squares.


def useful_tokens_per_s(packing: Packing, shape: StepShape, masking: Masking) -> float:
    """Documents' tokens over the time of forward and backward passes on one replica.

    Linear work goes by computed tokens, attention by pairs; both priced at full rows and scaled. Not
    modelled: kernels of short rows that fill the GPU less.
    """
    layer, head = layer_times(shape), head_times(shape)
    layers, batch = shape.layers_per_stage, shape.micro_batch_size
    whole = layers * (layer.forward_s + layer.backward_s) + head.forward_s + head.backward_s
    passes = (layer.forward, layer.backward, layer.recompute)
    attention = layers * sum(one.attention_s for one in passes)
    full_rows = float(packing.row_tokens.sum()) / packing.capacity_tokens
    full_squares = packing.attention_pairs(masking) / float(packing.capacity_tokens) ** 2
    seconds = (whole - attention) / batch * full_rows + attention / batch * full_squares
    return float(packing.lengths.sum()) / seconds


# What packing does to a step: how much of a row is computed, how much of that is padding, what it costs.


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """Means over the rows: computed tokens over ``max_seq_len``, padding in them, time over a full row's."""

    computed_share: float = 1.0
    padding_fraction: float = 0.0
    time_factor: float = 1.0


def packed(scenario: TrainingScenario, seed: int, base_dir: Path = Path(".")) -> Packed:
    """The scenario's documents, drawn and packed; full rows without padding where it says nothing."""
    given = scenario.packing
    if given is None:
        return Packed()
    capacity = max_seq_len(scenario)
    place = DrawPlace(path="packing.lengths", base_dir=base_dir)
    lengths = draw_tokens(given.lengths, given.num_documents, stream(seed, "document lengths"), place)
    packing = pack(lengths, capacity, given.strategy, micro_batch_size=scenario.training.micro_batch_size)
    share = float(packing.row_tokens.sum()) / (packing.num_rows * capacity)
    if scenario.model is None or scenario.compute.compute_s is not None:
        return Packed(computed_share=share, padding_fraction=packing.padding_fraction)
    shape = step_shape(scenario)
    layer, head = layer_times(shape), head_times(shape)
    row_s = shape.layers_per_stage * (layer.forward_s + layer.backward_s) + head.forward_s + head.backward_s
    spent_s = float(packing.lengths.sum()) / useful_tokens_per_s(packing, shape, given.attention)
    return Packed(
        computed_share=share,
        padding_fraction=packing.padding_fraction,
        time_factor=spent_s / packing.num_rows / (row_s / shape.micro_batch_size),
    )
