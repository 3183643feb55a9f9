"""The map of vLLM's blocks: a play small enough to follow by hand, and what the picture makes of it."""

from __future__ import annotations

from typing import Any

import pytest
from conformance.playing import limits, request, steps

from sim.serving.records import CACHED, EVICTED, OWNED, SHARED, BlockMap
from sim.serving.report.block_map import View, held_fraction, raster, states
from sim.serving.request import Request
from sim.serving.vllm.config import KVCacheGroup
from sim.serving.vllm.scheduler import Scheduler
from sim.serving.vllm_block_map import VllmBlockMapRecorder

BLOCK = 4


def played(*requests: Request, most_rectangles: int = 100, **named: Any) -> BlockMap:
    """The map of a synchronous play whose n-th step lasts from n to n + 1 ps."""
    target = Scheduler(limits(enable_prefix_caching=True, **named))
    recorder = VllmBlockMapRecorder(0, most_rectangles)
    now = 0
    target.kv.on_release = lambda item: recorder.release(item, now)
    target.kv.on_release_some = lambda item, blocks, is_end: recorder.release_some(
        item, blocks, now, is_end=is_end
    )
    for item in requests:
        target.add(item)
    for plan in steps(target):
        recorder.note(plan, BLOCK, now)
        now += 1
    return recorder.block_map((named["num_gpu_blocks"] - 1) * BLOCK, BLOCK, now)


def rectangles(block_map: BlockMap) -> set[tuple[int, ...]]:
    """(first block, blocks, start, end, request, kind)."""
    columns = (
        block_map.address_tokens // BLOCK, block_map.size_tokens // BLOCK, block_map.start_ps,
        block_map.end_ps, block_map.request, block_map.kind,
    )  # fmt: skip
    return {tuple(row) for row in zip(*(column.tolist() for column in columns), strict=True)}


def test_a_block_is_shared_until_one_owner_is_left() -> None:
    first = request("0", [(7, 0, 9)], 2)
    second = request("1", [(7, 0, 8), (8, 0, 1)], 3)  # admitted in the same step
    assert rectangles(played(first, second, num_gpu_blocks=7)) == {
        (0, 2, 0, 2, 0, SHARED),
        (2, 1, 0, 2, 0, OWNED),
        (3, 1, 0, 3, 1, OWNED),
        (0, 2, 2, 3, 1, OWNED),
    }


def test_what_left_a_window_is_free_or_stays_cached_at_once() -> None:
    """9 tokens in 3 blocks of each group; a window of 3 needs the last 2 tokens of a resend's 8: block 5."""
    item = request("0", [(7, 0, 9)], 7)
    groups = (KVCacheGroup(), KVCacheGroup(kind="sliding", window_tokens=3))
    found = rectangles(played(item, num_gpu_blocks=11, groups=groups))
    assert found == {
        (0, 3, 0, 7, 0, OWNED),  # full attention, to the end
        (3, 1, 0, 1, 0, OWNED),  # block 4 leaves the window with the prompt
        (4, 1, 0, 2, 0, OWNED),
        (4, 1, 2, 7, 0, CACHED),
        (5, 1, 0, 6, 0, OWNED),
        (3, 1, 4, 7, 0, OWNED),  # and is taken again
        (6, 1, 4, 7, 0, OWNED),
    }


def test_freed_blocks_stay_cached_are_hit_and_at_last_evicted() -> None:
    first = request("0", [(7, 0, 9)], 1)
    long = request("1", [(8, 0, 4)], 6)
    between = request("2", [(6, 0, 2)], 2)  # gets the seat of the first
    again = request("3", [(7, 0, 9)], 1)
    whole = request("4", [(5, 0, 24)], 1)  # needs every block, and waits until all are free
    found = rectangles(played(first, long, between, again, whole, num_gpu_blocks=7, max_num_seqs=2))
    assert (0, 2, 1, 3, 0, CACHED) in found
    assert (0, 2, 3, 4, 3, OWNED) in found
    assert {row for row in found if row[5] == EVICTED} == {(0, 2, 4, 6, 3, EVICTED)}
    assert (0, 6, 6, 7, 4, OWNED) in found


def test_the_picture_shows_who_holds_what_and_where_it_was_evicted() -> None:
    first, whole = request("0", [(7, 0, 9)], 1), request("1", [(5, 0, 24)], 1)
    long = request("2", [(8, 0, 4)], 6)
    block_map = played(first, long, whole, num_gpu_blocks=7)
    view = View(start_ps=0, end_ps=7, top_tokens=24)
    assert raster(block_map, view, (6, 7))[0].tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert states(block_map, view, (6, 7))[0].tolist() == [OWNED, *2 * [CACHED], *3 * [EVICTED], OWNED]
    assert held_fraction(block_map, view, (EVICTED,)) == pytest.approx(2 * 5 / (6 * 7))


def test_only_the_first_part_of_a_long_run_is_kept() -> None:
    requests = [request(str(number), [(number, 0, 4)], 1) for number in range(20)]
    block_map = played(*requests, num_gpu_blocks=3, most_rectangles=5)
    assert block_map.is_truncated
    assert 5 <= len(block_map.request) <= 8
