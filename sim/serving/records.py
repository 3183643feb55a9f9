"""What a run leaves behind: columns, one entry per request or per engine segment.

Times are integer picoseconds since the start of the run; -1 means "never". Statistics are made from
these elsewhere (``sim.serving.summary``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sim.arrays import PS_PER_S as PS_PER_S
from sim.arrays import Int64 as Int64
from sim.arrays import PackedColumn
from sim.scenario.dataclass import dataclass

if TYPE_CHECKING:
    from sim.serving.scenario import Scenario

UNFINISHED, FINISHED, REFUSED, ABORTED = 0, 1, 2, 3
OWNED, SHARED, CACHED, EVICTED = 0, 1, 2, 3  # what a rectangle of a block map is
MAX_RECTANGLES = 60_000  # of a block map: the first part of a long run
STATUS_NAMES = ("unfinished", "finished", "refused", "aborted")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTable:
    """A workload, drawn or read: one row per request, in the order in which ids are given.

    ``arrival_ps`` is -1 for a request that another one's end triggers: then it arrives
    ``think_ps`` after the end of request ``follows`` (a session's turn before), or, where
    ``closed_loop`` is true and ``follows`` is -1, after the end of whichever request ends next
    (rows are released in order). Rows with an arrival time are sorted by it. A request ends when it
    finishes, is refused or is aborted; a turn whose predecessor was refused or aborted is offered
    all the same.

    ``segments_*``: token identity, for prefix caching. Request i's prompt is the concatenation of
    segments ``segment_offsets[i]:segment_offsets[i+1]``, each (stream, start, length): token p of a
    segment is (stream, start + p). Output token j of request i is (``output_stream[i]``, j). Two
    requests share a prefix exactly where their tokens agree. None: no token is shared.
    """

    arrival_ps: Int64
    prompt_tokens: Int64
    output_tokens: Int64
    class_id: npt.NDArray[np.int16] | None = None  # index into class_names
    class_names: tuple[str, ...] = ()
    timeout_ps: Int64 | None = None  # -1: patient
    priority: Int64 | None = None
    think_ps: Int64 | None = None
    follows: Int64 | None = None  # -1: nobody
    closed_loop: bool = False
    segment_offsets: Int64 | None = None
    segment_stream: Int64 | None = None
    segment_start: Int64 | None = None
    segment_length: Int64 | None = None
    output_stream: Int64 | None = None
    num_warmup: int = 0  # rows (ids) at the start that are not measured
    warmup_ps: int = 0  # nor what arrives before this
    notes: tuple[str, ...] = ()  # what the reader should know: rows left out, units guessed


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestColumns:
    """One entry per request, by id."""

    arrival_ps: Int64
    first_scheduled_ps: Int64
    first_token_ps: Int64
    finish_ps: Int64  # last token; for an aborted request when the client left; refused: when refused
    status: npt.NDArray[np.uint8]  # UNFINISHED, FINISHED, REFUSED, ABORTED
    prompt_tokens: Int64
    output_tokens: Int64  # asked for
    generated_tokens: Int64  # delivered
    cached_tokens: Int64  # prompt tokens found in the prefix cache at the first admission
    num_preemptions: Int64
    recompute_tokens: Int64  # tokens whose KV was lost to preemption
    class_id: npt.NDArray[np.int16]
    replica: npt.NDArray[np.int16]  # -1: never routed
    is_measured: npt.NDArray[np.bool_]  # outside warm-up


class Rows:
    """A field of ``SegmentColumns``: an array, also where a packed column is kept, unpacked when asked for.

    ``may_miss``: it is None where nobody gives it.
    """

    def __init__(self, *, may_miss: bool = False) -> None:
        self._may_miss = may_miss

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, columns: object | None, owner: type) -> Any:
        if columns is None:  # what a dataclass asks for a default
            if self._may_miss:
                return None
            raise AttributeError(self._name)
        kept = columns.__dict__[self._name]
        return kept.whole() if isinstance(kept, PackedColumn) else kept

    def __set__(self, columns: object, kept: Any) -> None:
        columns.__dict__[self._name] = kept


def kept(*, may_miss: bool = False) -> Any:
    """Such a field; for a type checker it is the array."""
    return Rows(may_miss=may_miss)


@dataclass(frozen=True, kw_only=True)
class SegmentColumns:
    """One entry per engine jump: ``num_steps`` consecutive steps without a decision between them.

    Step j (from 0) lasts ``first_step_ps + j * step_growth_ps``; every decoding sequence gets one token
    at the end of each step, and with it those of its drafts that were accepted. Prefill tokens are those
    of the first step (segments with prefill have one step). KV levels are at the segment's start, after
    allocation.

    A long run's columns are kept packed and unpacked anew at every access: ``parts`` has some of the
    rows of all columns at a time.
    """

    replica: npt.NDArray[np.int16] = kept()
    start_ps: Int64 = kept()
    num_steps: Int64 = kept()
    first_step_ps: Int64 = kept()
    step_growth_ps: Int64 = kept()
    num_decode: Int64 = kept()  # decoding sequences
    decode_context_tokens: Int64 = kept()  # sum of their contexts in the first step
    num_prefill: Int64 = kept()  # prompts (or chunks) in the step
    prefill_tokens: Int64 = kept()
    num_running: Int64 = kept()
    num_waiting: Int64 = kept()
    kv_tokens: Int64 = kept()  # tokens held, and the three kinds of waste, in tokens
    kv_reserved: Int64 = kept()
    kv_internal: Int64 = kept()
    kv_external: Int64 = kept()
    kv_grown_tokens_ps: Int64 | npt.NDArray[np.object_] | None = kept(may_miss=True)
    """KV given out after a jump's first step × time; Python's integers where one is beyond 64 bits."""
    num_padded: Int64 | None = kept(may_miss=True)  # static: members done or gone, still computed
    num_draft_tokens: Int64 | None = kept(may_miss=True)  # speculative: verified by decoding sequences
    num_accepted_tokens: Int64 | None = kept(may_miss=True)  # of them, those that became output

    def parts(self) -> Iterator[SegmentColumns]:
        """The same rows in order, a block at a time."""
        columns = {name: one.parts() for name, one in self.__dict__.items() if isinstance(one, PackedColumn)}
        if not columns:
            yield self
            return
        for rows in zip(*columns.values(), strict=True):
            part: dict[str, Any] = dict(zip(columns, rows, strict=True))
            yield SegmentColumns(**part)

    def of_parts(self, value: Callable[[SegmentColumns], npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """A column that is computed from others, no more than a row of a row, a part at a time."""
        whole, end = np.empty(0), 0
        for part in self.parts():
            rows = value(part)
            if part is self:
                return rows
            if not end:
                whole = np.empty(self.num_rows, dtype=rows.dtype)
            start, end = end, end + len(rows)
            whole[start:end] = rows
        return whole[:end]

    @property
    def num_rows(self) -> int:
        """How many there are."""
        return len(self.__dict__["start_ps"])

    @property
    def num_replicas(self) -> int:
        """Replicas that ran a step."""
        return int(np.count_nonzero(np.bincount(self.replica)))  # (np.unique would import numpy.ma)

    @property
    def duration_ps(self) -> Int64:
        """How long each segment lasts: the sum of its steps."""
        return self.of_parts(_duration_ps)

    @property
    def end_ps(self) -> Int64:
        """When each segment's last step ends."""
        return self.of_parts(lambda part: part.start_ps + _duration_ps(part))


def _duration_ps(rows: SegmentColumns) -> Int64:
    n = rows.num_steps
    duration: Int64 = n * rows.first_step_ps + rows.step_growth_ps * (n * (n - 1) // 2)
    return duration


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptionColumns:
    """The ledger: one entry per eviction."""

    time_ps: Int64
    request: Int64
    replica: Int64
    recompute_tokens: Int64  # KV entries thrown away, to be computed again


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockMap:
    """KV memory over time, as rectangles: ``size_tokens`` from ``address_tokens`` belonged to ``request``.

    ``kind``: owned by one request, ``SHARED`` by several (``request`` is the first), or ``CACHED``: free,
    with content that a request may hit; ``EVICTED`` is such content, given up at the rectangle's end.
    """

    capacity_tokens: int
    block_size: int
    replica: int
    address_tokens: Int64
    size_tokens: Int64
    start_ps: Int64
    end_ps: Int64
    request: Int64
    kind: Int64
    is_truncated: bool  # only the first part of the run was kept


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """Everything one run of one variant with one seed left behind."""

    scenario: Scenario
    variant: str
    seed: int
    requests: RequestColumns
    class_names: tuple[str, ...]
    segments: SegmentColumns
    preemptions: PreemptionColumns
    whole_ps: tuple[int, int]  # first arrival after the warm-up that the scenario states, last completion
    window_ps: tuple[int, int]  # what rates are taken of (``sim.serving.window``); else the same
    kv_budget_tokens: int  # of one replica; 0: there is no limit
    kv_time_tokens_ps: Mapping[str, int]  # integral over ``window_ps``, all replicas, by KV_KINDS
    operator_s: Mapping[str, float]  # busy time by operator, all steps and replicas
    busy_ps: int  # time in steps, all replicas
    num_events: int  # SimPy events
    block_map: BlockMap | None
    notes: tuple[str, ...]
    explain: Mapping[str, Any]  # where the memory went, and the price's constants
    has_window: bool = False  # whether ``window_ps`` is a window, and not the whole run
    window_said: str = ""  # the same in words
