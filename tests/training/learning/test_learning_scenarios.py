"""``learning`` from a scenario file to the answer: exact stability, exact arithmetic, what is refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sim.errors import ScenarioError
from sim.kinds.load import load_scenario
from sim.kinds.registry import kind_of, report_of
from sim.kinds.run import run_scenario
from sim.report.html import render_html
from sim.report.markdown import render_markdown
from sim.results.answer import Answer, answer_line
from sim.training.learning.problems import NoisyQuadratic, largest_stable_rate
from sim.training.learning.sgd import learn, single_gradient_schedule
from sim.training.report.learning import mean_curve

GOOD: dict[str, Any] = {
    "schema_version": 1,
    "question": "What does staleness cost?",
    "kind": "training",
    "hardware": "a100-sxm-80gb",
    "training": {"num_workers": 4, "num_steps": 200},
    "compute": {"compute_s": 1},
    "exchange": {"algorithm": "none"},
    "learning": {"learning_rate": 0.3, "target_loss": 0.5},
}
ASP = {"sync": {"scheme": "asp"}}


def path_of(folder: Path, changes: dict[str, Any]) -> Path:
    """The good scenario with keys of its sections replaced, as a file."""
    made = {name: dict(value) if isinstance(value, dict) else value for name, value in GOOD.items()}
    for name, value in changes.items():
        is_section = isinstance(value, dict) and isinstance(made.get(name), dict)
        made[name] = made[name] | value if is_section else value
    path = folder / "learning.yaml"
    path.write_text(yaml.safe_dump(made), encoding="utf-8")
    return path


def answer_to(folder: Path, changes: dict[str, Any]) -> Answer:
    """The changed scenario, run."""
    return run_scenario(load_scenario(path_of(folder, changes)))


def test_a_target_that_is_given_answers_even_where_the_reference_misses_it(tmp_path: Path) -> None:
    """The rate of the reference is too small for its steps; how far it got instead is not what was asked."""
    variants = {"small": {"learning": {"learning_rate": 0.001}}, "large": {}}
    changes: dict[str, Any] = {"compare": {"reference": "small", "variants": variants}}
    said = answer_line(answer_to(tmp_path, changes).comparison)
    assert said.startswith("large has a time to the target loss of ")
    assert ", small none: the run did not reach learning.target_loss 0.5" in said
    missed = changes | {"learning": {"target_loss": 1e-6}}
    assert "final loss" in answer_line(answer_to(tmp_path, missed).comparison)


@pytest.mark.parametrize("num_workers", [2, 4, 8])
def test_asp_of_equal_workers_is_stable_up_to_the_exact_bound(tmp_path: Path, num_workers: int) -> None:
    """Workers in lockstep are a fixed delay of n - 1: stable exactly for η·h below 2 sin(π / (2(2n - 1)))."""
    limit = largest_stable_rate(num_workers - 1)  # the steepest curvature is 1
    ended = {}
    for factor in (0.97, 1.03):
        learning = {"problem": "noisy_quadratic", "batch_size": 100_000, "target_loss": None}
        answer = answer_to(
            tmp_path,
            ASP
            | {"training": {"num_workers": num_workers, "num_steps": 4000 // num_workers}}
            | {"learning": learning | {"learning_rate": factor * limit}},
        )
        summary = answer.summaries["base"][0]
        ended[factor] = summary.metrics["final_loss"] or 0.0
        fell = all(caution.kind != "loss_not_falling" for caution in summary.warnings)
        assert fell == (factor < 1)
        stale = answer.results["base"][0].schedule().staleness  # type: ignore[attr-defined]
        assert set(stale[num_workers:].tolist()) == {num_workers - 1}
    assert ended[0.97] < 1e-3
    assert ended[1.03] > 1e3


@pytest.mark.parametrize("evaluate_every", [1, 7, 64])
def test_the_target_is_found_at_its_very_update(evaluate_every: int) -> None:
    """x_k = 0.9^k, loss x²/2: at or below 0.005 first where 0.9^k <= 0.1, k = 22."""
    nothing = np.zeros(100, dtype=np.int64)
    schedule = single_gradient_schedule(np.arange(1.0, 101.0) / 4, nothing, np.arange(100))
    curve = learn(
        NoisyQuadratic(curvatures=(1.0,)),
        schedule,
        learning_rate=0.1,
        evaluate_every=evaluate_every,
        target_loss=0.005,
    )
    assert curve.updates_to_target(0.005) == 22
    assert curve.time_to_target_s(0.005) == 5.5
    assert all(a < b for a, b in pairwise(curve.updates.tolist()))


def test_time_to_target_is_the_product_of_both_efficiencies(tmp_path: Path) -> None:
    """One second an update under BSP; under ASP of four as many seconds as quarter updates."""
    answer = answer_to(tmp_path, {"compare": {"reference": "bsp", "variants": {"bsp": {}, "asp": ASP}}})
    bsp, asp = (answer.summaries[name][0].metrics for name in ("bsp", "asp"))
    assert bsp["time_to_target_s"] == bsp["updates_to_target"]
    assert bsp["gradients_to_target"] == 4 * (bsp["updates_to_target"] or 0)
    assert asp["gradients_to_target"] == asp["updates_to_target"]
    assert asp["time_to_target_s"] == np.ceil((asp["updates_to_target"] or 0) / 4)
    for metrics in (bsp, asp):
        rate, updates = metrics["updates_per_s_to_target"], metrics["updates_to_target"]
        assert (updates or 0) / (rate or 1) == pytest.approx(metrics["time_to_target_s"])


def test_one_worker_learns_the_same_under_every_scheme(tmp_path: Path) -> None:
    schemes = {"bsp": {}, "asp": ASP, "ssp": {"sync": {"scheme": "ssp", "staleness_bound": 2}}}
    answer = answer_to(
        tmp_path, {"training": {"num_workers": 1}, "compare": {"reference": "bsp", "variants": schemes}}
    )
    found = [answer.summaries[name][0].metrics for name in schemes]
    assert found[0]["final_loss"] == found[1]["final_loss"] == found[2]["final_loss"]
    assert found[0]["time_to_target_s"] == found[1]["time_to_target_s"] == found[2]["time_to_target_s"]


@pytest.mark.parametrize("local_steps", [1, 3, 7, 50])
def test_local_sgd_learns_as_many_steps_as_were_simulated(tmp_path: Path, local_steps: int) -> None:
    sync = {"scheme": "local_sgd", "local_steps": local_steps}
    answer = answer_to(tmp_path, {"training": {"num_workers": 2, "num_steps": 20}, "sync": sync})
    result: Any = answer.results["base"][0]
    curve = result.learning.curve
    assert curve.updates[-1] == 20
    assert curve.times_s[-1] == 20.0
    assert curve.num_gradients == 40


def test_the_answer_is_time_to_target_never_speed_alone(tmp_path: Path) -> None:
    variants = {"bsp": {}, "asp": ASP, "slow": {"learning": {"learning_rate": 1e-4}}}
    compared = {"compare": {"reference": "bsp", "variants": variants}}
    answer = answer_to(tmp_path, compared)
    headline = kind_of(answer.file.base).headline
    assert headline(answer.comparison) == "time_to_target_s"
    missed = answer.summaries["slow"][0]
    assert missed.metrics["time_to_target_s"] is None
    assert "did not reach" in missed.refused["time_to_target_s"]
    assert [caution.kind for caution in missed.warnings] == ["target_not_reached"]
    unreached = answer_to(tmp_path, compared | {"learning": {"target_loss": 0.01}})
    assert headline(unreached.comparison) == "final_loss"


def test_the_report_shows_both_efficiencies_and_their_limits(tmp_path: Path) -> None:
    variants = {"bsp": {}, "asp": ASP, "slow": {"learning": {"learning_rate": 1e-4}}}
    answer = answer_to(tmp_path, {"seeds": [1, 2], "compare": {"reference": "bsp", "variants": variants}})
    markdown, page = render_markdown(report_of(answer)), render_html(report_of(answer))
    section = markdown.split("## What the schedule does to convergence")[1].split("\n## ")[0]
    updates, time_s = (
        answer.comparison.cells["asp"][name].mean for name in ("updates_to_target", "time_to_target_s")
    )
    row = next(line for line in section.splitlines() if line.startswith("| asp |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert float(cells[4]) == updates
    assert float(cells[5].removesuffix(" s")) == pytest.approx(time_s)
    assert float(cells[3]) * float(cells[5].removesuffix(" s")) == pytest.approx(float(cells[4]), rel=5e-3)
    assert "reached by 0 of 2 seeds" in section
    assert "does not say how many updates the scenario's own model needs" in section
    for key in ("loss-seconds", "loss-updates", "efficiency"):
        assert f'id="plot-{key}"' in page


def test_the_report_of_a_quadratic_gives_the_exact_bound(tmp_path: Path) -> None:
    """Three workers in lockstep: τ = 2, 2 sin(π/10) = 0.618; BSP: τ = 0, 2."""
    quadratic = {"problem": "noisy_quadratic", "target_loss": None}
    answer = answer_to(
        tmp_path,
        {"training": {"num_workers": 3}, "learning": quadratic}
        | {"compare": {"reference": "bsp", "variants": {"bsp": {}, "asp": ASP}}},
    )
    markdown = render_markdown(report_of(answer))
    assert "| bsp | 0.3 | 0 | 2 |" in markdown
    assert "| asp | 0.3 | 2 | 0.618 |" in markdown


def test_curves_are_averaged_as_far_as_the_shortest_goes() -> None:
    schedules = [
        single_gradient_schedule(np.arange(1.0, n + 1), np.zeros(n, dtype=np.int64), np.arange(n))
        for n in (10, 20)
    ]
    problem = NoisyQuadratic(curvatures=(1.0,))
    curves = [learn(problem, one, learning_rate=rate) for one, rate in zip(schedules, (0.5, 1), strict=True)]
    x, y = mean_curve(curves, "times_s")
    assert x[0] == 0 and x[-1] == 10
    # at 1 s: 0.5 (1/2)² = 0.125 and 0
    assert float(y[np.flatnonzero(x == 1.0)[0]]) == 0.0625


BROKEN: list[tuple[dict[str, Any], str, str]] = [
    ({"learning": {"target_loss": 0.7}}, "learning.target_loss", "starts at a loss of 0.6931"),
    ({"learning": {"target_loss": 0}}, "learning.target_loss", "out of bounds"),
    ({"learning": {"staleness_aware": True}}, "learning.staleness_aware", "no gradient is stale"),
    ({"learning": {"learning_rate": 0}}, "learning.learning_rate", "out of bounds"),
    ({"learning": {"learning_rte": 1}}, "learning.learning_rte", "did you mean learning_rate"),
    ({"learning": {"problem": "transformer"}}, "learning.problem", "unknown value"),
    (
        {"learning": {"max_gradients": 1_000_000, "batch_size": 1000}},
        "learning.max_gradients",
        "at most 100,000,000 examples",
    ),
]


@pytest.mark.parametrize(("changes", "path", "said"), BROKEN, ids=[case[2] for case in BROKEN])
def test_what_cannot_be_learnt_is_refused(
    tmp_path: Path, changes: dict[str, Any], path: str, said: str
) -> None:
    with pytest.raises(ScenarioError) as refused:
        load_scenario(path_of(tmp_path, changes))
    assert refused.value.path == path
    assert said in str(refused.value)
    assert refused.value.hint or refused.value.allowed
