"""The same runs simulated, beside what was recorded: steps of the recorded shapes, and whole requests.

Kernel times are the profile's, host times those of the development run, which is marked: every other run has
tuned nothing, and its errors are the validation. Means are over all requests of a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from calibrate.engine.runs import EngineRun, Recorded
from sim.arrays import PS_PER_S
from sim.errors import ScenarioError
from sim.hardware import HardwareProfile
from sim.hardware.engine_profile import EngineOverheads
from sim.hardware.laws.device import Floats
from sim.serving.records import FINISHED
from sim.serving.run import price_of, run_serving

# What is asked of the means of a run that tuned nothing; the step's is a median over its steps.
ASKED: Mapping[str, float] = {"ttft_s": 0.12, "tpot_s": 0.07, "e2e_s": 0.07}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunParity:
    """One run: recorded and simulated seconds by metric, one entry per request; and per step."""

    name: str
    is_development: bool
    recorded_s: Mapping[str, Floats]
    simulated_s: Mapping[str, Floats]
    step_recorded_s: Floats
    step_priced_s: Floats

    def error(self, metric: str) -> float:
        """Signed relative error of the simulated mean."""
        return float(self.simulated_s[metric].mean() / self.recorded_s[metric].mean() - 1.0)

    def step_errors(self) -> tuple[float, float]:
        """Median and p90 of the absolute errors of single steps."""
        errors = np.abs(self.step_priced_s / self.step_recorded_s - 1.0)
        median, p90 = np.quantile(errors, [0.5, 0.9])
        return float(median), float(p90)

    @property
    def is_met(self) -> bool:
        """Every mean within what is asked."""
        return all(abs(self.error(metric)) <= most for metric, most in ASKED.items())


def parity_of(
    run: EngineRun, recorded: Recorded, hardware: HardwareProfile, overheads: EngineOverheads, *,
    is_development: bool,
) -> RunParity:  # fmt: skip
    """Simulates the run with a profile and host times, and lays both side by side."""
    engine = replace(run.scenario.engine, overheads=overheads)
    scenario = replace(run.scenario, hardware=hardware, engine=engine)
    found = run_serving(scenario, variant=run.name, seed=run.seed, base_dir=run.base_dir).requests
    check_same_requests(run, recorded)
    if not (found.status == FINISHED).all():
        raise ScenarioError("the simulation did not finish every request", file=run.file, path=run.name)
    output = found.output_tokens.astype(float)
    simulated = metrics_of(
        found.arrival_ps / PS_PER_S, found.first_token_ps / PS_PER_S, found.finish_ps / PS_PER_S, output
    )
    names = ("arrival_s", "first_token_s", "finished_s", "output_tokens")
    arrival_s, first_s, finished_s, tokens = (column_of(recorded.requests, name) for name in names)
    measured = metrics_of(arrival_s, first_s, finished_s, tokens)
    price = price_of(scenario, len(run.requests().arrival_ps), run.seed, run.base_dir)
    priced = [
        price.step_ps(int(float(step["num_decode"])), int(float(step["context_tokens"])), chunks_of(step))
        for step in recorded.steps
    ]
    return RunParity(
        name=run.name, is_development=is_development, recorded_s=measured, simulated_s=simulated,
        step_recorded_s=column_of(recorded.steps, "step_s"), step_priced_s=np.array(priced) / PS_PER_S,
    )  # fmt: skip


def check_same_requests(run: EngineRun, recorded: Recorded) -> None:
    """Rows of another workload cannot be compared."""
    table = run.requests()
    for name, asked in (("prompt_tokens", table.prompt_tokens), ("output_tokens", table.output_tokens)):
        if column_of(recorded.requests, name).tolist() != asked.astype(float).tolist():
            raise ScenarioError(
                f"other {name} than the scenario draws",
                file=str(recorded.folder / "requests.csv"), path=name,
                hint="serve the run again, with the scenario and --set of today",
            )  # fmt: skip


def column_of(rows: Sequence[Mapping[str, float | str]], name: str) -> Floats:
    """One column of numbers."""
    return np.array([float(row[name]) for row in rows])


def metrics_of(arrival_s: Floats, first_s: Floats, finished_s: Floats, output: Floats) -> dict[str, Floats]:
    """TTFT, TPOT and E2E of every request; TPOT of those with more than one token."""
    many = output > 1
    tpot_s = (finished_s - first_s)[many] / (output[many] - 1)
    return {"ttft_s": first_s - arrival_s, "tpot_s": tpot_s, "e2e_s": finished_s - arrival_s}


def chunks_of(step: Mapping[str, float | str]) -> list[tuple[int, int, bool, object]]:
    """ "512@0+ 128@1024": tokens, tokens in the cache before, and a plus where the prompt ends."""
    found: list[tuple[int, int, bool, object]] = []
    for word in str(step["chunks"]).split():
        queries, _, rest = word.partition("@")
        found.append((int(queries), int(rest.rstrip("+")), rest.endswith("+"), None))
    return found
