"""A limit most likely in another unit is refused; a long list of what is allowed is cut to what is near."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sim.cli.command import main
from sim.errors import MANY_WORDS, WORDS_SHOWN, ScenarioError, some_of
from sim.kinds.load import load_scenario, load_tree

TREE: dict[str, Any] = {
    "schema_version": 1,
    "question": "?",
    "kind": "serving",
    "hardware": "h100-sxm-80gb",
    "model": "llama-3.1-8b",
    "workload": {
        "arrivals": {"process": "poisson", "requests_per_s": 1},
        "prompt_tokens": 10,
        "output_tokens": 10,
        "num_requests": 10,
    },
}


def refused(**changes: Any) -> ScenarioError:
    with pytest.raises(ScenarioError) as told:
        load_tree({**TREE, **changes}, "scenario.yaml")
    return told.value


@pytest.mark.parametrize(
    ("name", "given", "most"),
    [("ttft_s", 500, 60), ("tpot_s", 50, 10), ("p99_ttft_s", 500.0, 60), ("mean_itl_s", 20, 10),
     ("e2e_s", 30_000, 3600)],
)  # fmt: skip
def test_a_bare_limit_too_long_for_seconds_must_state_its_unit(name: str, given: float, most: int) -> None:
    error = refused(slo={name: given})
    assert error.path == f"slo.{name}" and error.given == given
    assert f"{given:g} s is long for it" in error.problem and f"up to {most}" in error.allowed
    assert error.hint == f"'{given:g} ms', or '{given:g} s' if it is meant so"
    for meant, seconds in ((f"{given:g} ms", given / 1000), (f"{given:g} s", given), (most, most)):
        slo = load_tree({**TREE, "slo": {name: meant}}, "scenario.yaml").base.slo
        assert getattr(slo, name) == pytest.approx(seconds)


def test_a_threshold_on_such_a_time_is_held_to_the_same() -> None:
    error = refused(thresholds=[{"metric": "p99_ttft_s", "max": 500}])
    assert error.path == "thresholds[0].max" and "500 s is long for it" in error.problem
    load_tree({**TREE, "thresholds": [{"metric": "num_finished", "min": 500}]}, "scenario.yaml")
    load_tree({**TREE, "thresholds": [{"metric": "makespan_s", "max": 500}]}, "scenario.yaml")


def test_a_command_s_limit_is_refused_alike(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "serving/static_vs_continuous", "--set", "slo.ttft_s=500"]) == 2
    assert "'500 ms', or '500 s' if it is meant so" in capsys.readouterr().err


def test_every_shipped_scenario_states_units_where_it_must() -> None:
    for path in (Path(__file__).parents[2] / "scenarios" / "serving").glob("*.yaml"):
        load_scenario(path)


def test_of_a_long_list_the_nearest_are_told_and_where_the_others_are() -> None:
    words = [f"word_{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    said = some_of("word_k", words, "see there")
    assert said.startswith("word_k, ") and said.endswith(", and 21 others (see there)")
    assert said.count(",") == WORDS_SHOWN
    assert some_of("word_k", words[:MANY_WORDS], "see there") == ", ".join(words[:MANY_WORDS])


@pytest.mark.parametrize(
    ("changes", "near", "where"),
    [
        ({"engine": {"max_num_sqs": 3}}, "max_num_seqs, ", "`gpuyard schema`"),
        ({"hardware": "h10"}, "h100-", "`gpuyard list`"),
        ({"answer_by": "p99_tft_s"}, "p99_ttft_s, ", "`gpuyard schema`"),
        ({"hardware": {"base": "a10", "sm_cont": 1}}, "sm_count, ", "`gpuyard show NAME`"),
    ],
)
def test_a_typo_is_not_answered_with_everything(changes: dict[str, Any], near: str, where: str) -> None:
    error = refused(**changes)
    told = [one.allowed for one in (error, *error.others)]
    assert any(near in one and where in one and len(one) < 200 for one in told), told


def test_several_unknown_keys_of_one_place_are_told_with_one_list(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(yaml.safe_dump({**TREE, "engine": {"max_num_sqs": 3, "blok_size": 4}}))
    with pytest.raises(ScenarioError) as told:
        load_scenario(path)
    assert str(told.value).count("38 others") == 1
    assert {one.hint for one in (told.value, *told.value.others)} == {
        "engine.max_num_seqs",
        "engine.block_size",
    }
