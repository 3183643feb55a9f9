"""Packing: laws of every strategy, the guarantees against exact packing, the cited histograms."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from training.packing_gains import packing_gains
from training.packing_histograms import HISTOGRAMS, histogram_lengths
from training.step.published import A100

from sim.errors import ScenarioError
from sim.model.config import load_model
from sim.training.packing import PACKING_STRATEGIES, pack
from sim.training.step.shape import StepShape

CAPACITY = 64
LENGTHS = st.lists(st.integers(1, 100), min_size=1, max_size=60)
PACKERS = ("greedy", "first_fit_decreasing", "best_fit", "best_fit_decreasing")


def smallest_number_of_bins(sizes: list[int], capacity: int) -> int:
    """Exact bin packing by branch and bound over all placements, largest first."""
    ordered = sorted(sizes, reverse=True)
    fewest = len(ordered)

    def place(at: int, rooms: tuple[int, ...]) -> None:
        nonlocal fewest
        waste_free = len(rooms) + max(0, -(-(sum(ordered[at:]) - sum(rooms)) // capacity))
        if waste_free >= fewest:
            return
        if at == len(ordered):
            fewest = len(rooms)
            return
        for room in sorted(set(rooms)):
            if room >= ordered[at]:
                left = list(rooms)
                left.remove(room)
                place(at + 1, tuple(sorted([*left, room - ordered[at]])))
        place(at + 1, tuple(sorted([*rooms, capacity - ordered[at]])))

    place(0, ())
    return fewest


def slow_first_fit(sizes: list[int], capacity: int) -> list[int]:
    """The definition, without a tree."""
    rooms: list[int] = []
    placed = []
    for size in sizes:
        row = next((i for i, room in enumerate(rooms) if room >= size), len(rooms))
        if row == len(rooms):
            rooms.append(capacity)
        rooms[row] -= size
        placed.append(row)
    return placed


def slow_best_fit(sizes: list[int], capacity: int) -> list[int]:
    """The definition: the fullest row that still has room, the oldest of equals."""
    rooms: list[int] = []
    placed = []
    for size in sizes:
        fitting = [(room, i) for i, room in enumerate(rooms) if room >= size]
        row = min(fitting)[1] if fitting else len(rooms)
        if row == len(rooms):
            rooms.append(capacity)
        rooms[row] -= size
        placed.append(row)
    return placed


@given(LENGTHS, st.sampled_from(PACKING_STRATEGIES), st.integers(1, 8))
def test_every_document_is_placed_once_and_no_row_overflows(
    lengths: list[int], strategy: str, batch: int
) -> None:
    packing = pack(lengths, CAPACITY, strategy, micro_batch_size=batch)  # type: ignore[arg-type]
    used = np.bincount(packing.bins, weights=packing.lengths, minlength=packing.num_rows)
    assert (used <= packing.row_tokens).all()
    assert (used > 0).all()
    assert packing.row_tokens.max() <= CAPACITY
    assert packing.lengths.sum() + packing.num_cut_tokens == sum(lengths)
    assert packing.padding_fraction == pytest.approx(1 - used.sum() / packing.row_tokens.sum())


@given(st.lists(st.integers(1, 12), min_size=1, max_size=9), st.integers(12, 20))
def test_guarantees_against_exact_packing(sizes: list[int], capacity: int) -> None:
    best = smallest_number_of_bins(sizes, capacity)
    rows = {strategy: pack(sizes, capacity, strategy).num_rows for strategy in PACKERS}  # type: ignore[arg-type]
    assert all(number >= best for number in rows.values())
    assert 9 * rows["first_fit_decreasing"] <= 11 * best + 6
    assert 9 * rows["best_fit_decreasing"] <= 11 * best + 6
    assert 10 * rows["best_fit"] <= 17 * best
    assert rows["greedy"] <= 2 * best


def test_first_fit_decreasing_is_not_exact() -> None:
    """4 + 3 + 3 twice fills two rows; FFD puts both 4s together and needs three."""
    sizes = [4, 4, 3, 3, 3, 3]
    assert smallest_number_of_bins(sizes, 10) == 2
    assert pack(sizes, 10, "first_fit_decreasing").num_rows == 3


@given(LENGTHS)
def test_fast_packers_are_their_definitions(lengths: list[int]) -> None:
    cut = [min(length, CAPACITY) for length in lengths]
    assert pack(cut, CAPACITY, "best_fit").bins.tolist() == slow_best_fit(cut, CAPACITY)
    order = sorted(range(len(cut)), key=lambda i: -cut[i])
    slow = dict(zip(order, slow_first_fit([cut[i] for i in order], CAPACITY), strict=True))
    found = pack(cut, CAPACITY, "first_fit_decreasing").bins.tolist()
    assert found == [slow[i] for i in range(len(cut))]


@pytest.mark.parametrize("name", HISTOGRAMS)
def test_histograms_have_their_cited_padding_and_packing_leaves_5_percent(name: str) -> None:
    histogram = HISTOGRAMS[name]
    lengths = histogram_lengths(name, 5000)
    padded = pack(lengths, histogram.capacity_tokens, "maximum")
    assert padded.padding_fraction == pytest.approx(histogram.padding_fraction, abs=0.005)
    for strategy in ("first_fit_decreasing", "best_fit", "best_fit_decreasing"):
        assert pack(lengths, histogram.capacity_tokens, strategy).padding_fraction <= 0.05  # type: ignore[arg-type]


def test_a_hundred_thousand_documents_are_all_packed() -> None:
    lengths = np.clip(np.random.default_rng(1).lognormal(5.5, 0.9, 100_000), 1, 2048).astype(np.int64)
    for strategy in PACKING_STRATEGIES:
        packed = pack(lengths, 2048, strategy, micro_batch_size=8)
        assert packed.lengths.sum() == lengths.sum()
        assert len(packed.bins) == len(lengths) and packed.bins.max() < packed.num_rows


def test_attention_of_packed_documents_by_hand() -> None:
    """Documents of 3, 2 and 4 tokens in rows of 5: 3 + 2 fill one, 4 leaves one token of padding."""
    packing = pack([3, 2, 4], 5, "greedy")
    assert packing.bins.tolist() == [0, 0, 1]
    assert packing.attention_pairs("block_diagonal") == 9 + 4 + 16 + 1
    assert packing.attention_pairs("crossing") == 25 + 25


def test_bucketing_pads_to_the_longest_of_like_lengths() -> None:
    packing = pack([8, 1, 7, 2], 10, "bucketing", micro_batch_size=2)
    assert sorted(packing.row_tokens.tolist()) == [2, 2, 8, 8]
    assert pack([8, 1, 7, 2], 10, "longest", micro_batch_size=2).row_tokens.tolist() == [8, 8, 7, 7]


@cache
def llama() -> StepShape:
    return StepShape(model=load_model("llama-3.1-8b"), hardware=A100, max_seq_len=2048, micro_batch_size=4)


def test_packing_gains_about_what_padding_wasted() -> None:
    lengths = histogram_lengths("batched_2048", 2000).tolist()
    gains = {gain.strategy: gain for gain in packing_gains(lengths, llama(), PACKING_STRATEGIES)}
    assert gains["maximum"].speedup == 1
    assert gains["first_fit_decreasing"].speedup == pytest.approx(1 / 0.7, rel=0.03)
    assert gains["maximum"].speedup < gains["greedy"].speedup < gains["best_fit"].speedup


def test_crossing_attention_costs_more_than_masked() -> None:
    lengths = histogram_lengths("wikipedia_bert_512", 2000).tolist()
    masked = packing_gains(lengths, llama(), ["best_fit"])[0]
    crossing = packing_gains(lengths, llama(), ["best_fit"], masking="crossing")[0]
    assert masked.attention_share_of_crossing < 0.5
    assert crossing.attention_share_of_crossing == 1
    assert masked.useful_tokens_per_s > crossing.useful_tokens_per_s


def test_mistakes_are_refused() -> None:
    with pytest.raises(ScenarioError, match="did you mean first_fit_decreasing"):
        pack([1], 10, "first-fit-decreasing")  # type: ignore[arg-type]
    with pytest.raises(ScenarioError, match="at least one token"):
        pack([3, 0], 10, "greedy")
    with pytest.raises(ScenarioError, match="at least one token"):
        pack([], 10, "greedy")
