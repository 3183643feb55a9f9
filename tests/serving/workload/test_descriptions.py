"""What a table's segments tell: against all tokens listed one by one."""

from __future__ import annotations

from conformance.playing import request, table_of
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sim.serving.request import NEVER, Request
from sim.serving.workload.descriptions import Descriptions, continued_rows, num_common_tokens

Segment = tuple[int, int, int]
SEGMENTS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 1), st.integers(0, 4)), min_size=1, max_size=4
)
ROWS = st.lists(st.tuples(SEGMENTS, st.integers(1, 3), st.none() | st.integers(0, 9)), min_size=1, max_size=7)


def made(rows: list[tuple[list[Segment], int, int | None]]) -> list[Request]:
    """Each with its segments, after all of an earlier request if it follows one."""
    items: list[Request] = []
    for number, (segments, out, follows) in enumerate(rows):
        if follows is not None and items:
            before = items[follows % len(items)]
            segments = [*before.prompt, (before.stream_of_output, 0, before.max_tokens), *segments]
        items.append(request(f"r{number}", segments, out, output_stream=3 + 2 * number))
    return items


def tokens(item: Request) -> list[tuple[int, int]]:
    asked = [*item.prompt, (item.stream_of_output, 0, item.max_tokens)]
    return [(stream, start + at) for stream, start, length in asked for at in range(length)]


def in_common(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> int:
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


@settings(max_examples=300, deadline=None)
@given(ROWS)
@example([([(0, 0, 0), (1, 0, 2)], 1, None), ([(1, 0, 2)], 2, None)])
def test_beyond_the_common_tokens_nobody_has_the_same(
    rows: list[tuple[list[Segment], int, int | None]],
) -> None:
    items = made(rows)
    common = num_common_tokens(table_of(items))
    assert common is not None
    for number, item in enumerate(items):
        others = [in_common(tokens(item), tokens(other)) for other in items if other is not item]
        assert common[number] >= max(others, default=0)


def test_common_tokens_end_with_the_first_segment_of_ones_own() -> None:
    items = [
        request("a", [(1, 0, 10), (20, 0, 5), (1, 0, 3)], 4, output_stream=31),
        request("b", [(1, 0, 10), (21, 0, 5)], 4, output_stream=32),
        request("c", [(1, 0, 10), (21, 0, 5), (32, 0, 4), (22, 0, 7)], 4, output_stream=33),
        request("d", [(1, 0, 6)], 4, output_stream=34),
    ]
    common = num_common_tokens(table_of(items))
    assert common is not None
    assert common.tolist() == [10, NEVER, 19, 6]


@settings(max_examples=300, deadline=None)
@given(ROWS)
def test_a_turn_is_told_by_the_one_before_and_the_rest(
    rows: list[tuple[list[Segment], int, int | None]],
) -> None:
    items = made(rows)
    before = continued_rows(table_of(items))
    for number, item in enumerate(items):
        if before is not None and before[number] >= 0:
            whole = tokens(items[before[number]])
            assert before[number] != number and tokens(item)[: len(whole)] == whole
    descriptions = Descriptions(table_of(items))
    for number, item in enumerate(items):
        told = Request(number, 0, item.num_prompt_tokens, item.max_tokens)
        descriptions.put_on(told, number)
        assert list(told.prompt) == list(item.prompt)
        assert told.stream_of_output == item.stream_of_output


def test_turns_of_a_conversation_are_found_whoever_comes_between() -> None:
    first = request("a", [(1, 0, 10), (2, 0, 5)], 4, output_stream=31)
    other = request("b", [(1, 0, 10)], 4, output_stream=32)
    second = request("c", [*first.prompt, (31, 0, 4), (3, 0, 6)], 8, output_stream=33)
    cut = request("d", [*first.prompt, (31, 0, 3), (3, 0, 6)], 8, output_stream=34)
    third = request("e", [*second.prompt, (33, 0, 8), (4, 0, 1)], 8, output_stream=35)
    before = continued_rows(table_of([first, other, second, cut, third]))
    assert before is not None
    assert before.tolist() == [-1, -1, 0, -1, 2]
