"""Drawn workloads against closed forms, then laws over random workloads."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import replace
from itertools import takewhile

import numpy as np
import pytest
from described_workload import describe, shared_prompt_tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.arrays import PS_PER_S
from sim.errors import ScenarioError
from sim.rng import stream
from sim.scenario.distribution import Distribution, DrawPlace, draw_tokens, draw_values
from sim.serving.records import RequestTable
from sim.serving.scenario import RequestClass, Sessions, SharedPrefix, Workload
from sim.serving.workload.arrivals import Arrivals, RateStep
from sim.serving.workload.sources import draw_requests

N = 100_000


def fixed(value: float) -> Distribution:
    return Distribution(distribution="fixed", value=value)


def poisson(rate: float = 8.0) -> Arrivals:
    return Arrivals(process="poisson", requests_per_s=rate)


def chat(**changes: object) -> Workload:
    base = Workload(
        arrivals=poisson(),
        prompt_tokens=Distribution(distribution="lognormal", mean=512, max=4096),
        output_tokens=Distribution(distribution="geometric", mean=256, max=1024),
        num_requests=200,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def gaps_s(arrivals: Arrivals, count: int = N, seed: int = 1) -> np.ndarray:
    table = draw_requests(chat(arrivals=arrivals, num_requests=count), seed)
    return np.diff(table.arrival_ps, prepend=0) / PS_PER_S


# Standard error of a sample's coefficient of variation for gamma gaps (delta method):
# cv * sqrt((1 + cv^2) / (2 n)), which is 1/sqrt(n) for the exponential.
@pytest.mark.parametrize("cv", [0.25, 1.0, 3.0])
def test_gamma_gaps_have_the_mean_and_cv_asked_for(cv: float) -> None:
    gaps = gaps_s(Arrivals(process="gamma", requests_per_s=8, cv=cv))
    assert gaps.mean() == pytest.approx(1 / 8, abs=4 * cv / 8 / math.sqrt(N))
    error = cv * math.sqrt((1 + cv**2) / (2 * N))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, abs=4 * error)


def test_poisson_gaps_are_exponential() -> None:
    gaps = gaps_s(poisson(8))
    assert gaps.mean() == pytest.approx(1 / 8, abs=4 / 8 / math.sqrt(N))
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=4 / math.sqrt(N))
    # Kolmogorov-Smirnov distance to 1 - exp(-8 t); 1.95/sqrt(n) is the 0.1 % point.
    ranked = 1 - np.exp(-8 * np.sort(gaps))
    steps = np.arange(N) / N
    assert max(np.max(ranked - steps), np.max(steps + 1 / N - ranked)) < 1.95 / math.sqrt(N)
    # Independent of the gap before: lag-one correlation is 0 within 4/sqrt(n).
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 4 / math.sqrt(N)


def test_constant_arrivals_are_evenly_spaced_from_zero() -> None:
    table = draw_requests(chat(arrivals=Arrivals(process="constant", requests_per_s=4), num_requests=5), 1)
    assert (table.arrival_ps / PS_PER_S).tolist() == [0, 0.25, 0.5, 0.75, 1.0]


def test_a_higher_rate_is_the_same_draws_closer_together() -> None:
    slow = draw_requests(chat(arrivals=poisson(2)), 3).arrival_ps
    fast = draw_requests(chat(arrivals=poisson(4)), 3).arrival_ps
    assert np.max(np.abs(slow - 2 * fast)) <= 2


def counts_between(table: RequestTable, edges: list[float]) -> np.ndarray:
    return np.histogram(table.arrival_ps / PS_PER_S, bins=edges)[0]


def test_a_schedule_gives_each_period_its_expected_count() -> None:
    rates = tuple(
        RateStep(start_s=start, requests_per_s=rate)
        for start, rate in [(100.0, 20.0), (300.0, 0.0), (400.0, 5.0), (800.0, 50.0)]
    )
    arrivals = Arrivals(process="schedule", rates=rates)
    table = draw_requests(chat(arrivals=arrivals, num_requests=None, duration_s=1000), 1)
    counts = counts_between(table, [0, 100, 300, 400, 800, 1000])
    expected = np.array([0, 4000, 0, 2000, 10_000])
    assert np.all(np.abs(counts - expected) <= 4 * np.sqrt(expected))


def test_a_schedule_that_ends_at_rate_zero_gives_fewer_requests_and_says_so() -> None:
    rates = (RateStep(start_s=0, requests_per_s=10), RateStep(start_s=10, requests_per_s=0))
    table = draw_requests(chat(arrivals=Arrivals(process="schedule", rates=rates), num_requests=10_000), 1)
    assert 60 < len(table.arrival_ps) < 140
    assert table.arrival_ps[-1] <= 10 * PS_PER_S
    assert "of 10,000 requests" in table.notes[0]


@pytest.mark.parametrize("off_rate", [0.0, 4.0])
def test_bursts_and_pauses_have_their_rates(off_rate: float) -> None:
    arrivals = Arrivals(process="on_off", requests_per_s=100, on_s=2, off_s=8, off_requests_per_s=off_rate)
    table = draw_requests(chat(arrivals=arrivals, num_requests=None, duration_s=1000), 1)
    within = table.arrival_ps / PS_PER_S % 10
    in_burst = np.count_nonzero(within < 2)
    in_pause = len(within) - in_burst
    assert in_burst == pytest.approx(20_000, abs=4 * math.sqrt(20_000))
    assert in_pause == pytest.approx(800 * off_rate, abs=4 * math.sqrt(800 * off_rate))
    # Poisson within the burst: its first half holds half of it.
    assert np.count_nonzero(within < 1) == pytest.approx(10_000, abs=4 * math.sqrt(10_000))


def test_poisson_for_a_duration_has_a_poisson_count() -> None:
    counts = [
        len(draw_requests(chat(arrivals=poisson(20), num_requests=None, duration_s=50), seed).arrival_ps)
        for seed in range(100)
    ]
    assert np.mean(counts) == pytest.approx(1000, abs=4 * math.sqrt(1000 / 100))
    # Variance of a Poisson count is its mean; the sample variance of 100 has error sqrt(2/99).
    assert np.var(counts, ddof=1) / 1000 == pytest.approx(1, abs=4 * math.sqrt(2 / 99))


def test_all_at_once_and_closed_loop() -> None:
    table = draw_requests(chat(arrivals=Arrivals(process="all_at_once")), 1)
    assert not table.arrival_ps.any() and not table.closed_loop
    think = Distribution(distribution="exponential", mean=3)
    loop = Arrivals(process="closed_loop", concurrency=7, think_time_s=think)
    table = draw_requests(chat(arrivals=loop, num_requests=20_000), 1)
    assert table.closed_loop and table.follows is None and table.think_ps is not None
    assert table.arrival_ps[:7].tolist() == [0] * 7
    assert np.all(table.arrival_ps[7:] == -1)
    assert not table.think_ps[:7].any()
    assert table.think_ps[7:].mean() / PS_PER_S == pytest.approx(3, abs=4 * 3 / math.sqrt(20_000))


MOMENTS = {
    # law: (mean, standard deviation), closed forms
    "fixed": (fixed(300), 300, 0),
    "uniform": (Distribution(distribution="uniform", min=10, max=20), 15, math.sqrt((11**2 - 1) / 12)),
    "lognormal, sigma": (
        Distribution(distribution="lognormal", mean=500, sigma=0.5),
        500,
        500 * math.sqrt(math.expm1(0.25)),
    ),
    "lognormal, stddev": (Distribution(distribution="lognormal", mean=500, stddev=900), 500, 900),
    "lognormal": (Distribution(distribution="lognormal", mean=500), 500, 500 * math.sqrt(math.e - 1)),
    "normal": (Distribution(distribution="normal", mean=5000, stddev=100), 5000, 100),
    "exponential": (Distribution(distribution="exponential", mean=4000), 4000, 4000),
    "geometric": (Distribution(distribution="geometric", mean=20), 20, math.sqrt(20 * 19)),
    "empirical": (Distribution(distribution="empirical", values=(10.0, 20.0, 60.0)), 30, math.sqrt(1400 / 3)),
    "empirical, weights": (
        Distribution(distribution="empirical", values=(10.0, 20.0), weights=(3.0, 1.0)),
        12.5,
        math.sqrt(18.75),
    ),
}


@pytest.mark.parametrize("name", MOMENTS)
def test_lengths_have_the_mean_and_spread_of_their_law(name: str) -> None:
    law, mean, stddev = MOMENTS[name]
    tokens = draw_tokens(law, N, stream(1, "prompt_tokens"))
    # Rounding shifts a mean by far less than 0.05 tokens at these widths.
    assert tokens.mean() == pytest.approx(mean, abs=4 * stddev / math.sqrt(N) + 0.05)
    assert tokens.std() == pytest.approx(stddev, rel=0.12)
    assert tokens.min() >= 1


def test_a_lognormal_has_its_median_where_sigma_says() -> None:
    values = draw_values(Distribution(distribution="lognormal", mean=500, sigma=1), N, stream(1, "x"))
    for share, normal_quantile in [(0.1, -1.2816), (0.5, 0.0), (0.9, 1.2816)]:
        expected = math.log(500) - 0.5 + normal_quantile
        density = math.exp(-(normal_quantile**2) / 2) / math.sqrt(2 * math.pi)
        error = math.sqrt(share * (1 - share) / N) / density
        assert math.log(np.quantile(values, share)) == pytest.approx(expected, abs=4 * error)


def test_geometric_lengths_fall_by_one_ratio() -> None:
    tokens = draw_tokens(Distribution(distribution="geometric", mean=4), N, stream(1, "x"))
    for k in range(1, 8):
        expected = 0.25 * 0.75 ** (k - 1)
        share = np.count_nonzero(tokens == k) / N
        assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / N))


def test_uniform_reaches_both_ends_alike() -> None:
    tokens = draw_tokens(Distribution(distribution="uniform", min=3, max=7), N, stream(1, "x"))
    counts = np.bincount(tokens, minlength=8)
    assert counts[:3].sum() == 0 and len(counts) == 8
    assert np.all(np.abs(counts[3:] - N / 5) < 4 * math.sqrt(N * 0.2 * 0.8))


def test_the_mean_is_before_clamping_and_a_normal_is_clamped() -> None:
    clamped = Distribution(distribution="lognormal", mean=512, max=1000)
    free = draw_tokens(replace(clamped, max=None), N, stream(1, "x"))
    assert np.array_equal(draw_tokens(clamped, N, stream(1, "x")), np.minimum(free, 1000))
    normal = Distribution(distribution="normal", mean=10, stddev=20, min=2, max=15)
    tokens = draw_tokens(normal, N, stream(1, "x"))
    assert (tokens.min(), tokens.max()) == (2, 15)
    # P(draw <= 2.5, rounded to 2 or clamped up to it) = Phi(-7.5/20)
    below = 0.5 * math.erfc(0.375 / math.sqrt(2))
    assert np.count_nonzero(tokens == 2) / N == pytest.approx(below, abs=4 * math.sqrt(0.25 / N))


def mixture(**changes: float) -> dict[str, RequestClass]:
    shares = {"chat": 6.0, "rag": 3.0, "agent": 1.0, **changes}
    laws = {
        name: Distribution(distribution="lognormal", mean=100 * (k + 1), max=4096)
        for k, name in enumerate(shares)
    }
    return {
        name: RequestClass(share=share, prompt_tokens=laws[name], output_tokens=fixed(k + 1))
        for k, (name, share) in enumerate(shares.items())
    }


def test_classes_come_by_share_and_keep_their_own_lengths() -> None:
    classes = mixture()
    classes["rag"] = replace(classes["rag"], timeout_s=2.5, priority=-1)
    workload = Workload(arrivals=poisson(), classes=classes, num_requests=N, timeout_s=9)
    table = draw_requests(workload, 1)
    assert table.class_names == ("chat", "rag", "agent")
    assert table.class_id is not None and table.timeout_ps is not None and table.priority is not None
    for index, share in enumerate([0.6, 0.3, 0.1]):
        rows = table.class_id == index
        assert rows.mean() == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / N))
        assert set(table.output_tokens[rows].tolist()) == {index + 1}
        assert set((table.timeout_ps[rows] / PS_PER_S).tolist()) == {2.5 if index == 1 else 9}
        assert set(table.priority[rows].tolist()) == {-1 if index == 1 else 0}
    described = describe(table)["classes"]
    assert sum(one["num_requests"] for one in described.values()) == N


def test_adding_a_class_leaves_arrivals_and_the_other_classes_lengths_alone() -> None:
    three = draw_requests(Workload(arrivals=poisson(), classes=mixture(), num_requests=2000), 5)
    four = draw_requests(Workload(arrivals=poisson(), classes=mixture(extra=5.0), num_requests=2000), 5)
    assert np.array_equal(three.arrival_ps, four.arrival_ps)
    for index in range(3):
        before = three.prompt_tokens[three.class_id == index]
        after = four.prompt_tokens[four.class_id == index]
        shorter = min(len(before), len(after))
        assert shorter > 50 and np.array_equal(before[:shorter], after[:shorter])


def prompt_of(table: RequestTable, row: int) -> list[tuple[int, int]]:
    """Every token of a prompt by its identity, spelt out: the slow reading of the contract."""
    assert table.segment_offsets is not None and table.segment_stream is not None
    assert table.segment_start is not None and table.segment_length is not None
    tokens = []
    for at in range(table.segment_offsets[row], table.segment_offsets[row + 1]):
        start = int(table.segment_start[at])
        tokens += [(int(table.segment_stream[at]), start + k) for k in range(table.segment_length[at])]
    return tokens


def answer_of(table: RequestTable, row: int) -> list[tuple[int, int]]:
    assert table.output_stream is not None
    return [(int(table.output_stream[row]), k) for k in range(table.output_tokens[row])]


small_lengths = st.builds(
    Distribution, distribution=st.just("uniform"), min=st.integers(1, 3), max=st.integers(3, 9)
)
prefixes = st.none() | st.builds(SharedPrefix, num_groups=st.integers(1, 3), prefix_tokens=small_lengths)
sessions = st.none() | st.builds(
    Sessions,
    turns=st.builds(Distribution, distribution=st.just("geometric"), mean=st.floats(1, 4), max=st.just(8.0)),
    think_time_s=st.builds(Distribution, distribution=st.just("exponential"), mean=st.floats(0.1, 5)),
)
request_classes = st.builds(
    RequestClass,
    share=st.floats(0.1, 5),
    prompt_tokens=small_lengths,
    output_tokens=small_lengths,
    shared_prefix=prefixes,
    sessions=sessions,
)
arrival_processes = st.one_of(
    st.builds(Arrivals, process=st.just("poisson"), requests_per_s=st.floats(0.1, 100)),
    st.builds(Arrivals, process=st.just("constant"), requests_per_s=st.floats(0.1, 100)),
    st.builds(Arrivals, process=st.just("gamma"), requests_per_s=st.floats(0.1, 100), cv=st.floats(0.2, 4)),
    st.builds(Arrivals, process=st.just("closed_loop"), concurrency=st.integers(1, 9)),
    st.builds(Arrivals, process=st.just("all_at_once")),
    st.builds(
        Arrivals,
        process=st.just("on_off"),
        requests_per_s=st.floats(1, 50),
        on_s=st.floats(0.1, 5),
        off_s=st.floats(0, 5),
        off_requests_per_s=st.floats(0, 5),
    ),
)
workloads = st.builds(
    Workload,
    arrivals=arrival_processes,
    num_requests=st.integers(1, 40),
    classes=st.dictionaries(st.sampled_from("abc"), request_classes, min_size=1, max_size=3),
)
seeds = st.integers(0, 2**31)


@settings(max_examples=150, deadline=None)
@given(workloads, seeds)
def test_every_drawn_table_keeps_the_contract(workload: Workload, seed: int) -> None:
    table = draw_requests(workload, seed)
    assert len(table.arrival_ps) == workload.num_requests
    timed = table.arrival_ps[table.arrival_ps >= 0]
    assert np.all(np.diff(timed) >= 0) and table.arrival_ps[0] >= 0
    assert table.prompt_tokens.min() >= 1 and 1 <= table.output_tokens.min() <= table.output_tokens.max() <= 9
    for row in np.flatnonzero(table.arrival_ps < 0):
        follows = -1 if table.follows is None else table.follows[row]
        assert table.closed_loop if follows == -1 else 0 <= follows < row
    again = draw_requests(workload, seed)
    for name in RequestTable.__dataclass_fields__:
        assert np.array_equal(getattr(table, name), getattr(again, name))


@settings(max_examples=100, deadline=None)
@given(workloads, seeds)
def test_a_turn_begins_with_all_that_was_said_before(workload: Workload, seed: int) -> None:
    table = draw_requests(workload, seed)
    if table.segment_offsets is None:
        return
    prompts = [prompt_of(table, row) for row in range(len(table.prompt_tokens))]
    assert [len(prompt) for prompt in prompts] == table.prompt_tokens.tolist()
    answers = [answer_of(table, row) for row in range(len(prompts))]
    num_later_turns = 0
    for row, prompt in enumerate(prompts):
        before = -1 if table.follows is None else int(table.follows[row])
        if before >= 0 and set(answers[before]) & set(prompt):
            said = prompts[before] + answers[before]
            assert prompt[: len(said)] == said and len(prompt) > len(said)
            num_later_turns += 1
    if table.follows is not None:
        assert describe(table)["num_sessions"] == len(prompts) - num_later_turns
    # No token of an answer is anyone's prompt, but for its own session's later turns.
    own = [set(prompt) | set(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    for row, answer in enumerate(answers):
        holders = [other for other in range(len(own)) if other != row and set(answer) & own[other]]
        assert all(prompts[other][: len(prompts[row])] == prompts[row] for other in holders)


@settings(max_examples=100, deadline=None)
@given(workloads, seeds)
def test_shared_tokens_are_those_of_a_naive_search(workload: Workload, seed: int) -> None:
    table = draw_requests(workload, seed)
    shared = shared_prompt_tokens(table)
    if table.segment_offsets is None:
        assert not shared.any()
        return
    texts: list[list[tuple[int, int]]] = []
    for row in range(len(shared)):
        prompt = prompt_of(table, row)
        longest = 0
        for text in texts:
            pairs = zip(prompt, text, strict=False)
            longest = max(longest, len(list(takewhile(lambda pair: pair[0] == pair[1], pairs))))
        assert shared[row] == longest
        texts.append(prompt + answer_of(table, row))


@settings(max_examples=60, deadline=None)
@given(arrival_processes, seeds, st.integers(1, 40))
def test_changing_the_output_law_leaves_all_else_alone(arrivals: Arrivals, seed: int, count: int) -> None:
    one = draw_requests(chat(arrivals=arrivals, num_requests=count), seed)
    two = draw_requests(chat(arrivals=arrivals, num_requests=count, output_tokens=fixed(7)), seed)
    assert np.array_equal(one.arrival_ps, two.arrival_ps)
    assert np.array_equal(one.prompt_tokens, two.prompt_tokens)
    assert set(two.output_tokens.tolist()) == {7}


@settings(max_examples=60, deadline=None)
@given(arrival_processes, seeds, st.integers(1, 40))
def test_a_shorter_run_is_the_beginning_of_a_longer_one(arrivals: Arrivals, seed: int, count: int) -> None:
    short = draw_requests(chat(arrivals=arrivals, num_requests=count), seed)
    long = draw_requests(chat(arrivals=arrivals, num_requests=count + 13), seed)
    for name in ("arrival_ps", "prompt_tokens", "output_tokens"):
        assert np.array_equal(getattr(short, name), getattr(long, name)[:count])


def test_another_seed_gives_other_draws() -> None:
    one, two = draw_requests(chat(), 1), draw_requests(chat(), 2)
    assert not np.array_equal(one.arrival_ps, two.arrival_ps)
    assert not np.array_equal(one.prompt_tokens, two.prompt_tokens)


def test_clients_of_a_closed_loop_play_one_session_after_another() -> None:
    workload = chat(
        arrivals=Arrivals(process="closed_loop", concurrency=2),
        sessions=Sessions(turns=fixed(3), think_time_s=fixed(1.5)),
        num_requests=11,
    )
    table = draw_requests(workload, 1)
    assert table.follows is not None and table.think_ps is not None
    assert table.follows.tolist() == [-1, 0, 1, -1, 3, 4, 2, 6, 7, 5, 9]
    assert table.arrival_ps.tolist() == [0, -1, -1, 0] + [-1] * 7
    think = [0 if row % 3 == 0 else 1.5 for row in range(11)]
    assert (table.think_ps / PS_PER_S).tolist() == think
    assert describe(table)["num_sessions"] == 4


def test_prefix_groups_in_turn_come_back_after_all_the_others() -> None:
    shared = SharedPrefix(num_groups=7, prefix_tokens=fixed(100), order="in_turn")
    table = draw_requests(chat(shared_prefix=shared, prompt_tokens=fixed(10), num_requests=30), 1)
    assert table.segment_stream is not None and table.segment_offsets is not None
    first = table.segment_stream[table.segment_offsets[:-1]]
    assert len(set(first[:7].tolist())) == 7
    assert np.array_equal(first[7:], first[:-7])


def test_prefix_groups_are_drawn_alike_and_keep_their_length() -> None:
    shared = SharedPrefix(num_groups=4, prefix_tokens=Distribution(distribution="uniform", min=100, max=900))
    table = draw_requests(chat(shared_prefix=shared, prompt_tokens=fixed(10), num_requests=20_000), 1)
    assert table.segment_offsets is not None and table.segment_stream is not None
    first = table.segment_stream[table.segment_offsets[:-1]]
    groups, counts = np.unique(first, return_counts=True)
    assert len(groups) == 4
    assert np.all(np.abs(counts - 5000) < 4 * math.sqrt(20_000 * 0.25 * 0.75))
    for group in groups:
        assert len(set(table.prompt_tokens[first == group].tolist())) == 1
    # All but the first prompt of each group find their prefix.
    prefix = table.prompt_tokens - 10
    missed = sum(int(prefix[np.flatnonzero(first == group)[0]]) for group in groups)
    assert shared_prompt_tokens(table).sum() == prefix.sum() - missed


def test_warmup_is_passed_on() -> None:
    table = draw_requests(chat(warmup_requests=20, warmup_s=1.5), 1)
    assert (table.num_warmup, table.warmup_ps) == (20, 1_500_000_000_000)


def test_a_million_requests_in_a_hundred_megabytes() -> None:
    workload = chat(num_requests=1_000_000)
    tracemalloc.start()
    draw_requests(workload, 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def law(distribution: str, **more: object) -> Distribution:
    return Distribution(distribution=distribution, **more)  # type: ignore[arg-type]


WRONG = {
    "no arrivals": chat(arrivals=None),
    "no lengths": chat(prompt_tokens=None),
    "no end": chat(num_requests=None),
    "poisson without a rate": chat(arrivals=Arrivals(process="poisson")),
    "gamma without cv": chat(arrivals=Arrivals(process="gamma", requests_per_s=1)),
    "on_off without off_s": chat(arrivals=Arrivals(process="on_off", requests_per_s=1, on_s=1)),
    "schedule without rates": chat(arrivals=Arrivals(process="schedule")),
    "schedule out of order": chat(
        arrivals=Arrivals(
            process="schedule",
            rates=(RateStep(start_s=5, requests_per_s=1), RateStep(start_s=1, requests_per_s=1)),
        )
    ),
    "schedule of nothing": chat(
        arrivals=Arrivals(process="schedule", rates=(RateStep(start_s=0, requests_per_s=0),))
    ),
    "closed_loop without concurrency": chat(arrivals=Arrivals(process="closed_loop")),
    "closed_loop by duration": chat(arrivals=Arrivals(process="closed_loop", concurrency=2), duration_s=5),
    "nothing arrives": chat(arrivals=poisson(1e-6), num_requests=None, duration_s=1),
    "too long": chat(arrivals=poisson(1e-7)),
    "too many": chat(arrivals=poisson(1e9), num_requests=None, duration_s=1e5),
    "fixed without value": chat(prompt_tokens=law("fixed")),
    "uniform without max": chat(prompt_tokens=law("uniform", min=3)),
    "uniform with nothing between": chat(prompt_tokens=law("uniform", min=3.2, max=3.8)),
    "min above max": chat(prompt_tokens=law("normal", mean=5, stddev=1, min=9, max=3)),
    "max below one token": chat(prompt_tokens=law("exponential", mean=5, max=0.5)),
    "lognormal with both spreads": chat(prompt_tokens=law("lognormal", mean=5, stddev=1, sigma=1)),
    "NaN mean": chat(prompt_tokens=law("lognormal", mean=math.nan)),
    "infinite mean": chat(prompt_tokens=law("exponential", mean=math.inf)),
    "normal without stddev": chat(prompt_tokens=law("normal", mean=5)),
    "geometric below 1": chat(prompt_tokens=law("geometric", mean=0.5)),
    "empirical of nothing": chat(prompt_tokens=law("empirical", values=())),
    "empirical without values": chat(prompt_tokens=law("empirical")),
    "one weight for two values": chat(prompt_tokens=law("empirical", values=(1.0, 2.0), weights=(1.0,))),
    "weights all zero": chat(prompt_tokens=law("empirical", values=(1.0,), weights=(0.0,))),
    "more than ten million tokens": chat(prompt_tokens=fixed(2e7)),
    "runaway lognormal": chat(prompt_tokens=law("lognormal", mean=1e308, sigma=1)),
    "no file": chat(prompt_tokens=law("empirical", file="nowhere.csv", column="x")),
    "runaway session": chat(sessions=Sessions(turns=fixed(1e6), think_time_s=fixed(0)), num_requests=10**5),
    "share of infinity": Workload(arrivals=poisson(), classes=mixture(rag=math.inf), num_requests=5),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_workload_gives_one_clear_error(name: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        draw_requests(WRONG[name], 1)
    error = caught.value
    assert error.path.startswith("workload") or error.file
    assert error.given is not None or error.allowed or error.hint


def test_place_names_the_key_in_errors() -> None:
    with pytest.raises(ScenarioError, match=r"engine\.service_time"):
        draw_values(law("fixed"), 3, stream(1, "service_time"), DrawPlace(path="engine.service_time"))
