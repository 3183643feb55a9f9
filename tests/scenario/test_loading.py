"""A good scenario in base units; kinds and units of values; the speed of loading."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from loading_fixtures import GOOD, Load, load, without_compare

from sim.errors import ScenarioError
from sim.kinds.load import load_scenario
from sim.scenario.build import build
from sim.scenario.distribution import Distribution
from sim.scenario.fields import Threshold, key
from sim.scenario.shipped import scenario_paths
from sim.serving.scenario import EngineConfig, Workload
from sim.serving.workload.arrivals import Arrivals

__all__ = ["load"]


def test_the_good_scenario_loads_in_base_units(load: Load) -> None:
    file = load(GOOD)
    assert file.base.slo.ttft_s == 0.5 and file.base.slo.tpot_s == 0.05
    assert file.base.thresholds[0].max == 1.0
    assert file.base.workload.arrivals == Arrivals(process="poisson", requests_per_s=8.0)
    assert file.base.hardware.name == "h100-sxm-80gb" and file.base.model.name == "llama-3.1-8b"
    assert file.reference == "static"
    assert [variant.name for variant in file.variants] == ["static", "continuous"]
    static, continuous = (variant.scenario for variant in file.variants)
    assert (static.engine.batching, static.engine.kv_allocator) == ("static", "contiguous")
    assert static.engine.max_num_seqs == 256, "what a variant does not change stays"
    assert continuous == file.base


def test_without_compare_there_is_one_variant_named_base(load: Load) -> None:
    file = load(without_compare())
    assert file.reference == "base"
    assert [(variant.name, variant.scenario) for variant in file.variants] == [("base", file.base)]


def test_every_shipped_scenario_loads_by_path_and_by_name() -> None:
    assert len(scenario_paths()) >= 10
    for path in scenario_paths():
        assert load_scenario(path).variants
    by_name = load_scenario("serving/static_vs_continuous")
    assert by_name.base.question and Path(by_name.path).is_file()


def test_a_name_that_is_nothing_gets_the_nearest_name() -> None:
    with pytest.raises(ScenarioError) as caught:
        load_scenario("serving/static_vs_continous")
    assert caught.value.hint == "serving/static_vs_continuous"


def test_a_distribution_may_be_a_bare_number_or_quantity(load: Load) -> None:
    text = without_compare().replace("{distribution: lognormal, mean: 512, max: 4096}", "512")
    text = text.replace(
        "{process: poisson, requests_per_s: 8}",
        "{process: closed_loop, concurrency: 4, think_time_s: 1500 ms}",
    )
    workload = load(text).base.workload
    assert workload.prompt_tokens == Distribution(distribution="fixed", value=512.0)
    assert workload.arrivals is not None
    assert workload.arrivals.think_time_s == Distribution(distribution="fixed", value=1.5)


def test_the_key_gives_a_distribution_its_unit() -> None:
    def arrivals(mean: object) -> Arrivals:
        think = {"distribution": "exponential", "mean": mean, "max": "2 min"}
        given = {"process": "closed_loop", "concurrency": 1, "think_time_s": think}
        return build(Arrivals, given, file="x.yaml", path="workload.arrivals")

    assert arrivals("5 s").think_time_s == arrivals(5).think_time_s
    with pytest.raises(ScenarioError, match="a size in bytes, not a time"):
        arrivals("5 GB")
    with pytest.raises(ScenarioError, match="a time, not a number of tokens") as caught:
        build(
            Workload, {"prompt_tokens": {"distribution": "fixed", "value": "5 s"}}, file="x", path="workload"
        )
    assert caught.value.path == "workload.prompt_tokens.value"
    service = {"service_time": {"distribution": "exponential", "mean": "800 ms"}}
    assert build(EngineConfig, service, file="x").service_time == Distribution(
        distribution="exponential", mean=0.8
    )


def test_the_metric_gives_a_threshold_its_unit() -> None:
    assert build(Threshold, {"metric": "p99_ttft_s", "max": "900 ms"}, file="x").max == 0.9
    assert build(Threshold, {"metric": "goodput_requests_per_s", "min": 3}, file="x").min == 3.0
    with pytest.raises(ScenarioError, match="a time, not a fraction"):
        build(Threshold, {"metric": "kv_used_fraction", "max": "3 s"}, file="x")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """A dataclass of the tests, for kinds that no scenario has."""

    l2_bytes: int
    name: str = "x"
    is_fast: bool = False
    points: tuple[tuple[float, float], ...] = ()


_POLICIES: dict[str, int] = {"fcfs": 1, "priority": 2}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    policy: str = key("who is next", choices=lambda: _POLICIES)
    victim: str | None = key("who goes", default=None, choices=lambda: _POLICIES)
    batching: str = key("a name, or a function", default="fcfs", choices=lambda: _POLICIES, or_path=True)


def test_choices_are_read_from_their_dict_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(**given: object) -> _Chosen:
        return build(_Chosen, {"policy": "fcfs", **given}, file="x.yaml")

    assert (chosen().victim, chosen(victim=None).victim, chosen(victim="fcfs").victim) == (None, None, "fcfs")
    assert chosen(batching="./mine.py:plan").batching == "./mine.py:plan"
    wrong: list[tuple[dict[str, object], str, str]] = [
        ({"policy": "lifo"}, "fcfs, priority", ""),
        ({"policy": "priorty"}, "fcfs, priority", "priority"),
        ({"policy": "./mine.py:plan"}, "fcfs, priority", ""),
        ({"policy": None}, "fcfs, priority", "leave the key out"),
        ({"policy": 3}, "fcfs, priority", ""),
        ({"policy": False}, "fcfs, priority", "one of the words"),
        ({"victim": "lifo"}, "fcfs, priority", ""),
        ({"batching": "lifo"}, "fcfs, priority, PATH:NAME", ""),
    ]
    for given, allowed, hint in wrong:
        with pytest.raises(ScenarioError) as caught:
            chosen(**given)
        assert (caught.value.path, caught.value.allowed) == (next(iter(given)), allowed)
        assert hint in (caught.value.hint or "")
    with pytest.raises(ScenarioError, match="missing") as missing:
        build(_Chosen, {}, file="x.yaml")
    assert missing.value.hint == "add policy: fcfs"
    monkeypatch.setitem(_POLICIES, "lifo", 3)
    assert chosen(policy="lifo", victim="lifo", batching="lifo").policy == "lifo"


def test_build_is_strict_about_kinds() -> None:
    def sizes(**given: object) -> _Sizes:
        return build(_Sizes, {"l2_bytes": 1, **given}, file="x.yaml")

    assert sizes(l2_bytes="50 MiB").l2_bytes == 52_428_800
    assert sizes(l2_bytes="0.1 GB").l2_bytes == 100_000_000
    assert sizes(l2_bytes=8.0).l2_bytes == 8
    assert isinstance(sizes(l2_bytes=8.0).l2_bytes, int)
    assert sizes(points=[[1, 0.5], [2.0, 1]]).points == ((1.0, 0.5), (2.0, 1.0))
    wrong: list[dict[str, object]] = [
        {"l2_bytes": 8.5},
        {"l2_bytes": "1.5 B"},
        {"l2_bytes": True},
        {"l2_bytes": "50"},
        {"l2_bytes": None},
        {"name": 3},
        {"name": False},
        {"name": None},
        {"name": "a\0b"},
        {"is_fast": 1},
        {"is_fast": "true"},
        {"points": 3},
        {"points": [[1]]},
        {"points": [[1, "2"]]},
        {"nmae": "x"},
    ]
    for one in wrong:
        with pytest.raises(ScenarioError):
            sizes(**one)
