"""``precision`` chooses how long the runs are: how long, whether that holds, and where it cannot."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from fake_results import fake_result

from sim.errors import ScenarioError
from sim.export.files import summary_json
from sim.kinds.load import load_tree
from sim.kinds.run import MAX_FACTOR, compare, imprecise, run_scenario, until_precise
from sim.plan.evaluate import Point, evaluate
from sim.report.terminal import render_answer
from sim.results.answer import Answer, answer_line, headline_metric
from sim.results.comparison import ChosenLength, Comparison
from sim.results.statistics import mean_interval, relative_half_width
from sim.results.verdict import Verdict
from sim.serving.metrics import chosen_length
from sim.serving.summary import summarize


def tree(**given: Any) -> dict[str, Any]:
    return {
        "schema_version": 1, "question": "How long is long enough?", "kind": "serving",
        "seeds": [1, 2, 3, 4, 5], "hardware": "h100-sxm-80gb", "model": "llama-3.1-8b",
        "workload": {
            "arrivals": {"process": "poisson", "requests_per_s": 20}, "num_requests": 300,
            "prompt_tokens": {"distribution": "lognormal", "mean": 256, "sigma": 0.6, "max": 2048},
            "output_tokens": {"distribution": "lognormal", "mean": 16, "sigma": 0.6, "max": 512},
        },
        "engine": {"batching": "continuous", "max_model_len": 4096}, "precision": "5 %",
        **given,
    }  # fmt: skip


def wanted(precision: float) -> ChosenLength:
    chosen = chosen_length(load_tree(tree(precision=precision), "precision.yaml").base)
    assert chosen is not None
    return chosen


def answered(given: Mapping[str, Any]) -> Answer:
    return run_scenario(load_tree(dict(given), "precision.yaml"))


def widths(answer: Answer, metrics: Sequence[str]) -> list[float]:
    """How far the interval over the seeds reaches, as a share of the mean, done once more by hand."""
    found = []
    for metric in metrics:
        interval = mean_interval([run.metrics[metric] or 0.0 for run in answer.summaries["base"]])
        assert interval.high is not None
        found.append((interval.high - interval.estimate) / interval.estimate)
    return found


def test_runs_become_long_enough_and_the_answer_says_how_long() -> None:
    answer = answered(tree())
    num_requests = answer.file.base.workload.num_requests
    doublings = num_requests // 300
    assert num_requests == 300 * doublings and doublings in (2, 4, 8, 16, 32)
    sought = ("requests_per_s", "mean_e2e_s", headline_metric(answer.comparison))
    assert sought[-1] in ("p90_ttft_s", "p99_ttft_s")
    assert max(widths(answer, sought)) <= 0.05
    shorter = tree(precision=None)
    shorter["workload"]["num_requests"] = num_requests // 2
    assert imprecise(answered(shorter).comparison, wanted(0.05))  # half of it was not enough
    said = f"{num_requests:,} requests a run were needed for 5 %"
    assert answer_line(answer.comparison).endswith(f" {said}.")
    assert said in " ".join(render_answer(answer).split())


def test_the_same_bytes_again_and_on_two_processes() -> None:
    file = load_tree(tree(precision=0.1), "precision.yaml")
    texts = [
        summary_json(answer.summaries, comparison=answer.comparison)
        for answer in (run_scenario(file), run_scenario(file), run_scenario(file, jobs=2))
    ]
    assert len(set(texts)) == 1
    assert json.loads(texts[0])["length"].endswith("for 10 %")


def test_variants_have_the_same_length() -> None:
    answer = answered(
        tree(
            precision=0.1,
            compare={
                "reference": "large",
                "variants": {"small": {"engine": {"max_num_seqs": 32}}, "large": {}},
            },
        )
    )
    lengths = {one.scenario.workload.num_requests for one in answer.file.variants}
    assert len(lengths) == 1
    assert not imprecise(answer.comparison, wanted(0.1))


def comparison_of(values: Sequence[float], word: str = "STABLE") -> Comparison:
    """One variant whose seeds found these times and rates."""
    plain = summarize(fake_result([{"arrival": 0.0, "first": 0.1, "finish": 0.2}]))
    runs = [
        replace(
            plain,
            seed=seed,
            metrics={name: value for name in plain.metrics},
            verdict=Verdict(word=word, reason="made up"),
        )
        for seed, value in enumerate(values, start=1)
    ]
    return compare({"base": runs}, "base")


def test_where_no_length_is_enough_a_warning_says_how_well_it_is_known() -> None:
    base = load_tree(tree(precision=0.02), "precision.yaml").base
    factors = []

    def run(factor: int) -> Comparison:
        factors.append(factor)
        return comparison_of([1.0, 1.1, 1.2])

    _, length = until_precise(base, run, lambda found: found)
    assert factors == [1, 2, 4, 8, 16, 32, MAX_FACTOR] and length is not None
    width = relative_half_width([1.0, 1.1, 1.2])
    assert f"known to {100 * width:.2g} %" in str(length.caution)
    assert f"{300 * MAX_FACTOR:,} requests a run" in length.said
    assert "not enough for 2 %" in length.said


def test_a_queue_that_grows_has_no_times_to_know() -> None:
    steady, growing = (comparison_of([1.0, 1.1, 1.2], word) for word in ("STABLE", "OVERLOADED"))
    assert len(imprecise(steady, wanted(0.02))) == 3
    assert [metric for _, metric, _ in imprecise(growing, wanted(0.02))] == ["requests_per_s"]
    assert imprecise(comparison_of([1.0, 1.0, 1.0]), wanted(0.001)) == []


@pytest.mark.parametrize(
    ("changes", "path", "said"),
    [
        ({"seeds": [1, 2]}, "seeds", "at least 3 seeds"),
        ({"arrivals": {"process": "all_at_once"}}, "precision", "come all at once"),
        (
            {"arrivals": {"process": "schedule", "rates": [{"start_s": 0, "requests_per_s": 5}]}},
            "precision",
            "a part of the question",
        ),
        (
            {
                "arrivals": {"process": "constant", "requests_per_s": 5},
                "prompt_tokens": 100,
                "output_tokens": 10,
            },
            "precision",
            "nothing is drawn",
        ),
        ({"precision": 0.9}, "precision", "at most 0.5"),
    ],
)
def test_where_precision_cannot_apply_it_is_refused(changes: dict[str, Any], path: str, said: str) -> None:
    given = tree()
    for name, value in changes.items():
        (given if name in given else given["workload"])[name] = value
    with pytest.raises(ScenarioError) as error:
        load_tree(given, "precision.yaml")
    assert error.value.path == path
    assert said in str(error.value)


def test_other_kinds_say_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    from sim.cli.command import main

    for scenario, said in [
        ("kernel/fused_norm", "draws nothing"),
        ("serving/azure_conversation", "a trace has a length of its own"),
        ("training/local_sgd", "decides what is learned"),
        ("training/scaling_1024", "scaling has a number of steps of its own"),
    ]:
        assert main(["run", scenario, "--set", "precision=2 %"]) == 2
        assert said in capsys.readouterr().err


def test_each_point_of_a_sweep_has_its_own_length() -> None:
    def row_at(rate: float, **given: Any) -> dict[str, Any]:
        one = tree(**given)
        one["workload"]["arrivals"]["requests_per_s"] = rate
        scenario = load_tree(one, "precision.yaml").base
        return dict(evaluate(Point(swept={}, variant="base", scenario=scenario, base_dir=".")))

    for row in (row_at(5, precision=0.1), row_at(60, precision=0.1)):
        assert "requests a run " in row["notes"] and "for 10 %" in row["notes"]
        assert "not_precise" not in row["warnings"]
    short = tree()["workload"] | {"num_requests": 10}
    row = row_at(20, precision=0.001, workload=short)
    assert "not_precise: 640 requests a run, 64 times as many as stated" in row["warnings"]


def test_training_does_more_steps() -> None:
    given = {
        "schema_version": 1, "question": "How many steps are enough?", "kind": "training", "seeds": [1, 2, 3],
        "hardware": "h100-sxm-80gb", "compute": {"compute_s": "1 s"}, "precision": 0.03,
        "training": {"num_workers": 4, "num_steps": 10},
        "exchange": {"algorithm": "none"},
        "variation": {"distribution": "lognormal", "sigma": 0.3},
    }  # fmt: skip
    answer = answered(given)
    assert answer.file.base.training.num_steps > 10
    assert max(widths(answer, ["gradients_per_s"])) <= 0.03
    assert "steps a run were needed for 3 %" in answer_line(answer.comparison)
