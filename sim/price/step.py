"""The price of an engine step in integer picoseconds, compiled per model, device and dtype.

A step's time is a sum of parts, each rounded to picoseconds by itself:

- linear layers, norms and all-reduces: a table by tokens in the step;
- lm_head: a table by sequences that sample;
- decode attention: piecewise linear in the total context, one curve per number of sequences, with the
  analytic time at the breakpoints (``2**(1/4)`` apart) and an integer slope between them;
- prefill attention: one time per chunk, piecewise linear in the cached tokens, one curve per queries;
- engine overheads: per step and per sequence.

Because every part is an integer and decode is linear between breakpoints, k decode steps add up in closed
form to exactly what k single steps add up to: the skipping and the stepped engine share these tables.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from sim.arrays import PS_PER_S, Int64, to_ps
from sim.elementary import last_digits_free
from sim.model.weights import schemes_of, served_quantization
from sim.price.collective import latencies_filled_in
from sim.price.priced import PricedSteps
from sim.price.providers.analytic import AnalyticTimes
from sim.price.roofline import Floats
from sim.scenario.dataclass import dataclass

BREAKPOINTS_PER_OCTAVE = 4
MAX_CONTEXT_TOKENS = 1 << 40
CHUNK_GROUP = 32
DECODE_GROUP = 16
LONG_BITS = 41  # 2.2 s
KEPT_BITS = 34
CHUNK_BREAKPOINTS = 70  # the first ones, for prompt chunks: up to 2**21 cached tokens
FEW_CHUNK_BREAKPOINTS = 50  # up to 2**16, until more are asked for

TILE_ROWS = 64  # query rows of a decode kernel's tile (FlashAttention: 64 to 128)

Chunks = Sequence[tuple[int, int, bool, object]]  # queries, cached, samples, and whose (not looked at)


class StepPrice(Protocol):
    """What an engine asks of a price. Times are integer picoseconds."""

    def step_ps(self, num_decode: int, context_tokens: int, chunks: Chunks, drafts: int = 0) -> int:
        """One step: decoding sequences with their total context, and prompt chunks.

        ``drafts``: tokens that the decoding sequences verify besides (speculative decoding), in all; their
        context counts them.
        """
        ...

    def decode_run(self, num_decode: int, context_tokens: int) -> tuple[int, int, int]:
        """Pure decode from here: (first step, growth per step, steps for which that holds exactly)."""
        ...


@dataclass(frozen=True, slots=True)
class Curve:
    """Attention by context, of a number of decodes or of a chunk: value and slope from each breakpoint on."""

    constant_ps: int  # the step without attention
    values_ps: list[int]
    slopes_ps: list[int]

    def at(self, grid: list[int], context_tokens: int) -> int:
        """Attention over that context; beyond the last breakpoint as in the last piece."""
        piece = min(bisect_right(grid, context_tokens), len(self.slopes_ps)) - 1
        return self.values_ps[piece] + self.slopes_ps[piece] * (context_tokens - grid[piece])


def curve_of(grid: list[int], picoseconds: Int64, constant_ps: int) -> Curve:
    """Times at the first breakpoints, with integer slopes between them.

    More context never costs less: where interpolated efficiencies say so, the longest time so far holds.
    """
    values = np.maximum.accumulate(picoseconds)
    slopes = np.diff(values) // np.diff(grid[: len(values)])
    return Curve(constant_ps, values.tolist(), slopes.tolist())


class KernelTimes(Protocol):
    """Seconds of a step's kernels on one rank: from laws, or read between measurements."""

    def linear_s(self, tokens: Floats) -> dict[str, Floats]:
        """By operator, everything in the layers but attention, for steps of ``tokens`` tokens."""
        ...

    def head_s(self, sequences: Floats) -> dict[str, Floats]:
        """By operator, what the sequences that sample need at the end."""
        ...

    def chunk_s(self, queries: Floats, cached: Floats) -> Floats:
        """Attention of all layers, one prompt chunk by itself."""
        ...

    def decode_s(self, sequences: Floats, context_tokens: Floats) -> Floats:
        """Attention of all layers, decoding sequences with that context in all."""
        ...

    def warnings(self) -> tuple[str, ...]:
        """What a reader should know: sizes outside of what was measured, borrowed constants."""
        ...


def filled_in(scenario: PricedSteps) -> tuple[str, ...]:
    """What neither model nor profile knows, and what was taken in its place."""
    hardware = scenario.hardware
    found = list(not_priced(scenario))
    if hardware.graph_launch_s is None:
        found.append(
            f"hardware.graph_launch_s of {hardware.name} is unknown: kernel_launch_s, "
            f"{hardware.kernel_launch_s * 1e6:g} us, is taken for launches in a CUDA graph, too"
        )
    return (*found, *latencies_filled_in(hardware, scenario.engine.gpus_per_replica))


def not_priced(scenario: PricedSteps) -> tuple[str, ...]:
    """Parts of the model whose time no law has: said, not invented."""
    model, found = scenario.model, []
    if model.has_state:
        found.append(
            "recurrent layers: their projections are priced, the recurrence itself (scan, convolution, "
            "reading and writing the state) is not"
        )
    if model.mla is not None and model.mla.indexer is not None:
        found.append(
            "sparse attention: its indexer's projections are priced, the scores of the indexer are not, and "
            "attention is priced over all tokens"
        )
    if any(kind.attention is not None and kind.attention.chunk for kind in model.kinds):
        found.append(
            "chunked-local layers are priced as windows of the chunk's size: at most twice their attention"
        )
    held = served_quantization(model, scenario.engine.quantization)
    if held == "nvfp4":
        found.append(
            "nvfp4 matrices: no law has their time; they are priced as 4-bit weights read for products in "
            "the activations' type, which is too slow where the device multiplies 4-bit floats itself"
        )
    if len(schemes_of(model)) > 1 and scenario.engine.quantization == "none":
        found.append(
            f"the checkpoint mixes formats by layer: all quantised matrices compute as {held}, each is read "
            "in its own size"
        )
    return tuple(found)


class CompiledPrice:
    """Kernel times as tables."""

    def __init__(self, scenario: PricedSteps, times: KernelTimes | None = None) -> None:
        self.times: KernelTimes = times or AnalyticTimes(scenario)
        self._filled_in = filled_in(scenario)
        self._step_ps = to_ps(scenario.engine.overheads.step_s)
        self._sequence_ps = to_ps(scenario.engine.overheads.per_sequence_s)
        self.cold_start_ps = to_ps(scenario.engine.overheads.cold_start_s)
        self._heads_per_kv_head = scenario.model.num_attention_heads / max(
            1, scenario.model.num_key_value_heads
        )
        self._grid = breakpoints()
        self._linear: list[int] = []
        self._head: list[int] = []
        self._curves: dict[int, Curve] = {}
        self._decode_groups: dict[int, Int64] = {}
        self._num_chunk_breakpoints = FEW_CHUNK_BREAKPOINTS
        self._chunk_curves: dict[int, Curve] = {}
        self._chunk_groups: dict[int, Int64] = {}
        self._fresh_chunks: list[int] = []

    @property
    def warnings(self) -> tuple[str, ...]:
        """For the run's notes: what was asked of the price outside of what it was fitted to."""
        return (*self._filled_in, *self.times.warnings())

    def step_ps(self, num_decode: int, context_tokens: int, chunks: Chunks, drafts: int = 0) -> int:
        """One step; see ``StepPrice``. Drafts are computed, and sampled at, like any other position."""
        tokens = sampling = num_decode + drafts
        time_ps = self._step_ps + self._sequence_ps * (num_decode + len(chunks))
        fresh = self._fresh_chunks
        for queries, cached, samples, _ in chunks:
            tokens += queries
            sampling += samples
            time_ps += (
                fresh[queries] if cached == 0 and queries < len(fresh) else self.chunk_ps(queries, cached)
            )
        try:
            time_ps += self._linear[tokens] + self._head[sampling]
        except IndexError:  # the tables are too short yet
            time_ps += self.linear_ps(tokens) + self.head_ps(sampling)
        if num_decode:
            curve = self._curves.get(num_decode) or self._curve(num_decode)
            piece = bisect_right(self._grid, context_tokens) - 1
            attention = curve.values_ps[piece] + curve.slopes_ps[piece] * (context_tokens - self._grid[piece])
            time_ps += self.verifying_ps(attention, num_decode, drafts) if drafts else attention
        return time_ps

    def verifying_ps(self, attention_ps: int, num_decode: int, drafts: int) -> int:
        """Decode attention with drafts: KV is read once, for as many query rows as a tile has.

        A tile has the rows of all heads that share a KV head; beyond ``TILE_ROWS`` of them more tiles come.
        """
        group = self._heads_per_kv_head
        rows = group * (num_decode + drafts) / num_decode
        return round(attention_ps * max(rows, TILE_ROWS) / max(group, TILE_ROWS))

    def decode_run(self, num_decode: int, context_tokens: int) -> tuple[int, int, int]:
        """Pure decode; see ``StepPrice``."""
        curve = self._curves.get(num_decode) or self._curve(num_decode)
        grid = self._grid
        piece = bisect_right(grid, context_tokens) - 1
        slope = curve.slopes_ps[piece]
        first = curve.constant_ps + curve.values_ps[piece] + slope * (context_tokens - grid[piece])
        return first, slope * num_decode, -((context_tokens - grid[piece + 1]) // num_decode)

    def constant_ps(self, num_decode: int) -> int:
        """A pure decode step without its attention."""
        constant = self.linear_ps(num_decode) + self.head_ps(num_decode) + self._step_ps
        return constant + self._sequence_ps * num_decode

    @property
    def overheads_ps(self) -> tuple[int, int]:
        """Host time per step, and per sequence of a step."""
        return self._step_ps, self._sequence_ps

    def decode_attention_ps(self, num_decode: int, context_tokens: int) -> int:
        """Attention of ``num_decode`` single queries over ``context_tokens`` KV entries in all."""
        curve = self._curves.get(num_decode) or self._curve(num_decode)
        return curve.at(self._grid, context_tokens)

    def decode_attention_sum_ps(self, num_decode: Int64, context_tokens: Int64) -> int:
        """Sum of ``decode_attention_ps`` over many steps."""
        grid = np.array(self._grid, dtype=np.int64)
        pieces = np.searchsorted(grid, context_tokens, side="right") - 1
        total = 0
        order = np.argsort(num_decode, kind="stable")
        counts, starts = np.unique(num_decode[order], return_index=True)
        for count, chosen in zip(counts.tolist(), np.split(order, starts[1:]), strict=False):
            curve = self._curves.get(count) or self._curve(count)
            piece = np.minimum(pieces[chosen], len(curve.slopes_ps) - 1)
            inside = np.array(curve.slopes_ps)[piece] * (context_tokens[chosen] - grid[piece])
            total += int((np.array(curve.values_ps)[piece] + inside).sum())
        return total

    def linear_ps(self, tokens: int) -> int:
        """Everything in the layers but attention, for a step of ``tokens`` tokens."""
        if tokens >= len(self._linear):
            if tokens > LARGEST_TABLE:
                return to_ps(float(self._linear_s(np.array([float(tokens)]))[0]))
            self._linear = table(self._linear_s, table_size(tokens), self._linear)
        return self._linear[tokens]

    def head_ps(self, sequences: int) -> int:
        """Final norm and lm_head of the sequences that sample."""
        if sequences >= len(self._head):
            self._head = table(self._head_s, table_size(sequences), self._head)
        return self._head[sequences]

    def chunk_ps(self, queries: int, cached: int) -> int:
        """Attention of one prompt chunk."""
        if cached == 0 and queries <= LARGEST_TABLE:
            if queries >= len(self._fresh_chunks):
                known, size = self._fresh_chunks, table_size(queries)
                self._fresh_chunks = table(self._fresh_chunk_s, size, known)
            return self._fresh_chunks[queries]
        few = self._num_chunk_breakpoints
        if few < CHUNK_BREAKPOINTS and cached >= self._grid[few - 1]:
            self._num_chunk_breakpoints = CHUNK_BREAKPOINTS  # the first pieces of a curve stay as they are
            self._chunk_curves, self._chunk_groups = {}, {}
        curve = self._chunk_curves.get(queries) or self._chunk_curve(queries)
        return curve.at(self._grid, cached)

    def linear_split_s(self, tokens: Floats) -> dict[str, Floats]:
        """Seconds by operator of the linear part, for the report."""
        return self.times.linear_s(tokens)

    def _linear_s(self, tokens: Floats) -> Floats:
        return total(self.times.linear_s(tokens))

    def _head_s(self, sequences: Floats) -> Floats:
        return total(self.times.head_s(sequences))

    def _fresh_chunk_s(self, queries: Floats) -> Floats:
        return self.times.chunk_s(queries, np.zeros_like(queries))

    def _curve(self, num_decode: int) -> Curve:
        first = num_decode - num_decode % DECODE_GROUP
        values = self._decode_groups.get(first)
        if values is None:
            values = self._decode_groups[first] = self._decode_group(first)
        constant = self.constant_ps(num_decode)
        curve = self._curves[num_decode] = curve_of(self._grid, values[num_decode - first], constant)
        return curve

    def _decode_group(self, first: int) -> Int64:
        """Picoseconds of ``DECODE_GROUP`` batch sizes (rows) at the breakpoints; most are asked for."""
        counts = np.arange(first, first + DECODE_GROUP, dtype=np.float64)
        context = np.array(self._grid, dtype=np.float64)
        sizes = np.repeat(counts, len(context)), np.tile(context, len(counts))
        return whole_ps(self.times.decode_s, *sizes).reshape(len(counts), len(context))

    def _chunk_curve(self, queries: int) -> Curve:
        first = queries - queries % CHUNK_GROUP
        values = self._chunk_groups.get(first)
        if values is None:
            values = self._chunk_groups[first] = self._chunk_group(first)
        curve = self._chunk_curves[queries] = curve_of(self._grid, values[queries - first], 0)
        return curve

    def _chunk_group(self, first: int) -> Int64:
        """Picoseconds of ``CHUNK_GROUP`` sizes of chunks (rows) at the breakpoints; most are asked for."""
        queries = np.arange(first, first + CHUNK_GROUP, dtype=np.float64)
        cached = np.array(self._grid[: self._num_chunk_breakpoints], dtype=np.float64)
        sizes = np.repeat(queries, len(cached)), np.tile(cached, len(queries))
        values = whole_ps(self.times.chunk_s, *sizes).reshape(len(queries), len(cached))
        if queries[-1] <= LARGEST_TABLE:  # nothing cached: the price that a whole prompt has
            fresh = [self.chunk_ps(int(size), 0) for size in queries]
            values = np.maximum(values, np.array(fresh, dtype=np.int64)[:, None])
        return values


class ServiceTimePrice:
    """A drawn service time per request in place of a price: one sequence at a time, no step cost.

    The request's time is spread evenly over its output tokens (the first takes the remainder), so
    that its steps add up to the drawn time exactly. Chunks that yield no token take no time.
    """

    warnings: tuple[str, ...] = ()
    cold_start_ps = 0

    def __init__(self, service_ps: Sequence[int]) -> None:
        self._service_ps = service_ps
        self._first_ps = self._next_ps = 0

    def begin(self, request: int, output_tokens: int) -> None:
        """The request that is served from now on."""
        service = int(self._service_ps[request])
        self._next_ps = service // output_tokens
        self._first_ps = service - (output_tokens - 1) * self._next_ps

    def step_ps(self, num_decode: int, context_tokens: int, chunks: Chunks, drafts: int = 0) -> int:
        """One step; see ``StepPrice``."""
        return self._next_ps * num_decode + sum(self._first_ps for chunk in chunks if chunk[2])

    def decode_run(self, num_decode: int, context_tokens: int) -> tuple[int, int, int]:
        """Pure decode; see ``StepPrice``."""
        return self._next_ps, 0, 1 << 40


LARGEST_TABLE = 1 << 17


def total(by_operator: dict[str, Floats]) -> Floats:
    """Seconds of all operators, one after another."""
    times: Floats = np.sum(list(by_operator.values()), axis=0)
    return times


def table_size(size: int) -> int:
    """Tables grow in powers of two, so that what is computed does not depend on the order of questions."""
    return min(max(256, 1 << size.bit_length()), LARGEST_TABLE + 1)


def table(price_s: Callable[[Floats], Floats], size: int, known: list[int]) -> list[int]:
    """Picoseconds for 0, 1, ..., size - 1, of which the first are known already.

    More tokens never cost less (see ``curve_of``).
    """
    found = whole_ps(price_s, np.arange(len(known), size, dtype=np.float64))
    if known:
        found[0] = max(int(found[0]), known[-1])
    return [*known, *np.maximum.accumulate(found).tolist()]


def whole_ps(price_s: Callable[..., Floats], *sizes: Floats) -> Int64:
    """Prices in whole picoseconds, the same on every machine.

    They are computed fast, with last digits that depend on the machine, and those that lie so close to the
    middle of two that a last digit could matter once more, exactly. Beyond two seconds a last digit would
    always matter, so there they are rounded to 34 bits, to about a tenth of a nanosecond.
    """
    with last_digits_free():
        picoseconds = price_s(*sizes) * PS_PER_S
    _, bits = np.frexp(picoseconds)
    unit = np.ldexp(1.0, np.where(bits > LONG_BITS, bits - KEPT_BITS, 0))
    scaled = picoseconds / unit
    rounded = np.rint(scaled)
    from_middle = np.abs(np.abs(scaled - rounded) - 0.5)
    is_close = from_middle < 1e-6 + 4e-15 * scaled  # ten times what the last digits come to
    if is_close.any():
        again = price_s(*(one[is_close] for one in sizes))
        rounded[is_close] = np.rint(again * PS_PER_S / unit[is_close])
    return (rounded * unit).astype(np.int64)


def breakpoints() -> list[int]:
    """Total contexts at which decode attention is computed exactly, ascending, from 0."""
    grid = [0]
    exponent = 0
    while grid[-1] < MAX_CONTEXT_TOKENS:
        point = round(2.0 ** (exponent / BREAKPOINTS_PER_OCTAVE) * 16)
        exponent += 1
        grid.append(point)
    return grid
