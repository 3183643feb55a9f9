"""Streams that are found many at a time are those that are made one by one; drafts are drawn from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.rng import Streams, stream
from sim.serving.drafts import FEWEST_DRAWN, Drafts
from sim.serving.request import Request
from sim.serving.scenario import Speculative


@given(st.integers(0, 1 << 200), st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_many_streams_are_those_of_each(seed: int, names: list[str]) -> None:
    streams = Streams(seed)
    for name, start in zip(names, streams.starts(names), strict=True):
        bits = stream(seed, name).bit_generator.state["state"]
        assert start == (bits["state"], bits["inc"])
        assert streams.of(name).random(7).tolist() == stream(seed, name).random(7).tolist()
    for number in (0, 127, 128, 5000, 3):
        want = stream(seed, f"a/{number:012d}").random(3).tolist()
        assert streams.numbered("a/", number).random(3).tolist() == want


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.6, 2 / 3, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("name", [None, "a request of a recording"])
def test_drafts_are_geometric_numbers_of_the_requests_own_stream(rate: float, name: str | None) -> None:
    drafts, request = (
        Drafts(Speculative(num_speculative_tokens=4, acceptance_rate=rate), 3),
        Request(200, 0, 9, 9),
    )
    request.name = name
    want = np.full(500, 4)
    if rate < 1:
        want = stream(3, f"acceptance/{request.request_id}").geometric(1 - rate, 500) - 1
    one_by_one = [drafts.accepted({request: 3})[request] for _ in range(FEWEST_DRAWN + 5)]
    assert one_by_one == np.minimum(want, 3)[: len(one_by_one)].tolist()
    made = drafts.ahead(request, 400)
    assert made.tolist() == (np.minimum(want, 4) + 1)[len(one_by_one) :][:400].tolist()
    drafts.use(request, 150)
    assert drafts.ahead(request, 250).tolist() == made[150:].tolist()
    assert drafts.accepted({request: 0}) == {}
    drafts.forget(request)
    assert drafts.ahead(request, 3).tolist() == (np.minimum(want, 4) + 1)[:3].tolist()
