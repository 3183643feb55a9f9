"""The JSON Schema against the loader, and the round trip of generated scenarios."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loading_fixtures import Load, changed, load, refusal, without_compare

from sim.kinds.load import load_scenario
from sim.kinds.schema import Definitions, scenario_schema
from sim.scenario.fields import key
from sim.scenario.file import to_raw
from sim.scenario.shipped import scenario_paths
from sim.scenario.strict_yaml import load_yaml
from sim.serving.scenario import EngineConfig, Scenario

__all__ = ["load"]


SCHEMA = scenario_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_is_one_and_takes_every_shipped_scenario() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for path in scenario_paths():
        errors = [
            f"{list(error.absolute_path)}: {error.message}"
            for error in VALIDATOR.iter_errors(load_yaml(path))
        ]
        assert not errors, (path.name, errors)
    engine = SCHEMA["$defs"]["EngineConfig"]["properties"]["max_num_seqs"]
    assert engine["minimum"] == 1 and "most sequences" in engine["description"]
    assert "default" not in engine  # it depends on the device
    assert SCHEMA["$defs"]["EngineConfig"]["properties"]["block_size"]["default"] == 16


_POLICIES = {"fcfs": 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Chosen:
    """A choice."""

    policy: str = key("who is next", choices=lambda: _POLICIES)
    victim: str | None = key("who goes", default=None, choices=lambda: _POLICIES)
    batching: str = key("a name, or a function", default="fcfs", choices=lambda: _POLICIES, or_path=True)


def test_choices_that_a_dict_names_are_an_enum_beside_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_POLICIES, "lifo", 2)
    made = Definitions().object_of(_Chosen, None, is_partial=False)["properties"]
    words = {"enum": ["fcfs", "lifo"]}
    assert made["policy"]["enum"] == words["enum"]
    assert made["victim"]["anyOf"] == [words, {"type": "null"}]
    assert made["batching"]["anyOf"] == [words, {"type": "string", "pattern": ":"}]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max_num_seqs: 256", "max_num_seq: 256"),
        ("max_num_seqs: 256", "max_num_seqs: 0"),
        ("max_num_seqs: 256", "max_num_seqs: many"),
        ("ttft_s: 500 ms", "ttft_s: 500 GB"),
        ("ttft_s: 500 ms", "ttft_s: -1"),
        ("schema_version: 1", "schema_version: 2"),
        ("process: poisson", "process: poison"),
        ("distribution: lognormal, mean: 512", "distribution: lognormal, mean: 5 s"),
        ("kind: serving\n", ""),
        ("continuous: {}", "continuous: {engine: {batch: 3}}"),
        ("continuous: {}", "continuous: {seeds: [3]}"),
        ("reference: static\n", "\n"),
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(load: Load, old: str, new: str) -> None:
    text = changed(old, new)
    refusal(load, text)
    assert not VALIDATOR.is_valid(yaml.safe_load(text))


_MEANS = st.floats(2, 5000).map(lambda mean: round(mean, 3))
_TOKENS = st.one_of(
    st.integers(1, 1000),
    st.builds(lambda mean: {"distribution": "exponential", "mean": mean}, _MEANS),
    st.builds(
        lambda mean, sigma: {"distribution": "lognormal", "mean": mean, "sigma": sigma},
        _MEANS,
        st.floats(0, 3),
    ),
    st.builds(
        lambda a, b: {"distribution": "uniform", "min": a, "max": a + b},
        st.integers(1, 900),
        st.integers(0, 900),
    ),
    st.builds(
        lambda values: {"distribution": "empirical", "values": values},
        st.lists(st.integers(1, 99), min_size=1),
    ),
)
_RATES = st.floats(1e-3, 1e3)
_ARRIVALS = st.one_of(
    st.fixed_dictionaries({"process": st.sampled_from(["poisson", "constant"]), "requests_per_s": _RATES}),
    st.fixed_dictionaries({"process": st.just("gamma"), "requests_per_s": _RATES, "cv": st.floats(0.1, 5)}),
    st.fixed_dictionaries(
        {
            "process": st.just("closed_loop"),
            "concurrency": st.integers(1, 64),
            "think_time_s": st.sampled_from(
                ["1 s", "250 ms", {"distribution": "exponential", "mean": "2 s"}, 0.5]
            ),
        }
    ),
)
_ENGINES = st.fixed_dictionaries(
    {"max_model_len": st.just(8192)},
    optional={
        "max_num_seqs": st.integers(1, 512),
        "kv_allocator": st.sampled_from(["paged", "contiguous"]),
        "block_size": st.sampled_from([8, 16, 32]),
        "gpu_memory_utilization": st.sampled_from([0.8, "90%", 0.95]),
        "quantization": st.sampled_from(["none", "fp8", "int4"]),
        "overheads": st.just({"step_s": "2 ms", "source": "a guess"}),
    },
)
_VARIANTS = st.fixed_dictionaries(
    {
        "a": st.just({}),
        "b": st.fixed_dictionaries({"engine": st.fixed_dictionaries({"max_num_seqs": st.integers(1, 99)})}),
    }
)
_TREES = st.fixed_dictionaries(
    {
        "schema_version": st.just(1),
        "question": st.text("aB é?:#'\"-{}", min_size=1, max_size=30).filter(lambda text: text.strip()),
        "kind": st.just("serving"),
        "hardware": st.sampled_from(["h100-sxm-80gb", "h200-sxm-141gb"]),
        "model": st.sampled_from(["llama-3.1-8b", "opt-13b"]).map(str),
        "workload": st.fixed_dictionaries(
            {
                "arrivals": _ARRIVALS,
                "prompt_tokens": _TOKENS,
                "output_tokens": _TOKENS,
                "num_requests": st.integers(2, 10**6),
            },
            optional={"timeout_s": st.sampled_from(["20 s", 30, "1 min"]), "warmup_requests": st.just(1)},
        ),
    },
    optional={
        "engine": _ENGINES,
        "seeds": st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4, unique=True),
        "slo": st.just({"ttft_s": "500 ms"}),
        "replicas": st.integers(1, 8),
        "compare": st.builds(lambda variants: {"reference": "a", "variants": variants}, _VARIANTS),
    },
)


@given(tree=_TREES)
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_round_trip_of_generated_scenarios(tree: dict[str, Any], tmp_path: Path) -> None:
    """YAML → dataclass → YAML: the effective scenario loads to itself, and the schema takes it."""
    tree = {**tree, "engine": {"max_model_len": 2048, **tree.get("engine", {})}}
    if tree["model"] == "opt-13b":
        tree["engine"]["max_model_len"] = 2048
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump(tree, allow_unicode=True))
    first = load_scenario(path)
    effective = to_raw(first)
    path.write_text(yaml.safe_dump(effective, allow_unicode=True))
    second = load_scenario(path)
    assert second.base == first.base
    assert second.variants == first.variants and second.reference == first.reference
    assert to_raw(second) == effective
    assert VALIDATOR.is_valid(tree) and VALIDATOR.is_valid(effective)


def test_the_effective_scenario_writes_every_default_out(load: Load) -> None:
    effective = to_raw(load(without_compare()))
    engine = {one.name for one in dataclasses.fields(EngineConfig)}
    absent = engine - set(effective["engine"])
    without_value = {
        "max_num_active_seqs",
        "num_gpu_blocks_override",
        "kv_cache_memory_bytes",
        "mem_fraction_static",
        "free_gpu_memory_fraction",
        "price_table",
        "profile",
        "service_time",
        "speculative",
    }
    assert absent == without_value, "only keys without a value are left out"
    assert effective["slo"] == {"ttft_s": 0.5, "tpot_s": 0.05, "attainment_fraction": 0.99}
    assert isinstance(load(yaml.safe_dump(effective)).base, Scenario)
