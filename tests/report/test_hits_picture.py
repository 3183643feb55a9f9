"""Which picture a comparison of the order of service opens with."""

from __future__ import annotations

import pytest

from sim.kinds.load import load_scenario
from sim.kinds.registry import report_of
from sim.kinds.run import run_scenario
from sim.report.figures import Picture
from sim.results.answer import AnyAnswer

FEW = "workload.num_requests=150"


def answered(name: str, *overrides: str) -> tuple[AnyAnswer, dict[str, Picture]]:
    answer = run_scenario(load_scenario(name, overrides=[FEW, *overrides]))
    return answer, {one.key: one for section in report_of(answer).sections for one in section.pictures}


def test_policies_over_a_prefix_cache_are_hits_and_times() -> None:
    answer, shown = answered("serving/cache_aware")
    assert next(iter(shown)) == "hits-and-ttft"
    picture = shown["hits-and-ttft"]
    name, hits, metric = picture.header
    assert (name, hits) == ("variant", "prefix_hit_fraction")
    for variant, hit, time_s in picture.rows:
        cells = answer.comparison.cells[str(variant)]
        assert hit == cells["prefix_hit_fraction"].mean
        assert time_s == cells[metric].mean
    assert picture.traces[0]["x"] == [row[1] for row in picture.rows]
    assert picture.traces[1]["xaxis"] == "x2"


@pytest.mark.parametrize(
    "override",
    [
        "engine.enable_prefix_caching=false",  # nothing to hit
        "compare.variants.shortest_first.engine.max_num_seqs=8",  # it differs in more than the order
    ],
)
def test_others_keep_theirs(override: str) -> None:
    _, shown = answered("serving/cache_aware", override)
    assert next(iter(shown)) != "hits-and-ttft"
    assert ("hits-and-ttft" in shown) == ("caching" not in override)
