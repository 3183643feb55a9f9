"""What a new sync scheme, exchange, delay model or learning problem takes: one entry of one dict.

Each test registers an entry that the shipped code has never heard of, and demands that the loader, the
schema, the checks, the fast schedule, the SimPy processes and the report obey it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sim
from sim.arrays import Float64
from sim.errors import ScenarioError
from sim.kinds.registry import report_of
from sim.kinds.schema import scenario_schema
from sim.price.collective import Fabric
from sim.report.html import render_html
from sim.training.delays import DELAYS, Delay, StepVariation
from sim.training.exchange.algorithms import EXCHANGES, Algorithm
from sim.training.learning.problems import PROBLEMS
from sim.training.sync import SYNC, UNBOUNDED, Scheme

# every_step: the schedule is found by SimPy's processes, too, and both must agree on every update.
SCENARIO = """\
schema_version: 1
question: Does a new entry run?
kind: training
hardware: a100-sxm-80gb
training: {num_workers: 4, num_steps: 40, stepping: every_step}
compute: {compute_s: 0.1, gradient_bytes: 100 MB}
variation: {distribution: lognormal, sigma: 0.5}
exchange: {algorithm: none}
"""


def run(tmp_path: Path, *overrides: str, compare: str = "") -> sim.Answer:
    path = tmp_path / "mine.yaml"
    path.write_text(SCENARIO + compare, encoding="utf-8")
    return sim.run_scenario(sim.load_scenario(str(path), overrides=list(overrides)))


def page(answer: sim.Answer) -> str:
    return render_html(report_of(answer))


def metrics(answer: sim.Answer, variant: str) -> dict[str, Any]:
    return dict(answer.summaries[variant][0].metrics)


def refused(tmp_path: Path, *overrides: str) -> ScenarioError:
    with pytest.raises(ScenarioError) as caught:
        run(tmp_path, *overrides)
    return caught.value


def choice(section: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = scenario_schema()["$defs"][section]["properties"][name]
    return found


def known(tmp_path: Path, field: str, section: str, entry: str) -> None:
    """The schema and the loader's errors name the entry."""
    shown = choice(section, field.rsplit(".", 1)[-1])
    assert entry in shown["enum"]
    error = refused(tmp_path, f"{field}=no_such_{entry}")
    assert (error.path, entry in (error.allowed or "")) == (field, True)


def test_a_sync_scheme_is_obeyed_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bound8 = Scheme(meaning="bound 8", is_asynchronous=True, staleness_bound=lambda sync: 8)
    assert refused(tmp_path, "sync.scheme=bound8").path == "sync.scheme"
    monkeypatch.setitem(SYNC, "bound8", bound8)
    known(tmp_path, "sync.scheme", "SyncConfig", "bound8")
    assert "bound8: bound 8" in choice("SyncConfig", "scheme")["description"]
    compare = (
        "compare:\n  reference: bsp\n  variants:\n    bsp: {}\n"
        "    ssp8: {sync: {scheme: ssp, staleness_bound: 8}}\n    bound8: {sync: {scheme: bound8}}\n"
    )
    answer = run(tmp_path, compare=compare)
    assert metrics(answer, "bound8") == metrics(answer, "ssp8")
    assert metrics(answer, "bound8")["staleness_steps"] > 0 == metrics(answer, "bsp")["staleness_steps"]
    assert "bound8 changes what is learnt" in " ".join(answer.results["bound8"][0].notes)
    assert "bound8" in page(answer)
    error = refused(tmp_path, "sync.scheme=bound8", "exchange.algorithm=nccl")
    assert (error.path, "bound8 lets workers go on" in error.problem) == ("exchange.algorithm", True)
    assert refused(tmp_path, "sync.scheme=bound8", "sync.staleness_bound=3").path == "sync.staleness_bound"


@pytest.mark.parametrize("algorithm", ["none", "parameter_server"])
def test_schemes_that_count_gradients_are_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    """Half the workers, synchronous and not; and a free one: each as the shipped scheme of equal numbers."""

    def half(sync: object, num_workers: int) -> int:
        return num_workers // 2

    mine = {
        "half": Scheme(meaning="half", num_awaited=half, drops_gradients=True),
        "half_async": Scheme(meaning="h", is_asynchronous=True, num_awaited=half, waits_for_update=True),
        "free": Scheme(meaning="free", is_asynchronous=True, staleness_bound=lambda sync: UNBOUNDED),
        "pairs": Scheme(meaning="every 2", local_steps=lambda sync: 2, averages_weights=True),
    }
    for name, scheme in mine.items():
        monkeypatch.setitem(SYNC, name, scheme)
    twins = {
        "half": "scheme: k_sync, backup_workers: 2",
        "half_async": "scheme: k_async, num_required: 2",
        "free": "scheme: asp",
        "pairs": "scheme: local_sgd, local_steps: 2",
    }
    lines = [f"    {name}: {{sync: {{scheme: {name}}}}}" for name in twins]
    lines += [f"    {name}_twin: {{sync: {{{twin}}}}}" for name, twin in twins.items()]
    compare = "compare:\n  reference: half\n  variants:\n" + "\n".join(lines) + "\n"
    answer = run(tmp_path, f"exchange.algorithm={algorithm}", compare=compare)
    for name in twins:
        assert metrics(answer, name) == metrics(answer, f"{name}_twin"), name
    assert len({metrics(answer, name)["gradients_per_s"] for name in twins}) == len(twins)


def test_an_exchange_is_priced_and_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def twice(num_bytes: int, num_workers: int, fabric: Fabric) -> int:
        return 2 * EXCHANGES["ring"].price_ps(num_bytes, num_workers, fabric)

    monkeypatch.setitem(
        EXCHANGES,
        "two_rings",
        Algorithm(meaning="one ring after another", pattern="all_reduce", all_reduce_ps=twice),
    )
    known(tmp_path, "exchange.algorithm", "ExchangeConfig", "two_rings")
    assert "two_rings: one ring after another" in choice("ExchangeConfig", "algorithm")["description"]
    once, both = (run(tmp_path, f"exchange.algorithm={name}") for name in ("ring", "two_rings"))
    assert metrics(both, "base")["comm_s"] == pytest.approx(2 * metrics(once, "base")["comm_s"], rel=1e-9)
    assert metrics(both, "base")["step_s"] > metrics(once, "base")["step_s"]
    assert "two_rings" in page(both)
    for overrides, path in (
        (("sync.scheme=asp",), "exchange.algorithm"),
        (("exchange.chunks=true",), "exchange.chunks"),
        (("exchange.num_servers=2",), "exchange.num_servers"),
        (("exchange.slow_links=[{worker: 1, slowdown: 2}]",), "exchange.slow_links"),
    ):
        assert refused(tmp_path, "exchange.algorithm=two_rings", *overrides).path == path


def test_a_delay_model_is_drawn_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(variation: StepVariation, rng: np.random.Generator, count: int) -> Float64:
        assert variation.alpha is not None
        return np.where(rng.random(count) < 0.5, 1 - 1 / variation.alpha, 1 + 1 / variation.alpha)

    monkeypatch.setitem(DELAYS, "coin", Delay(meaning="one of two", draw=draw, keys=("alpha",)))
    known(tmp_path, "variation.distribution", "StepVariation", "coin")
    assert "coin: one of two" in choice("StepVariation", "distribution")["description"]
    chosen = ("variation.distribution=coin", "variation.sigma=null")
    assert refused(tmp_path, *chosen).path == "variation.alpha"
    assert refused(tmp_path, "variation.distribution=coin", "variation.alpha=2").path == "variation.sigma"
    error = refused(
        tmp_path, "variation.distribution=exponential", "variation.sigma=null", "variation.alpha=2"
    )
    assert "coin" in error.problem
    found = metrics(run(tmp_path, *chosen, "variation.alpha=2"), "base")
    assert 0.13 < found["step_s"] <= 0.15  # the slowest of four tosses, 15 times in 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Loss x, until 0."""

    batch_size: int
    largest_curvature: float | None = 2.5

    def start(self) -> Float64:
        return np.ones(1)

    def loss(self, weights: Float64) -> float:
        return float(abs(weights[0]))

    def draws(self, rng: np.random.Generator) -> Iterator[Float64]:
        return repeat(np.zeros(0))

    def gradients(self, weights: Float64, drawn: Float64) -> Float64:
        return np.sign(weights)


def test_a_learning_problem_is_learnt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROBLEMS, "line", lambda batch_size: Line(batch_size=batch_size))
    chosen = ("learning.problem=line", "learning.learning_rate=0.125", "learning.target_loss=0.5")
    known(tmp_path, "learning.problem", "LearningConfig", "line")
    answer = run(tmp_path, *chosen)
    assert metrics(answer, "base")["updates_to_target"] == 4
    assert "line from a loss of 1" in page(answer)
    assert "largest curvature" in page(answer)
    error = refused(tmp_path, *chosen, "learning.target_loss=1.5")
    assert (error.path, "line starts at" in error.problem) == ("learning.target_loss", True)
    assert refused(tmp_path, *chosen, "learning.batch_size=100000", "learning.max_gradients=2000").path == (
        "learning.max_gradients"
    )
